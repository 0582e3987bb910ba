"""Read MNIST in the forms in which it is passed around, and write it as IDX files.

1. Read training and test part from an archive, a table, arrays or pictures, all as uint8 (`read_form`).
2. Write the four IDX files, and compare their MD5s with those of the known data sets (`write_idx_files`).

Nothing in a file is executed: arrays are read without pickles, and pictures by a few decoders only.
"""

import hashlib
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from patchwork.core.errors import DataError, ResourceError, one_line
from patchwork.core.progress import Progress
from patchwork.data.grayscale import are_dark_on_light
from patchwork.data.image_files import to_gray
from patchwork.data.sources.archives import unpacked
from patchwork.data.sources.fashion import FashionMNIST
from patchwork.data.sources.forms import (
    ARCHIVES,
    PICTURES,
    TABLES,
    class_of,
    find_forms,
    has_suffix,
    readable_forms,
    refusal,
)
from patchwork.data.sources.idx import SIDE, IdxDataset, idx_header
from patchwork.data.sources.locate import check_labels, missing_files, read_arrays, walk
from patchwork.data.sources.mnist import MNIST
from patchwork.data.sources.parts import Part, part_of, split_parts, to_images, to_labels, whiten_ones
from patchwork.data.sources.tables import read_tables

MAX_PICTURES = 200_000  # of a part
MAX_ARRAY_BYTES = 1 << 30


@dataclass(frozen=True)
class ReadForm:
    """A data set as `write_idx_files` takes it, and what was done to it, a sentence each.

    Args:
        arrays: training images and labels, test images and labels, all uint8: (n, 28, 28), (n,), (m, 28, 28), (m,);
            images are light on dark.
        notes: what was done.
    """

    arrays: list[np.ndarray]
    notes: list[str]


def read_form(source: Path) -> ReadForm:
    """Read a data set in any form.

    Args:
        source: a file, or a directory that holds it.

    Raises:
        DataError: if there is none, or it is damaged or incomplete.
    """
    notes: list[str] = []
    arrays = read_parts(source, notes)
    whiten_ones(arrays, notes)
    if are_dark_on_light(arrays[0]):
        notes.append("the images are dark on light: inverted, as images here are light on dark")
        for index in (0, 2):
            arrays[index] = 255 - arrays[index]
    return ReadForm(arrays, notes)


def read_parts(source: Path, notes: list[str]) -> list[np.ndarray]:
    """Return the arrays of a data set in any form, as it has them; see `read_form`."""
    if not source.exists():
        raise DataError(f"source={source} does not exist: name a file or a directory")
    if source.is_dir() and not missing_files(MNIST.dataset, source):
        return read_arrays(MNIST.dataset, source, verify=False)
    forms = find_forms(source)
    if not forms:
        raise DataError(f"source={source} holds no known form: use {readable_forms()}")
    form = forms[0]
    if len(forms) > 1:
        notes.append(f"of the forms in {source} {form} is read, not {', '.join(map(str, forms[1:]))}")
    if has_suffix(form, ARCHIVES):
        with unpacked(form) as directory:
            return read_parts(directory, notes)
    if has_suffix(form, (".npz",)):
        parts = read_npz(form)
    elif form.is_dir() and (tables := [path for path in sorted(form.iterdir()) if has_suffix(path, TABLES)]):
        parts = read_tables(tables, notes)
    elif has_suffix(form, TABLES):
        parts = read_tables([form], notes)
    elif form.is_dir():
        parts = read_pictures(form)
    else:
        raise DataError(refusal(form))
    arrays = split_parts(parts, form, notes)
    check_labels(arrays, form)
    return arrays


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
    by_role: dict[tuple[str, str], list[str]] = {}
    for name in arrays:
        if role := array_role(name):
            by_role.setdefault(role, []).append(name)
    parts = {}
    for part in ("train", "validation", "test", "all"):
        images, labels = by_role.get((part, "images"), []), by_role.get((part, "labels"), [])
        if images and labels:
            for names in (images, labels):
                if len(names) > 1:
                    raise DataError(f"{path} has several arrays for the {part} part: {' and '.join(names)}")
            parts[part] = to_images(arrays[images[0]], path), to_labels(arrays[labels[0]], path)
    return parts


def array_role(name: str) -> tuple[str, str] | None:
    """Return the part and the kind, `images` or `labels`, of an array by its name, or None."""
    words = re.split(r"[_\W]+", name.lower())
    kinds = {"x": "images", "image": "images", "images": "images", "data": "images"}
    kinds |= {"y": "labels", "label": "labels", "labels": "labels", "target": "labels", "targets": "labels"}
    kind = next((kinds[word] for word in words if word in kinds), None)
    return None if kind is None else (part_of(name) or "all", kind)


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
    if len(files) > MAX_PICTURES:
        raise DataError(f"the {part} part has {len(files):,} pictures: at most {MAX_PICTURES:,} are read")
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
