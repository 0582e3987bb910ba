"""Write files and directories atomically: beside their target, synced and renamed; nothing half-written stays."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from patchwork.core.errors import ResourceError

NOT_OFFERED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # by this file system
NO_DIRECTORY_SYNC = NOT_OFFERED | {errno.EBADF, errno.EIO, errno.EACCES, errno.EPERM, errno.EISDIR}
NO_REPLACE = {errno.EEXIST, errno.EACCES, errno.EPERM} | NOT_OFFERED  # of a file that exists, or that is open
REPLACE_ATTEMPTS, REPLACE_SECONDS = 5, 0.05


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a reader finds the old file or the new one, never a part of it.

    Raises:
        ResourceError: if the disk is full or the directory is not writable; nothing is left behind.
    """
    with atomic_write(path, content) as temporary:
        replace(temporary, path)


@contextmanager
def atomic_write(path: Path, content: bytes) -> Iterator[Path]:
    """Write and sync a temporary file beside `path`, which the context renames; it never outlives the context.

    Raises:
        ResourceError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            sync_file(file.fileno())
        yield temporary
        sync_directory(path.parent)  # so that the new name is as safe as the content
    except OSError as error:
        raise not_writable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Make a temporary directory beside `path`, to be filled in the context, and rename it at the end.

    Raises:
        ResourceError: if it cannot be written, or `path` exists and is not an empty directory; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)  # never over a directory that holds something
        sync_directory(path.parent)
    except OSError as error:
        raise not_writable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace(temporary: Path, path: Path) -> None:
    """Rename a file over another, also where that takes two steps: some network disks, open files on Windows.

    Raises:
        OSError: if it cannot be renamed; the other file stays.
    """
    try:
        temporary.replace(path)
    except OSError as error:
        if error.errno not in NO_REPLACE or not path.exists():
            raise
        replace_in_two_steps(temporary, path, error)


def replace_in_two_steps(temporary: Path, path: Path, error: OSError) -> None:
    """Move a file aside and another into its place; who has it open, as a virus scanner, may soon let go of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.old.part")
    for attempt in range(REPLACE_ATTEMPTS):
        with suppress(OSError):
            path.rename(aside)
            break
        time.sleep(REPLACE_SECONDS * attempt)
    else:
        raise error
    try:
        temporary.rename(path)
    except OSError:
        aside.rename(path)
        raise
    with suppress(OSError):
        aside.unlink()


def sync_file(descriptor: int) -> None:
    """Write a file through to its disk, where its file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def sync_directory(path: Path) -> None:
    """Write the names in a directory through to its disk, where its file system can; many cannot."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_DIRECTORY_SYNC:
            raise


def not_writable(path: Path, error: OSError) -> ResourceError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full; free some space or choose another directory" if full else error.strerror or str(error)
    return ResourceError(f"{path} cannot be written: {reason}")
