"""Splits: the training part is partitioned by a fixed seed, whatever the run's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from source_helpers import raises_one_line, source_tensors

from patchwork.core.errors import ConfigError
from patchwork.data.sources.base import check_fold, split_source, validation_indices

NUM_TRAIN, NUM_TEST = 41, 13
PARTS = ((NUM_TRAIN, (28, 28)), (NUM_TRAIN, ()), (NUM_TEST, (28, 28)), (NUM_TEST, ()))


@given(st.data(), st.integers(2, 300))
@settings(max_examples=50, deadline=None)
def test_folds_partition_the_training_part(data: st.DataObject, count: int) -> None:
    folds = data.draw(st.integers(2, count))
    parts = [validation_indices(count, 1, folds, fold) for fold in range(folds)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all((np.diff(part) > 0).all() for part in parts)


@given(st.data(), st.integers(2, 300))
@settings(max_examples=50, deadline=None)
def test_validation_indices_are_as_many_as_asked_for_and_do_not_depend_on_the_run(
    data: st.DataObject, count: int
) -> None:
    validation = data.draw(st.integers(1, count - 1))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    state = torch.get_rng_state()
    indices = validation_indices(count, validation)
    assert len(set(indices.tolist())) == validation
    assert set(indices.tolist()) <= set(range(count))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(indices, validation_indices(count, validation))


def test_default_split_never_changes() -> None:
    assert validation_indices(60_000, 5000)[:5].tolist() == [30, 35, 53, 72, 83]  # of MNIST


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (None, 0, "dataset.fold=0 needs dataset.folds"),
        (5, None, "dataset.fold=null is not allowed: use 0 to 4 with dataset.folds=5"),
        (5, 5, "dataset.fold=5 is not allowed: use 0 to 4 with dataset.folds=5"),
    ],
)
def test_folds_and_fold_that_do_not_fit_together_are_rejected(
    folds: int | None, fold: int | None, message: str
) -> None:
    assert message in raises_one_line(ConfigError, lambda: check_fold(folds, fold))


def test_splits_that_leave_nothing_to_train_on_are_rejected() -> None:
    for validation in (NUM_TRAIN, NUM_TRAIN + 1):
        message = raises_one_line(ConfigError, lambda value=validation: validation_indices(NUM_TRAIN, value))
        assert f"dataset.validation={validation} is not allowed: use 1 to {NUM_TRAIN - 1}" in message
    message = raises_one_line(ConfigError, lambda: validation_indices(NUM_TRAIN, 1, NUM_TRAIN + 1, 0))
    assert f"dataset.folds={NUM_TRAIN + 1} is not allowed: use 2 to {NUM_TRAIN}" in message


def test_tensors_of_a_source_share_no_memory_with_the_arrays() -> None:
    arrays = [
        np.ones(shape, np.uint8) for shape in ((NUM_TRAIN, 28, 28), (NUM_TRAIN,), (NUM_TEST, 28, 28), (NUM_TEST,))
    ]
    source = split_source("ones", arrays, np.arange(7), mean=0.5, std=0.5)
    for tensor in source_tensors(source):
        tensor.fill_(0)
    assert all(array.all() for array in arrays)


def test_indices_are_those_of_the_official_parts_whatever_the_split() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(256, size=(count, *shape), dtype=np.uint8) for count, shape in PARTS]
    for validation in (np.arange(7), np.array([3, 40]), validation_indices(NUM_TRAIN, 1, 3, 2)):
        source = split_source("random", arrays, validation, mean=0.5, std=0.5)
        parts = ((source.train, arrays[:2]), (source.val, arrays[:2]), (source.test, arrays[2:]))
        for split, (images, labels) in parts:
            assert split.indices.dtype == torch.int64
            assert np.array_equal(split.images[:, 0], images[split.indices])
            assert np.array_equal(split.labels, labels[split.indices])
        assert sorted(torch.cat([source.train.indices, source.val.indices]).tolist()) == list(range(NUM_TRAIN))
        assert source.val.indices.tolist() == validation.tolist()
        assert source.test.indices.tolist() == list(range(NUM_TEST))


def test_source_normalizes_by_its_mean_and_std() -> None:
    arrays = [
        np.ones(shape, np.uint8) for shape in ((NUM_TRAIN, 28, 28), (NUM_TRAIN,), (NUM_TEST, 28, 28), (NUM_TEST,))
    ]
    source = split_source("ones", arrays, np.arange(7), mean=0.25, std=0.5)
    assert (source.num_channels, source.image_size) == (1, 28)
    torch.testing.assert_close(source.normalize(torch.tensor([0.0, 255.0])), torch.tensor([-0.5, 1.5]))
