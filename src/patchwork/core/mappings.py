"""Nested mappings: read one from a YAML file, and list its values by their dotted keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from patchwork.core.errors import DataError, one_line

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML has it, which is ten times as fast


def flatten(node: Any, key: str = "") -> dict[str, Any]:
    """Return the values of a nested mapping by their dotted keys; an empty mapping in it has none.

    Args:
        node: the mapping; anything else is the value of `key` itself.
        key: dotted key of the node.
    """
    if not isinstance(node, Mapping):
        return {key: node}
    children = [flatten(value, f"{key}.{name}" if key else str(name)) for name, value in node.items()]
    return {name: value for values in children for name, value in values.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file, quickly and without checking it.

    Raises:
        DataError: if the file cannot be read or holds something else.
    """
    try:
        content = yaml.load(path.read_bytes(), Loader=YAML_LOADER)  # both are safe loaders
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is damaged: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it is not a mapping")
    return content
