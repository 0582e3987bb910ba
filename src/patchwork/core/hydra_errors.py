"""Translate Hydra's errors, which take many lines, into one line that names the key, the value and what is allowed.

Hydra stops at the first fault. Here all arguments are looked at: those that choose a file first, and those that set a
key then, in the configuration that the right choices make.
"""

from argparse import ArgumentParser
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from patchwork.core.conf_files import PACKAGED_GROUPS, choice_error, group_choices
from patchwork.core.errors import ConfigError, one_line
from patchwork.core.hydra_compose import compose_config, plain_values
from patchwork.core.hydra_flags import config_dirs, is_flag, override_args, takes_value
from patchwork.core.overrides import parse_override, parse_yaml, unquote
from patchwork.core.replacements import find_replacement
from patchwork.core.schema import COLLECTIONS, format_value, unknown_key_error
from patchwork.core.suggest import EVERYWHERE, closest_key, key_paths

SEARCH = "patchwork sweep searches with Optuna"


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
    if "Ambiguous value for argument" in text or "requires --multirun" in text:
        listed = next(override for override in overrides if parse_override(override).is_sweep_override())
        return several_values_error(listed, conf_dirs)
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
        if "@" in key and f"Could not override '{key}'" in text:
            group, choice = key.partition("@")[0], override.partition("=")[2]
            return ConfigError(f"{override} is not allowed: write {PACKAGED_GROUPS.get(group, group)}={choice}")
    cause = f": {one_line(error.__cause__)}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return ConfigError(f"{one_line(error).partition(' Config search path:')[0]}{cause}")


def several_values_error(override: str, conf_dirs: Sequence[Path]) -> ConfigError:
    """Return the error of an override that lists values for several runs where there is one."""
    key, _, values = override.partition("=")
    if key.lstrip("+").startswith("hydra"):
        return ConfigError(f"{override} lists several values: a key of Hydra has one")
    if key.partition("@")[0] in group_choices(conf_dirs):
        return ConfigError(f"{override} lists several choices: add -m to run each")
    is_simple = parse_override(override).value_type is ValueType.SIMPLE_CHOICE_SWEEP
    hint = f", or write {key}=[{values}] for a list" if is_simple else ""
    return ConfigError(f"{override} lists several values: add -m to run each{hint}")


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


def option_style_faults(args: list[str], known: Sequence[str], choices: Mapping[str, list[str]]) -> list[ConfigError]:
    """Return the faults of arguments that are written as another tool has them: `--lr 0.1`, `lr = 0.1`, `sum`."""
    for key, sign, value in zip(args, args[1:], args[2:], strict=False):
        if sign == "=":
            return [ConfigError(f"{key} = {value} is not allowed: write {key}={value}, without spaces")]
    faults = []
    for word, value in loose_words(args):
        if word.startswith("-"):
            faults.append(option_fault(word, value, known, choices))
        elif value:
            faults.append(separate_value_fault(word, value, known, choices))
        else:
            faults.append(lone_word_fault(word, choices))
    return faults


def loose_words(args: list[str]) -> list[tuple[str, str]]:
    """Return the arguments that neither set a key nor are flags, each with the value that seems to follow it, or ''."""
    words, rest = [], deque(args)
    while rest:
        word = rest.popleft()
        if takes_value(word):
            rest = deque(list(rest)[1:])
        elif not is_flag(word) and (word.startswith("-") or not ("=" in word or word.startswith("~"))):
            has_value = "=" not in word and rest and "=" not in rest[0] and not rest[0].startswith("-")
            words.append((word, rest.popleft() if has_value else ""))
    return words


def option_fault(word: str, value: str, known: Sequence[str], choices: Mapping[str, list[str]]) -> ConfigError:
    """Return the error of `--key value` and `--key=value`."""
    key, _, own_value = word.lstrip("-").partition("=")
    advice = meant_setting(key, value or own_value, known, choices)
    return ConfigError(f"{f'{word} {value}'.strip()} is not an option of this command: {advice}")


def separate_value_fault(word: str, value: str, known: Sequence[str], choices: Mapping[str, list[str]]) -> ConfigError:
    """Return the error of `key value`."""
    return ConfigError(f"{word} {value} is not allowed: {meant_setting(word, value, known, choices)}")


def meant_setting(key: str, value: str, known: Sequence[str], choices: Mapping[str, list[str]]) -> str:
    """Return what to write instead of a key and its value, which are not joined as here; an option may have none."""
    names = [*known, *choices]
    if replacement := find_replacement(key.replace("-", "_")):
        return replacement
    path = key if key in names else closest_key(key, names)
    return f"write {path or 'key'}={value or ('true' if path else 'value')}"


def lone_word_fault(word: str, choices: Mapping[str, list[str]]) -> ConfigError:
    """Return the error of a word alone, which may be meant as a choice."""
    meant = [f"{PACKAGED_GROUPS.get(group, group)}={word}" for group in choices if word in choices[group]]
    hint = f" (did you mean {' or '.join(meant)}?)" if meant else ""
    return ConfigError(f"{word!r} is not allowed: use group=choice and key=value{hint}")


# --- faults ----------------------------------------------------------------------------------------------------------


def find_faults(conf_dirs: Sequence[Path], config_name: str, args: list[str]) -> list[ConfigError]:
    """Return what is wrong with the arguments, each answered by the configuration that the right ones make.

    Raises:
        ConfigError: if an argument is not an override.
    """
    if not args:
        return []
    choices = group_choices(conf_dirs)
    config_dir = conf_dirs[1] if len(conf_dirs) > 1 else None
    try:
        default = plain_values(compose_config(conf_dirs[0], config_name, [], config_dir=config_dir))
    except (HydraException, OmegaConfBaseException, ValueError):  # whatever the arguments are
        return []
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
        values = plain_values(compose_config(conf_dirs[0], config_name, right_choices, config_dir=config_dir))
    except (HydraException, OmegaConfBaseException, ValueError):
        values = default
    return faults + [fault for text, override in keys for fault in key_faults(text, override, values, choices)]


def choice_fault(text: str, override: Override, choices: Mapping[str, list[str]]) -> ConfigError | None:
    """Return the error of a choice that its group does not have."""
    group, choice = override.key_or_group, override.value()
    if override.is_delete() or override.is_sweep_override():
        return None
    if choice is None:
        hint = f" (did you mean {group}=none?)" if "none" in choices[group] else ", or leave it out"
        return ConfigError(f"{text} is not allowed: a group needs a choice, of {', '.join(choices[group])}{hint}")
    key, _, typed = text.partition("=")
    if isinstance(choice, list | dict):
        listed = isinstance(choice, list) and choice and all(item in choices[group] for item in choice)
        meant = f"; with -m, {key}={','.join(choice)} runs each" if listed else f", of {', '.join(choices[group])}"
        return ConfigError(f"{text} is not allowed: {group} is one choice{meant}")
    choice = choice if isinstance(choice, str) else typed  # 2026 may be a choice
    return None if choice in choices[group] else choice_error(key, group, choice, choices)


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
    value = unquote(typed) if typed[:1] in ("'", '"') else parse_yaml(typed)
    parents = path.split(".")
    if owner in COLLECTIONS and not find_replacement(path) and parents[1] in choices.get(owner, []):
        return ConfigError(f"{path}={format_value(value)} needs the choice that has it: add {owner}={parents[1]}")
    word = path.rpartition(".")[2].removeprefix("use_") if isinstance(value, bool) else typed  # wandb=true, digits=uci
    group = next((group for group in choices if word in choices[group]), "")
    if group and word not in EVERYWHERE and closest_key(path, others) is None and not find_replacement(path):
        meant = f"{PACKAGED_GROUPS.get(group, group)}={word}"
        return ConfigError(f"{path}={typed} is not a key of {owner} (did you mean {meant}?)")

    def may_mean(key: str) -> bool:
        return takes_kind(key, value, values, choices)

    return unknown_key_error(path, value, owner, known, others, may_mean=may_mean)


def takes_kind(key: str, value: Any, values: Mapping[str, Any], choices: Mapping[str, list[str]]) -> bool:
    """Return whether a key may take a value, as far as its value in a configuration tells."""
    node: Any = values
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    if key in choices or isinstance(node, Mapping):
        return isinstance(value, str) or value is None
    if value is None or node is None or (isinstance(node, str) and "${" in node):
        return True
    if isinstance(value, bool):
        return isinstance(node, bool)
    return isinstance(value, list) == isinstance(node, list) and not isinstance(value, Mapping)
