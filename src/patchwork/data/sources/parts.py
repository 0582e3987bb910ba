"""The parts of a data set that is converted: what names mean, their images and labels as uint8, and how they are used.

Validation images are no part of the result, whose training part is split anew: they are the test part if there is no
other, and are added to the training part otherwise.
"""

import re
from pathlib import Path

import numpy as np

from patchwork.core.errors import DataError, one_line
from patchwork.data.sources.base import SPLIT_SEED
from patchwork.data.sources.idx import SIDE

NUM_PIXELS = SIDE * SIDE
NUM_TRAIN = 60_000  # in the official order; the rest is the test part
HOLD_OUT = 7  # one image in so many is held out where the test part has no labels, as of MNIST
WHITE = 128  # brightness, of 255, that the brightest pixel of a data set should have at least
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
    **dict.fromkeys(("valid", "validation", "val"), "validation"),
}
PART_NAME = re.compile(rf"(?<![a-z])({'|'.join(PARTS)})(?:set)?(?![a-z])")
Part = tuple[np.ndarray, np.ndarray]  # images (n, 28, 28) and labels (n,), uint8


def part_of(name: str) -> str | None:
    """Return the part, `train`, `test` or `validation`, that a name contains, or None."""
    match = PART_NAME.search(name.lower().replace("_", " "))
    return None if match is None else PARTS[match[1]]


def split_parts(parts: dict[str, Part], origin: Path, notes: list[str]) -> list[np.ndarray]:
    """Return training and test part, cut from one table of both in the official order if they are not apart.

    Args:
        parts: by name; `all` is of images of which it is not known.
        origin: of the parts, for messages.
        notes: to which is added what validation images were used for.

    Raises:
        DataError: if a part is missing, or has another number of labels.
    """
    for name, (images, labels) in parts.items():
        if len(images) != len(labels):
            raise DataError(f"{origin} has {len(images):,} {name} images, but {len(labels):,} labels of them")
    if "all" in parts and len(parts["all"][0]) > NUM_TRAIN:
        images, labels = parts["all"]
        return [images[:NUM_TRAIN], labels[:NUM_TRAIN], images[NUM_TRAIN:], labels[NUM_TRAIN:]]
    used = use_validation(parts, notes)
    missing = [name for name in ("train", "test") if name not in used]
    if missing:
        names = {"all": "a part without a name"}
        counts = [f"{names.get(name, name)} ({len(labels):,} images)" for name, (_, labels) in parts.items()]
        lacking, found = " and the ".join(missing), ", ".join(counts) or "nothing"
        raise DataError(f"{origin} lacks labeled images of the {lacking} part: it has {found}")
    return [*used["train"], *used["test"]]


def use_validation(parts: dict[str, Part], notes: list[str]) -> dict[str, Part]:
    """Return the parts without the one for validation, which becomes the test part or belongs to the training part."""
    used = {name: part for name, part in parts.items() if name != "validation"}
    if "validation" not in parts or "train" not in parts:
        return used
    images, labels = parts["validation"]
    if "test" in parts:
        notes.append(f"the {len(labels):,} validation images were added to the training part, which is split anew")
        train_images, train_labels = used["train"]
        joined = np.concatenate([train_images, images]), np.concatenate([train_labels, labels])
        return {**used, "train": joined}
    notes.append(f"the {len(labels):,} validation images are the test part, as there is no other")
    return {**used, "test": (images, labels)}


def hold_out(part: Part) -> dict[str, Part]:
    """Return a training part without images drawn at random, and those as the test part, both in their order."""
    images, labels = part
    is_test = np.zeros(len(labels), bool)
    is_test[np.random.default_rng(SPLIT_SEED).permutation(len(labels))[: max(len(labels) // HOLD_OUT, 1)]] = True
    return {"train": (images[~is_test], labels[~is_test]), "test": (images[is_test], labels[is_test])}


def whiten_ones(arrays: list[np.ndarray], notes: list[str]) -> None:
    """Multiply images of zeros and ones by 255 in place, and note it, or that all images are almost black."""
    highest = max(arrays[0].max(initial=0), arrays[2].max(initial=0))
    if highest == 1:
        notes.append("the pixels are 0 and 1: 1 was made white, 255")
        for index in (0, 2):
            arrays[index] = arrays[index] * np.uint8(255)
    elif highest < WHITE:
        notes.append(f"the images are dark: the brightest pixel is {highest} of 255")


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
