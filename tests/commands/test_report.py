import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import TINY

from patchwork.figures.rendered import Rendered
from patchwork.report import build
from patchwork.report.sections import SECTIONS

Command = Callable[..., int]
NAMES = [section.name for section in SECTIONS]


def test_page_of_a_run_has_every_figure_and_is_the_same_bytes(
    command: Command, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = f"figures=[{','.join(NAMES)}]"
    assert command("report", f"run={run_copy}", figures) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{run_copy / 'report.html'} (")
    page = (run_copy / "report.html").read_bytes()
    assert len(page) < 1_000_000
    assert all(f'<section id="{name}">' in page.decode() or f"not shown: {name}: " in output for name in NAMES)
    numbers = json.loads((run_copy / "report" / "numbers.json").read_text())
    assert {*numbers} == {path.stem for path in (run_copy / "report").glob("*.npz")}
    again = ["embeddings", "faithfulness", "calibration", "probes"]  # those that draw random numbers
    assert command("report", f"run={run_copy}", f"figures=[{','.join(again)}]") == 0
    sections = (run_copy / "report.html").read_text().split("<section ")[1:]
    assert sum(any(section.startswith(f'id="{name}"') for name in again) for section in sections) == len(again)
    assert all(section.removesuffix("</main>").split("</section>")[0] in page.decode() for section in sections)


@pytest.mark.parametrize(("figures", "shown"), [("none", []), ("confusion", ["confusion"]), ("all", NAMES)])
def test_figures_are_chosen(
    command: Command, run_copy: Path, monkeypatch: pytest.MonkeyPatch, figures: str, shown: list[str]
) -> None:
    made, audit = [], build.PageSection("audit", "Audit", Rendered("", ""))
    monkeypatch.setattr("patchwork.evaluation.audit.section.audit_section", lambda *_: audit)
    empty = build.PageSection("name", "title", Rendered("", ""))
    monkeypatch.setattr(build, "figure_section", lambda section, *_: made.append(section.name) or empty)
    assert command("report", f"run={run_copy}", f"figures={figures}") == 0
    assert made == shown
    assert ('<section id="audit">' in (run_copy / "report.html").read_text()) == (figures == "all")


def test_a_page_without_figures_needs_no_weights(command: Command, run_copy: Path) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    assert command("report", f"run={run_copy}", "figures=none") == 0
    assert "All metrics of the 32 test grids" in (run_copy / "report.html").read_text()
    assert command("report", f"run={run_copy}", "figures=confusion") == 3


def test_audit_is_a_section_of_the_page(command: Command, run_copy: Path) -> None:
    assert command("report", f"run={run_copy}", "figures=audit") == 0
    page = (run_copy / "report.html").read_text()
    assert "kv_cache_equivalence" in page
    assert "points to the planted place" in page
    assert "patchwork audit run=" in page


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["figures=confusoin"],
            "figures=confusoin is not allowed (did you mean confusion?): use all, none, or a list of",
        ),
        (["figures=[confusion,x]"], "figures=x is not allowed: use"),
        (["figure=all"], "did you mean figures"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(
    command: Command, run_copy: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert command("report", f"run={run_copy}", *args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (run_copy / "report.html").exists()


def test_training_ends_with_a_short_page(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "<img src=x onerror=alert(1)>"
    overrides = [each for each in TINY if each != "report=none"]
    assert command("train", *overrides, f"run_dir='{name}'") == 0
    assert "open       " in capsys.readouterr().out
    page = (tmp_path / name / "report.html").read_text()
    assert "onerror" in page
    assert "<img src=x" not in page
    assert "was trained for seq2seq on uci" in page


def test_a_page_that_fails_loses_no_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no page")

    monkeypatch.setattr(build, "write_page", fail)
    overrides = [each for each in TINY if each != "report=none"]
    assert command("train", *overrides, "run_dir=run") == 0
    assert "warning: run/report.html was not written: RuntimeError: no page" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "finished"
