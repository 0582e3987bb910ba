"""Atomic writing: a reader finds the old content or the new one, and nothing half-written stays."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from patchwork.core.atomic import atomic_dir, atomic_write, write_bytes
from patchwork.core.errors import ResourceError


def disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_replaces_the_content(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    for content in (b"old", b"", b"new"):
        write_bytes(path, content)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr(*(os, "fsync") if call == "fsync" else (Path, "replace"), disk_full)
    with pytest.raises(ResourceError, match=r"file cannot be written: the disk is full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_temporary_file_does_not_outlive_an_error(tmp_path: Path) -> None:
    with suppress(KeyError), atomic_write(tmp_path / "file", b"content") as temporary:
        assert temporary.read_bytes() == b"content"
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "below" / "directory"
    with atomic_dir(path) as temporary:
        (temporary / "file").write_text("content")
        assert not path.exists()
    assert (path / "file").read_text() == "content"
    assert os.listdir(path.parent) == ["directory"]


def test_directory_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with suppress(KeyError), atomic_dir(tmp_path / "directory") as temporary:
        (temporary / "file").write_text("content")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_directory_never_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    (path / "file").write_text("old")
    with pytest.raises(ResourceError, match="directory cannot be written"), atomic_dir(path) as temporary:
        (temporary / "file").write_text("new")
    assert (path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["directory"]
