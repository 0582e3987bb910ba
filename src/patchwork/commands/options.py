"""Checks of a command's options that depend on one another."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from patchwork.core.errors import ConfigError


def check_defaults(function: Callable[..., Any], options: Mapping[str, object], reason: str) -> None:
    """Check that options are not set where they do not apply.

    Args:
        function: keyword function of the command.
        options: some of its options by name.
        reason: why they do not apply, as the predicate of the error message.

    Raises:
        ConfigError: if one of them differs from its default.
    """
    for name, value in options.items():
        if value != inspect.signature(function).parameters[name].default:
            raise ConfigError(f"{name}={value} {reason}: drop {name}")
