"""A sweep without agents does what the file's command has agents do, and refuses what it cannot follow."""

from typing import Any

import pytest

from patchwork.core.errors import ConfigError
from patchwork.sweep.agent_command import parse_command, parse_text

ARGS = "${args_no_hyphens}"


@pytest.mark.parametrize(
    "program",
    [
        ["${env}", "${interpreter}", "${program}"],
        ["python", "./train.py"],
        ["${env}", "python3", "-u", "/somewhere/train.py"],
        ["${interpreter}", "-m", "patchwork", "train"],
        ["uv", "run", "patchwork", "train"],
        ["${program}", "train"],
    ],
)
@pytest.mark.parametrize("args", [ARGS, "${args}", "${args_append_hydra}"])
def test_overrides_follow_the_program(program: list[str], args: str) -> None:
    assert parse_command([*program, "task=sum", "logger=wandb", "+model.x=1", args]) == ["task=sum", "+model.x=1"]
    assert parse_command([*program, args, "logger.wandb.project=mine"]) == []


def test_environment_variables_are_inserted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASK", "sum")
    assert parse_command(["${program}", "task=${envvar:TASK}", ARGS]) == ["task=sum"]
    monkeypatch.delenv("TASK")
    with pytest.raises(ConfigError, match=r"\$\{envvar:TASK\} is not set"):
        parse_command(["${program}", "task=${envvar:TASK}", ARGS])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["${program}", "${args_json}"], r"\$\{args_json\} is not allowed: use \$\{env\}"),
        (["${program}", "--task=sum", ARGS], "--task=sum is not allowed"),
        (["${program}", "-m", ARGS], "-m is not allowed"),
        (["${program}", "~logger", ARGS], "~logger is not allowed"),
        (["${env}", "OMP_NUM_THREADS=1", "${program}"], "OMP_NUM_THREADS=1 before the program"),
        (["task=sum", ARGS], "the program is missing"),
    ],
)
def test_words_that_cannot_be_followed_are_refused(command: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_command(command)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5E-4", 5e-4),
        (".5", 0.5),
        ("1_000", 1000),
        ("-2", -2),
        ("None", None),
        ("null", None),
        ("True", True),
        ("[32, 64]", [32, 64]),
        ("[a, None]", ["a", None]),
        ("cosine", "cosine"),
        ("a, b", "a, b"),
        ("r (1)", "r (1)"),
        ("", ""),
    ],
)
def test_text_is_read_as_on_the_command_line_of_an_agent(text: str, value: Any) -> None:
    assert parse_text(text) == value
    assert type(parse_text(text)) is type(value)
