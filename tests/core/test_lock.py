"""Locks on directories, and disks that have none."""

import errno
import fcntl
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from patchwork.core import lock as locks
from patchwork.core.errors import PatchworkWarning, ResourceError
from patchwork.core.lock import is_locked, lock, wait_for_lock


@pytest.fixture(autouse=True)
def no_warning_yet() -> None:
    """Let each test be the first to warn."""
    locks.warn_no_locks.cache_clear()


def fail(number: int) -> Callable[..., None]:
    def lockf(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return lockf


def in_another_process(function: Callable[[Path], object], path: Path) -> int:
    """Return the exit code of a process that calls a function: 1 if it raises."""
    process = multiprocessing.get_context("fork").Process(target=function, args=(path,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode is not None
    return process.exitcode


def expect_held(directory: Path) -> None:
    assert is_locked(directory, ".lock")
    with pytest.raises(ResourceError, match="in use by another process"):
        lock(directory, ".lock")


def expect_free(directory: Path) -> None:
    assert not is_locked(directory, ".lock")
    lock(directory, ".lock").close()


def test_lock_is_held_until_it_is_closed(tmp_path: Path) -> None:
    assert not is_locked(tmp_path, ".lock")
    assert os.listdir(tmp_path) == []
    with lock(tmp_path, ".lock"):
        assert in_another_process(expect_held, tmp_path) == 0
        assert is_locked(tmp_path, ".lock")  # and to ask leaves it locked
        assert in_another_process(expect_held, tmp_path) == 0
    assert not is_locked(tmp_path, ".lock")
    assert in_another_process(expect_free, tmp_path) == 0


def test_asking_takes_no_lock_and_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch(mode=0o444)
    monkeypatch.setattr(fcntl, "lockf", fail(errno.EACCES))
    monkeypatch.setattr(fcntl, "flock", fail(errno.EACCES))
    assert not is_locked(tmp_path, ".lock")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL])
def test_disk_without_locks_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    monkeypatch.setattr(fcntl, "lockf", fail(number))
    monkeypatch.setattr(fcntl, "fcntl", fail(number))
    with pytest.warns(PatchworkWarning, match="no locks on this disk"):
        lock(tmp_path, ".lock").close()
    wait_for_lock(tmp_path / ".journal.lock").close()  # a second warning would be an error
    assert not is_locked(tmp_path, ".lock")


def test_system_without_locks_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locks, "fcntl", None)  # as on Windows
    with pytest.warns(PatchworkWarning, match="no locks on this disk"):
        lock(tmp_path, ".lock").close()
    assert not is_locked(tmp_path, ".lock")


@pytest.mark.parametrize(
    ("number", "message"), [(errno.EAGAIN, "in use by"), (errno.EACCES, "in use by"), (errno.EIO, "cannot be locked")]
)
def test_other_failures_are_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, message: str) -> None:
    monkeypatch.setattr(fcntl, "lockf", fail(number))
    with pytest.raises(ResourceError, match=message):
        lock(tmp_path, ".lock")
