"""Data modules, samplers and loaders: every batch is a pure function of (seed, epoch, index), split over the ranks.

That one property gives fresh samples in every epoch, the same run twice, exact resume in the middle of an epoch
whatever the number of workers, and shards for distributed training that do not overlap.
"""

from abc import abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Interval
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from patchwork.core.errors import ConfigError
from patchwork.core.signals import leave_signals_to_parent
from patchwork.data.rng import make_rng
from patchwork.data.sources.base import ImageSource

Batch = dict[str, Tensor]
Split = Literal["train", "val", "test"]
BatchIndex = tuple[int, int]  # (epoch, index of the batch in the epoch)


@lru_cache(maxsize=2)
def epoch_permutation(seed: int, epoch: int, count: int) -> Tensor:
    """Return the order (count,) of the samples in an epoch."""
    return torch.randperm(count, generator=make_rng("order", seed, epoch))


def cyclic_shuffle(seed: int, first: int, size: int, count: int) -> Tensor:
    """Return positions `first` to `first + size` of an endless sequence of the numbers below `count`.

    Every `count` positions hold each number once, in a new random order.

    Returns:
        Indices (size,).
    """
    positions = torch.arange(first, first + size)
    indices = torch.empty_like(positions)
    for cycle in range(first // count, (first + size - 1) // count + 1):
        mask = positions // count == cycle
        indices[mask] = epoch_permutation(seed, cycle, count)[positions[mask] % count]
    return indices


class BatchIndexSampler(Sampler[BatchIndex]):
    """The (epoch, index) of an epoch's batches in order; a resumed epoch begins at `start_index`."""

    def __init__(self, length: int, *, epoch: int = 0, start_index: int = 0) -> None:
        self.length, self.epoch, self.start_index = length, epoch, start_index

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[BatchIndex]:
        # a generator function, as loaders with workers create two iterators and read only the second
        epoch, first, self.start_index = self.epoch, self.start_index, 0
        for index in range(first, self.length):
            yield epoch, index


class BaseDataModule(pl.LightningDataModule):
    """Base class of data modules: subclasses implement `make_batch`; it adds loaders, epochs, shards and resuming.

    A batch of `batch_size` samples is distributed evenly over the ranks: rank r of w makes the samples r, r + w, …

    Batches of validation and test hold two more tensors, after all others: `index` (B,), the sample's index in its
    split, and `image_ids` (B, K), the images that the sample is made of, as indices in the source's official training
    or test part, padded with -1. Those of validation thus mean the same images in every fold.

    Args:
        seed: seed of the training samples; validation and test samples do not depend on it.
        batch_size: samples in a training batch, over all ranks.
        eval_batch_size: samples in a validation or test batch, over all ranks.
        samples_per_epoch: training samples in an epoch.
        val_size: validation samples.
        test_size: test samples.
        num_workers: processes that make batches ahead; batches do not depend on it.
        overfit_one_batch: train on the first batch only, to see it memorized.

    Raises:
        ValueError: if an epoch would have no batch.
    """

    batch_keys: tuple[str, ...]  # what every batch holds
    source: ImageSource  # once it is loaded
    selection: str = ""  # which of its images are used, if not all

    def __init__(
        self,
        *,
        seed: NonNegativeInt,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        samples_per_epoch: PositiveInt,
        val_size: PositiveInt,
        test_size: PositiveInt,
        num_workers: Annotated[int, Interval(ge=0, le=64)] = 0,
        overfit_one_batch: bool = False,
    ) -> None:
        super().__init__()
        if samples_per_epoch < batch_size:
            raise ValueError(
                f"samples_per_epoch={samples_per_epoch} is smaller than batch_size={batch_size}: "
                "an epoch would have no batch"
            )
        self.seed = seed
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_samples: dict[Split, int] = {"train": samples_per_epoch, "val": val_size, "test": test_size}
        self.num_workers = num_workers
        self.overfit_one_batch = overfit_one_batch
        self.resume_position = {"epoch": 0, "start_index": 0}  # of the next training batch

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the trainer when this is sent to a worker process."""
        return {**self.__dict__, "trainer": None}

    @abstractmethod
    def make_batch(self, split: Split, batch_index: BatchIndex, shard: slice) -> Batch:
        """Make the samples `shard` of a batch, all at once."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, known before anything is read; none if classes are numbers."""
        return ()

    @abstractmethod
    def source_images(self, split: Split) -> Tensor:
        """Return the images (n, C, H, W), uint8, that a split's samples are made of, once they are loaded."""

    def num_batches(self, split: Split) -> int:
        """Return the number of batches in an epoch; an incomplete training batch is dropped."""
        if split == "train":
            return self.num_samples["train"] // self.batch_size
        return -(-self.num_samples[split] // self.eval_batch_size)

    @property
    def repeats_batches(self) -> bool:
        """Return whether all epochs have the batches of the first one, as `trainer.overfit_batches` says."""
        return getattr(self.trainer, "repeats_batches", False)

    def shard(self) -> slice:
        """Return which samples of each batch are this rank's."""
        return slice(self.trainer.global_rank, None, self.trainer.world_size) if self.trainer else slice(0, None, 1)

    def check_shards(self, world_size: int) -> None:
        """Raise a `ConfigError` if `world_size` ranks cannot share the batches evenly, once the data is loaded."""
        sizes = {
            "data.batch_size": self.batch_size,
            "data.eval_batch_size": self.eval_batch_size,
            "data.val_size": self.num_samples["val"],
            "data.test_size": self.num_samples["test"],
        }
        for name, size in sizes.items():
            if size % world_size:
                raise ConfigError(
                    f"{name}={size} cannot be divided evenly: use a multiple of {world_size}, the number of processes"
                )

    def loader(self, split: Split, *, epoch: int = 0, start_index: int = 0) -> DataLoader:
        """Make the loader of a split, which begins with the batch `start_index` of an epoch."""
        self.setup("")
        sampler = BatchIndexSampler(self.num_batches(split), epoch=epoch, start_index=start_index)
        dataset = BatchDataset(self, split, self.shard())
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_parent,
        )

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and index of the next training batch; Lightning saves at the end of a batch or an epoch."""
        if self.trainer is None:
            return self.resume_position
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return {"epoch": epochs.processed, "start_index": int(batches.ready % self.trainer.num_training_batches)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.resume_position = dict(state_dict)

    def train_dataloader(self) -> DataLoader:
        return self.loader("train", **self.resume_position)

    def val_dataloader(self) -> DataLoader:
        """Make the loader of a validation: of the training batches if all epochs repeat them, as to memorize them."""
        return self.loader("train" if self.repeats_batches else "val")

    def test_dataloader(self) -> DataLoader:
        return self.loader("test")


class BatchDataset(Dataset[Batch]):
    """The batches of one split and one rank, by their (epoch, index)."""

    def __init__(self, data: BaseDataModule, split: Split, shard: slice) -> None:
        self.data, self.split, self.shard = data, split, shard
        self.first_only = data.overfit_one_batch and split == "train"
        self.first_epoch_only = data.repeats_batches and split == "train"

    def __getitem__(self, batch_index: BatchIndex) -> Batch:
        epoch, index = batch_index
        if self.first_only or self.first_epoch_only:
            epoch, index = 0, 0 if self.first_only else index
        return self.data.make_batch(self.split, (epoch, index), self.shard)
