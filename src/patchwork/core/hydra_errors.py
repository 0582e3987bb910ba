"""Translate Hydra's errors, which take many lines, into one line that names the key, the value and what is allowed."""

import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from patchwork.core.errors import ConfigError, one_line
from patchwork.core.hydra_compose import compose_config
from patchwork.core.overrides import parse_override, parse_yaml
from patchwork.core.schema import TARGET_PACKAGES, unknown_key_error


def argparse_error(parser: ArgumentParser, message: str) -> None:
    """Replace `ArgumentParser.error`, which prints the whole usage."""
    raise HydraException(f"{message}; overrides are group=choice and key=value, see --help")


def translate_hydra_error(error: BaseException, conf_dir: Path, config_name: str, overrides: list[str]) -> ConfigError:
    """Return an error of the composition as a `ConfigError`.

    Args:
        error: Hydra's.
        conf_dir: the directory of the configuration.
        config_name: its primary configuration.
        overrides: the arguments of the command.

    Raises:
        ConfigError: if an argument is not an override.
    """
    text = f"{error.__cause__ or error}\n{error}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        hint = "; clusters need pip install 'patchwork[cluster]'" if choice.startswith("submitit") else ""
        return ConfigError(f"unknown choice {group}={choice}; available: {', '.join(sorted(error.options))}{hint}")
    if "Ambiguous value for argument" in text:
        override = next((override for override in overrides if override in text), "")
        key, _, values = override.partition("=")
        return ConfigError(f"{override} lists several values: add -m to run each, or write {key}=[{values}] for a list")
    if match := re.search(r"Could not override '([^']+)'", text):
        return unknown_override_error(match[1], conf_dir, config_name, overrides)
    for override in overrides:
        if not override.startswith("--"):
            parse_override(override)
    null_choices = [override for override in overrides if override.endswith("=null")]
    if null_choices and "NoneType" in text:
        return ConfigError(f"{' '.join(null_choices)}: a group needs a choice ({one_line(error)})")
    return ConfigError(one_line(error))


def unknown_override_error(key: str, conf_dir: Path, config_name: str, overrides: list[str]) -> ConfigError:
    """Return the error of an override whose key does not exist; its parent's keys are those without the override."""
    if key.startswith("task.") and key.split(".")[1] in TARGET_PACKAGES:
        return ConfigError(f"{key} refers to {key.removeprefix('task.')}: set that instead")
    matching = [override for override in overrides if override.lstrip("+~").startswith(f"{key}=")]
    others = [override for override in overrides if "=" in override and override not in matching]
    value = parse_yaml(matching[0].partition("=")[2]) if matching else ""
    try:
        node: Any = compose_config(conf_dir, config_name, others)
    except (HydraException, OmegaConfBaseException):  # more than one error
        node = compose_config(conf_dir, config_name, [])
    parents = key.split(".")[:-1]
    for depth, name in enumerate(parents):
        child = node.get(name) if isinstance(node, DictConfig) else None
        if not isinstance(child, DictConfig):  # the unknown key is an earlier one
            return unknown_key_error(".".join([*parents[:depth], name]), value, owner(parents[:depth]), names(node))
        node = child
    return unknown_key_error(key, value, owner(parents), names(node))


def owner(parents: list[str]) -> str:
    return ".".join(parents) or "the configuration"


def names(node: Any) -> list[str]:
    return [str(name) for name in node] if isinstance(node, DictConfig) else []
