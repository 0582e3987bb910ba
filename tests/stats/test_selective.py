"""The promised error rate holds for new samples, and a threshold is given whenever one can be."""

import math

import numpy as np
import pytest

from patchwork.stats.selective import confidence_threshold, error_bound


def calibrated(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    confidence = rng.beta(8, 0.4, n)
    return confidence, rng.random(n) < confidence


def test_the_error_rate_is_kept_in_19_of_20_data_sets() -> None:
    rng = np.random.default_rng(0)
    new_confidence, new_correct = calibrated(rng, 200_000)
    kept = []
    for _ in range(100):
        threshold, coverage = confidence_threshold(*calibrated(rng, 2000))
        given = new_confidence >= threshold
        kept.append(not given.any() or float((~new_correct[given]).mean()) <= 0.01)
        assert 0 <= coverage < 1
    assert np.mean(kept) >= 0.9


def test_all_answers_are_given_if_all_are_right() -> None:
    confidence = np.linspace(0.1, 1, 1000)
    assert confidence_threshold(confidence, np.ones(1000, dtype=bool)) == (0.1, 1.0)


def test_no_answer_is_given_if_none_can_be_trusted() -> None:
    confidence = np.linspace(0.1, 1, 1000)
    assert confidence_threshold(confidence, np.zeros(1000, dtype=bool)) == (math.inf, 0.0)
    assert confidence_threshold(confidence[:50], np.ones(50, dtype=bool)) == (math.inf, 0.0)  # too few to tell
    assert confidence_threshold(np.empty(0), np.empty(0, dtype=bool)) == (math.inf, 0.0)


def test_ties_are_answered_together() -> None:
    confidence, correct = np.full(1000, 0.5), np.arange(1000) < 998
    assert confidence_threshold(confidence, correct) == (0.5, 1.0)
    assert confidence_threshold(confidence, np.arange(1000) < 900) == (math.inf, 0.0)


@pytest.mark.parametrize(("errors", "n", "bound"), [(0, 299, 0.00997), (1, 473, 0.01), (5, 100, 0.1023), (3, 3, 1.0)])
def test_error_bound_is_clopper_and_pearsons(errors: int, n: int, bound: float) -> None:
    assert error_bound(errors, n, 0.95) == pytest.approx(bound, abs=3e-4)
