"""Single digits: every one in turn, its own label, and the same batch whenever it is asked for."""

from typing import Any

import pytest
import torch
from test_stitched import IDS, Numbered, epoch, pixels, same

from patchwork.data import Deform, Single
from patchwork.data.stream import Part


def single(**changes: Any) -> Single:
    sizes = {"batch_size": 8, "eval_batch_size": 7, "train_size": 40, "val_size": 60, "test_size": 70}
    data = Single(**{"digits": Numbered(), "image_size": 6, "seed": 0, **sizes, **changes})
    data.setup()
    return data


def seen(data: Single, part: Part, number: int = 0) -> list[int]:
    return [int(pixel) for batch in epoch(data, part, number) for pixel in pixels(batch)[:, 0, 0]]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_labels_belong_to_the_images(part: Part) -> None:
    for batch in epoch(single(), part):
        assert torch.equal(pixels(batch)[:, 0, 0] * 7 % 10, batch["label"])


@pytest.mark.parametrize("part", ["val", "test"])
def test_all_digits_are_measured_once(part: Part) -> None:
    assert seen(single(), part) == list(IDS[part])
    assert seen(single(val_size=500, test_size=500), part) == list(IDS[part])  # no more than there are


def test_training_takes_every_digit_as_often() -> None:
    data = single()
    taken = [number for index in range(6) for number in seen(data, "train", index)]  # 240 samples of 120 digits
    assert sorted(taken[:120]) == sorted(taken[120:]) == list(IDS["train"])
    assert taken[:120] != taken[120:]


def test_batches_depend_on_seed_epoch_and_index_alone() -> None:
    first, again, other = (single(seed=seed, augment=Deform(rotation=20.0)) for seed in (1, 1, 2))
    batches = epoch(first, "train", 3)
    assert all(map(same, batches, epoch(again, "train", 3)))
    assert same(batches[2], again.make("train", (3, 2), slice(None)))
    assert not any(map(same, batches, epoch(other, "train", 3)))
    assert not any(map(same, batches, epoch(again, "train", 4)))


def test_shards_make_up_the_batch() -> None:
    data = single(augment=Deform(rotation=20.0))
    whole = data.make("train", (0, 1), slice(None))
    parts = [data.make("train", (0, 1), slice(rank, None, 2)) for rank in range(2)]
    for name in whole:
        assert torch.equal(torch.stack([part[name] for part in parts], dim=1).flatten(0, 1), whole[name])


def test_evaluation_is_never_deformed() -> None:
    plain, deformed = single(), single(augment=Deform(rotation=20.0))
    assert all(map(same, epoch(plain, "test"), epoch(deformed, "test")))
    assert not any(map(same, epoch(plain, "train"), epoch(deformed, "train")))
