"""Read the files of `conf/` as they are written: groups, choices, comments, and which file sets a key."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from patchwork.core.errors import ConfigError
from patchwork.core.mappings import YAML_LOADER
from patchwork.core.replacements import find_replacement
from patchwork.core.suggest import closest_choice

PACKAGED_GROUPS = {"stem": "stem@model.stem", "augment": "augment@data.augment"}  # chosen by group and key


def group_choices(conf_dirs: Sequence[Path]) -> dict[str, list[str]]:
    """Return the choices of each group, without Hydra's own groups."""
    choices: dict[str, set[str]] = {}
    for conf_dir in conf_dirs:
        for path in conf_dir.glob("*/*.yaml"):
            if path.parent.name != "hydra":
                choices.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(choices[group]) for group in sorted(choices)}


def choice_error(typed: str, group: str, choice: str, choices: Mapping[str, list[str]]) -> ConfigError:
    """Return the error of a choice that does not exist; `typed` is the group as it was typed, with its package."""
    if replacement := find_replacement(f"{group}.{choice}"):
        return ConfigError(f"{group}={choice} is not a choice: {replacement}")
    others = {name: choices[name] for name in choices if name == group or name not in PACKAGED_GROUPS}
    meant = closest_choice(group, choice, others)
    hint = ""
    if meant is not None:
        key = typed if meant[0] == group else PACKAGED_GROUPS.get(meant[0], meant[0])
        hint = f" (did you mean {key}={meant[1]}?)"
    return ConfigError(f"unknown choice {group}={choice}{hint}; available: {', '.join(choices[group])}")


@cache
def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a file, interpolations unresolved."""
    content = yaml.load(path.read_text(encoding="utf-8"), YAML_LOADER)
    return content if isinstance(content, dict) else {}


def extended_files(path: Path) -> list[Path]:
    """Return a choice's file and those of the same group that it extends, the nearest first."""
    files = [path]
    for entry in read_yaml(path).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_" and "/" not in entry:
            files += extended_files(path.with_name(f"{entry}.yaml"))
    return files


def read_choice(path: Path) -> dict[str, Any]:
    """Return the values of a choice with those of the files that it extends; nested mappings are replaced."""
    values: dict[str, Any] = {}
    for file in reversed(extended_files(path)):
        values |= read_yaml(file)
    return values


def default_choice(path: Path, group: str) -> str | None:
    """Return the choice of another group that a file has in its defaults, as `/data@data: stitched`."""
    for entry in read_yaml(path).get("defaults", []):
        if isinstance(entry, dict):
            for key, choice in entry.items():
                if key.removeprefix("override ").strip("/").partition("@")[0] == group:
                    return choice
    return None


def package(path: Path) -> str:
    """Return the dotted path below which a group's file is put, unless the one that includes it says otherwise."""
    match = re.search(r"^# @package (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return path.parent.name if match is None else match[1].replace("_global_", "")


def header(path: Path) -> str:
    """Return the comment at the top of a file in one line, without Hydra's directives."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def comments(path: Path) -> dict[str, str]:
    """Return the comment behind each key of a file, by the key's dotted path in it."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"( *)(\w+):(?:[^#'\"]|'[^']*'|\"[^\"]*\")*?(?: # ?(.*))?$", line)
        if match is None:
            continue
        parents = [(indent, name) for indent, name in parents if indent < len(match[1])] + [(len(match[1]), match[2])]
        if match[3]:
            found[".".join(name for _, name in parents)] = match[3]
    return found
