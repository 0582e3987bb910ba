"""Unpack the data files of a zip or tar archive, within limits."""

import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from patchwork.core.errors import DataError, one_line
from patchwork.data.sources.forms import CONVERTIBLE, PICTURES, has_suffix
from patchwork.data.sources.locate import IDX_NAME

MAX_FILES = 250_000
MAX_BYTES = 1 << 31  # of all files, unpacked


Member = tuple[str, int, Callable[[], IO[bytes] | None]]  # name, bytes unpacked, and a function that opens it


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Unpack what may be data from an archive into a temporary directory, which the context removes at its end.

    Raises:
        DataError: if the archive is damaged or encrypted, too large, or names files outside of it.
    """
    with tempfile.TemporaryDirectory(prefix="patchwork-") as name:
        directory = Path(name).resolve()
        try:
            for member, file in members(path):
                target = directory / relative_path(path, member)
                target.parent.mkdir(parents=True, exist_ok=True)
                with file, target.open("wb") as output:
                    shutil.copyfileobj(file, output)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, RuntimeError) as error:
            raise DataError(f"{path} cannot be unpacked: {one_line(error)}") from error
        yield directory


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the names of the files of an archive that may be data, with the opened files, while limits allow."""
    count = size = 0
    for name, num_bytes, open_member in zip_members(path) if zipfile.is_zipfile(path) else tar_members(path):
        count, size = count + 1, size + num_bytes
        if count > MAX_FILES or size > MAX_BYTES:
            raise DataError(f"{path} unpacks to more than {MAX_FILES:,} files or {MAX_BYTES:,} bytes")
        if is_data(name) and (file := open_member()) is not None:
            yield name, file


def zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, partial(archive.open, info)


def tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            if info.isfile():  # no links, no devices
                yield info.name, info.size, partial(archive.extractfile, info)


def is_data(name: str) -> bool:
    """Return whether the file of an archive may be data, by its name."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__")) and part not in (".", "..") for part in path.parts)
    suffixes = (*CONVERTIBLE, *PICTURES, ".parquet")
    return not hidden and (has_suffix(Path(path.name), suffixes) or IDX_NAME.fullmatch(path.name) is not None)


def relative_path(archive: Path, name: str) -> PurePosixPath:
    """Return the path of a file within an archive.

    Raises:
        DataError: if it is not within.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(f"{archive} has a file outside of it: {name}")
    return path
