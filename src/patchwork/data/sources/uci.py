"""The handwritten digits that come with scikit-learn.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Interval

from patchwork.data.sources.base import DIGIT_NAMES, MNIST_MEAN, MNIST_STD, ImageSource, PartitionedSource

TEST_SIZE = 360


@dataclass(kw_only=True, eq=False)
class UCI(PartitionedSource):
    """1,797 handwritten digits of 8×8, always available: no network, no files.

    They are made to look like MNIST: enlarged to 20×20, centered in 28×28, and normalized by MNIST's mean and standard
    deviation. Neighbors in the official order share a writer, so the test part is the contiguous end.

    Args:
        validation: images of the training part that are for validation, if `folds` is null.

    Raises:
        ConfigError: if `folds` and `fold` do not fit together.
    """

    mean, std = MNIST_MEAN, MNIST_STD
    class_names = DIGIT_NAMES

    validation: Annotated[int, Interval(ge=1, le=1436)] = 180

    def load(self) -> ImageSource:
        """Load and split the digits.

        Raises:
            ConfigError: if `validation` leaves nothing to train on.
        """
        images, labels = read_digits()
        train = len(images) - TEST_SIZE
        arrays = [images[:train], labels[:train], images[train:], labels[train:]]
        return self.split("uci", arrays, mean=self.mean, std=self.std)


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all images (n, 28, 28) and labels (n,), uint8, in the official order."""
    package = find_spec("sklearn")  # importing all of scikit-learn would take a second
    assert package is not None
    assert package.submodule_search_locations is not None
    table = np.loadtxt(Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
    small = torch.from_numpy(table[:, :-1]).view(-1, 1, 8, 8)  # float64, 0..16
    large = F.interpolate(small * (255 / 16), size=(20, 20), mode="bilinear")  # (n, 1, 20, 20)
    # slightly more than a half: exact ties round up on every machine, and the SHA-256 stays the same
    images = F.pad((large + (0.5 + 1e-6)).to(torch.uint8), (4, 4, 4, 4))[:, 0]
    return images.numpy(), table[:, -1].astype(np.uint8)
