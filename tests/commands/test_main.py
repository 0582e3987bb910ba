"""`patchwork <command>`: the list of commands, their help."""

import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from helpers import ROOT

from patchwork.__main__ import COMMANDS, main
from patchwork.commands import FUNCTIONS
from patchwork.commands.app import keyword_commands
from patchwork.core.schema import signature

COMMAND_HELP = """
import contextlib, io, json, sys
from patchwork.__main__ import COMMANDS, main

texts, codes = {}, {}
for name in COMMANDS:
    sys.argv = ["patchwork", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            main()
        except SystemExit as error:
            codes[name] = error.code
    texts[name] = output.getvalue()
print(json.dumps({"texts": texts, "codes": codes, "modules": [*sys.modules]}))
"""


@pytest.fixture(scope="module")
def command_help(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Return the help of all commands, their exit codes, and the modules that were imported for it."""
    directory = tmp_path_factory.mktemp("help")
    result = subprocess.run(
        [sys.executable, "-c", COMMAND_HELP], cwd=directory, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    assert list(directory.iterdir()) == []
    return json.loads(result.stdout)


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]], ids=str)
def test_patchwork_lists_all_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["patchwork", *args])
    main()
    output = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", output, re.MULTILINE)


def test_every_command_has_a_module() -> None:
    modules = {path.stem for path in (ROOT / "src" / "patchwork" / "commands").glob("[a-z]*.py")}
    assert modules - {"app", "multirun", "options", "train_help"} == set(COMMANDS)


def test_every_command_takes_keywords_or_more_than_those() -> None:
    assert {*COMMANDS} - {*FUNCTIONS} == {"train", "audit", "explain"}
    for name, function in keyword_commands().items():
        assert any(signature(function)), name


def test_unknown_command_exits_with_2(command: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert command("paint") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("patchwork: unknown command paint")
    assert all(name in line for name in COMMANDS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian", "train"),
        ("eval", "evaluate"),
        ("test", "evaluate"),
        ("task=sum", "train task=sum"),
        ("fit", "train"),
        ("--versio", "--version"),
        ("--hlp", "--help"),
        ("--multirun", "train --multirun"),
    ],
)
def test_command_that_was_meant(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], typed: str, meant: str
) -> None:
    assert command(typed) == 2
    assert f"(did you mean patchwork {meant}?)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "start"),
    [
        (["help"], "usage: patchwork"),
        (["help", "evaluate"], "Print the test metrics"),
        (["evaluate", "help"], "Print the test metrics"),
        (["train", "help"], "Train a task"),
        (["train", "help", "task=sum"], "Train a task"),
        (["--version"], "patchwork 0."),
        (["train", "--version"], "patchwork 0."),
        (["generate", "run=x", "--version"], "patchwork 0."),
    ],
)
def test_help_and_version(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], args: list[str], start: str
) -> None:
    assert command(*args) == 0
    assert capsys.readouterr().out.startswith(start)


def test_package_runs_as_a_module() -> None:
    """As a multirun starts its jobs."""
    result = subprocess.run([sys.executable, "-P", "-m", "patchwork"], capture_output=True, text=True, check=True)
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(command_help: dict, name: str) -> None:
    assert command_help["codes"][name] in (0, None)
    assert f"patchwork {name}" in command_help["texts"][name]


def test_help_imports_neither_torch_nor_lightning(command_help: dict) -> None:
    slow = {"torch", "pytorch_lightning", "torchmetrics", "matplotlib", "sklearn", "optuna", "wandb"}
    assert slow & {*command_help["modules"]} == set()
