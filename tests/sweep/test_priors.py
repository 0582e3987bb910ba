"""Distributions are those of W&B, and what is sampled is allowed and reproducible."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from patchwork.data.rng import make_rng
from patchwork.sweep.priors import Prior

FLOATS = st.floats(1e-6, 1e6)


@given(low=FLOATS, width=FLOATS, fraction=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_continuous_values_have_four_digits_and_stay_in_range(low: float, width: float, fraction: float) -> None:
    distribution = FloatDistribution(low, low + width)
    value = low + fraction * (distribution.high - low)
    rounded = Prior(distribution).round(value)
    assert distribution.low <= rounded <= distribution.high
    assert abs(rounded - value) <= 0.0005 * value
    assert rounded in (distribution.low, distribution.high) or float(f"{rounded:.4g}") == rounded


def test_only_continuous_values_are_rounded() -> None:
    assert Prior(IntDistribution(0, 200000)).round(123456) == 123456
    assert Prior(CategoricalDistribution([0.123456])).round(0.123456) == 0.123456


@given(low=st.integers(1, 99), width=st.integers(0, 999), quantum=st.integers(1, 32), log=st.booleans(), data=st.data())
@settings(max_examples=50, deadline=None)
def test_quantized_values_are_multiples_in_range(low: int, width: int, quantum: int, log: bool, data: Any) -> None:
    prior = Prior.quantized(low, low + max(width, quantum), quantum, log=log)
    distribution: Any = prior.distribution
    assert 0 < distribution.low <= distribution.high
    value = prior.round(data.draw(st.integers(distribution.low, distribution.high)))
    assert isinstance(value, int)
    assert value % quantum == 0
    assert distribution._contains(value)
    assert value in prior.grid()


def test_quantized_floats_are_written_without_noise() -> None:
    assert Prior.quantized(0.1, 0.5, 0.1).grid() == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_inverse_log_uniform_is_log_uniform() -> None:
    """The logarithm of 1/x is uniform where that of x is."""
    assert Prior.between("inv_log_uniform_values", 0.1, 1.0, None) == Prior.between(
        "log_uniform_values", 0.1, 1.0, None
    )
    inverse, direct = Prior.between("inv_log_uniform", 1, 2, None), Prior.between("log_uniform", -2, -1, None)
    assert inverse == direct
    assert direct.distribution == FloatDistribution(math.exp(-2), math.exp(-1), log=True)


@pytest.mark.parametrize(("kind", "quantum"), [("normal", None), ("log_normal", None), ("q_normal", 2)])
def test_normal_samples_have_mean_and_standard_deviation(kind: str, quantum: int | None) -> None:
    prior = Prior.normal(kind, mu=3.0, sigma=0.5 if quantum is None else 8.0, quantum=quantum)
    samples = [prior.sample(make_rng("test", index)) for index in range(400)]
    assert samples == [prior.sample(make_rng("test", index)) for index in range(400)]
    values = [math.log(sample) for sample in samples] if kind == "log_normal" else samples
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    assert abs(mean - 3) < 0.2 * prior.sigma
    assert abs(std / prior.sigma - 1) < 0.2
    assert all(prior.distribution._contains(sample) for sample in samples)
    assert quantum is None or all(isinstance(sample, int) and sample % quantum == 0 for sample in samples)


def test_rare_samples_do_not_overflow() -> None:
    prior = Prior.normal("log_normal", mu=700.0, sigma=2.0, quantum=None)
    samples = [replace(prior, sigma=100.0).sample(make_rng("test", index)) for index in range(50)]
    assert max(samples) == prior.distribution.high
    with pytest.raises(OverflowError):
        Prior.normal("log_normal", mu=700.0, sigma=3.0, quantum=None)


def test_values_are_sampled_by_their_probabilities() -> None:
    prior = Prior(CategoricalDistribution(["a", "b", "c"]), probabilities=[0.7, 0.3, 0.0])
    samples = [prior.sample(make_rng("test", index)) for index in range(400)]
    assert abs(samples.count("a") / 400 - 0.7) < 0.1
    assert "c" not in samples


def test_too_many_values_are_not_listed() -> None:
    assert Prior(IntDistribution(0, 2**32 - 1)).grid() == [0, 2**32 - 1]
