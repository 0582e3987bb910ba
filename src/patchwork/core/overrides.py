"""Read and write `key=value`: as the keyword arguments of a function, and as Hydra's overrides."""

from collections.abc import Callable
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from patchwork.core.errors import ConfigError
from patchwork.core.schema import check_value, format_value, signature, unknown_key_error

LITERALS = ("true", "false", "null", "nan", "inf")  # strings that Hydra reads as another type unless quoted


def parse_call(function: Callable[..., Any], overrides: list[str]) -> dict[str, Any]:
    """Parse `key=value` strings as the keyword arguments of a function and check them against its annotations.

    Args:
        function: whose keyword-only parameters are the keys.
        overrides: the strings; the last one of a key wins.

    Returns:
        The arguments by name; those that are not given are left out.

    Raises:
        ConfigError: if a key is unknown or missing, or a value is not allowed.
    """
    parameters = signature(function)
    kwargs: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"{override!r} is not allowed: use key=value, with {', '.join(parameters)}")
        if key not in parameters:
            raise unknown_key_error(key, parse_yaml(text), "this command", parameters)
        kwargs[key] = parse_value(key, text, parameters[key][0])
    for key, (_, required) in parameters.items():
        if required and key not in kwargs:
            raise ConfigError(f"{key} is missing: give {key}=…")
    return kwargs


def parse_value(key: str, text: str, annotation: Any) -> Any:
    """Return the value of a key: as YAML has it if its type is allowed, otherwise the text as it is written.

    Raises:
        ConfigError: if neither is allowed.
    """
    value = parse_yaml(text)
    meant = isinstance(value, list | dict) and takes_containers(annotation)  # a wrong list is not a name
    if not meant and not is_allowed(value, annotation) and is_allowed(text, annotation):
        value = text  # 1e5 may be the name of a directory
    check_value(key, value, annotation)
    return value


def takes_containers(annotation: Any) -> bool:
    """Return whether a type annotation has a list or a dictionary in it."""
    return get_origin(annotation) in (list, dict) or any(takes_containers(kind) for kind in get_args(annotation))


def is_allowed(value: Any, annotation: Any) -> bool:
    try:
        check_value("", value, annotation)
    except ConfigError:
        return False
    return True


def parse_yaml(text: str) -> Any:
    """Return a value as YAML has it; strings, and what is not YAML, as they are written, and only `null` as None."""
    try:
        node = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (OmegaConfBaseException, YAMLError):
        return text
    assert isinstance(node, dict)
    value = node["value"]
    return text if isinstance(value, str) or (value is None and text != "null") else value


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """Parse overrides as Hydra does and return their values by key or group.

    Raises:
        ConfigError: if one is not an override, deletes a key or lists several values.
    """
    values = {}
    for override in overrides:
        parsed = parse_override(override)
        if not parsed.key_or_group or parsed.is_delete() or parsed.is_sweep_override():
            raise ConfigError(f"{override} is not allowed: an override sets a key to one value")
        values[parsed.key_or_group] = parsed.value()
    return values


def parse_override(override: str) -> Override:
    """Parse an override as Hydra does.

    Raises:
        ConfigError: if it is not one.
    """
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(f"{override!r} is not allowed: use group=choice and key=value") from error


def override_key(override: str) -> str:
    """Return the key or group that an override sets."""
    return override.partition("=")[0].lstrip("+")


def format_override(key: str, value: Any) -> str:
    """Format an override as Hydra parses it; strings are quoted where they would be read as another type."""
    if not isinstance(value, str):
        return f"{key}={format_value(value)}"
    bare = value.isascii() and value.isidentifier() and value.lower() not in LITERALS
    return f"{key}={value if bare else QuotedString(value, Quote.single).with_quotes()}"
