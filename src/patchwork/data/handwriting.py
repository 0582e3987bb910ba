"""What all streams of handwritten digits share: the source, the size of its images, augmentation and normalisation."""

from abc import abstractmethod
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional as F

from patchwork.data.deform import Deform
from patchwork.data.digits import Digits, Split
from patchwork.data.stream import Part, Stream

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels in [0, 1]


@runtime_checkable
class Source(Protocol):
    """Where digit images come from: see `patchwork.data.digits`."""

    def load(self) -> Digits: ...


class Handwriting(Stream):
    """A stream whose samples are made of digit images; a child says how, in `choose` and `make`.

    Training digits, validation digits and test digits are different images. Whatever is drawn of the latter two is
    drawn once, by a fixed seed, so that runs can be compared sample by sample.

    Args:
        digits: the source of digit images.
        num_classes: digits below this number are used, 10 for all.
        in_channels: of the image; digits are grey.
        augment: transformation of every training digit by itself, or null.
    """

    image_size: int  # pixels of a digit, set by the child; the source's images are resized to it if they differ

    def __init__(
        self,
        *,
        digits: Source,
        num_classes: Annotated[int, Interval(ge=2, le=10)] = 10,
        in_channels: Literal[1] = 1,
        augment: Deform | None = None,
        **stream: object,
    ) -> None:
        super().__init__(**stream)  # type: ignore[arg-type]
        self.origin = digits
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.augment = augment

    def prepare_data(self) -> None:
        """Load the digits before any process is started, so that a missing file is found early."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load the digits once and fix the samples of validation and test."""
        if hasattr(self, "source"):
            return
        digits = self.origin.load()
        self.parts: dict[Part, Split] = {
            "train": self.fit(digits.train),
            "val": self.fit(digits.val),
            "test": self.fit(digits.test),
        }
        self.source = digits
        self.fix()

    @abstractmethod
    def fix(self) -> None:
        """Draw the samples of validation and test, once the digits are loaded."""

    def images(self, part: Part) -> Tensor:
        return self.parts[part].images

    def fit(self, split: Split) -> Split:
        """Keep the digits below `num_classes` and give their images the wanted size."""
        keep = split.labels < self.num_classes
        images, labels = (split.images, split.labels) if keep.all() else (split.images[keep], split.labels[keep])
        if images.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            images = F.interpolate(images[:, None].float(), size, mode="bilinear", antialias=True)[:, 0]
            images = images.round().clamp(0, 255).byte()
        return Split(images, labels)

    def deformations(self, part: Part, *shape: int, draw: torch.Generator) -> Tensor | None:
        """Draw how each of `shape` digits is deformed, in training and where there is augmentation."""
        return self.augment.draw(*shape, generator=draw) if self.augment and part == "train" else None

    def pixels(self, part: Part, chosen: Tensor, deformations: Tensor | None) -> Tensor:
        """Return the chosen digits (n,), deformed, as images (n, size, size) from 0 to 255."""
        images = self.parts[part].images[chosen].float()
        return self.augment(images, deformations) if self.augment and deformations is not None else images


def normalise(pixels: Tensor) -> Tensor:
    """Bring pixels from 0..255 to mean 0 and deviation 1, in place."""
    return pixels.div_(255 * STD).sub_(MEAN / STD)
