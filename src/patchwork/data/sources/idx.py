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
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchwork.core.errors import DataError

SIDE = 28  # pixels of an image's side


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


# --- which files a directory holds -----------------------------------------------------------------------------------


def missing_files(dataset: IdxDataset, directory: Path) -> list[str]:
    """Return the names of the IDX files that a directory lacks; none if it holds parquet files instead."""
    missing = [name for name in dataset.digests if name not in idx_files(dataset, directory)]
    return missing if missing and not all(parquet_files(directory).values()) else []


def idx_files(dataset: IdxDataset, directory: Path) -> dict[str, Path]:
    """Return the paths of the IDX files in a directory, in either spelling, raw or gzip."""
    paths = sorted(directory.glob("*"), reverse=True)  # reversed: a raw file takes precedence over its gzip
    found = {path.name.removesuffix(".gz").replace(".idx", "-idx"): path for path in paths}
    return {name: found[name] for name in dataset.digests if name in found}


def parquet_files(directory: Path) -> dict[str, list[Path]]:
    """Return the sorted shards anywhere below a directory, for `train` and `t10k`, the names of the IDX files."""
    return {key: sorted(directory.rglob(f"{split}-*.parquet")) for key, split in (("train", "train"), ("t10k", "test"))}


def holds_some(dataset: IdxDataset, directory: Path) -> bool:
    """Return whether a directory holds at least one file of a data set."""
    return bool(idx_files(dataset, directory)) or any(parquet_files(directory).values())


# --- what is in them -------------------------------------------------------------------------------------------------


def read_arrays(dataset: IdxDataset, directory: Path) -> list[np.ndarray]:
    """Read and check a data set.

    Args:
        dataset: description of the data set to expect.
        directory: directory with its files.

    Returns:
        Training images and labels, test images and labels, all uint8: (n, 28, 28), (n,), (m, 28, 28), (m,).

    Raises:
        DataError: if a file is damaged, or not of this data set.
    """
    files = idx_files(dataset, directory)
    if len(files) == len(dataset.digests):
        return [parse_idx(dataset, name, read_file(path, str(path)), str(path)) for name, path in files.items()]
    return [array for key, shards in parquet_files(directory).items() for array in read_parquet(dataset, key, shards)]


def read_file(path: Path, origin: str) -> bytes:
    """Return a file's content, uncompressed.

    Raises:
        DataError: if it cannot be read to its end; the message names `origin`.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{origin} cannot be read: {error}; expected a whole IDX file, raw or gzip") from error


def idx_header(name: str, count: int) -> bytes:
    """Return the header of an IDX file: 0, 0, 8 for uint8, the number of axes, each axis in 32 bits, big-endian."""
    shape = (count, SIDE, SIDE) if "images" in name else (count,)
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)


def parse_idx(dataset: IdxDataset, name: str, content: bytes, origin: str) -> np.ndarray:
    """Parse the content of the IDX file `name` and compare its MD5.

    Returns:
        Images (n, 28, 28) or labels (n,), uint8.

    Raises:
        DataError: if it is damaged, or another file; the message names `origin`.
    """
    shape = (SIDE, SIDE) if "images" in name else ()
    count = int.from_bytes(content[4:8], "big")
    header = idx_header(name, count)
    for what, actual, expected in (
        ("magic number", content[:4].hex(), header[:4].hex()),
        ("header", content[: len(header)].hex(), header.hex()),
        ("size in bytes", len(content), len(header) + count * SIDE ** len(shape)),
        ("MD5 of the content", hashlib.md5(content, usedforsecurity=False).hexdigest(), dataset.digests[name]),
    ):
        if actual != expected:
            raise DataError(
                f"{origin} is damaged or not of {dataset.title}: {what} is {actual or 'missing'}, expected {expected}"
            )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(count, *shape)


def read_parquet(dataset: IdxDataset, key: str, shards: list[Path]) -> Iterator[np.ndarray]:
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
        yield parse_idx(dataset, name, idx_header(name, len(labels)) + content, f"{origin} as {name}")


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
        raise DataError(f"{path} cannot be read: {reason}; expected {SIDE}×{SIDE} gray PNGs and labels") from error
    return bytes(images), labels
