"""Answer only when confident enough: a threshold that keeps a promised error rate."""

import math

import numpy as np

MAX_ERROR = 0.01  # of the answers that are given
COVERAGES = np.linspace(0.2, 1.0, 81)  # shares of samples to be answered, tried from the smallest on


def confidence_threshold(
    confidence: np.ndarray, correct: np.ndarray, *, max_error: float = MAX_ERROR, level: float = 0.95
) -> tuple[float, float]:
    """Return the lowest confidence from which on answers keep an error rate, and the share of samples that reach it.

    The thresholds of fixed shares of the samples are tested in order, from the most confident ones on, each by the
    Clopper-Pearson bound of its error rate; the last before the first failure is returned. In a fixed order no
    correction for several tests is needed (Angelopoulos et al. 2021, arXiv 2110.01052).

    Args:
        confidence: (n,) probability of each answer.
        correct: (n,) whether it is right.
        max_error: highest error rate among the answers that are given.
        level: probability that the rate is kept.

    Returns:
        The threshold and the coverage; (∞, 0) if no threshold keeps the rate.
    """
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~correct[order])
    needed = math.ceil(math.log(1 - level) / math.log(1 - max_error))  # fewer prove nothing, even without an error
    best = (math.inf, 0.0)
    for coverage in COVERAGES:
        count = round(coverage * len(confidence))
        if count < needed:
            continue
        threshold = float(confidence[order[count - 1]])
        count = int((confidence >= threshold).sum())  # those that are tied with the last one, too
        if error_bound(int(errors[count - 1]), count, level) > max_error:
            break
        best = (threshold, count / len(confidence))
    return best


def error_bound(errors: int, n: int, level: float) -> float:
    """Return the one-sided upper confidence bound of an error rate (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return 1.0 if errors == n else float(beta.ppf(level, errors + 1, n - errors))
