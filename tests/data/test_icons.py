"""The data module of icons: which icons are in which split, and their batches."""

from functools import cache
from typing import Any

import pytest
import torch
from data_helpers import SPLITS, join_shards, read_whole_epoch, same_batch
from torch import Tensor

from patchwork.core.errors import ConfigError
from patchwork.data import IconsDataModule
from patchwork.data.base import Split
from patchwork.data.sources.icons import combination_labels, held_out, split_combinations


def make_icons(**changes: Any) -> IconsDataModule:
    data = IconsDataModule(
        **{"seed": 0, "batch_size": 32, "eval_batch_size": 100, "num_outputs": 28, "samples_per_epoch": 1200, **changes}
    )
    data.setup()
    return data


icons = cache(make_icons)  # rendering takes a while


def factors(data: IconsDataModule, split: Split) -> dict[str, Tensor]:
    return split_combinations(data.splits[split].labels)


@pytest.mark.parametrize("samples_per_class", [5, 10])
def test_every_split_has_every_combination_equally_often(samples_per_class: int) -> None:
    data = icons(samples_per_class=samples_per_class)
    sizes = {split: len(data.source_images(split)) for split in SPLITS}
    assert sizes == {"train": 240 * samples_per_class, "val": 300, "test": 60 * samples_per_class}
    assert data.num_samples == {**sizes, "train": 1200}
    for split in SPLITS:
        assert set(data.splits[split].labels.bincount(minlength=300).tolist()) == {sizes[split] // 300}
    assert not read_whole_epoch(data, "test")["held_out"].any()


def test_held_out_combinations_are_in_the_test_only() -> None:
    data = icons(holdout="combinations")
    assert {split: len(data.source_images(split)) for split in SPLITS} == {"train": 960, "val": 240, "test": 300}
    assert (data.num_samples["val"], data.num_samples["test"]) == (240, 300)
    for split in ("train", "val"):
        assert not held_out(factors(data, split)).any()
        for name, count in (("verb", 20), ("tense", 5), ("person", 3)):
            counts = factors(data, split)[name].bincount(minlength=count)
            assert counts.min() == counts.max()  # every factor of a combination is still seen, and equally often
    test = read_whole_epoch(data, "test")
    assert test["held_out"].sum() == 60
    assert torch.equal(test["held_out"], held_out(test))


def test_batches_hold_the_images_and_factors_of_the_source() -> None:
    data = icons(holdout="combinations")
    for split in ("val", "test"):
        batch, source = read_whole_epoch(data, split), getattr(data.source, split)
        assert list(batch) == ["image", "verb", "tense", "person", "held_out", "index", "image_ids"]
        torch.testing.assert_close((batch["image"] + 1) * 127.5, source.images.float())
        assert torch.equal(combination_labels(batch), source.labels)
        assert torch.equal(batch["index"], torch.arange(len(source.labels)))
        assert torch.equal(batch["image_ids"], batch["index"][:, None])
    assert list(data.make_batch("train", (0, 0), slice(None))) == list(data.batch_keys)


def test_icons_do_not_depend_on_the_seed_but_their_order_does() -> None:
    one, same, other = make_icons(seed=1), make_icons(seed=1), make_icons(seed=2)
    train = [read_whole_epoch(data, "train") for data in (one, same, other)]
    assert same_batch(train[0], train[1])
    assert not same_batch(train[0], train[2])
    test = read_whole_epoch(one, "test")
    assert same_batch(test, read_whole_epoch(other, "test"))
    assert one.source.sha256 == other.source.sha256 != icons(difficulty=1.1).source.sha256
    assert -1 <= test["image"].min() < -0.9
    assert 0.9 < test["image"].max() <= 1


def test_shards_interleave_to_the_batch() -> None:
    data = icons()
    for split in ("train", "val"):
        assert same_batch(join_shards(data, split, (1, 2), 2), data.make_batch(split, (1, 2), slice(None)))


def test_samples_per_class_that_cannot_be_split_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"data\.samples_per_class=7.*multiple of 5"):
        icons(samples_per_class=7)
