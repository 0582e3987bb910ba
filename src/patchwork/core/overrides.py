"""Read and write `key=value`: as the keyword arguments of a function, and as Hydra's overrides."""

import re
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml

from patchwork.core.errors import ConfigError
from patchwork.core.paths import expand_home
from patchwork.core.schema import check_value, format_value, is_allowed, signature, unknown_key_error
from patchwork.core.types import HomePath

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

LITERALS = ("true", "false", "null", "nan", "inf")  # strings that Hydra reads as another type unless quoted
PLAIN_PATH = re.compile(r"(\./|\.\./|/|[A-Za-z_])[A-Za-z0-9_./-]*")  # which neither Hydra nor a shell reads otherwise


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
    """Return the value of a key: the first of its readings that is allowed.

    Raises:
        ConfigError: if none is; it is about the first.
    """
    values = list(readings(text, annotation))
    value = next((value for value in values if is_allowed(value, annotation)), values[0])
    check_value(key, value, annotation)
    return expand_homes(value) if takes_paths(annotation) else value


def readings(text: str, annotation: Any) -> Iterator[Any]:
    """Yield what a text may mean where an annotation says what is allowed, the likeliest first."""
    value = parse_list(text) if text.startswith("[") else parse_yaml(text)
    yield unquote(value) if isinstance(value, str) else value
    if isinstance(value, list | dict) and takes_containers(annotation):  # a wrong list is not a name
        yield as_strings(text)  # [2026,2027] may be the names of directories
    else:
        yield unquote(text)  # 1e5 may be the name of a directory
    if not isinstance(value, list):
        yield parse_list(f"[{text}]")  # 7 and 1,2 where a list is expected


def takes_containers(annotation: Any) -> bool:
    """Return whether a type annotation has a list or a dictionary in it."""
    return get_origin(annotation) in (list, dict) or any(takes_containers(kind) for kind in get_args(annotation))


def takes_paths(annotation: Any) -> bool:
    """Return whether a type annotation has a path in it."""
    return annotation is HomePath or any(takes_paths(kind) for kind in get_args(annotation))


def expand_homes(value: Any) -> Any:
    """Expand the `~` of a path, or of each in a list."""
    if isinstance(value, list):
        return [expand_homes(item) for item in value]
    return str(expand_home(value)) if isinstance(value, str) and value.startswith("~") else value


def unquote(text: str) -> str:
    """Return a value without the quotes that Hydra would take away, if all of it is in quotes."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    try:
        value = parse_override(f"x={text}").value()
    except ConfigError:
        return text
    return value if isinstance(value, str) else text


def parse_yaml(text: str) -> Any:
    """Return a value as YAML has it; strings, and what is not YAML, as they are written, and only `null` as None."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (OmegaConfBaseException, yaml.YAMLError):
        return text
    assert isinstance(node, dict)
    value = node["value"]
    return text if isinstance(value, str) or (value is None and text != "null") else value


def parse_list(text: str) -> Any:
    """Return a list as Hydra has it, whose strings need no space after a comma; what Hydra refuses, as YAML has it."""
    try:
        parsed = parse_override(f"x={text}")
    except ConfigError:
        return parse_yaml(text)
    return parse_yaml(text) if parsed.is_sweep_override() else parsed.value()


def as_strings(text: str) -> Any:
    """Return a list in YAML whose items are all strings, as they are written; None if it is not one."""
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # which makes nothing but strings, lists and mappings
    except yaml.YAMLError:
        return None


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


def parse_override(override: str) -> "Override":
    """Parse an override as Hydra does.

    Raises:
        ConfigError: if it is not one.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(f"{override!r} is not allowed: use group=choice and key=value") from error


def override_key(override: str) -> str:
    """Return the key or group that an override sets."""
    return override.partition("=")[0].lstrip("+")


def format_override(key: str, value: Any) -> str:
    """Format an override as Hydra parses it; strings are quoted where they would be read as another type."""
    return f"{key}={format_element(value)}"


def format_element(value: Any) -> str:
    """Format a value, or one of a list, as Hydra parses it."""
    if isinstance(value, list):
        return f"[{','.join(map(format_element, value))}]"
    if not isinstance(value, str):
        return format_value(value)
    bare = value.isascii() and value.isidentifier() and value != "None" and value.lower() not in LITERALS
    return value if bare else quoted(value, "single")


def quoted(value: str, quote: Literal["single", "double"]) -> str:
    """Return a string in quotes as Hydra parses it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value, Quote[quote]).with_quotes()


def shell_override(key: str, value: Any) -> str:
    """Format an override to be typed into a shell: quoted for the shell and for Hydra, if either needs it."""
    if not isinstance(value, str):
        return shlex.quote(format_override(key, value))
    plain = PLAIN_PATH.fullmatch(value) and value.lower() not in LITERALS
    return shlex.quote(f"{key}={value if plain else quoted(value, 'double')}")


def shell_command(command: str, *words: str, **values: Any) -> str:
    """Return a command of this package to be typed into a shell.

    Args:
        command: its name.
        words: arguments as the command gets them, which are quoted for the shell.
        values: keys and their values, which are quoted for Hydra, too.
    """
    overrides = [shell_override(key, value) for key, value in values.items()]
    return " ".join(["patchwork", command, *map(shlex.quote, words), *overrides])
