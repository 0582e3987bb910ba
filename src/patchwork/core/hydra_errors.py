"""Translate Hydra's errors, which take many lines, into one line that names the key, the value and what is allowed.

Hydra stops at the first fault. Here all arguments are looked at: those that choose a file first, and those that set a
key then, in the configuration that the right choices make.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from patchwork.core.conf_files import group_choices
from patchwork.core.errors import ConfigError, one_line
from patchwork.core.hydra_compose import compose_config
from patchwork.core.overrides import parse_override, parse_yaml
from patchwork.core.schema import unknown_key_error
from patchwork.core.suggest import closest_choice, closest_key, key_paths

SEARCH = "patchwork sweep searches with Optuna"
FLAGS = ("--cfg", "--package", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info")
SHORT_FLAGS = ("-c", "-p", "-cp", "-cn", "-cd", "-i")  # these and those above take a value
PACKAGED_GROUPS = {"stem": "stem@model.stem", "augment": "augment@data.augment"}  # chosen by group and key


def argparse_error(parser: ArgumentParser, message: str) -> None:
    """Replace `ArgumentParser.error`, which prints the whole usage."""
    raise HydraException(f"{message}; overrides are group=choice and key=value, see --help")


def translate_hydra_error(error: BaseException, conf_dir: Path, config_name: str, args: list[str]) -> ConfigError:
    """Return an error of the composition as a `ConfigError`.

    Args:
        error: Hydra's.
        conf_dir: the directory of the configuration.
        config_name: its primary configuration.
        args: the arguments of the command.

    Raises:
        ConfigError: if an argument is not an override.
    """
    text = f"{error.__cause__ or error}\n{error}"
    conf_dirs = [conf_dir, *config_dirs(args)]
    overrides = override_args(args)
    if "Ambiguous value for argument" in text:
        override = next((override for override in overrides if override in text), "")
        key, _, values = override.partition("=")
        if key.partition("@")[0] in group_choices(conf_dirs):
            return ConfigError(f"{override} lists several choices: add -m to run each")
        return ConfigError(f"{override} lists several values: add -m to run each, or write {key}=[{values}] for a list")
    faults = find_faults(conf_dirs, config_name, args)
    if len(faults) > 1:
        *others, last = map(str, faults)
        return ConfigError("; ".join([*(other.partition("; its keys are")[0] for other in others), last]))
    if faults:
        return faults[0]
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        hint = "; clusters need pip install 'patchwork[cluster]'" if choice.startswith("submitit") else ""
        hint = f"; {SEARCH}" if group == "hydra/sweeper" else hint
        return ConfigError(f"unknown choice {group}={choice}; available: {', '.join(sorted(error.options))}{hint}")
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if key.startswith("hydra.") and f"Could not override '{key}'" in text:
            hint = f"; {SEARCH}" if key.startswith("hydra.sweeper.") else ""
            return ConfigError(f"{override} is not a key of {key.rpartition('.')[0]}{hint}")
    cause = f": {one_line(error.__cause__)}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return ConfigError(f"{one_line(error)}{cause}")


def check_words(args: list[str], conf_dir: Path, config_name: str) -> None:
    """Check that each argument, flags aside, sets a key or a group.

    Raises:
        ConfigError: if one does not; it says what to write instead.
    """
    if all("=" in arg.strip("=") or arg.startswith("~") for arg in override_args(args)):
        return
    values = plain_values(compose_config(conf_dir, config_name, []))
    if faults := option_style_faults(args, key_paths(values), group_choices([conf_dir])):
        raise faults[0]


# --- arguments -------------------------------------------------------------------------------------------------------


def override_args(args: list[str]) -> list[str]:
    """Return the arguments that are neither flags nor their values."""
    flags = {*FLAGS, *SHORT_FLAGS}
    return [arg for before, arg in zip(["", *args], args, strict=False) if before not in flags and arg[:1] != "-"]


def config_dirs(args: list[str]) -> list[Path]:
    """Return the directories that `--config-dir` adds."""
    added = [arg for before, arg in pairwise(args) if before in ("--config-dir", "-cd")]
    added += [arg.partition("=")[2] for arg in args if arg.startswith("--config-dir=")]
    return [path for path in map(Path, added) if path.is_dir()]


def option_style_faults(args: list[str], known: Sequence[str], choices: Mapping[str, list[str]]) -> list[ConfigError]:
    """Return the faults of arguments that are written as another tool has them: `--lr 0.1`, `lr = 0.1`, `sum`."""
    faults, taken = [], False
    for key, sign, value in zip(args, args[1:], args[2:], strict=False):
        if sign == "=":
            return [ConfigError(f"{key} = {value} is not allowed: write {key}={value}, without spaces")]
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if taken:  # as the value of an option
            taken = False
        elif arg in FLAGS or arg in SHORT_FLAGS:
            taken = True
        elif arg.startswith("-") and not is_flag(arg):
            key, separator, value = arg.lstrip("-").partition("=")
            if not separator and following and "=" not in following and not following.startswith("-"):
                value, taken = following, True
            path = key if key in choices or key in known else closest_key(key, [*known, *choices])
            typed = f"{path or 'key'}={value or ('true' if path else 'value')}"
            option = f"{arg} {value}" if taken else arg
            faults.append(ConfigError(f"{option} is not an option of this command: write {typed}"))
        elif arg[:1] not in "-~" and "=" not in arg and following and "=" not in following and following[:1] != "-":
            meant_key = arg if arg in known else closest_key(arg, [*known, *choices])
            typed, taken = f"{meant_key or 'key'}={following}", True
            faults.append(ConfigError(f"{arg} {following} is not allowed: write {typed}"))
        elif arg[:1] not in "-~" and "=" not in arg:
            meant = [f"{PACKAGED_GROUPS.get(group, group)}={arg}" for group in choices if arg in choices[group]]
            hint = f" (did you mean {' or '.join(meant)}?)" if meant else ""
            faults.append(ConfigError(f"{arg!r} is not allowed: use group=choice and key=value{hint}"))
    return faults


def is_flag(arg: str) -> bool:
    """Return whether an argument is a flag of Hydra, or the beginning of one."""
    if not arg.startswith("--"):
        return arg in (*SHORT_FLAGS, "-h", "-m", "-r", "-sc")
    without_value = ("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun", "--shell-completion")
    return any(flag.startswith(arg.partition("=")[0]) for flag in (*FLAGS, *without_value))


# --- faults ----------------------------------------------------------------------------------------------------------


def find_faults(conf_dirs: Sequence[Path], config_name: str, args: list[str]) -> list[ConfigError]:
    """Return what is wrong with the arguments, each answered by the configuration that the right ones make.

    Raises:
        ConfigError: if an argument is not an override.
    """
    choices = group_choices(conf_dirs)
    default = plain_values(compose_config(conf_dirs[0], config_name, []))
    faults = option_style_faults(args, key_paths(default), choices)
    if faults:
        return faults
    right_choices, keys = [], []
    for text in override_args(args):
        override = parse_override(text)
        group = override.key_or_group
        if not group:
            raise ConfigError(f"{text!r} is not allowed: use group=choice and key=value")
        if group.startswith("hydra"):
            continue
        if group not in choices or (group in PACKAGED_GROUPS and not override.package):
            keys.append((text, override))
        elif fault := choice_fault(text, override, choices):
            faults.append(fault)
        elif not override.is_sweep_override():
            right_choices.append(text)
    try:
        values = plain_values(compose_config(conf_dirs[0], config_name, right_choices))
    except (HydraException, OmegaConfBaseException, ValueError):
        values = default
    return faults + [fault for text, override in keys for fault in key_faults(text, override, values, choices)]


def plain_values(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, interpolations unresolved."""
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def choice_fault(text: str, override: Override, choices: Mapping[str, list[str]]) -> ConfigError | None:
    """Return the error of a choice that its group does not have."""
    group, choice = override.key_or_group, override.value()
    if choice is None and not override.is_delete():
        hint = f" (did you mean {group}=none?)" if "none" in choices[group] else ", or leave it out"
        return ConfigError(f"{text} is not allowed: a group needs a choice, of {', '.join(choices[group])}{hint}")
    if override.is_delete() or override.is_sweep_override() or not isinstance(choice, str) or choice in choices[group]:
        return None
    return choice_error(text.partition("=")[0], group, choice, choices)


def choice_error(typed: str, group: str, choice: str, choices: Mapping[str, list[str]]) -> ConfigError:
    """Return the error of a choice that does not exist; `typed` is the group as it was typed, with its package."""
    others = {name: choices[name] for name in choices if name == group or name not in PACKAGED_GROUPS}
    meant = closest_choice(group, choice, others)
    hint = ""
    if meant is not None:
        key = typed if meant[0] == group else PACKAGED_GROUPS.get(meant[0], meant[0])
        hint = f" (did you mean {key}={meant[1]}?)"
    return ConfigError(f"unknown choice {group}={choice}{hint}; available: {', '.join(choices[group])}")


def key_faults(
    text: str, override: Override, values: Mapping[str, Any], choices: Mapping[str, list[str]]
) -> Iterator[ConfigError]:
    """Yield the error of an override whose key does not exist, or belongs to another key."""
    path, typed = override.key_or_group, text.partition("=")[2]
    shown = f"={typed}" if "=" in text else ""
    parents, node = path.split("."), values
    for depth, name in enumerate(parents):
        if isinstance(node, str) and node.startswith("${"):
            place, source = ".".join(parents[:depth]), node.strip("${}")
            rest = ".".join([source, *parents[depth:]])
            yield ConfigError(
                f"{path}{shown} cannot be set: {place} refers to {source}; set that instead: {rest}{shown}"
            )
            return
        if not isinstance(node, Mapping) or name not in node:
            if override.is_add() and isinstance(node, Mapping) and depth:  # which the check of the configuration judges
                return
            known = [key for key in node if not key.startswith("_")] if isinstance(node, Mapping) else []
            owner = ".".join(parents[:depth]) or "the configuration"
            if override.is_delete():
                yield ConfigError(f"~{path}: {owner} has no key {name}; its keys are {', '.join(sorted(known))}")
            else:
                yield unknown_override(path, typed, owner, known, values, choices)
            return
        node = node[name]


def unknown_override(
    path: str, typed: str, owner: str, known: list[str], values: Mapping[str, Any], choices: Mapping[str, list[str]]
) -> ConfigError:
    """Return the error of a key that does not exist below `owner`, whose keys are `known`."""
    if path in PACKAGED_GROUPS:
        meant = PACKAGED_GROUPS[path].partition("@")[2] if typed == "null" else PACKAGED_GROUPS[path]
        return ConfigError(f"{path}={typed} is not a group of its own: write {meant}={typed}")
    unused = [] if "dataset" in values.get("data", {}) else ["dataset"]  # icons are made, not read
    others = [*(key for key in key_paths(values) if key.partition(".")[0] not in unused), *choices]
    named = (typed, path.rpartition(".")[2].removeprefix("use_"))  # wandb=true and digits=uci name a choice
    group, choice = next(((group, word) for word in named for group in choices if word in choices[group]), ("", ""))
    if group and typed not in ("none", "default") and closest_key(path, others) is None:
        meant = f"{PACKAGED_GROUPS.get(group, group)}={choice}"
        return ConfigError(f"{path}={typed} is not a key of {owner} (did you mean {meant}?)")
    return unknown_key_error(path, parse_yaml(typed), owner, known, others)
