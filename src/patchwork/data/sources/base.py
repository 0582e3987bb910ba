"""A source of labelled images: three splits in memory, and what a data module must know of them."""

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from patchwork.core.errors import ConfigError

SPLIT_SEED = 28  # of the split into training and validation images; the same in every run
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # of the training pixels in [0, 1]
DIGIT_NAMES = tuple("0123456789")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their classes."""

    images: Tensor  # (n, C, H, W) uint8
    labels: Tensor  # (n,) int64


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A whole source in memory."""

    name: str  # as in `dataset=name`
    sha256: str  # of all contents, whatever the file format and the validation split
    mean: float  # of the training pixels in [0, 1]; pixels are normalized by it and by `std`
    std: float
    class_names: tuple[str, ...]
    train: LabelledImages
    val: LabelledImages
    test: LabelledImages

    @property
    def num_channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train.images.shape[2]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Map float pixels from [0, 255] to mean 0 and standard deviation 1, in place."""
        return pixels.div_(255 * self.std).sub_(self.mean / self.std)


@runtime_checkable
class ImageSourceConfig(Protocol):
    """A configured source: constructing it reads nothing, loading it reads everything."""

    def load(self) -> ImageSource: ...


def check_fold(folds: int | None, fold: int | None) -> None:
    """Check that a fold is named exactly where there are folds.

    Raises:
        ConfigError: if it is not, or if there is no such fold.
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
        validation: images for validation, where there are no folds.
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
    class_names: tuple[str, ...],
) -> ImageSource:
    """Split the training part into training and validation images.

    Args:
        name: of the source.
        arrays: training images and labels, test images and labels, all uint8: (n, H, W), (n,), (m, H, W), (m,).
        validation: indices of the validation images in the training part.
        mean: of the training pixels in [0, 1].
        std: of the training pixels in [0, 1].
        class_names: one for each label.

    Returns:
        A source whose tensors share no memory with `arrays`.
    """
    images, labels, test_images, test_labels = arrays
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(array.data)
    is_train = np.ones(len(images), bool)
    is_train[validation] = False

    def subset(images: np.ndarray, labels: np.ndarray) -> LabelledImages:
        return LabelledImages(torch.from_numpy(images[:, None]), torch.from_numpy(labels.astype(np.int64)))

    return ImageSource(
        name=name,
        sha256=sha256.hexdigest(),
        mean=mean,
        std=std,
        class_names=class_names,
        train=subset(images[is_train], labels[is_train]),
        val=subset(images[validation], labels[validation]),
        test=subset(test_images.copy(), test_labels),  # a copy, as the file's bytes are read-only
    )
