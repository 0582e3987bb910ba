"""A small source whose images carry their own index, and what tests of all data modules do with batches."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from patchwork.data.base import BaseDataModule, Batch, Split
from patchwork.data.sources.base import DIGIT_NAMES, MNIST_MEAN, MNIST_STD, ImageSource, LabeledImages

SPLITS: list[Split] = ["train", "val", "test"]
IDS = {"train": range(120), "val": range(120, 180), "test": range(180, 250)}  # of the images of each split
FIRST = {"train": 0, "val": 0, "test": 180}  # id of the first image of the official part that a split belongs to
LABELS = torch.arange(250) * 7 % 10


class NumberedSource:
    """A source of 250 images: all pixels of one, or only the first, are its id, and its label follows from it."""

    mean, std = MNIST_MEAN, MNIST_STD
    mean, std = MNIST_MEAN, MNIST_STD
    class_names = DIGIT_NAMES

    def __init__(self, size: int = 6, *, plain: bool = True, channels: int = 1) -> None:
        ids = torch.arange(250, dtype=torch.uint8)[:, None, None, None]
        rng = torch.Generator().manual_seed(0)
        noise = torch.randint(256, (250, channels, size, size), dtype=torch.uint8, generator=rng)
        self.images = ids.expand_as(noise).clone() if plain else noise
        self.images[:, :, :1, :1] = ids

    def load(self) -> ImageSource:
        splits = {}
        for split, numbers in IDS.items():
            ids = torch.tensor(numbers)
            splits[split] = LabeledImages(self.images[ids], LABELS[ids], ids - FIRST[split])
        return make_source("numbered", splits)


def make_source(name: str, splits: dict[str, LabeledImages]) -> ImageSource:
    return ImageSource(name=name, sha256="0" * 64, mean=MNIST_MEAN, std=MNIST_STD, **splits)


def to_ids(image: Tensor) -> Tensor:
    """Return the ids of normalized images (..., C, H, W), which their first pixels are."""
    return to_pixels(image)[..., 0, 0, 0]


def to_pixels(image: Tensor) -> Tensor:
    """Return the pixels of normalized images, from 0 to 255."""
    return ((image * MNIST_STD + MNIST_MEAN) * 255).round().long()


def read_epoch(data: BaseDataModule, split: Split, epoch: int = 0) -> list[Batch]:
    """Return the batches of an epoch, as the loader yields them."""
    loader: DataLoader = getattr(data, f"{split}_dataloader")()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same_batch(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def join_shards(data: BaseDataModule, split: Split, batch_index: tuple[int, int], world_size: int) -> Batch:
    """Return a batch put together from the shards of all ranks."""
    shards = [data.make_batch(split, batch_index, slice(rank, None, world_size)) for rank in range(world_size)]
    return {name: torch.stack([shard[name] for shard in shards], dim=1).flatten(0, 1) for name in shards[0]}


def check_ids(data: BaseDataModule, split: Split, image_ids: list[Tensor]) -> None:
    """Check `index` and `image_ids` of a split against the ids (B, K) that are seen in each batch, -1 where none is."""
    batches = read_epoch(data, split)
    index = torch.cat([batch["index"] for batch in batches])
    assert torch.equal(index, torch.arange(len(index)))
    for batch, expected in zip(batches, image_ids, strict=True):
        assert list(batch)[-2:] == ["index", "image_ids"]
        assert batch["image_ids"].dtype == batch["index"].dtype == torch.int64
        assert torch.equal(batch["image_ids"], torch.where(expected < 0, -1, expected - FIRST[split]))


def read_whole_epoch(data: BaseDataModule, split: Split) -> Batch:
    """Return the batches of an epoch as one."""
    batches = read_epoch(data, split)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
