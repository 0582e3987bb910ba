"""Pictures of digits from files, folders, patterns and stdin: one at a time, within limits, in a stable order.

Images, arrays (`.npy`), IDX files (raw or gzip) and drawings (JSON of strokes) are told apart by their content. What
cannot be read takes its place among the others as an error.
"""

import glob
import gzip
import io
import os
import stat
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from patchwork.core.errors import DataError, one_line
from patchwork.core.paths import expand_home
from patchwork.data.strokes import Strokes

MAX_BYTES, MAX_UNPACKED = 20_000_000, 1 << 26  # of a file, and of what a compressed one holds
MAX_PIXELS, MAX_SIDE = 40_000_000, 16_384  # of an image
MAX_FILES = 100_000
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".npy", ".json", "-ubyte", "-ubyte.gz")
STDIN = "-"


class TooLargeError(DataError):
    """An image of more pixels than are read."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What an input holds: gray levels (height, width), uint8, or strokes, or what is wrong with it."""

    name: str
    content: np.ndarray | Strokes | DataError


def read_pictures(inputs: Sequence[str]) -> Iterator[Picture]:
    """Yield the pictures of inputs in order; a file of several images yields each, named with its index.

    Args:
        inputs: files, folders, patterns as `*.png`, and `-` for stdin.

    Raises:
        DataError: if there are more than 100,000 files.
    """
    for number, path in enumerate(list_files(inputs)):
        if number >= MAX_FILES:
            raise DataError(f"there are more than {MAX_FILES:,} files: predict them in parts")
        try:
            content = read_limited(path)
        except OSError as error:
            yield Picture(path, DataError(f"cannot be read: {error.strerror or one_line(error)}"))
        except DataError as error:
            yield Picture(path, error)
        else:
            yield from decode(path, content)


def list_files(inputs: Sequence[str]) -> Iterator[str]:
    """Yield the files that inputs name; those of a folder or a pattern in the order of their names."""
    for given in inputs:
        path = str(expand_home(given))
        if given == STDIN:
            yield STDIN
        elif os.path.isdir(path):
            yield from list_folder(path)
        elif glob.has_magic(path) and not os.path.lexists(path):
            yield from sorted(glob.glob(path, recursive=True)) or [path]
        else:
            yield path


def list_folder(folder: str) -> Iterator[str]:
    """Yield the files below a folder that may hold pictures; no link that leads out of it is followed."""
    root = Path(folder).resolve()
    for directory, names, files in os.walk(folder):
        names.sort()
        for file in sorted(files):
            path = os.path.join(directory, file)
            if file.lower().endswith(SUFFIXES) and Path(path).resolve().is_relative_to(root):
                yield path


def read_limited(path: str) -> bytes:
    """Return the content of a file or of stdin.

    Raises:
        DataError: if it is too large, empty, or no regular file.
        OSError: if it cannot be read.
    """
    if path == STDIN:
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError("is not a regular file")
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"is larger than {MAX_BYTES / 1e6:g} MB")
    if not content:
        raise DataError("is empty")
    return content


def decode(name: str, content: bytes) -> Iterator[Picture]:
    """Yield the pictures that the content of a file holds."""
    try:
        if content.startswith(b"\x1f\x8b"):
            content = unpack(content)
        if content.startswith(b"\x93NUMPY"):
            images = read_array(content)
        elif content.startswith(b"\0\0\x08\x03"):
            images = read_idx(content)
        elif content.lstrip()[:1] in (b"{", b"["):
            yield Picture(name, read_strokes(content))
            return
        else:
            yield Picture(name, read_gray(content))
            return
    except DataError as error:
        yield Picture(name, error)
        return
    if images.ndim == 2:
        yield Picture(name, images)
        return
    for index, image in enumerate(images):
        yield Picture(f"{name}[{index}]", image)


def unpack(content: bytes) -> bytes:
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"is damaged: {one_line(error)}") from error
    if len(unpacked) > MAX_UNPACKED:
        raise DataError(f"holds more than {MAX_UNPACKED:,} bytes")
    return unpacked


def read_array(content: bytes) -> np.ndarray:
    """Return the images (n, height, width), or the one (height, width), of a .npy file."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise DataError(f"is no array: {one_line(error)[:200]}") from error
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
        raise DataError(
            f"is an array of shape {array.shape} and {array.dtype}: use uint8 of shape (n, height, width) or "
            "(height, width)"
        )
    check_size(*array.shape[:-3:-1])
    return array


def read_idx(content: bytes) -> np.ndarray:
    """Return the images (n, height, width) of an IDX file."""
    shape = tuple(np.frombuffer(content[4:16], ">u4").tolist())
    if len(shape) != 3 or not all(shape) or len(content) != 16 + shape[0] * shape[1] * shape[2]:
        raise DataError(f"is a damaged IDX file: {len(content):,} bytes for images of shape {shape}")
    check_size(shape[2], shape[1])
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


def read_strokes(content: bytes) -> Strokes:
    try:
        return Strokes.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"is no drawing: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from error


def read_gray(content: bytes) -> np.ndarray:
    """Return the brightness (height, width), uint8, of the first frame of an image.

    Raises:
        TooLargeError: if it has too many pixels.
        DataError: if it cannot be read.
    """
    from PIL import Image, ImageOps

    from patchwork.data.image_files import FORMATS, to_gray

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there are limits of our own
            with Image.open(io.BytesIO(content), formats=FORMATS) as file:
                check_size(file.width, file.height)
                file.load()
                return np.rint(to_gray(ImageOps.exif_transpose(file), ground=None)).clip(0, 255).astype(np.uint8)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # decoders raise errors of every type on damaged files
        raise DataError(f"cannot be read as an image: {one_line(error)[:200]}") from error


def check_size(width: int, height: int) -> None:
    """Raise a `TooLargeError` if an image is too large."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise TooLargeError(
            f"has {width}×{height} pixels: up to {MAX_SIDE:,} a side and {MAX_PIXELS:,} in all are read"
        )
