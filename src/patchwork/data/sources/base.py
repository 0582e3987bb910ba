"""A source of labeled images: three splits in memory, and what a data module must know of them."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import torch
from annotated_types import Interval
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from patchwork.core.errors import ConfigError

SPLIT_SEED = 28  # of the split into training and validation images; the same in every run
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # of the training pixels in [0, 1]
DIGIT_NAMES = tuple("0123456789")


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images, their classes, and where the source has them."""

    images: Tensor  # (n, C, H, W) uint8
    labels: Tensor  # (n,) int64
    indices: Tensor  # (n,) int64, in the source's official training or test part, which no validation split changes


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A whole source in memory."""

    name: str  # as in `dataset=name`
    sha256: str  # of all contents, whatever the file format and the validation split
    mean: float  # of the training pixels in [0, 1]; pixels are normalized by it and by `std`
    std: float
    train: LabeledImages
    val: LabeledImages
    test: LabeledImages

    @property
    def num_channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train.images.shape[2]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Map float pixels from [0, 255] to mean 0 and standard deviation 1, in place."""
        return normalize_pixels(pixels, self.mean, self.std)


@runtime_checkable
class ImageSourceConfig(Protocol):
    """A configured source: constructing it reads nothing, loading it reads everything."""

    @property
    def mean(self) -> float:
        """Return the mean of the training pixels in [0, 1]."""
        ...

    @property
    def std(self) -> float:
        """Return the standard deviation of the training pixels in [0, 1]."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return a name for each label."""
        ...

    def load(self) -> ImageSource: ...


@dataclass(kw_only=True, eq=False)
class PartitionedSource:
    """Base class of sources that split an official training part into training and validation images.

    Args:
        validation: images of the training part that are for validation, if `folds` is null.
        folds: cut the training part into this many folds instead, for cross-validation.
        fold: the fold that is for validation, from 0.

    Raises:
        ConfigError: if `folds` and `fold` do not fit together.
    """

    validation: PositiveInt
    folds: Annotated[int, Interval(ge=2, le=1000)] | None = None
    fold: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        check_fold(self.folds, self.fold)

    def split(self, name: str, arrays: list[np.ndarray], *, mean: float, std: float) -> ImageSource:
        """Split the training part, see `split_source`.

        Raises:
            ConfigError: if nothing is left to train on.
        """
        validation = validation_indices(len(arrays[0]), self.validation, self.folds, self.fold)
        return split_source(name, arrays, validation, mean=mean, std=std)


def normalize_pixels(pixels: Tensor, mean: float, std: float) -> Tensor:
    """Map float pixels from [0, 255] to mean 0 and standard deviation 1, in place, given those of [0, 1]."""
    return pixels.div_(255 * std).sub_(mean / std)


def check_fold(folds: int | None, fold: int | None) -> None:
    """Check that `fold` is set if and only if `folds` is.

    Raises:
        ConfigError: if it is not, or `fold` is out of range.
    """
    if folds is None:
        if fold is not None:
            raise ConfigError(f"dataset.fold={fold} needs dataset.folds, the number of folds")
    elif fold is None or fold >= folds:
        value = "null" if fold is None else fold
        raise ConfigError(f"dataset.fold={value} is not allowed: use 0 to {folds - 1} with dataset.folds={folds}")


def validation_indices(count: int, validation: int, folds: int | None = None, fold: int | None = None) -> np.ndarray:
    """Return which of `count` training images are for validation, in ascending order.

    Args:
        count: images in the official training part.
        validation: images for validation, if `folds` is None.
        folds: parts of (almost) equal size for cross-validation, or None.
        fold: the part that is for validation.

    Raises:
        ConfigError: if `folds` and `fold` do not fit together, or no image would be left to train on.
    """
    check_fold(folds, fold)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    if folds is None or fold is None:
        if not 0 < validation < count:
            raise ConfigError(f"dataset.validation={validation} is not allowed: use 1 to {count - 1}")
        return np.sort(order[:validation])
    if folds > count:
        raise ConfigError(f"dataset.folds={folds} is not allowed: use 2 to {count}, the number of training images")
    return np.sort(np.array_split(order, folds)[fold])


def split_source(
    name: str,
    arrays: list[np.ndarray],
    validation: np.ndarray,
    *,
    mean: float,
    std: float,
) -> ImageSource:
    """Split the training part into training and validation images.

    Args:
        name: name of the source.
        arrays: training images and labels, test images and labels, all uint8: (n, H, W), (n,), (m, H, W), (m,).
        validation: indices of the validation images in the training part.
        mean: mean of the training pixels in [0, 1].
        std: standard deviation of the training pixels in [0, 1].

    Returns:
        A source whose tensors share no memory with `arrays`.
    """
    images, labels, test_images, test_labels = arrays
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(array.data)
    is_train = np.ones(len(images), bool)
    is_train[validation] = False

    def subset(images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> LabeledImages:
        return LabeledImages(
            images=torch.from_numpy(images[indices][:, None]),  # a copy, as the file's bytes are read-only
            labels=torch.from_numpy(labels[indices].astype(np.int64)),
            indices=torch.from_numpy(indices),
        )

    return ImageSource(
        name=name,
        sha256=sha256.hexdigest(),
        mean=mean,
        std=std,
        train=subset(images, labels, np.flatnonzero(is_train)),
        val=subset(images, labels, validation),
        test=subset(test_images, test_labels, np.arange(len(test_images))),
    )
