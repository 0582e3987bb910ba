"""Sampling: frequencies equal probabilities, and particles are resampled in proportion to their weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.models.sampling import gumbel, gumbel_max_sample, systematic_resample

PROBS = torch.tensor([0.15, 0.5, 0.05, 0.3])


def test_gumbel_max_samples_follow_the_softmax() -> None:
    logits = PROBS.log().expand(100_000, -1)
    noise = gumbel(logits.shape, torch.Generator().manual_seed(4))
    frequencies = gumbel_max_sample(logits, noise).bincount(minlength=4) / len(noise)
    assert torch.allclose(frequencies, PROBS, atol=0.006)
    top_2 = gumbel_max_sample(logits, noise, top_k=2).bincount(minlength=4) / len(noise)
    assert torch.allclose(top_2, torch.tensor([0, 0.5, 0, 0.3]) / 0.8, atol=0.006)


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"top_p": 0.79}, [1, 3]),
        ({"top_p": 0.81}, [0, 1, 3]),
        ({"top_k": 1}, [1]),
        ({"top_k": 3, "top_p": 0.79}, [1, 3]),
    ],
    ids=str,
)
def test_top_k_and_top_p_sample_from_the_likeliest_tokens_only(options: dict, tokens: list[int]) -> None:
    logits = PROBS.log().expand(20_000, -1)
    noise = gumbel(logits.shape, torch.Generator().manual_seed(4))
    assert gumbel_max_sample(logits, noise, **options).unique().tolist() == tokens


def test_systematic_resampling_is_unbiased() -> None:
    weights = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.0, 0.0, 1.0, 0.0]], dtype=torch.double)
    rng = torch.Generator().manual_seed(7)
    indices = torch.stack([systematic_resample(weights, rng) for _ in range(500)], dim=1).flatten(1)
    assert (indices[1] == 2).all()
    assert torch.allclose(indices[0].bincount(minlength=4) / 2000, weights[0].float(), atol=0.02)


@settings(deadline=None, max_examples=50)
@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=20).map(torch.tensor),
    seed=st.integers(0, 2**32 - 1),
)
def test_systematic_resampling_takes_each_particle_as_often_as_its_weight_says(
    weights: torch.Tensor, seed: int
) -> None:
    weights = weights.double() / weights.sum()
    counts = systematic_resample(weights[None], torch.Generator().manual_seed(seed))[0].bincount(minlength=len(weights))
    assert counts.sum() == len(weights)
    assert ((counts - len(weights) * weights).abs() < 1 + 1e-6).all()
