"""Write files and directories atomically: beside their target, synced and renamed; nothing half-written stays."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from patchwork.core.errors import ResourceError


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a reader finds the old file or the new one, never a part of it.

    Raises:
        ResourceError: if the disk is full or the directory is not writable; nothing is left behind.
    """
    with atomic_write(path, content) as temporary:
        temporary.replace(path)


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
            os.fsync(file.fileno())
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


def sync_directory(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def not_writable(path: Path, error: OSError) -> ResourceError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full; free some space or choose another directory" if full else error.strerror or str(error)
    return ResourceError(f"{path} cannot be written: {reason}")
