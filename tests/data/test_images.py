"""Single images: every one in turn, its own label, and the same batch every time."""

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
    same_batch,
    to_ids,
)

from patchwork.core.errors import ConfigError, PatchworkWarning
from patchwork.data import ImagesDataModule, RandomAffineElastic
from patchwork.data.base import Split
from patchwork.data.sources import UCI, FashionMNIST
from patchwork.data.sources.uci import read_digits


def images(**changes: Any) -> ImagesDataModule:
    sizes = {"batch_size": 8, "eval_batch_size": 7, "samples_per_epoch": 40, "val_size": 60, "test_size": 70}
    data = ImagesDataModule(**{"dataset": NumberedSource(), "image_size": 6, "seed": 0, **sizes, **changes})
    data.setup()
    return data


def seen_ids(data: ImagesDataModule, split: Split, epoch: int = 0) -> list[int]:
    return [number for batch in read_epoch(data, split, epoch) for number in to_ids(batch["image"]).tolist()]


@pytest.mark.parametrize("split", SPLITS)
def test_labels_belong_to_the_images(split: Split) -> None:
    for batch in read_epoch(images(), split):
        assert torch.equal(LABELS[to_ids(batch["image"])], batch["label"])


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_takes_every_image_once(split: Split) -> None:
    assert seen_ids(images(), split) == list(IDS[split])
    for size in (500, None):  # no more than there are, or all
        data = images(val_size=size, test_size=size)
        assert seen_ids(data, split) == list(IDS[split])
        assert data.num_samples[split] == len(IDS[split])


@pytest.mark.parametrize("num_classes", [3, 10])
@pytest.mark.parametrize("split", ["val", "test"])
def test_image_ids_are_indices_in_the_official_part_of_the_source(split: Split, num_classes: int) -> None:
    data = images(num_classes=num_classes)
    check_ids(data, split, [to_ids(batch["image"])[:, None] for batch in read_epoch(data, split)])
    assert "index" not in data.make_batch("train", (0, 0), slice(None))


def test_validation_images_of_all_folds_are_the_training_part_each_once() -> None:
    ids, labels = [], []
    for fold in range(5):
        data = images(dataset=UCI(folds=5, fold=fold), image_size=28, val_size=None, eval_batch_size=100)
        batches = read_epoch(data, "val")
        ids += [batch["image_ids"].flatten() for batch in batches]
        labels += [batch["label"] for batch in batches]
    order = torch.cat(ids).argsort()
    assert torch.equal(torch.cat(ids)[order], torch.arange(1437))
    assert torch.equal(torch.cat(labels)[order], torch.from_numpy(read_digits()[1][:1437]).long())


def test_sizes_that_ranks_cannot_share_evenly_are_rejected_once_they_are_known() -> None:
    sizes = {"dataset": UCI(validation=181), "image_size": 28, "test_size": None, "eval_batch_size": 180}
    images(**sizes, val_size=None).check_shards(1)
    images(**sizes, val_size=180).check_shards(2)
    for val_size in (None, 5000):
        with pytest.raises(ConfigError, match=r"data\.val_size=181 cannot be divided evenly: use a multiple of 2"):
            images(**sizes, val_size=val_size).check_shards(2)


def test_class_names_are_those_of_the_source_and_known_before_it_is_loaded() -> None:
    names = ("T-shirt/top", "trouser", "pullover")
    sizes = {"seed": 0, "batch_size": 8, "eval_batch_size": 7, "samples_per_epoch": 40}
    data = ImagesDataModule(dataset=FashionMNIST(root="/nowhere"), num_classes=3, **sizes)
    assert data.class_names == names
    assert images().class_names == tuple("0123456789")


def test_training_cycles_through_all_images() -> None:
    data = images()
    taken = [number for epoch in range(6) for number in seen_ids(data, "train", epoch)]  # 240 samples of 120 images
    assert sorted(taken[:120]) == sorted(taken[120:]) == list(IDS["train"])
    assert taken[:120] != taken[120:]


def test_batches_depend_on_seed_epoch_and_index_only() -> None:
    first, again, other = (images(seed=seed, augment=RandomAffineElastic(degrees=20.0)) for seed in (1, 1, 2))
    batches = read_epoch(first, "train", 3)
    assert all(map(same_batch, batches, read_epoch(again, "train", 3)))
    assert same_batch(batches[2], again.make_batch("train", (3, 2), slice(None)))
    assert not any(map(same_batch, batches, read_epoch(other, "train", 3)))
    assert not any(map(same_batch, batches, read_epoch(again, "train", 4)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_shards_interleave_to_the_batch(split: Split) -> None:
    data = images(augment=RandomAffineElastic(degrees=20.0), eval_batch_size=8)
    assert same_batch(join_shards(data, split, (0, 1), 2), data.make_batch(split, (0, 1), slice(None)))


def test_augmentation_is_for_training_only() -> None:
    plain, augmented = images(), images(augment=RandomAffineElastic(degrees=20.0))
    assert all(map(same_batch, read_epoch(plain, "test"), read_epoch(augmented, "test")))
    assert not any(map(same_batch, read_epoch(plain, "train"), read_epoch(augmented, "train")))


def test_color_images_keep_their_channels() -> None:
    source = NumberedSource(plain=False, channels=3)
    data = images(dataset=source, in_channels=3, augment=RandomAffineElastic(degrees=20.0))
    assert data.make_batch("train", (0, 0), slice(None))["image"].shape == (8, 3, 6, 6)
    image = torch.cat([batch["image"] for batch in read_epoch(data, "val")])
    expected = source.load().val.images.float()
    torch.testing.assert_close(image, data.source.normalize(expected))


def test_channels_that_the_source_does_not_have_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"data\.in_channels=3.*use 1.*dataset=numbered"):
        images(in_channels=3)


def test_classes_that_are_left_out_are_said() -> None:
    with pytest.warns(PatchworkWarning) as warnings:
        data = images(num_classes=2)
    total = len(data.source.train.labels)
    expected = f"data.num_classes=2 keeps only 0, 1: {len(data.splits['train'].labels)} of {total} training images"
    assert str(warnings[0].message) == data.selection == expected
    assert images().selection == ""
