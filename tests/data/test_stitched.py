"""Grids: what each cell holds, which images it is sampled from, and which grids are repeated."""

from collections import Counter
from itertools import product
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
    to_pixels,
)
from torch import Tensor

from patchwork.data import RandomAffineElastic, StitchedDataModule
from patchwork.data.base import Batch, Split
from patchwork.data.sources.base import MNIST_MEAN, MNIST_STD

GRIDS = [(1, 1), (1, 5), (2, 2), (2, 3), (3, 1)]  # rows, cols


def stitched(**changes: Any) -> StitchedDataModule:
    sizes = {"batch_size": 8, "eval_batch_size": 4, "samples_per_epoch": 40, "val_size": 10, "test_size": 12}
    data = StitchedDataModule(**{"dataset": NumberedSource(), "cell_size": 6, "seed": 0, **sizes, **changes})
    data.setup()
    return data


def split_cells(image: Tensor, data: StitchedDataModule) -> Tensor:
    """Return the cells (B, rows · cols, C, size, size) of grids (B, C, H, W), in reading order."""
    size = data.cell_size
    cells = image.unflatten(3, (data.cols, size)).unflatten(2, (data.rows, size))  # (B, C, rows, size, cols, size)
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def cell_ids(batch: Batch, data: StitchedDataModule) -> Tensor:
    """Return the ids (B, rows · cols) of the images in the cells."""
    return to_ids(split_cells(batch["image"], data))


# --- what each cell holds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "cols"), GRIDS)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("resample_each_epoch", [True, False])
def test_labels_belong_to_the_images_in_every_cell(
    rows: int, cols: int, split: Split, resample_each_epoch: bool
) -> None:
    data = stitched(rows=rows, cols=cols, resample_each_epoch=resample_each_epoch)
    for batch in read_epoch(data, split):
        assert batch["image"].shape[1:] == (1, rows * 6, cols * 6)
        assert batch["digits"].dtype == torch.long
        assert torch.equal(LABELS[cell_ids(batch, data)], batch["digits"])


@pytest.mark.parametrize(("rows", "cols"), GRIDS)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_of_a_cell_is_its_images(rows: int, cols: int, split: Split, channels: int) -> None:
    source = NumberedSource(plain=False, channels=channels)
    data = stitched(dataset=source, rows=rows, cols=cols, in_channels=channels)
    batch = read_epoch(data, split)[0]
    pixels = split_cells(to_pixels(batch["image"]), data)
    assert torch.equal(pixels, source.images[cell_ids(batch, data)].long())


@pytest.mark.parametrize("num_classes", [4, 10])
@pytest.mark.parametrize("split", ["val", "test"])
def test_image_ids_are_those_of_the_cells(split: Split, num_classes: int) -> None:
    data = stitched(num_classes=num_classes)
    check_ids(data, split, [cell_ids(batch, data) for batch in read_epoch(data, split)])
    assert "index" not in data.make_batch("train", (0, 0), slice(None))


def test_images_are_normalized_by_the_sources_mean_and_std() -> None:
    source = NumberedSource()
    source.images[:] = 255 * (torch.arange(250) % 2)[:, None, None, None]
    image = read_epoch(stitched(dataset=source), "train")[0]["image"]
    assert image.dtype == torch.float32
    torch.testing.assert_close(image.unique(), torch.tensor([-MNIST_MEAN / MNIST_STD, (1 - MNIST_MEAN) / MNIST_STD]))


@pytest.mark.parametrize("cell_size", [3, 6, 10])
def test_images_are_resized_to_the_cell(cell_size: int) -> None:
    data = stitched(cell_size=cell_size)
    batch = read_epoch(data, "val")[0]
    assert batch["image"].shape == (4, 1, 2 * cell_size, 2 * cell_size)
    assert torch.equal(LABELS[cell_ids(batch, data)], batch["digits"])
    cells = split_cells(to_pixels(batch["image"]), data).flatten(2)
    assert torch.equal(cells.amin(dim=2), cells.amax(dim=2))  # cells do not overlap


# --- which images are sampled ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("resample_each_epoch", [True, False])
def test_each_split_samples_its_own_images(resample_each_epoch: bool) -> None:
    data = stitched(resample_each_epoch=resample_each_epoch, samples_per_epoch=400, val_size=200, test_size=200)
    for split in SPLITS:
        seen = {number for batch in read_epoch(data, split) for number in cell_ids(batch, data).flatten().tolist()}
        assert seen <= set(IDS[split])
        assert len(seen) > 0.95 * len(IDS[split])


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("split", SPLITS)
def test_only_classes_below_num_classes_are_sampled(num_classes: int, split: Split) -> None:
    data = stitched(num_classes=num_classes)
    batches = read_epoch(data, split)
    assert set(torch.cat([batch["digits"].flatten() for batch in batches]).tolist()) == set(range(num_classes))
    assert all(torch.equal(LABELS[cell_ids(batch, data)], batch["digits"]) for batch in batches)


# --- which grids are repeated ----------------------------------------------------------------------------------------

augments = pytest.mark.parametrize(
    "augment", [None, RandomAffineElastic(translate=2.0, degrees=30.0, scale=0.2, shear=10.0, elastic_std=1.0)]
)
resampled_or_not = pytest.mark.parametrize("resample_each_epoch", [True, False])


@augments
@resampled_or_not
def test_batch_is_a_function_of_seed_epoch_and_index(
    augment: RandomAffineElastic | None, resample_each_epoch: bool
) -> None:
    first, again = (stitched(augment=augment, resample_each_epoch=resample_each_epoch, seed=3) for _ in range(2))
    indices = list(product(range(2), range(3)))
    batches = {index: first.make_batch("train", index, slice(None)) for index in indices}
    for index in reversed(indices):  # in another order, from another object, in another global random state
        torch.manual_seed(index[1])
        assert same_batch(again.make_batch("train", index, slice(None)), batches[index])
    other = stitched(augment=augment, resample_each_epoch=resample_each_epoch, seed=4)
    different = [*batches.values(), other.make_batch("train", (0, 0), slice(None))]
    assert len({tuple(batch["image"].flatten().tolist()) for batch in different}) == len(indices) + 1


def test_augmentation_is_sampled_anew_in_every_epoch_and_cell() -> None:
    source = NumberedSource()
    source.images[:] = 255
    data = stitched(dataset=source, augment=RandomAffineElastic(translate=2.0, degrees=30.0))
    images = torch.cat([batch["image"] for epoch in range(2) for batch in read_epoch(data, "train", epoch)])
    cells = split_cells(images, data).flatten(0, 1).flatten(1)
    assert len(cells.unique(dim=0)) == len(cells) == 2 * 40 * 4


@augments
@resampled_or_not
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shards_interleave_to_the_batch(
    split: Split, world_size: int, augment: RandomAffineElastic | None, resample_each_epoch: bool
) -> None:
    data = stitched(augment=augment, resample_each_epoch=resample_each_epoch, val_size=12)
    for index in range(data.num_batches(split)):
        whole, joined = (
            data.make_batch(split, (1, index), slice(None)),
            join_shards(data, split, (1, index), world_size),
        )
        assert whole.keys() == joined.keys()
        for name in whole:
            torch.testing.assert_close(joined[name], whole[name], rtol=0, atol=1e-5)


def test_workers_do_not_change_batches() -> None:
    augment = RandomAffineElastic(translate=2.0, degrees=30.0)
    for resample_each_epoch, split in ((True, "train"), (False, "train"), (False, "val")):
        options = {"augment": augment, "resample_each_epoch": resample_each_epoch}
        alone, helped = (read_epoch(stitched(**options, num_workers=workers), split, 2) for workers in (0, 2))
        assert all(same_batch(*pair) for pair in zip(alone, helped, strict=True))


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_is_the_same_in_every_run_and_epoch_and_never_augmented(split: Split) -> None:
    plain = read_epoch(stitched(), split)
    sizes = {"val": [4, 4, 2], "test": [4, 4, 4]}
    assert [len(batch["digits"]) for batch in plain] == sizes[split]
    changes = {
        "seed": 5,
        "augment": RandomAffineElastic(degrees=90.0),
        "resample_each_epoch": False,
        "batch_size": 5,
    }
    for name, value in changes.items():
        batches = read_epoch(stitched(**{name: value}), split, 3)
        assert all(same_batch(*pair) for pair in zip(batches, plain, strict=True)), name


@pytest.mark.parametrize("split", ["val", "test"])
def test_eval_batch_size_does_not_change_samples(split: Split) -> None:
    small, large = (read_epoch(stitched(eval_batch_size=size), split) for size in (3, 100))
    assert same_batch({name: torch.cat([batch[name] for batch in small]) for name in small[0]}, large[0])
    assert len(large) == 1


def epoch_grids(data: StitchedDataModule, epoch: int) -> list[tuple[int, ...]]:
    return [tuple(grid) for batch in read_epoch(data, "train", epoch) for grid in cell_ids(batch, data).tolist()]


def test_fixed_grids_come_once_an_epoch_in_another_order() -> None:
    data = stitched(resample_each_epoch=False)
    first, second = epoch_grids(data, 0), epoch_grids(data, 1)
    assert len(set(first)) == len(first) == 40
    assert Counter(first) == Counter(second)
    assert first != second
    assert Counter(epoch_grids(stitched(resample_each_epoch=False, seed=1), 0)) != Counter(first)


def test_resampled_grids_are_never_repeated() -> None:
    data = stitched()
    seen = [grid for epoch in range(3) for grid in epoch_grids(data, epoch)]
    assert len(set(seen)) == len(seen) == 120


def test_fixed_grids_that_fill_no_batch_are_seen_in_another_epoch() -> None:
    data = stitched(resample_each_epoch=False, samples_per_epoch=44)
    epochs = [epoch_grids(data, epoch) for epoch in range(8)]
    assert {len(set(grids)) for grids in epochs} == {40}
    assert len(set().union(*epochs)) == 44


def test_setup_is_idempotent() -> None:
    data = stitched(resample_each_epoch=False)
    before = data.make_batch("train", (0, 0), slice(None)), data.make_batch("val", (0, 0), slice(None))
    data.prepare_data()
    data.setup("fit")
    after = data.make_batch("train", (0, 0), slice(None)), data.make_batch("val", (0, 0), slice(None))
    assert all(same_batch(*pair) for pair in zip(before, after, strict=True))
