"""Atomic writing: a reader finds the old content or the new one, and nothing half-written stays."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from patchwork.core import atomic
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


# --- disks that offer less -------------------------------------------------------------------------------------------


def fail_for(monkeypatch: pytest.MonkeyPatch, number: int, *, directories: bool) -> None:
    """Let fsync fail for directories, or for files."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == directories:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EIO, errno.EACCES])
def test_directories_that_cannot_be_synced_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_for(monkeypatch, number, directories=True)
    write_bytes(tmp_path / "file", b"content")
    with atomic_dir(tmp_path / "directory"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]


def test_directory_that_cannot_be_opened_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_only_files(path: object, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", open_only_files)
    write_bytes(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_file_system_without_sync_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fail_for(monkeypatch, number, directories=False)
    write_bytes(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_file_that_does_not_reach_the_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_for(monkeypatch, number, directories=False)
    with pytest.raises(ResourceError, match="file cannot be written"):
        write_bytes(tmp_path / "file", b"content")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.EACCES, errno.ENOTSUP])
def test_file_is_replaced_where_renaming_over_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, target: Path) -> None:
        if target.exists():
            raise OSError(number, os.strerror(number))
        path.rename(target)

    monkeypatch.setattr(Path, "replace", refuse)
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        write_bytes(path, content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


def test_file_in_use_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_use(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = tmp_path / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr(atomic, "REPLACE_SECONDS", 0)
    monkeypatch.setattr(Path, "replace", in_use)
    monkeypatch.setattr(Path, "rename", in_use)
    with pytest.raises(ResourceError, match="file cannot be written"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
