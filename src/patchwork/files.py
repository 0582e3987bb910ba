"""Files that are whole or not there: written beside their target, synced and renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from patchwork.errors import ResourceError


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: whoever looks finds the old file or the new one, never a part.

    Raises:
        ResourceError: if the disk is full or the folder not writable; nothing is left behind.
    """
    with whole_or_nothing(path, content) as part:
        part.replace(path)


@contextmanager
def whole_or_nothing(path: Path, content: bytes) -> Iterator[Path]:
    """Write and sync a file beside `path`, for the context to rename; whatever happens, nothing half-written stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield part
        if os.name == "posix":  # so that the new name is as safe as the content
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        full = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise ResourceError(f"{path} cannot be written: {full}; free some space or choose another folder=…") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
