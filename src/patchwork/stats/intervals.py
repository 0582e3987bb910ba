"""Confidence intervals of shares, means and medians."""

import math

import numpy as np

LEVEL = 0.95  # of all intervals
Z = 1.959963984540054  # of the standard normal distribution, two-sided at that level


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Return the Wilson score interval of a share, (0, 1) if nothing was counted.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; unlike p ± 2 s.e. it is right near 0 and 1.
    """
    if n == 0:
        return 0.0, 1.0
    share, spread = successes / n, Z * Z / n
    center = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(min(center - half, share), 0.0), min(max(center + half, share), 1.0)  # despite rounding


def clustered_wilson(success: np.ndarray, unit: np.ndarray) -> tuple[float, float]:
    """Return the Wilson interval of a share whose samples are not independent, but belong to units that are.

    The interval is that of the number of independent samples whose share would vary as much (Kish's effective sample
    size); samples of one unit that are all alike count once.

    Args:
        success: (n,) true or false.
        unit: (n,) the unit of each, such as the digit that it shows.
    """
    n = len(success)
    if n == 0:
        return 0.0, 1.0
    share = float(success.mean())
    _, which = np.unique(unit, return_inverse=True)
    residuals = np.bincount(which, weights=success - share)
    variance = float((residuals**2).sum()) / n**2
    sizes = np.bincount(which)
    effective = n**2 / float((sizes**2).sum())  # if all samples of a unit are alike, as where nothing varies
    if variance > 0:
        effective = min(share * (1 - share) / variance, n)
    return wilson(share * effective, effective)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the t interval of the mean of independent values (n,); infinite for fewer than two."""
    from scipy.stats import t

    if len(values) < 2:
        return -math.inf, math.inf
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the median of independent values (n,) and its 95 % interval, which takes no distribution for granted.

    The ends are order statistics whose ranks are quantiles of the binomial distribution of n fair coins.
    """
    from scipy.stats import binom

    ordered, n = np.sort(values), len(values)
    low = max(int(binom.ppf((1 - LEVEL) / 2, n, 0.5)) - 1, 0)
    return float(np.median(values)), float(ordered[low]), float(ordered[n - 1 - low])
