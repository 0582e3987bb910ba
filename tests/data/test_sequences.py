"""Sequences: what is in them, where they end, what an anchor matches, and the same ones whenever asked."""

from typing import Any

import pytest
import torch
from test_stitched import IDS, Numbered, epoch, same
from torch import Tensor

from patchwork.data import Deform, Sequences
from patchwork.data.handwriting import MEAN, STD
from patchwork.data.stream import Batch, Part

LABELS = Numbered().labels
ANCHORED = [
    {"anchored": True, "balance": 0.5},
    {"anchored": True, "balance": 0.9},
    {"anchored": True},
    {"anchored": True, "sampling": "consecutive"},
]


def sequences(**changes: Any) -> Sequences:
    sizes = {"batch_size": 20, "eval_batch_size": 30, "train_size": 400, "val_size": 400, "test_size": 400}
    data = Sequences(**{"digits": Numbered(), "image_size": 6, "max_length": 5, "seed": 0, **sizes, **changes})
    data.setup()
    return data


def numbers(image: Tensor) -> Tensor:
    """Read which digits images (..., 1, size, size) show."""
    return ((image[..., 0, 0, 0] * STD + MEAN) * 255).round().long()


def everything(data: Sequences, part: Part) -> Batch:
    batches = [batch for batch in epoch(data, part) if batch["mask"].shape[1] == data.max_length]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("settings", [{}, {"sampling": "consecutive"}, *ANCHORED], ids=str)
def test_a_sequence_is_what_it_says(settings: dict, part: Part) -> None:
    data = sequences(**settings)
    batch = everything(data, part)
    mask, shown = batch["mask"], numbers(batch["image"])
    length = mask.sum(dim=1)
    assert batch["image"].shape[1:] == (5, 1, 6, 6)
    assert torch.equal(mask, torch.arange(5) < length[:, None])  # no gaps
    assert set(length.tolist()) == {1, 2, 3, 4, 5}
    assert torch.equal(batch["digits"], torch.where(mask, LABELS[shown], 0))
    assert not batch["image"][~mask].any()
    assert set(shown[mask].tolist()) <= set(IDS[part])


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("settings", ANCHORED, ids=str)
def test_matches_are_of_the_anchors_class_and_never_itself(settings: dict, part: Part) -> None:
    batch = everything(sequences(**settings), part)
    anchor, shown = numbers(batch["anchor"]), numbers(batch["image"])
    expected = (LABELS[shown] == LABELS[anchor][:, None]) & batch["mask"]
    assert torch.equal(batch["match"], expected)
    assert torch.equal(batch["present"], expected.any(dim=1))
    assert not ((shown == anchor[:, None]) & batch["mask"]).any()


@pytest.mark.parametrize("balance", [0.1, 0.5, 0.8])
def test_balance_is_the_share_with_a_match(balance: float) -> None:
    batch = everything(sequences(anchored=True, balance=balance, val_size=5000), "val")
    assert batch["present"].float().mean() == pytest.approx(balance, abs=0.03)
    for length in range(1, 6):  # at every length, so that length tells nothing
        chosen = batch["mask"].sum(dim=1) == length
        assert batch["present"][chosen].float().mean() == pytest.approx(balance, abs=0.06)


def test_a_match_may_stand_anywhere() -> None:
    batch = everything(sequences(anchored=True, balance=0.5, val_size=5000), "val")
    longest = batch["mask"].all(dim=1) & batch["present"]
    share = batch["match"][longest].float().mean(dim=0)
    assert share.max() - share.min() < 0.1
    assert set(LABELS[numbers(batch["anchor"])].tolist()) == set(range(10))


def test_chance_brings_matches_where_there_is_no_balance() -> None:
    batch = everything(sequences(anchored=True, val_size=5000), "val")
    expected = 1 - sum(0.9**length for length in range(1, 6)) / 5
    assert batch["present"].float().mean() == pytest.approx(expected, abs=0.03)


def test_consecutive_windows_follow_each_other() -> None:
    data = sequences(sampling="consecutive", anchored=True, train_size=120)
    windows = {}
    for number in range(3):
        for batch in epoch(data, "train", number):
            for anchor, images, length in zip(
                numbers(batch["anchor"]).tolist(), numbers(batch["image"]).tolist(), batch["mask"].sum(1), strict=True
            ):
                assert images[:length] == list(range(anchor + 1, anchor + 1 + length))
                assert windows.setdefault(anchor, int(length)) == length  # its length belongs to a window
    assert len(windows) == 120 - 5


def test_longer_test_sequences_follow_the_others() -> None:
    data = sequences(test_lengths=[7, 20], test_size=50)
    batches = epoch(data, "test")
    assert len(batches) == data.length("test")
    sizes = {width: sum(len(b["mask"]) for b in batches if b["mask"].shape[1] == width) for width in (5, 7, 20)}
    assert sizes == {5: 50, 7: 50, 20: 50}
    assert all(b["mask"].all() for b in batches if b["mask"].shape[1] > 5)
    assert all(len(b["mask"]) * 20 <= 30 * 5 for b in batches if b["mask"].shape[1] == 20)  # images, not sequences
    plain = epoch(sequences(test_size=50), "test")
    assert all(map(same, plain, batches))  # and the others are the same


@pytest.mark.parametrize("settings", [{}, {"sampling": "consecutive"}, *ANCHORED], ids=str)
def test_batches_depend_on_seed_epoch_and_index_alone(settings: dict) -> None:
    options = {**settings, "augment": Deform(rotation=20.0)}
    first, again, other = (sequences(seed=seed, **options) for seed in (1, 1, 2))
    batches = epoch(first, "train", 3)
    assert all(map(same, batches, epoch(again, "train", 3)))
    assert same(batches[2], again.make("train", (3, 2), slice(None)))
    assert not any(map(same, batches, epoch(other, "train", 3)))
    assert not any(map(same, batches, epoch(again, "train", 4)))
    assert all(map(same, epoch(first, "val"), epoch(other, "val")))
    whole = data = first.make("train", (0, 1), slice(None))
    parts = [first.make("train", (0, 1), slice(rank, None, 2)) for rank in range(2)]
    for name in data:
        assert torch.equal(torch.stack([part[name] for part in parts], dim=1).flatten(0, 1), whole[name])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"test_lengths": [5]}, "max_length=5"),
        ({"balance": 0.5}, "anchored"),
        ({"balance": 0.5, "anchored": True, "sampling": "consecutive"}, "sampling"),
    ],
)
def test_settings_that_do_not_fit(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sequences(**settings)
