"""Sequences with an anchor: what matches it, how often, and where."""

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
from patchwork.data import AnchorDataModule, RandomAffineElastic
from patchwork.data.base import Split

kinds = pytest.mark.parametrize(
    "kind", [{"positive_fraction": 0.5}, {"positive_fraction": 0.9}, {}, {"sampling": "consecutive"}], ids=str
)


def anchored(**changes: Any) -> AnchorDataModule:
    sizes = {"batch_size": 20, "eval_batch_size": 30, "samples_per_epoch": 400, "val_size": 400, "test_size": 400}
    data = AnchorDataModule(
        **{"dataset": NumberedSource(), "image_size": 6, "max_length": 5, "seed": 0, **sizes, **changes}
    )
    data.setup()
    return data


@pytest.mark.parametrize("split", SPLITS)
@kinds
def test_images_mask_and_digits_of_a_sequence_agree(kind: dict, split: Split) -> None:
    batch = read_whole_epoch(anchored(**kind), split)
    mask, ids = batch["mask"], to_ids(batch["image"])
    length = mask.sum(dim=1)
    assert batch["image"].shape[1:] == (5, 1, 6, 6)
    assert batch["anchor"].shape[1:] == (1, 6, 6)
    assert torch.equal(mask, torch.arange(5) < length[:, None])  # no gaps
    assert set(length.tolist()) == {1, 2, 3, 4, 5}
    assert torch.equal(batch["digits"], torch.where(mask, LABELS[ids], 0))
    assert not batch["image"][~mask].any()
    assert set(ids[mask].tolist()) | set(to_ids(batch["anchor"]).tolist()) <= set(IDS[split])


@pytest.mark.parametrize("split", SPLITS)
@kinds
def test_matches_are_of_the_anchors_class_and_never_the_anchor(kind: dict, split: Split) -> None:
    batch = read_whole_epoch(anchored(**kind), split)
    anchor, ids = to_ids(batch["anchor"]), to_ids(batch["image"])
    expected = (LABELS[ids] == LABELS[anchor][:, None]) & batch["mask"]
    assert torch.equal(batch["match"], expected)
    assert torch.equal(batch["present"], expected.any(dim=1))
    assert not ((ids == anchor[:, None]) & batch["mask"]).any()


@pytest.mark.parametrize("split", ["val", "test"])
@kinds
def test_image_ids_are_those_of_the_anchor_and_the_sequence(kind: dict, split: Split) -> None:
    data = anchored(**kind, num_classes=4)
    image_ids = [
        torch.cat(
            [
                to_ids(batch["anchor"])[:, None],
                torch.where(batch["mask"], to_ids(batch["image"]), torch.tensor(-1)),
            ],
            dim=1,
        )
        for batch in read_epoch(data, split)
    ]
    check_ids(data, split, image_ids)
    assert "index" not in data.make_batch("train", (0, 0), slice(None))


@pytest.mark.parametrize("positive_fraction", [0.1, 0.5, 0.8])
def test_positive_fraction_is_the_fraction_with_a_match(positive_fraction: float) -> None:
    batch = read_whole_epoch(anchored(positive_fraction=positive_fraction, val_size=5000), "val")
    assert batch["present"].float().mean() == pytest.approx(positive_fraction, abs=0.03)
    for length in range(1, 6):  # at every length, so that the length is no cue
        chosen = batch["mask"].sum(dim=1) == length
        assert batch["present"][chosen].float().mean() == pytest.approx(positive_fraction, abs=0.06)


def test_positions_of_matches_are_uniform() -> None:
    batch = read_whole_epoch(anchored(positive_fraction=0.5, val_size=5000), "val")
    longest = batch["mask"].all(dim=1) & batch["present"]
    fraction = batch["match"][longest].float().mean(dim=0)
    assert fraction.max() - fraction.min() < 0.1
    assert set(LABELS[to_ids(batch["anchor"])].tolist()) == set(range(10))


def test_matches_are_as_frequent_as_random_images_give_without_a_positive_fraction() -> None:
    batch = read_whole_epoch(anchored(val_size=5000), "val")
    expected = 1 - sum(0.9**length for length in range(1, 6)) / 5
    assert batch["present"].float().mean() == pytest.approx(expected, abs=0.03)


def test_consecutive_windows_follow_the_anchor() -> None:
    data = anchored(sampling="consecutive", samples_per_epoch=120)
    lengths: dict[int, int] = {}
    for epoch in range(3):
        for batch in read_epoch(data, "train", epoch):
            for anchor, ids, length in zip(
                to_ids(batch["anchor"]).tolist(),
                to_ids(batch["image"]).tolist(),
                batch["mask"].sum(1).tolist(),
                strict=True,
            ):
                assert ids[:length] == list(range(anchor + 1, anchor + 1 + length))
                assert lengths.setdefault(anchor, length) == length  # a window keeps its length
    assert len(lengths) == 120 - 5


@kinds
def test_batches_depend_on_seed_epoch_and_index_only(kind: dict) -> None:
    options = {**kind, "augment": RandomAffineElastic(degrees=20.0)}
    first, again, other = (anchored(seed=seed, **options) for seed in (1, 1, 2))
    batches = read_epoch(first, "train", 3)
    assert all(map(same_batch, batches, read_epoch(again, "train", 3)))
    assert same_batch(batches[2], again.make_batch("train", (3, 2), slice(None)))
    assert not any(map(same_batch, batches, read_epoch(other, "train", 3)))
    assert not any(map(same_batch, batches, read_epoch(again, "train", 4)))
    assert all(map(same_batch, read_epoch(first, "val"), read_epoch(other, "val")))
    for split in ("train", "val"):
        assert same_batch(join_shards(first, split, (0, 1), 2), first.make_batch(split, (0, 1), slice(None)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_lengths": [7]}, r"test_lengths=\[7\]"),
        ({"positive_fraction": 0.5, "sampling": "consecutive"}, "sampling=consecutive"),
    ],
)
def test_arguments_that_do_not_fit_together_are_rejected(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        anchored(**arguments)


def test_class_with_a_single_image_is_rejected() -> None:
    source = NumberedSource().load()
    keep = torch.cat([(source.val.labels == 3).nonzero()[:1, 0], (source.val.labels != 3).nonzero()[:, 0]])
    object.__setattr__(source, "val", type(source.val)(*(values[keep] for values in vars(source.val).values())))
    dataset = NumberedSource()
    dataset.load = lambda: source
    with pytest.raises(ConfigError, match=r"a class of dataset=numbered has fewer than 2 val images"):
        anchored(dataset=dataset)
