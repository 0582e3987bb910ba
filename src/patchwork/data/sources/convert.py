"""Read MNIST in the forms in which it is passed around, and write it as IDX files.

1. Read training and test part from an archive, a table, arrays or pictures (`read_form`), all as uint8.
2. Invert images that are dark on white, and check that each has a label (`Converted`).
3. Write the four IDX files, and compare their MD5s with those of the known data sets (`write_idx_files`).

Nothing in a file is executed: arrays are read without pickles, and pictures by a few decoders only.
"""

import gzip
import hashlib
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from patchwork.core.errors import DataError, ResourceError, one_line
from patchwork.core.progress import Progress
from patchwork.data.image_files import to_gray
from patchwork.data.sources.archives import unpacked
from patchwork.data.sources.fashion import FashionMNIST
from patchwork.data.sources.forms import (
    ARCHIVES,
    PICTURES,
    TABLES,
    class_of,
    find_form,
    has_suffix,
    refusal,
)
from patchwork.data.sources.idx import SIDE, IdxDataset, idx_header
from patchwork.data.sources.locate import check_labels, missing_files, read_arrays, walk
from patchwork.data.sources.mnist import MNIST

NUM_PIXELS = SIDE * SIDE
NUM_TRAIN = 60_000  # in the official order; the rest is the test part
MAX_IMAGES = 200_000
MAX_ARRAY_BYTES = 1 << 30
MAX_LINE = 1 << 16  # characters of a table's row
LABEL_COLUMNS = ("label", "labels", "class", "target", "digit", "y")
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "t10k": "test"}
PART_NAME = re.compile(r"(?<![a-z])(train|training|test|testing|t10k|valid|validation|val)(?:set)?(?![a-z])")
Part = tuple[np.ndarray, np.ndarray]  # images (n, 28, 28) and labels (n,), uint8


def read_form(source: Path) -> list[np.ndarray]:
    """Read a data set in any form.

    Args:
        source: a file, or a directory that holds it.

    Returns:
        Training images and labels, test images and labels, all uint8: (n, 28, 28), (n,), (m, 28, 28), (m,).

    Raises:
        DataError: if there is none, or it is damaged or incomplete.
    """
    if not source.exists():
        raise DataError(f"source={source} does not exist: name a file or a directory")
    if source.is_dir() and not missing_files(MNIST.dataset, source):
        return read_arrays(MNIST.dataset, source, verify=False)
    form = find_form(source)
    if form is None:
        raise DataError(f"source={source} holds no known form: {refusal(source).partition(': ')[2]}")
    if has_suffix(form, ARCHIVES):
        with unpacked(form) as directory:
            return read_form(directory)
    if has_suffix(form, (".npz",)):
        parts = read_npz(form)
    elif form.is_dir() and (tables := [path for path in sorted(form.iterdir()) if has_suffix(path, TABLES)]):
        parts = read_tables(tables)
    elif has_suffix(form, TABLES):
        parts = read_tables([form])
    elif form.is_dir():
        parts = read_pictures(form)
    else:
        raise DataError(refusal(form))
    arrays = split_parts(parts, form)
    check_labels(arrays, form)
    return arrays


def split_parts(parts: dict[str, Part], origin: Path) -> list[np.ndarray]:
    """Return training and test part, cut from one table of both in the official order if they are not apart.

    Raises:
        DataError: if there is no test part.
    """
    if "all" in parts and len(parts["all"][0]) > NUM_TRAIN:
        images, labels = parts["all"]
        return [images[:NUM_TRAIN], labels[:NUM_TRAIN], images[NUM_TRAIN:], labels[NUM_TRAIN:]]
    missing = [name for name in ("train", "test") if name not in parts]
    if missing:
        found = ", ".join(f"{name} ({len(labels):,} images)" for name, (_, labels) in parts.items()) or "nothing"
        raise DataError(f"{origin} lacks labeled images of the {' and the '.join(missing)} part: it has {found}")
    return [*parts["train"], *parts["test"]]


def part_of(name: str) -> str | None:
    """Return the part, `train` or `test`, that a name contains, or None; validation images serve as a test part."""
    match = PART_NAME.search(name.lower().replace("_", " "))
    return None if match is None else PARTS.get(match[1], "test")


# --- arrays ----------------------------------------------------------------------------------------------------------


def read_npz(path: Path) -> dict[str, Part]:
    """Read `x_train`, `y_train`, `x_test` and `y_test`, as Keras names them, or similar names, from a NumPy archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            largest = max((info.file_size for info in archive.infolist()), default=0)
        if largest > MAX_ARRAY_BYTES:
            raise DataError(f"{path} has an array of {largest:,} bytes: at most {MAX_ARRAY_BYTES:,} are read")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if array_role(name) is not None}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}; expected arrays without pickles") from error
    by_role = {array_role(name): values for name, values in arrays.items()}
    return {
        part: (to_images(by_role[part, "images"], path), to_labels(by_role[part, "labels"], path))
        for part in ("train", "test", "all")
        if (part, "images") in by_role and (part, "labels") in by_role
    }


def array_role(name: str) -> tuple[str, str] | None:
    """Return the part and the kind, `images` or `labels`, of an array by its name, or None."""
    words = re.split(r"[_\W]+", name.lower())
    kinds = {"x": "images", "image": "images", "images": "images", "data": "images"}
    kinds |= {"y": "labels", "label": "labels", "labels": "labels", "target": "labels", "targets": "labels"}
    kind = next((kinds[word] for word in words if word in kinds), None)
    return None if kind is None else (part_of(name) or "all", kind)


def to_images(values: np.ndarray, origin: Path) -> np.ndarray:
    """Return images (n, 28, 28), uint8, of an array whose values are from 0 to 255 or fractions from 0 to 1.

    Raises:
        DataError: if shape or values are others.
    """
    if values.ndim == 0 or not len(values) or values[0].size != NUM_PIXELS:
        raise DataError(f"{origin} has images of the shape {values.shape}: expected {SIDE}×{SIDE} pixels each")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    elif values.dtype.kind not in "iuf":
        raise DataError(f"{origin} has images of the type {values.dtype}: expected numbers")
    elif values.dtype != np.uint8:
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 255):  # also false for NaN
            raise DataError(f"{origin} has pixels from {low:g} to {high:g}: expected 0 to 255, or 0 to 1")
        scale = 255 if values.dtype.kind == "f" and high <= 1 else 1
        values = np.rint(values * scale).astype(np.uint8)
    return np.ascontiguousarray(values.reshape(len(values), SIDE, SIDE))


def to_labels(values: np.ndarray, origin: Path) -> np.ndarray:
    """Return labels (n,), uint8, of numbers, digits as text, or one-hot rows.

    Raises:
        DataError: if they are no labels.
    """
    if values.ndim == 2 and values.shape[1] == 10:
        values = values.argmax(axis=1)
    try:
        labels = values.reshape(len(values)).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{origin} has labels that are no digits: {one_line(error)}") from error
    if not ((labels >= 0) & (labels <= 9) & (labels == np.rint(labels))).all():
        raise DataError(f"{origin} has labels that are not from 0 to 9")
    return labels.astype(np.uint8)


# --- tables ----------------------------------------------------------------------------------------------------------


def read_tables(paths: list[Path]) -> dict[str, Part]:
    """Read CSV files with a label and 784 pixels in each row, with or without a header."""
    named = {path: part_of(path.name.partition(".")[0]) for path in paths}
    if len(paths) == 1:
        named = {path: part or "all" for path, part in named.items()}
    return {part: read_table(path) for path, part in named.items() if part is not None}


def read_table(path: Path) -> Part:
    """Read one CSV file, raw or gzip.

    Raises:
        DataError: if a row is not a label and 784 pixels from 0 to 255; the message names it.
    """
    rows = bytearray()
    label_column = None
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file, Progress(f"reading {path}"):
            for number, text in enumerate(read_lines(file), start=1):
                if number == 1 and re.search("[a-df-zA-DF-Z]", text):  # numbers have no letters but e
                    label_column = find_label_column(text)
                elif text:
                    rows += parse_row(text, f"{path}, line {number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}; expected a table of numbers") from error
    table = np.frombuffer(rows, np.uint8).reshape(-1, NUM_PIXELS + 1)
    if label_column is None:  # the first pixel is 0 in all images
        label_column = 0 if table[:, 0].any() else NUM_PIXELS
    images = np.delete(table, label_column, axis=1)
    return to_images(images, path), to_labels(table[:, label_column], path)


def read_lines(file: IO[bytes] | gzip.GzipFile) -> Iterator[str]:
    """Yield the lines of a text file without quotes, at most `MAX_LINE` characters each."""
    for _ in range(MAX_IMAGES):
        line = file.readline(MAX_LINE)
        if not line:
            return
        yield line.decode("utf-8-sig").strip().replace('"', "")
    raise DataError(f"{getattr(file, 'name', 'a table')} has more than {MAX_IMAGES:,} rows")


def find_label_column(header: str) -> int:
    """Return which column of a table has the labels, by its header."""
    names = [name.strip().lower() for name in header.split(",")]
    return next((index for index, name in enumerate(names) if name in LABEL_COLUMNS), 0)


def parse_row(text: str, origin: str) -> bytes:
    """Return the numbers of a row as bytes; see `read_table`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of text that is no number
        try:
            values = np.fromstring(text, sep=",")
        except (ValueError, DeprecationWarning) as error:
            raise DataError(f"{origin} is not a row of numbers") from error
    if len(values) == NUM_PIXELS:
        raise DataError(f"{origin} has no label: expected a label and {NUM_PIXELS} pixels in each row")
    if len(values) != NUM_PIXELS + 1:
        raise DataError(f"{origin} has {len(values)} numbers: expected a label and {NUM_PIXELS} pixels")
    if not ((values >= 0) & (values <= 255) & (values == np.rint(values))).all():
        raise DataError(f"{origin} has other numbers than whole ones from 0 to 255")
    return values.astype(np.uint8).tobytes()


# --- pictures --------------------------------------------------------------------------------------------------------


def read_pictures(source: Path) -> dict[str, Part]:
    """Read pictures in directories named by their class, within one for each part, as `training/3/7.png`."""
    files: dict[str, list[tuple[int, Path]]] = {}
    for directory, paths in walk(source):
        label = class_of(directory)
        names = directory.relative_to(source).parts[:-1]
        part = next((found for name in reversed(names) if (found := part_of(name))), part_of(source.name))
        if label is not None:
            files.setdefault(part or "all", []).extend((label, path) for path in paths if has_suffix(path, PICTURES))
    return {part: decode_pictures(in_order(labeled), part) for part, labeled in files.items() if labeled}


def in_order(files: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """Return labeled files in the order of their numbers, which is the official one where they are distinct."""
    numbers = [re.findall(r"\d+", path.stem) for _, path in files]
    indices = [int(found[0]) for found in numbers if len(found) == 1]
    if len(set(indices)) == len(files):
        return [file for _, file in sorted(zip(indices, files, strict=True))]
    return sorted(files)


def decode_pictures(files: list[tuple[int, Path]], part: str) -> Part:
    """Decode labeled pictures of 28×28 pixels.

    Raises:
        DataError: if one cannot be read, or has another size.
    """
    if len(files) > MAX_IMAGES:
        raise DataError(f"the {part} part has {len(files):,} pictures: at most {MAX_IMAGES:,} are read")
    images = np.empty((len(files), SIDE, SIDE), np.uint8)
    with Progress(f"reading the {part} part", len(files), "pictures") as progress:
        for image, (_, path) in zip(images, files, strict=True):
            image[:] = decode_picture(path)
            progress.advance()
    return images, np.array([label for label, _ in files], np.uint8)


def decode_picture(path: Path) -> np.ndarray:
    """Return the brightness (28, 28) of a picture, uint8; see `decode_pictures`."""
    try:
        with Image.open(path, formats=["PNG", "JPEG", "BMP"]) as picture:
            if picture.size != (SIDE, SIDE):
                raise ValueError(f"it has {picture.width}×{picture.height} pixels")
            return np.asarray(picture) if picture.mode == "L" else np.rint(to_gray(picture, ground=0)).astype(np.uint8)
    except Exception as error:  # decoders raise errors of every type on damaged files
        raise DataError(f"{path} cannot be read: {one_line(error)}; expected {SIDE}×{SIDE} pixels") from error


# --- writing ---------------------------------------------------------------------------------------------------------


def invert_if_white(arrays: list[np.ndarray]) -> bool:
    """Invert the images in place if they are dark on white, and return whether they were."""
    if arrays[0].mean() < 128:
        return False
    for index in (0, 2):
        arrays[index] = 255 - arrays[index]
    return True


def write_idx_files(arrays: Iterable[np.ndarray], directory: Path) -> IdxDataset | None:
    """Write the four IDX files: none is there before all are complete.

    Args:
        arrays: as `read_form` returns them.
        directory: where to; it is made if it does not exist.

    Returns:
        The data set that the files are, by their MD5s, or None if it is not known.

    Raises:
        ResourceError: if they cannot be written.
    """
    digests = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="partial-", dir=directory) as staging:
            for name, array in zip(MNIST.dataset.digests, arrays, strict=True):
                content = idx_header(name, len(array)) + array.tobytes()
                digests[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
                (Path(staging) / name).write_bytes(content)
            for name in digests:
                (Path(staging) / name).replace(directory / name)
    except OSError as error:
        raise ResourceError(f"{directory} cannot be written: {error.strerror or error}") from error
    known = (MNIST.dataset, FashionMNIST.dataset)
    return next((dataset for dataset in known if dict(dataset.digests) == digests), None)
