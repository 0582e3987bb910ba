"""Single digits, each by itself."""

import torch
from pydantic import PositiveInt
from torch import Tensor

from patchwork.data.handwriting import Handwriting, normalise
from patchwork.data.stream import Batch, Key, Part, generator, in_turn


class Single(Handwriting):
    """One digit and what it is.

    A batch holds `image` (B, 1, image_size, image_size), normalised, and `label` (B,). Training goes through all
    training digits in a new order each time, however many of them an epoch is said to have; what a Trainer's limit
    leaves out of an epoch is left out of the order. Validation and test take each of theirs once.

    Args:
        image_size: pixels of a side.
        val_size, test_size: digits to measure on; all where there are fewer.
    """

    gives: tuple[str, ...] = ("image", "label")

    def __init__(self, *, image_size: PositiveInt = 28, **handwriting: object) -> None:
        super().__init__(**handwriting)  # type: ignore[arg-type]
        self.image_size = image_size

    def fix(self) -> None:
        for part in ("val", "test"):
            self.sizes[part] = min(self.sizes[part], len(self.parts[part].labels))

    def chosen(self, part: Part, epoch: int, index: int) -> Tensor:
        """Return the digits (B,) of a batch."""
        if part != "train":
            start = index * self.eval_batch_size
            return torch.arange(start, min(start + self.eval_batch_size, self.sizes[part]))
        first = (epoch * self.length("train") + index) * self.batch_size  # since the beginning
        return in_turn(self.seed, first, self.batch_size, len(self.parts["train"].labels))

    def make(self, part: Part, key: Key, shard: slice) -> Batch:
        epoch, index = key
        chosen = self.chosen(part, epoch, index)
        deformations = self.deformations(part, len(chosen), draw=generator("batch", self.seed, epoch, index))
        pixels = self.pixels(part, chosen[shard], None if deformations is None else deformations[shard])
        return {"image": normalise(pixels)[:, None], "label": self.parts[part].labels[chosen[shard]]}
