"""Sources of images: each is loaded whole, with its train, validation and test split.

The official training part is split into training and validation images by a fixed seed, which is not the run's; the
test split is the official one.
"""

from patchwork.data.sources.auto import Auto
from patchwork.data.sources.base import ImageSource, ImageSourceConfig, LabeledImages
from patchwork.data.sources.corrections import Corrections
from patchwork.data.sources.fashion import FashionMNIST
from patchwork.data.sources.icons import Icons
from patchwork.data.sources.mnist import MNIST
from patchwork.data.sources.uci import UCI

__all__ = [
    "MNIST",
    "UCI",
    "Auto",
    "Corrections",
    "FashionMNIST",
    "Icons",
    "ImageSource",
    "ImageSourceConfig",
    "LabeledImages",
]
