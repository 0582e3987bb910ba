"""Find the files of a data set below a directory, however they are named and nested.

IDX files are found raw or gzipped, in all spellings in use, in directories of their own names, as Kaggle's archive has
them, and some levels down, as below torchvision's `MNIST/raw`. Other data sets use the same names, so where a directory
holds several sets of files, their content decides.
"""

import hashlib
import os
import re
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from patchwork.core.errors import DataError, PatchworkWarning
from patchwork.data.sources.idx import NUM_CLASSES, IdxDataset, parse_idx, read_file, read_parquet

MAX_DEPTH = 4  # levels of directories below the one that is searched
MAX_DIRECTORIES = 1000  # that are read, so that a wrong directory costs a second at most
IDX_NAME = re.compile(
    r"(?P<prefix>.*[-_. ])?(?P<part>train|t10k|test)[-_. ](?P<kind>image|label)s?"
    r"(?:[-_. ]*idx[-_. ]?[13]?)?(?:[-_. ]*u?byte)?(?: ?\(\d+\))?(?:\.(?:bin|idx|gz))*",
    re.IGNORECASE,
)
PARTS = {"train": "train", "t10k": "t10k", "test": "t10k"}  # by what names have for it
KINDS = {"image": "images-idx3-ubyte", "label": "labels-idx1-ubyte"}


def walk(directory: Path, max_depth: int = MAX_DEPTH) -> Iterator[tuple[Path, list[Path]]]:
    """Yield directories and the sorted files in them, the shallowest first; hidden directories are left out."""
    waiting = deque([(directory, 0)])
    for _ in range(MAX_DIRECTORIES):
        if not waiting:
            return
        current, depth = waiting.popleft()
        try:
            with os.scandir(current) as entries:
                found = sorted((entry.name, is_directory(entry)) for entry in entries)
        except OSError:  # no directory, or not readable
            continue
        yield current, [current / name for name, is_dir in found if not is_dir]
        if depth < max_depth:
            waiting += [(current / name, depth + 1) for name, is_dir in found if is_dir and not name.startswith(".")]


def is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # as of a link to itself
        return False


# --- IDX -------------------------------------------------------------------------------------------------------------


def missing_files(dataset: IdxDataset, directory: Path) -> list[str]:
    """Return the names of the IDX files that are not below a directory; none if parquet files are there instead."""
    found = idx_files(dataset, directory)
    missing = [name for name in dataset.digests if name not in found]
    return missing if missing and not all(parquet_files(directory).values()) else []


def idx_files(dataset: IdxDataset, directory: Path, max_depth: int = MAX_DEPTH) -> dict[str, Path]:
    """Return the paths of the IDX files below a directory, by their official names, in the official order.

    Of several complete sets the one of this data set is taken, otherwise the shallowest one; if none is complete, all
    files together.
    """
    sets = idx_sets(directory, max_depth)
    complete = [files for files in sets if len(files) == len(dataset.digests)]
    merged = {name: path for files in reversed(sets) for name, path in files.items()}
    matching = (files for files in complete if is_of(dataset, files)) if len(complete) > 1 else iter(())
    chosen = next(matching, complete[0] if complete else merged)
    return {name: chosen[name] for name in dataset.digests if name in chosen}


def idx_sets(directory: Path, max_depth: int = MAX_DEPTH) -> list[dict[str, Path]]:
    """Return the IDX files below a directory by their official names: a set for each directory and prefix of names."""
    sets: dict[tuple[Path, str], dict[str, Path]] = {}
    for current, files in walk(directory, max_depth):
        home = current.parent if current != directory and IDX_NAME.fullmatch(current.name) else current
        for path in sorted(files, key=preference):
            if match := IDX_NAME.fullmatch(path.name):
                name = f"{PARTS[match['part'].lower()]}-{KINDS[match['kind'].lower()]}"
                sets.setdefault((home, match["prefix"] or ""), {}).setdefault(name, path)
    return list(sets.values())


def preference(path: Path) -> tuple[bool, bool, str]:
    """Return a key by which the better of two files of the same content is first: raw, and without a copy's number."""
    return path.suffix == ".gz", "(" in path.name, path.name


def is_of(dataset: IdxDataset, files: dict[str, Path]) -> bool:
    """Return whether a complete set of IDX files is of a data set, by its smallest file."""
    name = "t10k-labels-idx1-ubyte"
    try:
        content = read_file(files[name], str(files[name]))
    except DataError:
        return False
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == dataset.digests[name]


def matching_directory(dataset: IdxDataset, directory: Path, max_depth: int = MAX_DEPTH) -> Path | None:
    """Return the directory of a complete set of IDX files of a data set, if one is below `directory`."""
    files = idx_files(dataset, directory, max_depth)
    if len(files) < len(dataset.digests) or not is_of(dataset, files):
        return None
    return Path(os.path.commonpath([path.parent for path in files.values()]))


# --- parquet ---------------------------------------------------------------------------------------------------------


def parquet_files(directory: Path) -> dict[str, list[Path]]:
    """Return the sorted shards anywhere below a directory, for `train` and `t10k`, the names of the IDX files."""
    return {key: sorted(directory.rglob(f"{split}-*.parquet")) for key, split in (("train", "train"), ("t10k", "test"))}


def holds_some(dataset: IdxDataset, directory: Path) -> bool:
    """Return whether at least one file of a data set is below a directory."""
    return bool(idx_files(dataset, directory)) or any(parquet_files(directory).values())


# --- reading ---------------------------------------------------------------------------------------------------------


def read_arrays(dataset: IdxDataset, directory: Path, *, verify: bool = True) -> list[np.ndarray]:
    """Read and check a data set.

    Args:
        dataset: description of the data set to expect.
        directory: directory with its files.
        verify: compare the MD5 of each file, which other images in the same format do not have.

    Returns:
        Training images and labels, test images and labels, all uint8: (n, 28, 28), (n,), (m, 28, 28), (m,).

    Raises:
        DataError: if a file is damaged, or not of this data set.
    """
    files = idx_files(dataset, directory)
    if len(files) == len(dataset.digests):
        if not verify:
            warn_of_others(directory, files)
        arrays = [
            parse_idx(dataset, name, read_file(path, str(path)), str(path), verify=verify)
            for name, path in files.items()
        ]
    else:
        arrays = [
            array
            for key, shards in parquet_files(directory).items()
            for array in read_parquet(dataset, key, shards, verify=verify)
        ]
    check_labels(arrays, directory)
    return arrays


def warn_of_others(directory: Path, files: dict[str, Path]) -> None:
    """Warn if a directory holds other complete sets of IDX files than the one that is read."""
    first = next(iter(files))
    others = [other[first] for other in idx_sets(directory) if len(other) == len(files) and other != files]
    if others:
        names = ", ".join(str(path.relative_to(directory)) for path in others)
        message = (
            f"of the data sets in {directory} that of {files[first].relative_to(directory)} is read, not of {names}"
        )
        warnings.warn(message, PatchworkWarning, stacklevel=2)


def check_labels(arrays: list[np.ndarray], origin: Path) -> None:
    """Raise a `DataError` if there is not a label from 0 to 9 for each image of training and test part."""
    for part, (images, labels) in {"training": arrays[:2], "test": arrays[2:]}.items():
        if len(images) != len(labels) or not len(images):
            raise DataError(f"{origin} has {len(images):,} {part} images, but {len(labels):,} labels of them")
        if labels.max() >= NUM_CLASSES:
            raise DataError(f"{origin} has the {part} label {labels.max()}: expected 0 to {NUM_CLASSES - 1}")
