"""Locks on directories that several processes may want to write."""

import errno
from pathlib import Path
from typing import IO

from patchwork.core.errors import ResourceError
from patchwork.core.rank import is_rank_zero

try:
    import fcntl
except ImportError:  # on systems without such locks
    fcntl = None  # type: ignore[assignment]


def lock(directory: Path, name: str) -> IO[str]:
    """Lock a directory for this process until the returned file is closed or the process ends.

    Of the processes that train together, rank 0 takes the lock for all.

    Args:
        directory: what is locked.
        name: name of the lock file in it.

    Raises:
        ResourceError: if another process holds the lock, or the file system has no locks.
    """
    file = (directory / name).open("w")
    try:
        if fcntl is not None and is_rank_zero():
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not kept by the workers of a loader
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ResourceError(f"{directory} is in use by another process: wait for it, or stop it") from error
        raise ResourceError(f"{directory} cannot be locked: {error.strerror}") from error
    return file
