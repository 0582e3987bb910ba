"""Locks on directories and files that several processes may want to write."""

import errno
import os
import struct
import sys
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

from patchwork.core.errors import PatchworkWarning, ResourceError
from patchwork.core.rank import is_rank_zero

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

HELD = {errno.EACCES, errno.EAGAIN}  # by another process
NOT_OFFERED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}  # by this file system
FLOCK = "hhqqi" if sys.platform == "linux" else "qqihh"  # C's struct flock, here and of BSD, as of macOS
FLOCK_TYPE = 0 if sys.platform == "linux" else 3  # the position of l_type in it
own_locks: WeakValueDictionary[tuple[int, int], IO[str]] = WeakValueDictionary()  # by the device and inode of the file


def lock(directory: Path, name: str) -> IO[str]:
    """Lock a directory for this process until the returned file is closed or the process ends.

    Of the processes that train together, rank 0 takes the lock for all. Where there are no locks, a warning says so.

    Args:
        directory: what is locked.
        name: name of the lock file in it.

    Raises:
        ResourceError: if another process holds the lock, or the disk fails.
    """
    file = (directory / name).open("w")
    if not is_rank_zero():
        return file
    try:
        lock_file(file, wait=False)
    except OSError as error:
        file.close()
        if error.errno in HELD:
            raise ResourceError(f"{directory} is in use by another process: wait for it, or stop it") from error
        raise ResourceError(f"{directory} cannot be locked: {error.strerror}") from error
    own_locks[file_identity(directory / name)] = file
    return file


def is_locked(directory: Path, name: str) -> bool:
    """Return whether a process holds the lock on a directory, as far as can be told.

    It only asks: a lock taken for an instant would turn away a process that starts meanwhile.
    """
    path = directory / name
    with suppress(OSError):
        own = own_locks.get(file_identity(path))
        if own is not None and not own.closed:  # opening and closing the file would drop this process's own lock
            return True
        with path.open("rb") as file:
            return has_lock(file)
    return False


def has_lock(file: IO[bytes]) -> bool:
    """Return whether another process holds a lock on an open file.

    Raises:
        OSError: if the file system has no locks.
    """
    if fcntl is None:
        return False
    fields = [0] * len(FLOCK)  # of the whole file, whatever its length
    fields[FLOCK_TYPE] = fcntl.F_WRLCK
    request = struct.pack(FLOCK, *fields).ljust(2 * struct.calcsize(FLOCK), b"\0")  # some systems have a field more
    answer = fcntl.fcntl(file, fcntl.F_GETLK, request)
    return bool(struct.unpack_from(FLOCK, answer)[FLOCK_TYPE] != fcntl.F_UNLCK)


def file_identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def wait_for_lock(path: Path) -> IO[str]:
    """Lock a file for this process, once no other holds it, until it is closed.

    Raises:
        ResourceError: if the disk fails.
    """
    file = path.open("a")
    try:
        lock_file(file, wait=True)
    except OSError as error:
        file.close()
        raise ResourceError(f"{path} cannot be locked: {error.strerror}") from error
    return file


def lock_file(file: IO[str], *, wait: bool) -> None:
    """Lock an open file; where there are no locks, only warn.

    Raises:
        OSError: if another process holds the lock and this one does not wait, or the disk fails.
    """
    if fcntl is None:
        warn_no_locks()
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))  # unlike flock's, not kept by child processes
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        warn_no_locks()


@cache
def warn_no_locks() -> None:
    """Warn, once, that nothing keeps other processes away."""
    message = "there are no locks on this disk: see to it that nothing else trains this run, and let no sweeps share it"
    warnings.warn(message, PatchworkWarning, stacklevel=1)
