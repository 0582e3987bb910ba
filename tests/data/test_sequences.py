"""Sequences: what they consist of, where they end, and the same ones every time."""

from typing import Any

import pytest
import torch
from data_helpers import (
    IDS,
    LABELS,
    SPLITS,
    NumberedSource,
    check_ids,
    join_shards,
    read_epoch,
    read_whole_epoch,
    same_batch,
    to_ids,
)

from patchwork.core.errors import ConfigError
from patchwork.data import RandomAffineElastic, SequencesDataModule
from patchwork.data.base import Split

samplings = pytest.mark.parametrize("sampling", ["random", "consecutive"])


def sequences(**changes: Any) -> SequencesDataModule:
    sizes = {"batch_size": 20, "eval_batch_size": 30, "samples_per_epoch": 400, "val_size": 400, "test_size": 400}
    data = SequencesDataModule(
        **{"dataset": NumberedSource(), "image_size": 6, "max_length": 5, "seed": 0, **sizes, **changes}
    )
    data.setup()
    return data


@pytest.mark.parametrize("split", SPLITS)
@samplings
def test_images_mask_and_digits_of_a_sequence_agree(sampling: str, split: Split) -> None:
    batch = read_whole_epoch(sequences(sampling=sampling), split)
    mask, ids = batch["mask"], to_ids(batch["image"])
    length = mask.sum(dim=1)
    assert batch["image"].shape[1:] == (5, 1, 6, 6)
    assert torch.equal(mask, torch.arange(5) < length[:, None])  # no gaps
    assert set(length.tolist()) == {1, 2, 3, 4, 5}
    assert torch.equal(batch["digits"], torch.where(mask, LABELS[ids], 0))
    assert not batch["image"][~mask].any()
    assert set(ids[mask].tolist()) <= set(IDS[split])


@pytest.mark.parametrize("split", ["val", "test"])
@samplings
def test_image_ids_are_those_of_the_sequence_and_end_with_it(sampling: str, split: Split) -> None:
    data = sequences(sampling=sampling, test_lengths=[7], num_classes=4, val_size=50, test_size=50)
    image_ids = [
        torch.where(batch["mask"], to_ids(batch["image"]), torch.tensor(-1)) for batch in read_epoch(data, split)
    ]
    check_ids(data, split, image_ids)
    assert "index" not in data.make_batch("train", (0, 0), slice(None))


def test_consecutive_windows_follow_each_other() -> None:
    data = sequences(sampling="consecutive", samples_per_epoch=120)
    lengths: dict[int, int] = {}
    for epoch in range(3):
        for batch in read_epoch(data, "train", epoch):
            for ids, length in zip(to_ids(batch["image"]).tolist(), batch["mask"].sum(1).tolist(), strict=True):
                assert ids[:length] == list(range(ids[0], ids[0] + length))
                assert lengths.setdefault(ids[0], length) == length  # a window keeps its length
    assert len(lengths) == 120 - 5


def test_longer_test_sequences_follow_the_others() -> None:
    data = sequences(test_lengths=[7, 20], test_size=50)
    batches = read_epoch(data, "test")
    assert len(batches) == data.num_batches("test")
    sizes = {width: sum(len(b["mask"]) for b in batches if b["mask"].shape[1] == width) for width in (5, 7, 20)}
    assert sizes == {5: 50, 7: 50, 20: 50}
    assert torch.equal(torch.cat([batch["index"] for batch in batches]), torch.arange(150))
    assert all(batch["mask"].all() for batch in batches if batch["mask"].shape[1] > 5)
    # a batch of longer sequences holds as many images, not as many sequences
    assert all(len(batch["mask"]) * 20 <= 30 * 5 for batch in batches if batch["mask"].shape[1] == 20)
    plain = read_epoch(sequences(test_size=50), "test")
    assert all(map(same_batch, plain, batches))  # and the others are the same


@samplings
def test_batches_depend_on_seed_epoch_and_index_only(sampling: str) -> None:
    options = {"sampling": sampling, "augment": RandomAffineElastic(degrees=20.0)}
    first, again, other = (sequences(seed=seed, **options) for seed in (1, 1, 2))
    batches = read_epoch(first, "train", 3)
    assert all(map(same_batch, batches, read_epoch(again, "train", 3)))
    assert same_batch(batches[2], again.make_batch("train", (3, 2), slice(None)))
    assert not any(map(same_batch, batches, read_epoch(other, "train", 3)))
    assert not any(map(same_batch, batches, read_epoch(again, "train", 4)))
    assert all(map(same_batch, read_epoch(first, "val"), read_epoch(other, "val")))


@pytest.mark.parametrize("split", ["train", "test"])
@samplings
def test_shards_interleave_to_the_batch(sampling: str, split: Split) -> None:
    data = sequences(sampling=sampling, augment=RandomAffineElastic(degrees=20.0))
    assert same_batch(join_shards(data, split, (0, 1), 2), data.make_batch(split, (0, 1), slice(None)))


def test_test_lengths_that_are_not_longer_are_rejected() -> None:
    with pytest.raises(ValueError, match="max_length=5"):
        sequences(test_lengths=[5])


def test_windows_longer_than_a_split_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"data\.max_length=60 is too long for the 60 val images.*up to 59"):
        sequences(max_length=60, sampling="consecutive")
