"""Grids of digits: any rows × cols, stitched from single digit images, all samples of a batch at once."""

from functools import lru_cache
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Interval
from einops import rearrange
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from patchwork.data.deform import Deform
from patchwork.data.digits import Digits, Split
from patchwork.data.stream import Batch, Key, Part, Stream, generator

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels in [0, 1]


@runtime_checkable
class Source(Protocol):
    """Where digit images come from: see `patchwork.data.digits`."""

    def load(self) -> Digits: ...


class Stitched(Stream):
    """A grid of `rows` × `cols` digits as one image, and its digits in reading order.

    A batch holds `image` (B, 1, rows·cell_size, cols·cell_size), normalised, and `digits` (B, rows·cols). Training
    grids are drawn with replacement from the training digits and are never the same twice; those of validation and
    test are drawn once, by a fixed seed, from digits that training never sees.

    Args:
        digits: the source of digit images.
        cell_size: pixels of a cell; the source's images are resized to it if they differ.
        num_classes: digits below this number are drawn, 10 for all.
        in_channels: of the image; digits are grey.
        fresh: draw new grids in every epoch; otherwise shuffle the same `train_size` grids anew.
        augment: transformation of every training digit by itself, or null.
    """

    def __init__(
        self,
        *,
        digits: Source,
        rows: PositiveInt = 2,
        cols: PositiveInt = 2,
        cell_size: PositiveInt = 28,
        num_classes: Annotated[int, Interval(ge=2, le=10)] = 10,
        in_channels: Literal[1] = 1,
        fresh: bool = True,
        augment: Deform | None = None,
        **stream: object,
    ) -> None:
        super().__init__(**stream)  # type: ignore[arg-type]
        self.origin = digits
        self.rows, self.cols, self.cell_size, self.num_classes = rows, cols, cell_size, num_classes
        self.in_channels = in_channels
        self.fresh = fresh
        self.augment = augment

    def prepare_data(self) -> None:
        """Load the digits before any process is started, so that a missing file is found early."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load the digits once and fix the grids of validation and test."""
        if hasattr(self, "source"):
            return
        self.source = self.origin.load()
        self.parts: dict[Part, Split] = {
            "train": self.fit(self.source.train),
            "val": self.fit(self.source.val),
            "test": self.fit(self.source.test),
        }
        # the same in every run, so that runs can be compared sample by sample
        self.fixed: dict[Part, Tensor] = {
            "val": self.choose("val", self.sizes["val"], generator("val")),
            "test": self.choose("test", self.sizes["test"], generator("test")),
        }
        if not self.fresh:
            self.fixed["train"] = self.choose("train", self.sizes["train"], generator("grids", self.seed))

    def fit(self, split: Split) -> Split:
        """Keep the digits below `num_classes` and give their images the size of a cell."""
        keep = split.labels < self.num_classes
        images, labels = (split.images, split.labels) if keep.all() else (split.images[keep], split.labels[keep])
        if images.shape[-1] != self.cell_size:
            size = (self.cell_size, self.cell_size)
            images = F.interpolate(images[:, None].float(), size, mode="bilinear", antialias=True)[:, 0]
            images = images.round().clamp(0, 255).byte()
        return Split(images, labels)

    def choose(self, part: Part, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` grids as indices of digits (count, rows, cols)."""
        return torch.randint(len(self.parts[part].labels), (count, self.rows, self.cols), generator=generator)

    def make(self, part: Part, key: Key, shard: slice) -> Batch:
        epoch, index = key
        draw = generator("batch", self.seed, epoch, index)
        parameters = None
        if part != "train":
            start = index * self.eval_batch_size
            chosen = self.fixed[part][start : start + self.eval_batch_size][shard]  # (B, rows, cols)
        else:
            if self.fresh:
                chosen = self.choose(part, self.batch_size, draw)[shard]
            else:
                order = shuffled(self.seed, epoch, self.sizes["train"])
                chosen = self.fixed[part][order[index * self.batch_size : (index + 1) * self.batch_size]][shard]
            if self.augment:
                parameters = self.augment.draw(self.batch_size, self.rows * self.cols, generator=draw)[shard]
        return self.stitch(self.parts[part], chosen, parameters)

    def stitch(self, split: Split, chosen: Tensor, parameters: Tensor | None) -> Batch:
        """Put the chosen digits (B, rows, cols) together, each deformed by its parameters (B, rows·cols, 55)."""
        cells = split.images[chosen.flatten()].float()  # (B·rows·cols, size, size)
        if self.augment and parameters is not None:
            cells = self.augment(cells, parameters.flatten(0, 1))
        image = rearrange(cells, "(b r c) h w -> b 1 (r h) (c w)", r=self.rows, c=self.cols)
        return {"image": image.div(255 * STD).sub_(MEAN / STD), "digits": split.labels[chosen.flatten(1)]}


@lru_cache(maxsize=1)
def shuffled(seed: int, epoch: int, count: int) -> Tensor:
    """Return the order (count,) of the samples in an epoch."""
    return torch.randperm(count, generator=generator("order", seed, epoch))
