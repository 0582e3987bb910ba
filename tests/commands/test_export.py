"""`patchwork export` writes a page or a folder, and refuses what it cannot write in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from patchwork.runs.run import Run

Command = Callable[..., int]


def test_a_page_and_a_folder_are_written(
    command: Command, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", "lab", str(finished_run)) == 0
    assert capsys.readouterr().out.startswith("lab.html (")
    assert (tmp_path / "lab.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert command("export", "weights", f"run={finished_run}", "out=tiny") == 0
    assert Run.load(tmp_path / "tiny").manifest["metrics"]
    assert command("evaluate", "tiny") == 0
    assert "as before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pdf", "run=x"], "'pdf' is not allowed: use patchwork export lab or patchwork export weights"),
        (["lab"], "run"),
        (["lab", "run=none"], "none is not a run directory"),
        (["lab", "{run}", "out=lab.txt"], "out=lab.txt is not allowed: use a name that ends with .html"),
        (["weights", "{run}", "{run}"], "form=weights takes one run, not 2"),
        (["weights", "{run}", "out=full"], "out=full is no weights folder and not empty"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(
    command: Command,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert command("export", *(arg.format(run=finished_run) for arg in args)) in (2, 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
