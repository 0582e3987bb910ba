"""Grids of digits: what stands where, drawn from which digits, and the same or another one whenever it should be."""

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from patchwork.data import Deform, Stitched
from patchwork.data.digits import Digits, Split
from patchwork.data.handwriting import MEAN, STD
from patchwork.data.stream import Batch, Part

PARTS: list[Part] = ["train", "val", "test"]
IDS = {"train": range(120), "val": range(120, 180), "test": range(180, 250)}
grids = pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 5), (2, 2), (2, 3), (3, 1)])


class Numbered:
    """A source of 250 digits: all pixels of one, or only the first, are its number, and its label follows from it."""

    def __init__(self, size: int = 6, *, plain: bool = True) -> None:
        numbers = torch.arange(250, dtype=torch.uint8)
        random = torch.randint(256, (250, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        self.images = numbers[:, None, None].expand(250, size, size).clone() if plain else random
        self.images[:, 0, 0] = numbers
        self.labels = torch.arange(250) * 7 % 10

    def load(self) -> Digits:
        parts = {part: Split(self.images[list(ids)], self.labels[list(ids)]) for part, ids in IDS.items()}
        return Digits("numbered", "none", **parts)


def stitched(**changes: Any) -> Stitched:
    sizes = {"batch_size": 8, "eval_batch_size": 4, "train_size": 40, "val_size": 10, "test_size": 12}
    data = Stitched(**{"digits": Numbered(), "cell_size": 6, "seed": 0, **sizes, **changes})
    data.setup()
    return data


def pixels(batch: Batch) -> Tensor:
    """Give the images as bytes again (B, height, width)."""
    return ((batch["image"][:, 0] * STD + MEAN) * 255).round().long()


def numbers(batch: Batch, data: Stitched) -> Tensor:
    """Read which digit stands in each cell (B, rows · cols), in reading order."""
    size, image = data.cell_size, pixels(batch)
    corners = [(row * size, col * size) for row, col in product(range(data.rows), range(data.cols))]
    return torch.stack([image[:, top, left] for top, left in corners], dim=1)


def epoch(data: Stitched, part: Part, number: int = 0) -> list[Batch]:
    loader: DataLoader = getattr(data, f"{part}_dataloader")()
    loader.sampler.set_epoch(number)
    return list(loader)


def same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- what stands where -----------------------------------------------------------------------------------------------


@grids
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("fresh", [True, False])
def test_labels_belong_to_the_images_in_every_cell(rows: int, cols: int, part: Part, fresh: bool) -> None:
    data, source = stitched(rows=rows, cols=cols, fresh=fresh), Numbered()
    for batch in epoch(data, part):
        assert batch["image"].shape[1:] == (1, rows * 6, cols * 6)
        assert batch["digits"].dtype == torch.long
        assert torch.equal(source.labels[numbers(batch, data)], batch["digits"])


@grids
@pytest.mark.parametrize("part", PARTS)
def test_every_pixel_of_a_cell_is_its_digits(rows: int, cols: int, part: Part) -> None:
    source = Numbered(plain=False)
    data = stitched(digits=source, rows=rows, cols=cols)
    batch = epoch(data, part)[0]
    image = pixels(batch)
    for index, (row, col) in enumerate(product(range(rows), range(cols))):
        cell = image[:, row * 6 : (row + 1) * 6, col * 6 : (col + 1) * 6]
        assert torch.equal(cell, source.images[numbers(batch, data)[:, index]].long())


def test_black_and_white_are_normalised_as_mnists() -> None:
    source = Numbered()
    source.images[:] = 255 * (torch.arange(250) % 2)[:, None, None]
    image = epoch(stitched(digits=source), "train")[0]["image"]
    assert image.dtype == torch.float32
    torch.testing.assert_close(image.unique(), torch.tensor([-MEAN / STD, (1 - MEAN) / STD]))


@pytest.mark.parametrize("cell_size", [3, 6, 10])
def test_digits_are_resized_to_the_cell(cell_size: int) -> None:
    data, source = stitched(cell_size=cell_size), Numbered()
    batch = epoch(data, "val")[0]
    assert batch["image"].shape == (4, 1, 2 * cell_size, 2 * cell_size)
    assert torch.equal(source.labels[numbers(batch, data)], batch["digits"])
    cells = pixels(batch).unflatten(2, (2, cell_size)).unflatten(1, (2, cell_size))  # (B, 2, size, 2, size)
    assert torch.equal(cells.amin(dim=(2, 4)), cells.amax(dim=(2, 4)))  # nothing bleeds from one cell into another


# --- drawn from which digits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [True, False])
def test_each_split_draws_from_its_own_digits(fresh: bool) -> None:
    data = stitched(fresh=fresh, train_size=400, val_size=200, test_size=200)
    for part in PARTS:
        seen = {number for batch in epoch(data, part) for number in numbers(batch, data).flatten().tolist()}
        assert seen <= set(IDS[part])
        assert len(seen) > 0.95 * len(IDS[part])


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("part", PARTS)
def test_only_digits_below_the_number_of_classes_are_drawn(num_classes: int, part: Part) -> None:
    data = stitched(num_classes=num_classes)
    batches = epoch(data, part)
    assert set(torch.cat([batch["digits"].flatten() for batch in batches]).tolist()) == set(range(num_classes))
    assert all(torch.equal(Numbered().labels[numbers(batch, data)], batch["digits"]) for batch in batches)


# --- the same, or another one ----------------------------------------------------------------------------------------

augment = pytest.mark.parametrize(
    "augment", [None, Deform(shift=2.0, rotation=30.0, scale=0.2, shear=10.0, elastic=1.0)]
)
fresh_or_not = pytest.mark.parametrize("fresh", [True, False])


@augment
@fresh_or_not
def test_a_batch_is_a_function_of_seed_epoch_and_index(augment: Deform | None, fresh: bool) -> None:
    first, again = (stitched(augment=augment, fresh=fresh, seed=3) for _ in range(2))
    keys = list(product(range(2), range(3)))
    batches = {key: first.make("train", key, slice(None)) for key in keys}
    for key in reversed(keys):  # in another order, from another object, in another random state
        torch.manual_seed(key[1])
        assert same(again.make("train", key, slice(None)), batches[key])
    other = stitched(augment=augment, fresh=fresh, seed=4)
    different = [*batches.values(), other.make("train", (0, 0), slice(None))]
    assert len({tuple(batch["image"].flatten().tolist()) for batch in different}) == len(keys) + 1


def test_a_sample_is_transformed_anew_in_every_epoch_and_cell() -> None:
    source = Numbered()
    source.images[:] = 255
    data = stitched(digits=source, augment=Deform(shift=2.0, rotation=30.0))
    cells = [cell for number in range(2) for batch in epoch(data, "train", number) for cell in cells_of(batch)]
    assert len(set(cells)) == len(cells) == 2 * 40 * 4


def cells_of(batch: Batch) -> list[tuple[float, ...]]:
    cells = batch["image"].unflatten(3, (2, 6)).unflatten(2, (2, 6)).permute(0, 2, 4, 1, 3, 5)  # (B, 2, 2, 1, 6, 6)
    return [tuple(cell.tolist()) for cell in cells.flatten(0, 2).flatten(1)]


@augment
@fresh_or_not
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_shards_interleave_to_the_batch(part: Part, world: int, augment: Deform | None, fresh: bool) -> None:
    data = stitched(augment=augment, fresh=fresh, val_size=12)
    for index in range(data.length(part)):
        whole = data.make(part, (1, index), slice(0, None, 1))
        shards = [data.make(part, (1, index), slice(rank, None, world)) for rank in range(world)]
        for name in whole:
            together = torch.stack([shard[name] for shard in shards], dim=1).flatten(0, 1)
            torch.testing.assert_close(together, whole[name], rtol=0, atol=1e-5)


@fresh_or_not
def test_workers_change_no_batch(fresh: bool) -> None:
    options = {"augment": Deform(shift=2.0, rotation=30.0), "fresh": fresh}
    alone, helped = stitched(**options), stitched(**options, num_workers=2)
    for part in PARTS:
        assert all(same(*pair) for pair in zip(epoch(alone, part, 2), epoch(helped, part, 2), strict=True))


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_is_the_same_in_every_run_and_epoch_and_never_augmented(part: Part) -> None:
    plain = epoch(stitched(), part)
    sizes = {"val": [4, 4, 2], "test": [4, 4, 4]}
    assert [len(batch["digits"]) for batch in plain] == sizes[part]
    changes: dict[str, Any] = {"seed": 5, "augment": Deform(rotation=90.0), "fresh": False, "batch_size": 5}
    for name, value in changes.items():
        found = epoch(stitched(**{name: value}), part, 3)
        assert all(same(*pair) for pair in zip(found, plain, strict=True)), name


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_size_of_evaluation_batches_changes_no_sample(part: Part) -> None:
    small, large = (torch.cat([b["image"] for b in epoch(stitched(eval_batch_size=size), part)]) for size in (3, 100))
    assert torch.equal(small, large)


def grids_of(data: Stitched, number: int) -> list[tuple[int, ...]]:
    return [tuple(grid) for batch in epoch(data, "train", number) for grid in numbers(batch, data).tolist()]


def test_grids_that_are_kept_come_once_an_epoch_in_another_order() -> None:
    data = stitched(fresh=False)
    first, second = grids_of(data, 0), grids_of(data, 1)
    assert len(set(first)) == len(first) == 40
    assert Counter(first) == Counter(second)
    assert first != second
    assert Counter(grids_of(stitched(fresh=False, seed=1), 0)) != Counter(first)


def test_grids_that_are_fresh_never_come_again() -> None:
    data = stitched()
    seen = [grid for number in range(3) for grid in grids_of(data, number)]
    assert len(set(seen)) == len(seen) == 120


def test_kept_grids_that_fill_no_batch_have_their_turn_in_another_epoch() -> None:
    data = stitched(fresh=False, train_size=44)
    epochs = [grids_of(data, number) for number in range(8)]
    assert {len(set(grids)) for grids in epochs} == {40}
    assert len(set().union(*epochs)) == 44


def test_setting_up_again_changes_nothing() -> None:
    data = stitched(fresh=False)
    before = data.make("train", (0, 0), slice(None)), data.make("val", (0, 0), slice(None))
    data.prepare_data()
    data.setup("fit")
    after = data.make("train", (0, 0), slice(None)), data.make("val", (0, 0), slice(None))
    assert all(same(*pair) for pair in zip(before, after, strict=True))
