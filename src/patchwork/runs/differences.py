"""What distinguishes a run from the default configuration of its task, as overrides that can be typed again."""

import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from patchwork.core.errors import PatchworkError
from patchwork.core.job import read_json
from patchwork.core.overrides import format_override, override_key, quoted
from patchwork.core.schema import format_value
from patchwork.runs.run_dir import MANIFEST_FILE, choice_names
from patchwork.training.trainer_arguments import full_precision_name

LAUNCH_KEYS = ("run_dir", "resume")  # which say where a run is and how it was started, but not what it is
NAMES = ("task_name", "model_name")
LINKS = ("data.dataset", "task.model", "task.optimizer", "task.scheduler")  # the same node as the last part's own
COLLECTIONS = ("logger", "callbacks")
GROUPS = ("dataset", "optimizer", "scheduler", *COLLECTIONS)  # whose choice can be told by what it holds


def run_overrides(run_dir: Path, config: Mapping[str, Any]) -> list[str]:
    """Return the overrides that a run was started with; of a run started from Python, those that give its `config`."""
    command = read_json(run_dir / MANIFEST_FILE).get("command")
    return command_overrides(command) if isinstance(command, str) else config_overrides(config)


def command_overrides(command: str) -> list[str]:
    """Return the overrides of a command line without those that say only where and how the run was started."""
    try:
        words = shlex.split(command)[2:]
    except ValueError:  # no command of ours
        return []
    return [word for word in words if override_key(word) not in LAUNCH_KEYS and not word.startswith("hydra")]


def config_overrides(config: Mapping[str, Any]) -> list[str]:
    """Return overrides that compose to a resolved configuration; none if its task and model are no choices."""
    try:
        overrides = choice_overrides(config)
        default = compose_choices(*overrides).copy()
    except PatchworkError:
        return []
    for interpolated in (False, True):  # what follows from other keys is compared once those are set
        found = [
            (key, value)
            for key, value in differing_values(config, default)
            if is_interpolated(default, key) is interpolated
        ]
        for key, value in found:
            OmegaConf.update(default, key, value, merge=False)
            overrides.append(format_node(key, value))
    return overrides


@cache
def compose_choices(*overrides: str) -> DictConfig:
    """Compose choices, of which a list of runs has few; the result is not to be changed."""
    from patchwork.runs.compose import compose  # imports Hydra, which the runs of the command line do not need

    return compose([*overrides])


def choice_overrides(config: Mapping[str, Any]) -> list[str]:
    """Return the choices of groups in which a configuration differs from the defaults of its task."""
    task, model = choice_names(config)
    default = compose_choices(f"task={task}")
    overrides = [] if default.task_name == compose_choices().task_name else [f"task={task}"]
    if default.model_name != model:
        overrides.append(f"model={model}")
    for group in GROUPS:
        if group in config and content(group, default[group]) != content(group, config[group]):
            overrides += [f"{group}={choice}" for choice in find_choice(group, config[group])]
    return overrides


def find_choice(group: str, node: Any) -> list[str]:
    """Return the first choice of a group that holds what a node holds, if there is one."""
    from patchwork.runs.compose import CONF_DIR

    for path in sorted((CONF_DIR / group).glob("*.yaml")):
        if content(group, compose_choices(f"{group}={path.stem}")[group]) == content(group, node):
            return [path.stem]
    return []


def content(group: str, node: Any) -> Any:
    """Return what tells the choices of a group apart: the names that it lists, or its target."""
    return sorted(node or {}) if group in COLLECTIONS else (node or {}).get("_target_")


def differing_values(config: Mapping[str, Any], default: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys, of values or whole nodes, in which a configuration differs from another, and its values.

    Keys that only one of them has are passed over: a run that is older than a key has its default.
    """

    def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for name, value in ours.items():
            key = f"{path}{name}"
            if key in (*LAUNCH_KEYS, *NAMES, *LINKS) or name == "_target_" or name not in theirs:
                continue
            if isinstance(value, Mapping) and isinstance(theirs[name], Mapping):
                yield from compare(value, theirs[name], f"{key}.")
            elif value != theirs[name] and not is_left_open(key, theirs[name]):
                yield key, value

    return compare(config, to_plain(default), "")


def is_left_open(key: str, value: Any) -> bool:
    """Return whether a value is decided on the machine that starts a run, which saves the one that it has chosen."""
    return value == "auto" and key.endswith(".precision")


def to_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as plain values, its interpolations resolved, the trainer's precision by its full name."""
    values = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    assert isinstance(values, Mapping)
    plain = {str(key): value for key, value in values.items()}
    trainer = plain.get("trainer")
    if isinstance(trainer, Mapping) and "precision" in trainer:
        plain["trainer"] = {**trainer, "precision": full_precision_name(trainer["precision"])}
    return plain


def is_interpolated(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    return OmegaConf.is_interpolation(OmegaConf.select(config, parent) if parent else config, name)


def format_node(key: str, value: Any) -> str:
    """Format an override of a value, a list or a whole node."""
    return f"{key}={format_nested(value)}" if isinstance(value, Mapping | list) else format_override(key, value)


def format_nested(value: Any) -> str:
    """Format a value within another one as Hydra parses it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{format_nested(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(format_nested, value)) + "]"
    return quoted(value, "single") if isinstance(value, str) else format_value(value)
