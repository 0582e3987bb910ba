"""Base class of data modules over an image source: the source, its splits, augmentation and normalization."""

import warnings
from abc import abstractmethod
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional as F

from patchwork.core.errors import ConfigError, PatchworkWarning
from patchwork.data.base import BaseDataModule, Batch, Split
from patchwork.data.sources.base import ImageSource, ImageSourceConfig, LabeledImages, normalize_pixels
from patchwork.data.transforms import RandomAffineElastic


class ImageSourceDataModule(BaseDataModule):
    """A data module whose samples are made of a source's images; subclasses compose them in `make_batch`.

    Training, validation and test samples are made of different images. Validation and test samples are sampled once, by
    a fixed seed, so that runs can be compared sample by sample.

    Args:
        dataset: the configured source of images.
        num_classes: the first classes, which alone are used: with 2, of digits only 0 and 1, which a warning says.
        in_channels: channels of an image, as the source has.
        augment: random transform applied to each training image independently, or null.
    """

    image_size: int  # set by the subclass; the source's images are resized to it if they differ

    def __init__(
        self,
        *,
        dataset: ImageSourceConfig,
        num_classes: Annotated[int, Interval(ge=2, le=10)] = 10,
        in_channels: Literal[1, 3] = 1,
        augment: RandomAffineElastic | None = None,
        **base: object,
    ) -> None:
        super().__init__(**base)  # type: ignore[arg-type]
        self.dataset = dataset
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.augment = augment

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names[: self.num_classes]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape (C, height, width) of an image in a batch, known before the source is loaded."""
        return self.in_channels, self.image_size, self.image_size

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize float pixels from [0, 255] in place, as batches are; the source need not be loaded."""
        return normalize_pixels(pixels, self.dataset.mean, self.dataset.std)

    def prepare_data(self) -> None:
        """Load the source before any process is started, so that a missing file is found early."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load the source once and sample what validation and test consist of.

        Raises:
            PatchworkError: if the source cannot be loaded.
            ConfigError: if the source has other channels, or too few images or classes.
        """
        if hasattr(self, "source"):
            return
        source = self.dataset.load()
        if source.num_channels != self.in_channels:
            raise ConfigError(
                f"data.in_channels={self.in_channels} is not allowed: use {source.num_channels}, "
                f"as dataset={source.name} has"
            )
        source_splits: dict[Split, LabeledImages] = {"train": source.train, "val": source.val, "test": source.test}
        self.splits = {split: self.filter_and_resize(images) for split, images in source_splits.items()}
        self.source = source
        self.selection = self.describe_selection(source)
        if self.selection:
            warnings.warn(self.selection, PatchworkWarning, stacklevel=2)
        self.build_eval_samples()

    @abstractmethod
    def build_eval_samples(self) -> None:
        """Sample what validation and test consist of, once the source is loaded."""

    def describe_selection(self, source: ImageSource) -> str:
        """Return which images `num_classes` leaves out, in one line; empty if it leaves out none."""
        kept, total = len(self.splits["train"].labels), len(source.train.labels)
        if kept == total:
            return ""
        names = ", ".join(self.class_names)
        return f"data.num_classes={self.num_classes} keeps only {names}: {kept:,} of {total:,} training images"

    def source_images(self, split: Split) -> Tensor:
        return self.splits[split].images

    def filter_and_resize(self, source: LabeledImages) -> LabeledImages:
        """Return the images of classes below `num_classes`, of the configured size."""
        keep = source.labels < self.num_classes
        if not keep.all():
            source = LabeledImages(source.images[keep], source.labels[keep], source.indices[keep])
        images = source.images
        if images.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            images = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
            images = images.round().clamp(0, 255).byte()
        return LabeledImages(images, source.labels, source.indices)

    def sample_augmentation(self, split: Split, *shape: int, rng: torch.Generator) -> Tensor | None:
        """Sample augmentation parameters (*shape, P) for training images; None where nothing is augmented."""
        return self.augment.sample_params(*shape, rng=rng) if self.augment and split == "train" else None

    def augmented_images(self, split: Split, indices: Tensor, params: Tensor | None) -> Tensor:
        """Return the images (n, C, H, W) of `indices` (n,), from 0 to 255, transformed by `params` (n, P) if given."""
        images = self.splits[split].images[indices].float()
        return self.augment(images, params) if self.augment and params is not None else images

    def sample_ids(self, split: Split, index: Tensor, indices: Tensor) -> Batch:
        """Return `index` and `image_ids` of samples, see `BaseDataModule`.

        Args:
            split: split of the samples.
            index: index of each sample in its split (B,).
            indices: indices in `splits` of the images that each sample is made of (B, K), negative where there is
                none.
        """
        image_ids = self.splits[split].indices[indices.clamp_min(0)]
        return {"index": index, "image_ids": image_ids.where(indices >= 0, -1)}
