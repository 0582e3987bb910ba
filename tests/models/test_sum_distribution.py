"""Distributions of sums: exact by enumeration, normalized, and independent of padding."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from patchwork.models import SumDistribution
from patchwork.models.sum_distribution import convolve_distributions

SIZES = {"image_size": 14, "in_channels": 1, "num_classes": 10, "stem": None, "embed_dim": 8}


@settings(deadline=None, max_examples=25)
@given(length=st.integers(1, 5), values=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
def test_convolution_equals_enumeration_of_all_digits(length: int, values: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    probs = torch.rand(2, length, values, dtype=torch.double, generator=rng).softmax(-1)
    expected = torch.zeros(2, length * (values - 1) + 1, dtype=torch.double)
    for digits in product(range(values), repeat=length):
        joint = torch.stack([probs[:, index, digit] for index, digit in enumerate(digits)])
        expected[:, sum(digits)] += joint.prod(dim=0)
    torch.testing.assert_close(convolve_distributions(probs), expected)


def test_convolution_of_many_distributions_is_a_distribution() -> None:
    probs = convolve_distributions(torch.rand(2, 100, 10).softmax(dim=-1))
    assert probs.shape == (2, 901)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2))
    assert (probs >= 0).all()


@settings(deadline=None, max_examples=50)
@given(digits=st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_convolution_of_certain_digits_is_certain_of_their_sum(digits: list[int]) -> None:
    probs = convolve_distributions(F.one_hot(torch.tensor([digits]), 10).float())
    assert probs.argmax() == sum(digits)
    assert probs.max() == 1


def test_sum_distribution_is_zero_above_the_largest_possible_sum(padded_images: tuple[Tensor, Tensor]) -> None:
    probs = SumDistribution(**SIZES).eval()(*padded_images).exp()
    assert probs.shape == (3, 55)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(3))
    assert probs[0, 37:].max() < 1e-9  # of four digits
    assert probs[2, 10:].max() < 1e-9


def test_padding_does_not_change_the_sum_distribution(padded_images: tuple[Tensor, Tensor]) -> None:
    model = SumDistribution(**SIZES).eval()
    image, mask = padded_images
    padded, unpadded = model(image, mask), model(image[:1, :4], mask[:1, :4])
    torch.testing.assert_close(padded[:1, : unpadded.shape[1]], unpadded)


@pytest.mark.parametrize("length", [1, 30])
def test_sum_distribution_is_finite_at_any_length(length: int) -> None:
    model = SumDistribution(**SIZES).eval()
    log_probs = model(torch.randn(3, length, 1, 14, 14), torch.ones(3, length, dtype=torch.bool))
    assert log_probs.shape == (3, 9 * length + 1)
    assert log_probs.isfinite().all()
