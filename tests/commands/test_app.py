"""Running a command: exit codes, errors and warnings in one line, and the help of keyword commands."""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from patchwork.commands import app
from patchwork.core.errors import (
    ConfigError,
    DataError,
    Interrupted,
    NumericError,
    PatchworkError,
    PatchworkWarning,
    ResourceError,
)
from patchwork.core.job import JOB
from patchwork.core.rank import RANKS


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests be rank 0, and no job of a multirun."""
    for variable in (*RANKS, JOB):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "argv", ["/bin/patchwork"])


def fail(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PatchworkError("a\n  b"), 1),
        (ConfigError("a b"), 2),
        (DataError("a b"), 3),
        (NumericError("a b"), 4),
        (ResourceError("a b"), 5),
    ],
)
def test_errors_are_printed_in_one_line(capsys: pytest.CaptureFixture[str], error: PatchworkError, code: int) -> None:
    assert app.run_command("audit", fail(error)) == code
    assert capsys.readouterr().err == "patchwork audit: a b\n"


def test_error_begins_with_the_script_that_was_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    assert app.run_command("train", fail(ConfigError("wrong"))) == 2
    assert capsys.readouterr().err == "train.py: wrong\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried"), "data.batch_size"),
        (OSError(28, "No space left on device", "run/x"), "run/x cannot be read or written: No space left on device"),
        (PermissionError(13, "Permission denied"), "a file of the run cannot be read or written"),
    ],
)
def test_system_errors_that_a_user_can_correct(
    capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    assert app.run_command("train", fail(error)) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_bug_keeps_its_traceback_and_is_noted_in_the_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(JOB, str(tmp_path / "0.json"))
    assert app.run_command("train", fail(KeyError("x"))) == 1
    assert "Traceback" in capsys.readouterr().err
    assert json.loads((tmp_path / "0.json").read_text()) == {"error": "KeyError: 'x'"}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_interrupts_the_action_and_its_handler_is_restored(
    capsys: pytest.CaptureFixture[str], signum: signal.Signals
) -> None:
    before = signal.getsignal(signum)
    assert app.run_command("train", lambda: os.kill(os.getpid(), signum)) == 128 + signum
    assert capsys.readouterr().err == f"patchwork train: stopped by {signum.name}\n"
    assert signal.getsignal(signum) is before


def test_interrupted_is_not_an_exception() -> None:
    assert not issubclass(Interrupted, Exception)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code_is_what_the_action_returns(returned: int | None, code: int) -> None:
    assert app.run_command("train", lambda: returned) == code


def test_only_warnings_of_this_package_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        warnings.simplefilter("always")
        warnings.warn("of a library", UserWarning, stacklevel=1)
        warnings.warn("of\nours", PatchworkWarning, stacklevel=1)

    with warnings.catch_warnings():
        assert app.run_command("train", action) == 0
    assert capsys.readouterr().err == "warning: of ours\n"


def test_other_ranks_print_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert app.run_command("train", fail(ConfigError("wrong"))) == 2
    assert capsys.readouterr().err == ""


# --- keyword commands ------------------------------------------------------------------------------------------------

CALLS: list[dict] = []


@pytest.fixture
def calls() -> list[dict]:
    """Return the list of arguments with which `example` was called since."""
    CALLS.clear()
    return CALLS


def example(*, run: str, scale: float = 1.5, names: list[str] | None = None, fast: bool = False) -> None:  # noqa: D417
    """Do something with a run.

    A second sentence
    of two lines.

    Args:
        run: a run directory.
        scale: of the thing; below 1
            it is smaller.
        names: of things.

    Raises:
        ConfigError: never.
    """
    CALLS.append({"run": run, "scale": scale, "names": names, "fast": fast})


def test_call_passes_the_keywords(calls: list[dict]) -> None:
    assert app.call_command("example", example, ["run=1e5", "names=[a,b]", "fast=true"]) == 0
    assert calls == [{"run": "1e5", "scale": 1.5, "names": ["a", "b"], "fast": True}]


@pytest.mark.parametrize(("text", "names"), [("a", ["a"]), ("a,b", ["a", "b"]), ("[a]", ["a"])])
def test_a_value_is_taken_where_a_list_is_expected(calls: list[dict], text: str, names: list[str]) -> None:
    assert app.call_command("example", example, ["run=x", f"names={text}"]) == 0
    assert calls[0]["names"] == names


@pytest.mark.parametrize("name", ["2026", "lr=0.1", "r (copy)"])
def test_an_existing_path_is_the_run(
    calls: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    assert app.call_command("example", example, [name, "fast=true"]) == 0
    assert (calls[0]["run"], calls[0]["fast"]) == (name, True)


def test_existing_paths_are_the_runs_of_an_ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ensemble(*, run: str | list[str]) -> None:
        taken.append(run)

    taken: list[str | list[str]] = []
    monkeypatch.chdir(tmp_path)
    for name in ("a b", "c"):
        Path(name).mkdir()
    assert app.call_command("example", ensemble, ["a b", "c"]) == 0
    assert taken == [["a b", "c"]]


@pytest.mark.parametrize(
    ("args", "fragments"),
    [
        ([], ["run is missing"]),
        (["run=x", "scales=2"], ["scales=2", "did you mean scale=2?"]),
        (["run=x", "scale=big"], ["scale=big", "a number"]),
        (["run=x", "loud"], ["'loud'", "key=value"]),
    ],
)
def test_wrong_keywords(
    calls: list[dict], capsys: pytest.CaptureFixture[str], args: list[str], fragments: list[str]
) -> None:
    assert app.call_command("example", example, args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert [fragment for fragment in fragments if fragment not in line] == []
    assert calls == []


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_made_from_signature_and_docstring(
    calls: list[dict], capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert app.call_command("example", example, ["run=x", flag]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Do something with a run."
    assert "  patchwork example key=value …" in lines
    keys = {line.split("=")[0].strip(): line for line in lines if line.startswith("  ") and "=" in line.split()[0]}
    assert {*keys} == {"run", "scale", "names", "fast"}
    assert keys["run"].split() == ["run=…", "a", "run", "directory."]
    assert keys["scale"].split(maxsplit=1) == ["scale=1.5", "of the thing; below 1 it is smaller."]
    assert keys["names"].split()[0] == "names=null"
    assert keys["fast"].strip() == "fast=false"
    assert not any("Raises" in line or "ConfigError" in line for line in lines)
    assert calls == []
