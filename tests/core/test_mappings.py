"""Nested mappings by dotted keys, and the YAML files that hold them."""

from pathlib import Path

import pytest

from patchwork.core.errors import DataError
from patchwork.core.mappings import flatten, read_yaml


def test_values_have_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}) == {"a.b": 1, "a.c.d": [2], "e": None}
    assert flatten({"b": 1}, "a") == {"a.b": 1}
    assert flatten(3, "a") == {"a": 3}


@pytest.mark.parametrize("content", ["{{{", "[1]", "", "a: !!python/name:os.system", b"\xff\xfe\x00"], ids=repr)
def test_file_without_a_mapping_is_damaged(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match="is damaged") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)
    path.write_text("a: {b: 1}")
    assert read_yaml(path) == {"a": {"b": 1}}
