"""Whether probabilities are as often right as they say, judged against what perfectly calibrated ones would show.

A perfect forecaster does not score 0: with n samples, its measured error has a distribution, which is sampled here
(Roelofs et al. 2022, https://arxiv.org/abs/2012.08668). The reliability curve is the isotonic regression of outcomes on
probabilities, without bins (CORP: Dimitriadis, Gneiting and Jordan 2021, https://doi.org/10.1073/pnas.2016191118).

n samples; `probs` (n,) of being right, `right` (n,) whether they were.
"""

import math
from typing import NamedTuple

import numpy as np

NUM_BINS = 15
MAX_LOG_TEMPERATURE = 3.0


class BrierScore(NamedTuple):
    """The mean squared error of probabilities, and its parts: score = miscalibration − discrimination + uncertainty."""

    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float


def isotonic_fit(probs: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the calibrated probability (n,) of each sample: the nondecreasing function of `probs` nearest to `right`.

    Samples of equal probability have one value.
    """
    from sklearn.isotonic import isotonic_regression

    unique, which, counts = np.unique(probs, return_inverse=True, return_counts=True)
    shares = np.bincount(which, weights=right, minlength=len(unique)) / counts
    fitted: np.ndarray = isotonic_regression(shares, sample_weight=counts.astype(float))
    return fitted[which]


def brier_score(probs: np.ndarray, right: np.ndarray) -> BrierScore:
    """Return the Brier score and its CORP decomposition, whose parts are never negative."""
    fitted, base = isotonic_fit(probs, right), right.mean()
    score, recalibrated, uncertainty = (float(np.mean((p - right) ** 2)) for p in (probs, fitted, base))
    return BrierScore(score, score - recalibrated, uncertainty - recalibrated, uncertainty)


def calibration_error(probs: np.ndarray, right: np.ndarray, *, num_bins: int = NUM_BINS) -> np.ndarray:
    """Return the expected calibration error over bins of equal mass.

    Args:
        probs: (n,) probabilities of being right.
        right: (…, n) outcomes, of one experiment or several.
        num_bins: number of bins, each of as many samples.

    Returns:
        Errors (…).
    """
    order = np.argsort(probs, kind="stable")
    gaps = (right[..., order] - probs[order]).astype(float)
    starts = np.arange(num_bins) * len(probs) // num_bins
    starts = np.unique(starts[starts < len(probs)])
    return np.abs(np.add.reduceat(gaps, starts, axis=-1)).sum(axis=-1) / len(probs)


def perfect_outcomes(
    error: np.ndarray, rng: np.random.Generator, count: int, *, units: np.ndarray | None = None
) -> np.ndarray:
    """Return outcomes of experiments in which every probability is exactly right.

    A sample is right if all its parts are. Parts of one unit, such as cells that show the same digit, are drawn with
    one random number, so that they err together: that makes experiments differ from each other as much as they can.

    Args:
        error: (n, T) probabilities of an error of the T parts of each sample.
        rng: source of randomness.
        count: number of experiments.
        units: (n, T) the unit of each part; None if all are independent.

    Returns:
        Whether each sample is right (count, n).
    """
    which = np.arange(error.size) if units is None else np.unique(units, return_inverse=True)[1].flatten()
    num_units, outcomes = int(which.max()) + 1, np.empty((count, len(error)), dtype=bool)
    for outcome in outcomes:
        outcome[:] = (rng.random(num_units)[which].reshape(error.shape) >= error).all(axis=1)
    return outcomes


def p_value(observed: float, perfect: np.ndarray) -> float:
    """Return how probable at least as large an error is if the probabilities are right, given simulated errors (m,)."""
    return float((1 + (perfect >= observed).sum()) / (1 + len(perfect)))


def fit_temperature(logits: np.ndarray, target: np.ndarray) -> float:
    """Return the temperature that minimizes the negative log-likelihood (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: (n, C), or log-probabilities.
        target: (n,) classes.

    Returns:
        The temperature; NaN if none from 1/20 to 20 is the best, as of answers that are all right, or at chance.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(target)), target]).mean())

    bound = MAX_LOG_TEMPERATURE
    best = float(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-4}).x)
    return float(np.exp(best)) if abs(best) < bound - 1e-3 else math.nan
