"""Paths as users write them."""

from pathlib import Path

import pytest

from patchwork.core.paths import exists, expand_home


def test_home_is_expanded_unless_something_has_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert expand_home("~") == tmp_path
    assert expand_home(Path("~/a")) == tmp_path / "a"
    for path in ("a", "./~", "a/~", "~no-such-user/a", "x" * 300):
        assert expand_home(path) == Path(path)
    Path("~").mkdir()
    assert expand_home("~") == Path("~")


@pytest.mark.parametrize("path", ["nowhere", "x" * 300, "a\0b"], ids=["missing", "too long", "null"])
def test_names_that_cannot_be_do_not_exist(path: str) -> None:
    assert not exists(path)
    assert not exists(Path(path))
