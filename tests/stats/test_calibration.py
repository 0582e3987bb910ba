import math

import numpy as np
import pytest

from patchwork.stats.calibration import (
    brier_score,
    calibration_error,
    fit_temperature,
    isotonic_fit,
    p_value,
    perfect_outcomes,
)


def make_probs(rng: np.random.Generator, n: int = 1000) -> np.ndarray:
    return 1 - 10 ** rng.uniform(-4, -0.3, n)


def measured_p(probs: np.ndarray, right: np.ndarray) -> float:
    simulated = calibration_error(probs, perfect_outcomes(1 - probs[:, None], np.random.default_rng(1), 300))
    return p_value(float(calibration_error(probs, right)), simulated)


def test_calibrated_probabilities_are_rejected_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    experiments = [(probs := make_probs(rng), rng.random(len(probs)) < probs) for _ in range(100)]
    accepted = sum(measured_p(probs, right) >= 0.05 for probs, right in experiments)
    assert 90 <= accepted <= 99


def test_overconfident_probabilities_are_found_with_their_temperature() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(10_000, 10)) * 2
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = (rng.random((10_000, 1)) < probs.cumsum(axis=1)).argmax(axis=1)
    assert fit_temperature(2 * logits, target) == pytest.approx(2, abs=0.05)
    sharp = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)
    right = sharp.argmax(axis=1) == target
    assert measured_p(sharp.max(axis=1), right) < 0.01
    assert measured_p(probs.max(axis=1), right) >= 0.05


def test_answers_that_are_all_right_or_at_chance_have_no_temperature() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 10))
    assert math.isnan(fit_temperature(logits, logits.argmax(axis=1)))  # the colder, the better
    assert math.isnan(fit_temperature(logits, logits.argmin(axis=1)))  # the hotter, the better


def test_parts_add_up_and_are_not_negative() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        probs = make_probs(rng, 300).round(2)
        score = brier_score(probs, rng.random(300) < probs**2)
        assert score.miscalibration - score.discrimination + score.uncertainty == pytest.approx(score.score, abs=1e-12)
        assert min(score.miscalibration, score.discrimination, score.uncertainty) >= -1e-12


def test_order_of_samples_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    probs = make_probs(rng, 300).round(2)
    right, order = rng.random(300) < probs, rng.permutation(300)
    assert np.allclose(isotonic_fit(probs, right)[order], isotonic_fit(probs[order], right[order]))
    assert calibration_error(probs, right, num_bins=1) == pytest.approx(abs(probs.mean() - right.mean()))


def test_isotonic_fit_is_constant_where_order_is_violated() -> None:
    probs, right = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0, 1, 0, 1])
    assert isotonic_fit(probs, right).tolist() == [0, 0.5, 0.5, 1]


def test_cells_that_show_one_digit_err_together() -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(0, 500, (1000, 4))  # each digit in about eight cells
    error = rng.uniform(0.01, 0.05, 500)[units]
    shared = perfect_outcomes(error, rng, 400, units=units).mean(axis=1)
    independent = perfect_outcomes(error, rng, 400).mean(axis=1)
    assert shared.mean() == pytest.approx(independent.mean(), abs=0.005)
    assert shared.std() > 1.8 * independent.std()
