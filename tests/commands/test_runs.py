"""`patchwork runs` prints the runs that were asked for, in three formats."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import read_manifest

from patchwork.commands.runs import table_row

Command = Callable[..., int]


@pytest.fixture
def outputs(finished_run: Path, tmp_path: Path) -> Path:
    """Return a directory with a finished run and a failed one."""
    runs = tmp_path / "outputs/seq2seq/encoder_decoder"
    ignore = shutil.ignore_patterns("*.ckpt", "*.png", "*.npz")
    for name, facts in (("a", {}), ("b", {"task": "sum", "status": "DataError: no\nsuch file", "metrics": {}})):
        shutil.copytree(finished_run, runs / name, ignore=ignore)
        (runs / name / "manifest.json").write_text(json.dumps({**read_manifest(finished_run), **facts}))
    return tmp_path / "outputs"


def test_table_has_a_line_for_each_run(command: Command, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("runs") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["started", "status", "task", "model", "overrides", "result", "seconds", "run_dir"]
    assert len(lines) == 2
    (finished,) = [line for line in lines if " finished " in line]
    value = read_manifest(outputs / "seq2seq/encoder_decoder/a")["metrics"]["test/sequence_accuracy"]
    assert f"sequence_accuracy {value:.4f}" in finished
    assert "dataset=uci callbacks=none" in finished
    assert finished.endswith("outputs/seq2seq/encoder_decoder/a")
    assert any("failed: no such file" in line for line in lines)


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ([], ["a", "b"]),
        (["task=sum"], ["b"]),
        (["model=encoder_decoder", "status=finished"], ["a"]),
        (["status=running"], []),
        (["limit=1", "task=seq2seq"], ["a"]),
    ],
    ids=str,
)
def test_filters_and_formats(
    command: Command, outputs: Path, capsys: pytest.CaptureFixture[str], args: list[str], names: list[str]
) -> None:
    assert command("runs", *args, "format=json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(Path(row["run_dir"]).name for row in rows) == names
    assert command("runs", *args, "format=csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["run_dir"] for row in table] == [row["run_dir"] for row in rows]
    assert all("seed=3" in row["overrides"].split() for row in table)


def test_table_begins_with_the_overrides_in_which_runs_differ() -> None:
    row = {"overrides": ["a=1", "seed=2"], "value": None, "seconds": None, "reason": ""}
    row |= dict.fromkeys(("started", "status", "task", "model", "metric", "run_dir"), "")
    assert table_row(row, {"a=1"})["overrides"] == "seed=2 a=1"
    assert table_row({**row, "overrides": ["x" * 99]}, set())["overrides"] == "x" * 59 + "…"


def test_no_runs_are_said_to_be_none(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("runs", "task=sum") == 0
    assert capsys.readouterr().out == "no runs below outputs with task=sum\n"
    assert command("runs", "status=lost") == 2


@pytest.mark.parametrize(
    ("arg", "code", "message"),
    [
        ("task=classif", 2, "task=classif is neither a choice nor of a run (did you mean task=classify?)"),
        ("task=vit", 2, "did you mean model=vit?"),
        ("model=zzz", 2, "model=zzz is neither a choice nor of a run: use one of anchor_detector, "),
        ("root=nowhere", 3, "nowhere does not exist: pass a directory of runs"),
        ("root=outputs/seq2seq/encoder_decoder/a/config.yaml", 3, "config.yaml is a file: pass a directory of runs"),
    ],
)
def test_what_names_no_runs_is_an_error(
    command: Command, outputs: Path, capsys: pytest.CaptureFixture[str], arg: str, code: int, message: str
) -> None:
    assert command("runs", arg) == code
    assert message in capsys.readouterr().err


def test_task_of_a_run_that_is_no_choice_is_found(command: Command, outputs: Path) -> None:
    path = outputs / "seq2seq/encoder_decoder/b/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task": "mine"}))
    assert command("runs", "task=mine") == 0
    assert command("runs", "task=other") == 2


def test_limit_says_how_many_there_are(command: Command, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("runs", "limit=1") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 runs; limit=null lists all"
