"""Grids of digits: any rows × cols, stitched from single digit images, all samples of a batch at once."""

import torch
from einops import rearrange
from pydantic import PositiveInt
from torch import Tensor

from patchwork.data.handwriting import Handwriting, normalise
from patchwork.data.stream import Batch, Key, Part, generator, shuffled


class Stitched(Handwriting):
    """A grid of `rows` × `cols` digits as one image, and its digits in reading order.

    A batch holds `image` (B, 1, rows·cell_size, cols·cell_size), normalised, and `digits` (B, rows·cols). Training
    grids are drawn with replacement from the training digits and are never the same twice.

    Args:
        cell_size: pixels of a cell.
        fresh: draw new grids in every epoch; otherwise shuffle the same `train_size` grids anew.
    """

    gives = ("image", "digits")

    def __init__(
        self,
        *,
        rows: PositiveInt = 2,
        cols: PositiveInt = 2,
        cell_size: PositiveInt = 28,
        fresh: bool = True,
        **handwriting: object,
    ) -> None:
        super().__init__(**handwriting)  # type: ignore[arg-type]
        self.rows, self.cols, self.cell_size = rows, cols, cell_size
        self.image_size = cell_size
        self.fresh = fresh

    def fix(self) -> None:
        self.fixed: dict[Part, Tensor] = {
            "val": self.choose("val", self.sizes["val"], generator("val")),
            "test": self.choose("test", self.sizes["test"], generator("test")),
        }
        if not self.fresh:
            self.fixed["train"] = self.choose("train", self.sizes["train"], generator("grids", self.seed))

    def choose(self, part: Part, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` grids as indices of digits (count, rows, cols)."""
        return torch.randint(len(self.parts[part].labels), (count, self.rows, self.cols), generator=generator)

    def make(self, part: Part, key: Key, shard: slice) -> Batch:
        epoch, index = key
        draw = generator("batch", self.seed, epoch, index)
        if part != "train":
            start = index * self.eval_batch_size
            chosen = self.fixed[part][start : start + self.eval_batch_size]  # (B, rows, cols)
        elif self.fresh:
            chosen = self.choose(part, self.batch_size, draw)
        else:
            order = shuffled(self.seed, epoch, self.sizes["train"])
            chosen = self.fixed[part][order[index * self.batch_size : (index + 1) * self.batch_size]]
        deformations = self.deformations(part, len(chosen), self.rows * self.cols, draw=draw)
        return self.stitch(part, chosen[shard], None if deformations is None else deformations[shard].flatten(0, 1))

    def stitch(self, part: Part, chosen: Tensor, deformations: Tensor | None) -> Batch:
        """Put the chosen digits (B, rows, cols) together, each deformed by its parameters (B·rows·cols, 55)."""
        cells = self.pixels(part, chosen.flatten(), deformations)  # (B·rows·cols, size, size)
        image = rearrange(cells, "(b r c) h w -> b 1 (r h) (c w)", r=self.rows, c=self.cols)
        return {"image": normalise(image), "digits": self.parts[part].labels[chosen.flatten(1)]}
