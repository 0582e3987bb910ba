"""Batches that a check compares: permuted, with noise for padding, trimmed, and with other inputs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from patchwork.tasks import Sum
from patchwork.tasks.image_sequence import concat_horizontally


class MeanPool(nn.Module):
    """Depends on all images alike, and not on padding."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return (image.flatten(2).sum(dim=2) * mask).sum(dim=1)


class Ordered(MeanPool):
    order_sensitive = True


def sequences(lengths: list[int]) -> dict[str, Tensor]:
    size = max(lengths)
    mask = torch.arange(size) < torch.tensor(lengths)[:, None]
    image = torch.rand(*mask.shape, 1, 2, 2, generator=torch.Generator().manual_seed(0)) + 1
    return {"image": image * mask[:, :, None, None, None], "mask": mask, "digits": mask.long()}


@pytest.fixture(scope="module")
def task() -> Sum:
    return Sum.__new__(Sum)  # its batches depend on no model


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_permutation_reverses_the_images_before_the_padding(task: Sum, lengths: list[int]) -> None:
    batch = sequences(lengths)
    reversed_batch = task.permute(batch)
    for row, length in enumerate(lengths):
        assert torch.equal(reversed_batch["image"][row, :length], batch["image"][row, :length].flip(0))
        assert torch.equal(reversed_batch["image"][row, length:], batch["image"][row, length:])
    assert torch.equal(task.permute(reversed_batch)["image"], batch["image"])


def test_padding_is_filled_with_noise_and_trimmed(task: Sum) -> None:
    batch = sequences([1, 3])
    filled = task.fill_padding(batch, torch.Generator().manual_seed(0))
    assert torch.equal(filled["image"][batch["mask"]], batch["image"][batch["mask"]])
    assert filled["image"][~batch["mask"]].ne(0).all()
    assert [task.trim(batch)[name].shape[1] for name in ("image", "mask")] == [2, 2]


def test_perturbed_inputs_change_all_images_and_then_each_alone(make_task: Callable[..., Any]) -> None:
    batch = sequences([3, 1, 2])
    task = make_task(Sum, MeanPool(), num_classes=10, max_length=3, test_lengths=[])
    every, *single = [task.forward(other) - task.forward(batch) for other in task.perturbed_inputs(batch)]
    assert every.ne(0).all()
    changed = [difference.ne(0).tolist() for difference in single]
    assert changed == [[True, True, True], [True, False, True], [True, False, False]]  # by position


def test_order_sensitivity_is_declared_by_the_model(make_task: Callable[..., Any]) -> None:
    options = {"num_classes": 10, "max_length": 3, "test_lengths": []}
    assert not make_task(Sum, MeanPool(), **options).order_sensitive
    assert make_task(Sum, Ordered(), **options).order_sensitive


def test_images_are_concatenated_from_left_to_right() -> None:
    image = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])[None]  # (1, 2, 1, 2, 2)
    assert concat_horizontally(image).tolist() == [[[[0, 0, 1, 1], [0, 0, 1, 1]]]]
