"""Python's notation on a command line, as W&B's agents write it, in Hydra's."""

import ast
import os
from typing import Any

from patchwork.core.errors import ConfigError
from patchwork.core.hydra_flags import flags
from patchwork.core.mappings import flatten
from patchwork.core.overrides import format_override

COMMAND_EXAMPLE = "[${env}, ${interpreter}, ${program}, task=sum, logger=wandb, ${args_no_hyphens}]"


def agent_args(args: list[str]) -> list[str]:
    """Return the overrides of a command line that one of W&B's agents may have written.

    An agent, which sets WANDB_SWEEP_ID, writes `--key=value` where the sweep's file has no `command`; a run that it
    starts is logged to its server even if nothing says so.

    Raises:
        ConfigError: if an agent writes what is no override.
    """
    if "WANDB_SWEEP_ID" not in os.environ:
        return translate_args(args)
    args = translate_args([strip_hyphens(arg) for arg in args])
    is_new_run = args and not any(arg.startswith(("-", "logger=", "resume=")) for arg in args)
    return [*args, "logger=wandb"] if is_new_run else args


def translate_args(args: list[str]) -> list[str]:
    """Return a command line with the lists of Python in Hydra's notation, and each key of a dictionary by itself."""
    return [override for arg in args for override in translate_arg(arg)]


def strip_hyphens(arg: str) -> str:
    """Return `--key=value` as `key=value`.

    Raises:
        ConfigError: if the sweep's file lets the agent write another form.
    """
    if not arg.startswith("-") or arg.partition("=")[0] in flags():
        if arg.startswith("{"):
            raise ConfigError(f"{arg[:40]} of the sweep is not allowed: put into its file command: {COMMAND_EXAMPLE}")
        return arg
    if "=" not in arg:
        raise ConfigError(f"{arg} of the sweep is not allowed: put into its file command: {COMMAND_EXAMPLE}")
    return arg.lstrip("-")


def translate_arg(arg: str) -> list[str]:
    """Return an argument as overrides: itself, unless its value is a dictionary of Python, or a list with None."""
    key, _, text = arg.partition("=")
    if arg.startswith("-") or not text.startswith(("[", "{")):
        return [arg]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [arg]
    if isinstance(value, dict) and value and all(isinstance(name, str) for name in value):
        return [format_override(name, item) for name, item in flatten(value, key).items()]
    return [format_override(key, value)] if has_none(value) else [arg]


def has_none(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(map(has_none, value)))
