"""Read data sets in the format of MNIST: four IDX files, or the same images and labels as parquet files.

The IDX format is that of Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST Database of Handwritten Digits" (1998).
Whatever the container, the MD5 of the IDX contents decides whether it is the data set.
"""

import gzip
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchwork.core.errors import DataError

SIDE = 28  # pixels of an image's side
NUM_CLASSES = 10
MAX_BYTES = 1 << 26  # of an uncompressed IDX file; the largest of MNIST has 47 MB
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class IdxDataset:
    """Description of a data set, known before it is read."""

    name: str  # as in `dataset=name`, and of its directory below data/
    title: str  # in messages
    variable: str  # environment variable with its directory
    digests: Mapping[str, str]  # MD5 of each uncompressed IDX file
    mirrors: tuple[str, ...]  # URLs of directories with the gzipped files
    parquet: str  # repository of the Hugging Face hub with the same as parquet files
    system_dir: Path | None = None  # where a system package installs it

    @property
    def containers(self) -> str:
        return f"the four IDX files (raw or gzip) or the parquet files of {self.parquet}"

    @property
    def remedy(self) -> str:
        return f"put {self.containers} into data/{self.name}, or set dataset.root or {self.variable} to their directory"


class NotFoundError(DataError):
    """A data set is neither on this machine nor can be downloaded."""


def read_file(path: Path, origin: str) -> bytes:
    """Return a file's content, uncompressed.

    Raises:
        DataError: if it cannot be read to its end, or holds far more than an IDX file; the message names `origin`.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = (gzip.GzipFile(fileobj=file) if is_gzip else file).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{origin} cannot be read: {error}; expected a whole IDX file, raw or gzip") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{origin} cannot be read: it holds more than {MAX_BYTES:,} bytes; expected an IDX file")
    return content


def idx_header(name: str, count: int) -> bytes:
    """Return the header of an IDX file: 0, 0, 8 for uint8, the number of axes, each axis in 32 bits, big-endian."""
    shape = (count, SIDE, SIDE) if "images" in name else (count,)
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)


def parse_idx(dataset: IdxDataset, name: str, content: bytes, origin: str, *, verify: bool = True) -> np.ndarray:
    """Parse the content of the IDX file `name` and, with `verify`, compare its MD5.

    Returns:
        Images (n, 28, 28) or labels (n,), uint8.

    Raises:
        DataError: if it is damaged, or another file; the message names `origin`.
    """
    shape = (SIDE, SIDE) if "images" in name else ()
    count = int.from_bytes(content[4:8], "big")
    header = idx_header(name, count)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    for what, actual, expected in (
        ("magic number", content[:4].hex(), header[:4].hex()),
        ("header", content[: len(header)].hex(), header.hex()),
        ("size in bytes", len(content), len(header) + count * SIDE ** len(shape)),
        ("MD5 of the content", md5, dataset.digests[name] if verify else md5),
    ):
        if actual != expected:
            known = next((other for other, digest in dataset.digests.items() if digest == md5), None)
            remark = f"; it is {known} of {dataset.title}" if known else describe_content(content)
            if what.startswith("MD5") and not known:
                remark += ", perhaps of another data set, which dataset.verify=false takes"
            raise DataError(
                f"{origin} is damaged or not of {dataset.title}: {what} is {actual or 'missing'}, expected {expected}"
                f"{remark}"
            )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(count, *shape)


def describe_content(content: bytes) -> str:
    """Return what a file holds instead of data, as the end of a message; empty if it is not known."""
    start = content[:512].lstrip().lower()
    if not content:
        return "; the file is empty: download it again"
    if content.startswith(LFS_POINTER):
        return "; the file is a Git LFS pointer, not the data: run `git lfs pull` where it was cloned"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "; the file is a web page, as of an error or a login: download it again"
    if content.startswith(b"\x1f\x8b"):
        return "; the file was compressed twice: run gunzip on it once"
    if content.startswith(b"PK"):
        return "; the file is a zip archive: unpack it"
    if content[:2] == b"\0\0" and content[2:4] in (b"\x08\x01", b"\x08\x03"):
        count = int.from_bytes(content[4:8], "big")
        return f"; the file holds {count:,} {'labels' if content[3] == 1 else 'images'}"
    return ""


def read_parquet(dataset: IdxDataset, key: str, shards: list[Path], *, verify: bool = True) -> Iterator[np.ndarray]:
    """Yield the images, then the labels, of shards with the columns image {bytes: PNG, path} and label.

    The IDX contents are restored byte for byte, so that the same MD5 is compared.

    Raises:
        DataError: if a shard is damaged, or a package is missing that reads it.
    """
    images, labels = bytearray(), bytearray()
    for path in shards:
        shard_images, shard_labels = decode_shard(path)
        images += shard_images
        labels += shard_labels
    origin = f"{shards[0]}" if len(shards) == 1 else f"{shards[0]} with {len(shards) - 1} more shards"
    for name, content in ((f"{key}-images-idx3-ubyte", images), (f"{key}-labels-idx1-ubyte", labels)):
        yield parse_idx(dataset, name, idx_header(name, len(labels)) + content, f"{origin} as {name}", verify=verify)


def decode_shard(path: Path) -> tuple[bytes, bytes]:
    """Return the pixels and the labels of a parquet file; see `read_parquet`."""
    try:
        import pyarrow.parquet
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow and pillow: pip install 'patchwork[parquet]'") from error

    images = bytearray()
    try:
        table = pyarrow.parquet.ParquetFile(path).read(["image", "label"])
        labels = bytes(table["label"].to_pylist())
        for cell in table["image"].to_pylist():
            image = Image.open(io.BytesIO(cell["bytes"]), formats=["PNG"])
            if (image.size, image.mode) != ((SIDE, SIDE), "L"):
                raise ValueError(f"an image is {image.size} {image.mode}")
            images += image.tobytes()
    except Exception as error:  # decoders raise errors of every type on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        with suppress(OSError), path.open("rb") as file:
            reason += describe_content(file.read(512))
        raise DataError(f"{path} cannot be read: {reason}; expected {SIDE}×{SIDE} gray PNGs and labels") from error
    return bytes(images), labels
