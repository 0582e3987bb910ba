"""The documentation is true: its commands parse, its examples run, its links lead somewhere, its text fits the page."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, choices

from patchwork.__main__ import COMMANDS
from patchwork.commands.compare import compare
from patchwork.commands.convert import convert
from patchwork.commands.evaluate import evaluate
from patchwork.commands.export import export
from patchwork.commands.generate import generate
from patchwork.commands.icons import write_icons
from patchwork.commands.predict import predict
from patchwork.commands.report import report
from patchwork.commands.runs import runs
from patchwork.commands.serve import serve
from patchwork.commands.sweep import sweep
from patchwork.core.overrides import parse_call
from patchwork.core.schema import check_config, signature
from patchwork.data.sources.uci import read_digits
from patchwork.runs.compose import compose

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "DESIGN.md", ROOT / "CONTRIBUTING.md", *DOCS]
EXTENDING = ROOT / "docs" / "extending.md"  # whose commands are run, as they need its files
COMMAND = re.compile(rf"(?:python train\.py|patchwork (?:{'|'.join(COMMANDS)})\b)[^`\n#]*")
PLACEHOLDER = re.compile(r"=mine|experiment=best|paper_\*|(task|model)=…")  # a name that the reader chooses
KEYWORD_COMMANDS = {"convert": convert, "evaluate": evaluate, "generate": generate, "icons": write_icons}
KEYWORD_COMMANDS |= {"predict": predict, "runs": runs, "report": report, "compare": compare, "serve": serve}
LAUNCH_KEY = re.compile(r"(hydra|resume|run)\b")  # of the launcher, or of a run that does not exist here


@cache
def commands() -> dict[str, list[str]]:
    """Return the arguments of all complete commands of the documentation, by command line."""
    arguments = {}
    for page in PAGES:
        if page == EXTENDING:
            continue
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
        function = KEYWORD_COMMANDS[words[1]]
        first_key = next(iter(signature(function)))  # whose name may be left out
        paths = [f"{first_key}={word}" for word in words[2:] if "=" not in word]
        parse_call(function, [*paths, *overrides])
        return
    if words[:2] == ["patchwork", "export"]:
        paths = [word for word in words[3:] if "=" not in word]
        parse_call(export, [f"form={words[2]}", f"run=[{','.join(paths)}]", *overrides])
        return
    if words[:2] == ["patchwork", "sweep"]:
        assert (ROOT / words[2]).is_file()
        keywords = [word for word in overrides if word.partition("=")[0] in signature(sweep)]
        parse_call(sweep, keywords)
        overrides = [word for word in overrides if word not in keywords]
    overrides = [word for word in overrides if not LAUNCH_KEY.match(word)]
    check_config(compose([first_choice(override) for override in overrides]))


# --- links and layout ------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them: lower case, hyphens for spaces, no punctuation."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    slugs = [
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)
    ]
    assert len(slugs) == len(set(slugs)), f"{page.name} has two headings with the same anchor"
    return set(slugs)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text())


def broken_links(page: Path) -> list[str]:
    """Return the links of a page to a file, or to a heading of a page, that does not exist."""
    broken = []
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_pictures_and_anchors_exist(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title · `code`\n[a](#a-title--code) [b](#nothing) [c](missing.md) [d](page.md#a-title)\n")
    assert broken_links(page) == ["#nothing", "missing.md", "page.md#a-title"]


def test_every_page_and_picture_of_the_docs_is_linked() -> None:
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    pictures = [path for path in (ROOT / "docs" / "pictures").iterdir() if path.suffix in (".png", ".gif")]
    assert [path.name for path in [*DOCS, *pictures] if path not in linked] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_outside_tables_fit_120_characters(page: Path) -> None:
    assert [line for line in page.read_text().split("\n") if len(line) > 120 and not line.startswith("|")] == []


def test_every_score_is_documented() -> None:
    scorecard = (ROOT / "src" / "patchwork" / "evaluation" / "scorecard").glob("*.py")
    names = {name for path in scorecard for name in re.findall(r"Score\(\s*\"(\w+)\"", path.read_text())}
    assert {"nll", "frechet_distance"} <= names
    text = (ROOT / "docs" / "generation.md").read_text()
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_choice_of_a_task_model_and_data_set_is_documented() -> None:
    text = (ROOT / "docs" / "tasks.md").read_text()
    names = [choice for group in ("task", "model", "data", "dataset") for choice in choices(group)]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


# --- the examples of extending.md ------------------------------------------------------------------------------------

SHORT = (
    "trainer.max_epochs=1 trainer.limit_train_batches=2 trainer.limit_val_batches=1 "
    "callbacks=none logger=none report=none"
)
RUN_COMMANDS = """
import json, sys
from pathlib import Path
from helpers import run_command
for name, *args in json.loads(sys.argv[1]):
    code = run_command(name, *args, cwd=Path.cwd())
    assert code == 0, (name, args, code)
"""


def code_blocks(page: Path) -> dict[str, list[str]]:
    """Return the code blocks of a page by language; that of commands is empty."""
    blocks: dict[str, list[str]] = {}
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        blocks.setdefault(language, []).append(block)
    return blocks


def add_to_tree(root: Path, block: str) -> None:
    """Write a block of code into the file that its first line names, or insert it into one that exists."""
    header, _, code = block.partition("\n")
    path = root / header.removeprefix("# ")
    if not path.exists():
        path.write_text(code)
        return
    # the line before which a block is inserted, and what is added to the names that are exported
    is_table = path.parent.name == "commands"
    place, name = ("}\n", "") if is_table else ("\n__all__ = [", f'"{code.split()[-1]}", ')
    text = path.read_text()
    assert place in text
    path.write_text(text.replace(place, code + place + name, 1))


def example_commands() -> list[list[str]]:
    """Return the commands of extending.md as `[name, *args]`, with short trainings."""
    commands = []
    for line in "".join(code_blocks(EXTENDING)[""]).splitlines():
        program, *args = shlex.split(line)
        if program == "python":
            assert args[0] == "train.py"
            commands.append(["train", *args[1:], *SHORT.split()])
        else:
            assert program == "patchwork"
            commands.append(args)
    return commands


@pytest.mark.timeout(180)
def test_examples_of_extending_run_as_they_are_written(tmp_path: Path) -> None:
    for name in ("conf", "src", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for block in (*code_blocks(EXTENDING)["python"], *code_blocks(EXTENDING)["yaml"]):
        add_to_tree(tmp_path, block)
    images, labels = read_digits()
    np.savez(
        tmp_path / "images.npz",
        x_train=images[:1400],
        y_train=labels[:1400],
        x_test=images[1400:],
        y_test=labels[1400:],
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'src'}:{tmp_path / 'tests'}"}
    arguments = [sys.executable, "-c", RUN_COMMANDS, json.dumps(example_commands())]
    result = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
