import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import TINY

from patchwork.commands.compare import plan_sentences
from patchwork.evaluation.compare.comparison import compare
from patchwork.evaluation.compare.runs import FinishedRun, Metric, Setting
from patchwork.stats.paired import seeds_needed

Command = Callable[..., int]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with runs of two settings, two seeds each."""
    from helpers import run_command

    directory = tmp_path_factory.mktemp("runs")
    for lr in ("0.01", "0.0001"):
        for seed in (0, 1):
            args = [*TINY, f"optimizer.lr={lr}", f"seed={seed}", f"run_dir=runs/{lr}-{seed}"]
            assert run_command("train", *args, cwd=directory) == 0
    return directory / "runs"


def test_runs_are_grouped_by_setting_and_compared(
    command: Command, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("compare", f"runs={runs}", "out=found") == 0
    output = capsys.readouterr().out
    assert output.startswith("4 runs of task seq2seq, all with dataset=uci ")
    assert "saved in found" in output
    content = json.loads((tmp_path / "found" / "compare.json").read_text())
    assert (content["task"], "dataset=uci" in content["shared"].split()) == ("seq2seq", True)
    rows = content["settings"]
    assert {row["setting"] for row in rows} == {"optimizer.lr=0.01", "optimizer.lr=0.0001"}
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1]]
    values = [json.loads((runs / f"0.01-{seed}" / "manifest.json").read_text())["metrics"] for seed in (0, 1)]
    row = next(row for row in rows if row["setting"] == "optimizer.lr=0.01")
    assert row["values"] == [each["test/sequence_accuracy"] for each in values]
    table = list(csv.DictReader((tmp_path / "found" / "compare.csv").open()))
    assert [each["setting"] for each in table] == [row["setting"] for row in rows]
    assert b"default-src 'none'" in (tmp_path / "found" / "compare.html").read_bytes()


def test_patterns_name_runs_and_a_run_against_itself_is_no_different(
    command: Command, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("compare", f"runs=[{runs}/0.01-*]", "out=found") == 0
    assert "optimizer.lr=0.01: sequence_accuracy" in capsys.readouterr().out


def test_paths_need_no_key(command: Command, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(runs / f"0.01-{seed}") for seed in (0, 1)]
    assert command("compare", *paths, "out=found") == 0
    assert capsys.readouterr().out.startswith("2 runs of task seq2seq")
    assert command("compare", str(runs), "out=found") == 0
    assert capsys.readouterr().out.startswith("4 runs of task seq2seq")
    for name, message in (("report", f"takes one run, not 2: patchwork compare {paths[0]} {paths[1]} compares them"),
                          ("compare", "'elsewhere' is neither key=value nor a run directory that exists")):  # fmt: skip
        assert command(name, *paths, *(["elsewhere"] if name == "compare" else [])) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert command("report", f"run=[{','.join(paths)}]") == 3
    assert capsys.readouterr().err.endswith("this command takes one run, not a list\n")


def test_seeds_are_planned_and_nothing_is_written(
    command: Command, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("compare", f"runs={runs}", "plan=true", "difference=0.05") == 0
    assert "nothing is known of the spread" in capsys.readouterr().out  # as nothing is right
    assert list(tmp_path.iterdir()) == []


def test_a_plan_says_how_many_seeds_tell_a_difference() -> None:
    runs = [FinishedRun(Path(str(seed)), seed, None, 0.9 + 0.01 * seed, {"train_seconds": 10}, {}) for seed in (0, 1)]
    metric = Metric("accuracy", "max", False, "accuracy")
    (sentence,) = plan_sentences(compare([Setting("planted", runs)], metric=metric, margin=0.001), 0.01)
    std = 0.01 / 2**0.5
    assert f"with {seeds_needed(2**0.5 * std, 0.01)} seeds of each recipe" in sentence


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["runs=missing"], 3, "runs=missing: there is no run"),
        (["runs=[]"], 2, "none of these runs is finished"),
        (["margin=0"], 2, "margin=0 is not allowed"),
        ([], 2, "runs is missing"),
    ],
)
def test_wrong_arguments_are_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], args: list[str], code: int, message: str
) -> None:
    assert command("compare", *args) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
