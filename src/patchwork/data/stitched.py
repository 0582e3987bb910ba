"""Grids of images: any rows × cols, stitched from single images, all samples of a batch at once."""

import torch
from einops import rearrange
from pydantic import PositiveInt
from torch import Tensor

from patchwork.data.base import Batch, BatchIndex, Split, epoch_permutation
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.rng import make_rng


class StitchedDataModule(ImageSourceDataModule):
    """A grid of `rows` × `cols` images as one image, and their classes in reading order.

    A batch holds `image` (B, C, rows·cell_size, cols·cell_size), normalized, and `digits` (B, rows·cols), the class of
    each cell. Images are sampled with replacement.

    Args:
        rows: rows of a grid.
        cols: columns of a grid.
        cell_size: pixels of a cell's side.
        resample_each_epoch: sample new training grids in every epoch; otherwise sample `samples_per_epoch` grids once
            and shuffle them in every epoch.
    """

    batch_keys = ("image", "digits")

    def __init__(
        self,
        *,
        rows: PositiveInt = 2,
        cols: PositiveInt = 2,
        cell_size: PositiveInt = 28,
        resample_each_epoch: bool = True,
        **source: object,
    ) -> None:
        super().__init__(**source)  # type: ignore[arg-type]
        self.rows, self.cols, self.cell_size = rows, cols, cell_size
        self.image_size = cell_size
        self.resample_each_epoch = resample_each_epoch

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.in_channels, self.rows * self.cell_size, self.cols * self.cell_size

    def build_eval_samples(self) -> None:
        self.grids: dict[Split, Tensor] = {
            "val": self.sample_grids("val", self.num_samples["val"], make_rng("val")),
            "test": self.sample_grids("test", self.num_samples["test"], make_rng("test")),
        }
        if not self.resample_each_epoch:
            self.grids["train"] = self.sample_grids("train", self.num_samples["train"], make_rng("grids", self.seed))

    def sample_grids(self, split: Split, count: int, rng: torch.Generator) -> Tensor:
        """Sample `count` grids as indices of images (count, rows, cols)."""
        return torch.randint(len(self.splits[split].labels), (count, self.rows, self.cols), generator=rng)

    def make_batch(self, split: Split, batch_index: BatchIndex, shard: slice) -> Batch:
        epoch, index = batch_index
        rng = make_rng("batch", self.seed, epoch, index)
        start = index * (self.batch_size if split == "train" else self.eval_batch_size)
        if split != "train":
            grids = self.grids[split][start : start + self.eval_batch_size]  # (B, rows, cols)
        elif self.resample_each_epoch:
            grids = self.sample_grids(split, self.batch_size, rng)
        else:
            order = epoch_permutation(self.seed, epoch, self.num_samples["train"])
            grids = self.grids[split][order[start : start + self.batch_size]]
        params = self.sample_augmentation(split, len(grids), self.rows * self.cols, rng=rng)
        batch = self.stitch(split, grids[shard], None if params is None else params[shard].flatten(0, 1))
        if split != "train":
            index_in_split = torch.arange(start, start + len(grids))
            batch |= self.sample_ids(split, index_in_split[shard], grids[shard].flatten(1))
        return batch

    def stitch(self, split: Split, grids: Tensor, params: Tensor | None) -> Batch:
        """Stitch the images of `grids` (B, rows, cols), each transformed by its `params` (B·rows·cols, P) if given."""
        cells = self.augmented_images(split, grids.flatten(), params)  # (B·rows·cols, C, size, size)
        image = rearrange(cells, "(b r c) ch h w -> b ch (r h) (c w)", r=self.rows, c=self.cols)
        return {"image": self.source.normalize(image), "digits": self.splits[split].labels[grids.flatten(1)]}
