"""The help of `patchwork train`: every group, every choice, what fits, and the keys of the top level."""

import re
from pathlib import Path

import pytest
import yaml
from helpers import CONF, choices

from patchwork.commands.train_help import INTERNAL_GROUPS, train_help
from patchwork.core.schema import SCALAR_KEYS
from patchwork.runs.fitting import fitting_models


@pytest.fixture(scope="module")
def sections() -> list[str]:
    """Return the parts of the help: usage, groups, what fits, keys and more."""
    return re.split(r"^(?:Groups|Models|Keys|What) .*:$", train_help([]), flags=re.MULTILINE)


def listed(section: str) -> dict[str, list[str]]:
    """Return the names behind each start of a list, which may take several lines."""
    joined = section.replace("\n      ", " ")
    return {start.partition("@")[0]: names.split(", ") for start, names in re.findall(r"^  (\S+): (.*)$", joined, re.M)}


def test_every_group_and_choice_is_named(sections: list[str]) -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {*INTERNAL_GROUPS}
    assert listed(sections[1]) == {group: choices(group) for group in groups}


def test_models_that_fit_each_task_are_named(sections: list[str]) -> None:
    assert listed(sections[2]) == {task: fitting_models(task) for task in choices("task")}


def test_keys_of_the_top_level_have_their_default_and_a_sentence(sections: list[str]) -> None:
    keys = dict(re.findall(r"^  (\w+)=(\S+) {2,}\w+", sections[3], re.MULTILINE))
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())
    assert keys == {key: "null" if defaults[key] is None else str(defaults[key]) for key in SCALAR_KEYS}


def test_help_is_short() -> None:
    lines = train_help([]).splitlines()
    assert len(lines) < 70
    assert max(map(len, lines)) <= 135


def test_choices_of_another_directory_are_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").touch()
    assert "mine" in listed(train_help([f"--config-dir={tmp_path}"]))["model"]
