"""Sequences of images of any length."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from patchwork.core.errors import ConfigError
from patchwork.data.base import Batch, BatchIndex, Split, epoch_permutation
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.rng import make_rng

SequenceIndices = dict[str, Tensor]  # `images` (n, S), indices of images in a split, and `length` (n,)


class SequencesDataModule(ImageSourceDataModule):
    """Sequences of 1 to `max_length` images.

    A batch holds `image` (B, S, C, image_size, image_size), normalized, and zero where a sequence has ended; `mask`
    (B, S), true where it has not; and `digits` (B, S), the class of each image, 0 at padding. S is
    `max_length`.

    Sequences are sampled in one of two ways:

    - `random`: images with replacement and uniform lengths, anew in every epoch.
    - `consecutive`: the windows of the sequence project (see `docs/references.md`). Sequence i begins with image i and
      continues with those that follow it in the split's order; its length is sampled once, uniformly, for each i. An
      epoch shuffles the same windows.

    Args:
        image_size: pixels of a side.
        max_length: images in the longest sequence.
        test_lengths: longer sequences to test on after the others, `test_size` of each length.
        sampling: `random` or `consecutive`.

    Raises:
        ValueError: if arguments do not fit together.
    """

    batch_keys: tuple[str, ...] = ("image", "mask", "digits")

    def __init__(
        self,
        *,
        image_size: PositiveInt = 28,
        max_length: PositiveInt = 10,
        test_lengths: list[PositiveInt] | None = None,
        sampling: Literal["random", "consecutive"] = "random",
        **source: object,
    ) -> None:
        super().__init__(**source)  # type: ignore[arg-type]
        for length in test_lengths or []:
            if length <= max_length:
                raise ValueError(f"test_lengths={test_lengths}: {length} is not longer than max_length={max_length}")
        self.image_size = image_size
        self.max_length = max_length
        self.test_lengths = test_lengths or []
        self.sampling = sampling

    def build_eval_samples(self) -> None:
        self.check_splits()
        self.sequences: dict[Split, SequenceIndices] = {}
        for split in ("val", "test"):
            self.sequences[split] = self.sample_sequences(split, self.num_samples[split], make_rng(split))
        self.extra_test_sets = [
            self.sample_random("test", self.num_samples["test"], make_rng("test", length), length, length)
            for length in self.test_lengths
        ]
        if self.sampling == "consecutive":
            self.sequences["train"] = self.consecutive_windows("train", make_rng("train"))

    def check_splits(self) -> None:
        """Raise a `ConfigError` if a split has too few images."""
        for split, images in self.splits.items():
            count = len(images.labels)
            if self.sampling == "consecutive" and count <= self.max_length:
                raise ConfigError(
                    f"data.max_length={self.max_length} is too long for the {count} {split} images of "
                    f"dataset={self.source.name}: use up to {count - 1}"
                )

    def sample_sequences(self, split: Split, count: int, rng: torch.Generator) -> SequenceIndices:
        """Sample `count` sequences of up to `max_length` images."""
        if self.sampling == "consecutive":
            windows = self.consecutive_windows(split, rng)
            chosen = torch.randint(len(windows["length"]), (count,), generator=rng)
            return {name: values[chosen] for name, values in windows.items()}
        return self.sample_random(split, count, rng, 1, self.max_length)

    def sample_random(
        self, split: Split, count: int, rng: torch.Generator, min_length: int, max_length: int
    ) -> SequenceIndices:
        """Sample `count` sequences of random images and a random length."""
        length = torch.randint(min_length, max_length + 1, (count,), generator=rng)
        return {**self.sample_images(split, length, max_length, rng), "length": length}

    def sample_images(self, split: Split, length: Tensor, max_length: int, rng: torch.Generator) -> SequenceIndices:
        """Sample the images of sequences of the given `length` (n,), padded to `max_length`."""
        total = len(self.splits[split].labels)
        return {"images": torch.randint(total, (len(length), max_length), generator=rng)}

    def consecutive_windows(self, split: Split, rng: torch.Generator) -> SequenceIndices:
        """Return all windows of a split: those that begin after its first image."""
        first = torch.arange(1, len(self.splits[split].labels) - self.max_length + 1)
        length = torch.randint(1, self.max_length + 1, first.shape, generator=rng)
        return {"images": first[:, None] + torch.arange(self.max_length), "length": length}

    def num_batches(self, split: Split) -> int:
        """Return the number of batches; those of the test are followed by those of each of `test_lengths`."""
        extra = sum(len(self.batch_slices(length)) for length in self.test_lengths) if split == "test" else 0
        return super().num_batches(split) + extra

    def batch_slices(self, length: int) -> list[slice]:
        """Return the batches of an extra test set, of about as many images as the other batches have."""
        world_size = self.trainer.world_size if self.trainer else 1
        step = max(1, self.eval_batch_size * self.max_length // length // world_size) * world_size
        return slices(self.num_samples["test"], step)

    def eval_sequences(self, split: Split, index: int) -> SequenceIndices:
        """Return the sequences of a validation or test batch, with `index` (B,), their indices in the split.

        The indices of extra test sets continue after those of the test.
        """
        sequences, batches, first = self.sequences[split], slices(self.num_samples[split], self.eval_batch_size), 0
        for length, extra in zip(self.test_lengths, self.extra_test_sets, strict=True):
            if index < len(batches):
                break
            index -= len(batches)
            first += len(sequences["length"])
            sequences, batches = extra, self.batch_slices(length)
        sequences = {**sequences, "index": torch.arange(first, first + len(sequences["length"]))}
        return {name: values[batches[index]] for name, values in sequences.items()}

    def train_sequences(self, batch_index: BatchIndex, rng: torch.Generator) -> SequenceIndices:
        """Return the sequences of a training batch."""
        if self.sampling == "random":
            return self.sample_sequences("train", self.batch_size, rng)
        epoch, index = batch_index
        windows = self.sequences["train"]
        total = len(windows["length"])
        positions = torch.arange(self.batch_size) + index * self.batch_size
        chosen = epoch_permutation(self.seed, epoch, total)[positions % total]
        return {name: values[chosen] for name, values in windows.items()}

    def make_batch(self, split: Split, batch_index: BatchIndex, shard: slice) -> Batch:
        rng = make_rng("batch", self.seed, *batch_index)
        if split == "train":
            sequences = self.train_sequences(batch_index, rng)
        else:
            sequences = self.eval_sequences(split, batch_index[1])
        count, longest = sequences["images"].shape
        params = self.sample_augmentation(split, count, longest + 1, rng=rng)  # the last is for an anchor
        sequences = {name: values[shard] for name, values in sequences.items()}
        batch = self.assemble(split, sequences, None if params is None else params[shard])
        if split != "train":
            batch |= self.sample_ids(split, sequences["index"], self.image_indices(sequences))
        return batch

    def assemble(self, split: Split, sequences: SequenceIndices, params: Tensor | None) -> Batch:
        """Look up the images and labels of sequences; images are transformed by `params` (B, S + 1, P) if given."""
        mask = valid_mask(sequences)
        images = self.augmented_images(
            split, sequences["images"][mask], None if params is None else params[:, :-1][mask]
        )
        image = torch.zeros(*mask.shape, *images.shape[1:])
        image[mask] = self.source.normalize(images)
        return {"image": image, "mask": mask, "digits": self.splits[split].labels[sequences["images"]] * mask}

    def image_indices(self, sequences: SequenceIndices) -> Tensor:
        """Return the indices of the images that sequences consist of (B, K), -1 where a sequence has ended."""
        return sequences["images"].where(valid_mask(sequences), -1)


def valid_mask(sequences: SequenceIndices) -> Tensor:
    """Return where sequences have an image (B, S)."""
    return torch.arange(sequences["images"].shape[1]) < sequences["length"][:, None]


def slices(count: int, step: int) -> list[slice]:
    """Cut `count` samples into batches of `step`."""
    return [slice(start, start + step) for start in range(0, count, step)]
