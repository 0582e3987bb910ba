"""Single images."""

import sys

import torch
from pydantic import PositiveInt
from torch import Tensor

from patchwork.data.base import Batch, BatchIndex, Split, cyclic_shuffle
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.rng import make_rng


class ImagesDataModule(ImageSourceDataModule):
    """One image and its class.

    A batch holds `image` (B, C, image_size, image_size), normalized, and `label` (B,). Training cycles through all
    training images, in a new order each time, whatever the number of samples in an epoch; what a Trainer's limit drops
    from an epoch is dropped from that order. Validation and test take each image once.

    Args:
        image_size: pixels of a side.
        val_size: images to validate on, or null for all; also all if there are fewer.
        test_size: images to test on, likewise.
    """

    batch_keys: tuple[str, ...] = ("image", "label")

    def __init__(
        self,
        *,
        image_size: PositiveInt = 28,
        val_size: PositiveInt | None = None,
        test_size: PositiveInt | None = None,
        **source: object,
    ) -> None:
        # the source's sizes are known once it is loaded
        super().__init__(val_size=val_size or sys.maxsize, test_size=test_size or sys.maxsize, **source)  # type: ignore[arg-type]
        self.image_size = image_size

    def build_eval_samples(self) -> None:
        for split in ("val", "test"):
            self.num_samples[split] = min(self.num_samples[split], len(self.splits[split].labels))

    def batch_indices(self, split: Split, batch_index: BatchIndex) -> Tensor:
        """Return the indices (B,) of a batch's images in their split."""
        epoch, index = batch_index
        if split != "train":
            start = index * self.eval_batch_size
            return torch.arange(start, min(start + self.eval_batch_size, self.num_samples[split]))
        first = (epoch * self.num_batches("train") + index) * self.batch_size  # since the first epoch
        return cyclic_shuffle(self.seed, first, self.batch_size, len(self.splits["train"].labels))

    def make_batch(self, split: Split, batch_index: BatchIndex, shard: slice) -> Batch:
        indices = self.batch_indices(split, batch_index)
        params = self.sample_augmentation(split, len(indices), rng=make_rng("batch", self.seed, *batch_index))
        indices = indices[shard]
        images = self.augmented_images(split, indices, None if params is None else params[shard])
        batch = {"image": self.source.normalize(images), "label": self.splits[split].labels[indices]}
        if split != "train":
            batch |= self.sample_ids(split, indices, indices[:, None])
        return batch
