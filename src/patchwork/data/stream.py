"""From a source to a batch: every batch is a pure function of (seed, epoch, index), split over the ranks.

That one property gives fresh samples for ever, the same run twice, exact resume in the middle of an epoch whatever the
number of workers, and shards for distributed training that do not overlap.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol

import pytorch_lightning as pl
import torch
from annotated_types import Interval
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from patchwork.errors import ConfigError

Batch = dict[str, Tensor]
Part = Literal["train", "val", "test"]
Key = tuple[int, int]  # (epoch, index of the batch in it)


def seed_of(*key: str | int) -> int:
    """Return a seed that depends on `key` alone; keys that differ in any place give unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest())


def generator(*key: str | int) -> torch.Generator:
    """Return a random generator for `key`: what it is for, and for which seed, epoch and batch."""
    return torch.Generator().manual_seed(seed_of(*key))


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, count: int) -> Tensor:
    """Return the order (count,) of the samples in an epoch."""
    return torch.randperm(count, generator=generator("order", seed, epoch))


def in_turn(seed: int, first: int, size: int, count: int) -> Tensor:
    """Return `size` samples (size,), from the `first` on, of an endless walk through `count` of them.

    Every round takes each of them once, in an order of its own.
    """
    steps = torch.arange(first, first + size)
    chosen = torch.empty_like(steps)
    for number in range(first // count, (first + size - 1) // count + 1):
        here = steps // count == number
        chosen[here] = shuffled(seed, number, count)[steps[here] % count]
    return chosen


class Keys(Sampler[Key]):
    """The keys of an epoch's batches in order, from where a resumed epoch had come to."""

    def __init__(self, length: int, *, epoch: int = 0, first: int = 0) -> None:
        self.length, self.epoch, self.first = length, epoch, first

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        # a generator, as loaders with workers make two iterators and read from the second alone
        epoch, first, self.first = self.epoch, self.first, 0
        for index in range(first, self.length):
            yield epoch, index


class Origin(Protocol):
    """What samples are made of: its name, and the SHA-256 of all its contents."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...


class Stream(pl.LightningDataModule):
    """A DataModule whose children say how to make one batch; it makes loaders, epochs, shards and resume of that.

    A batch of `batch_size` samples is shared out evenly among the ranks: rank r of w makes the samples r, r + w, …

    Args:
        seed: of the training samples; validation and test samples do not depend on it.
        batch_size: samples in a training batch, over all ranks.
        eval_batch_size: samples in a validation or test batch, over all ranks.
        train_size, val_size, test_size: samples in an epoch of each part.
        num_workers: processes that make batches ahead; batches do not depend on it.
        same_batch: train on the first batch again and again, to see it learned by heart.
    """

    source: Origin  # once it is loaded
    gives: tuple[str, ...]  # what a batch holds, see the child

    def __init__(
        self,
        *,
        seed: NonNegativeInt,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        train_size: PositiveInt,
        val_size: PositiveInt,
        test_size: PositiveInt,
        num_workers: Annotated[int, Interval(ge=0, le=64)] = 0,
        same_batch: bool = False,
    ) -> None:
        super().__init__()
        if train_size < batch_size:
            raise ValueError(f"train_size={train_size} is smaller than batch_size={batch_size}: no batch in an epoch")
        self.seed = seed
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.sizes: dict[Part, int] = {"train": train_size, "val": val_size, "test": test_size}
        self.num_workers = num_workers
        self.same_batch = same_batch
        self.position = {"epoch": 0, "first": 0}  # of the next training batch

    def __getstate__(self) -> dict[str, Any]:
        """Leave the trainer behind when this is sent to a worker's process."""
        return {**self.__dict__, "trainer": None}

    @abstractmethod
    def make(self, part: Part, key: Key, shard: slice) -> Batch:
        """Make the samples `shard` of the batch `key` of a part, all at once."""

    @abstractmethod
    def images(self, part: Part) -> Tensor:
        """Return the images (n, ...) that a part's samples are made of, as uint8, once they are loaded."""

    def length(self, part: Part) -> int:
        """Return the number of batches in an epoch; an incomplete training batch is left out."""
        if part == "train":
            return self.sizes["train"] // self.batch_size
        return -(-self.sizes[part] // self.eval_batch_size)

    def shard(self) -> slice:
        """Return which samples of each batch are this rank's."""
        return slice(self.trainer.global_rank, None, self.trainer.world_size) if self.trainer else slice(0, None, 1)

    def check_shards(self, world: int) -> None:
        """Raise a `ConfigError` if so many ranks cannot share the batches evenly."""
        shared = {
            "data.batch_size": self.batch_size,
            "data.eval_batch_size": self.eval_batch_size,
            "data.val_size": self.sizes["val"],
            "data.test_size": self.sizes["test"],
        }
        for name, size in shared.items():
            if size % world:
                raise ConfigError(f"{name}={size} cannot be shared evenly: use a multiple of {world}, the processes")

    def loader(self, part: Part) -> DataLoader:
        self.setup("")
        keys = Keys(self.length(part), **(self.position if part == "train" else {}))
        return DataLoader(
            Batches(self, part, self.shard()), batch_size=None, sampler=keys, num_workers=self.num_workers
        )

    def state_dict(self) -> dict[str, int]:
        """Say with which batch training goes on: Lightning saves it at the end of a batch or of an epoch."""
        if self.trainer is None:
            return self.position
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return {"epoch": epochs.processed, "first": int(batches.ready % self.trainer.num_training_batches)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position = dict(state_dict)

    def train_dataloader(self) -> DataLoader:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader:
        return self.loader("test")


class Batches(Dataset[Batch]):
    """The batches of one part and one rank, looked up by key."""

    def __init__(self, stream: Stream, part: Part, shard: slice) -> None:
        self.make, self.part, self.shard = stream.make, part, shard
        self.same = stream.same_batch and part == "train"

    def __getitem__(self, key: Key) -> Batch:
        return self.make(self.part, (0, 0) if self.same else key, self.shard)
