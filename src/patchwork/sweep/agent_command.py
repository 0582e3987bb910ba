"""What `command` in a sweep's file says about its trials, as W&B's agents read it."""

import os
import re
from pathlib import Path
from typing import Any

from patchwork.core.agent_args import COMMAND_EXAMPLE
from patchwork.core.errors import ConfigError
from patchwork.core.overrides import override_key, parse_override

ARGS_MACROS = ("${args_no_hyphens}", "${args}", "${args_append_hydra}", "${args_override_hydra}")
MACROS = ("${env}", "${interpreter}", "${program}", *ARGS_MACROS)
ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def parse_command(command: list[str]) -> list[str]:
    """Return the overrides that a command gives to all trials, without those of `logger`.

    Args:
        command: its words, with `${macros}`.

    Raises:
        ConfigError: if a word is not one that a sweep without agents can follow.
    """
    words = [expand_environment(word) for word in command]
    for word in words:
        if word.startswith("${") and word not in MACROS:
            raise ConfigError(f"command: {word} is not allowed: use {', '.join(MACROS)} or ${{envvar:NAME}}")
    start = program_end(words)
    for word in words[:start]:
        if re.match(r"\w+=", word):
            raise ConfigError(f"command: {word} before the program is not allowed: set it in the shell")
    overrides = []
    for word in words[start:]:
        if word in ARGS_MACROS:
            continue
        if word.startswith(("-", "~", "$")) or "=" not in word:
            raise ConfigError(
                f"command: {word} is not allowed: after the program only overrides are, as in {COMMAND_EXAMPLE}"
            )
        if override_key(word).partition(".")[0] != "logger":
            overrides.append(word)
    return overrides


def expand_environment(word: str) -> str:
    """Return a word with environment variables in the place of `${envvar:NAME}`."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"command: {match[0]} is not set in the environment")
        return os.environ[match[1]]

    return ENVIRONMENT.sub(value, word)


def program_end(words: list[str]) -> int:
    """Return the index after the program: `${program}`, a path to train.py, or `patchwork train`."""
    for index, word in enumerate(words):
        if word == "${program}" or Path(word).name == "train.py":
            is_patchwork = words[index + 1 : index + 2] == ["train"]
            return index + 1 + is_patchwork
        if Path(word).name == "patchwork" and words[index + 1 : index + 2] == ["train"]:
            return index + 2
    if words:
        raise ConfigError(f"command: the program is missing: write {COMMAND_EXAMPLE}")
    return 0


def parse_text(text: str) -> Any:
    """Return text of a sweep's file as the command line of an agent has it: a number, a constant, a list or text."""
    if text == "None":
        return None
    if text.isidentifier() and text.lower() not in ("true", "false", "null"):
        return text
    try:
        parsed = parse_override(f"value={text}")
    except ConfigError:
        return text
    value = text if parsed.is_sweep_override() or not text else parsed.value()
    if isinstance(value, list):
        return [None if item == "None" else item for item in value]
    return value if value is None or isinstance(value, bool | int | float) else text
