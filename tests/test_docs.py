"""The documentation is true: its commands parse, its links lead somewhere, its text fits the page."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT

from patchwork.__main__ import COMMANDS
from patchwork.commands.evaluate import evaluate
from patchwork.commands.generate import generate
from patchwork.commands.icons import write_icons
from patchwork.commands.predict import predict
from patchwork.commands.sweep import sweep
from patchwork.core.overrides import parse_call
from patchwork.core.schema import check_config, signature
from patchwork.runs.compose import compose

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(rf"(?:python train\.py|patchwork (?:{'|'.join(COMMANDS)})\b)[^`\n#]*")
PLACEHOLDER = re.compile(r"=mine|experiment=best|paper_\*|(task|model)=…")  # a name that the reader chooses
KEYWORD_COMMANDS = {"evaluate": evaluate, "generate": generate, "icons": write_icons, "predict": predict}
LAUNCH_KEY = re.compile(r"(hydra|resume|run)\b")  # of the launcher, or of a run that does not exist here


@cache
def commands() -> dict[str, list[str]]:
    """Return the arguments of all complete commands of the documentation, by command line."""
    arguments = {}
    for page in PAGES:
        for match in COMMAND.findall(page.read_text()):
            line = " ".join(match.replace("&&", "").split())
            if "=" in line and not PLACEHOLDER.search(line):
                arguments[line] = shlex.split(line.replace("…", "x"))
    return arguments


def first_choice(override: str) -> str:
    """Return an override of a multirun as one of its jobs has it."""
    key, _, value = override.partition("=")
    return override if value.startswith("[") else f"{key}={value.split(',')[0]}"


@pytest.mark.parametrize("line", commands())
def test_documented_command_is_valid(line: str) -> None:
    words = commands()[line]
    overrides = [word for word in words if "=" in word and not word.startswith("--")]
    if words[0] == "patchwork" and words[1] in KEYWORD_COMMANDS:
        parse_call(KEYWORD_COMMANDS[words[1]], overrides)
        return
    if words[:2] == ["patchwork", "sweep"]:
        assert (ROOT / words[2]).is_file()
        keywords = [word for word in overrides if word.partition("=")[0] in signature(sweep)]
        parse_call(sweep, keywords)
        overrides = [word for word in overrides if word not in keywords]
    overrides = [word for word in overrides if not LAUNCH_KEY.match(word)]
    check_config(compose([first_choice(override) for override in overrides]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_outside_tables_fit_120_characters(page: Path) -> None:
    assert [line for line in page.read_text().split("\n") if len(line) > 120 and not line.startswith("|")] == []
