"""Confidence intervals of shares, means and medians."""

import math

import numpy as np

LEVEL = 0.95  # of all intervals
Z = 1.959963984540054  # of the standard normal distribution, two-sided at that level
MIN_MEDIAN = 6  # values: of fewer, not even the smallest and the largest enclose the median in 95 % of cases


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

    The interval is that of the number of independent samples whose share would vary as much, as far as so many units
    tell it: the t quantile has one degree of freedom less than there are units (after Korn and Graubard 1998, Survey
    Methodology 24, pp. 193-201). Samples of one unit that are all alike count once. Several samples of a single unit
    tell nothing, and the interval is (0, 1), as if nothing was counted.

    Args:
        success: (n,) true or false.
        unit: (n,) the unit of each, such as the digit that it shows.
    """
    from scipy.stats import t

    n = len(success)
    _, which = np.unique(unit, return_inverse=True)
    sizes = np.bincount(which)
    units = len(sizes)
    if n == 0 or units < min(n, 2):
        return 0.0, 1.0
    share = float(success.mean())
    if units == n or share in (0, 1):  # independent; or nothing varies, and the samples of a unit are taken to be alike
        effective = n**2 / float((sizes**2).sum())
        return wilson(share * effective, effective)
    residuals = np.bincount(which, weights=success - share)
    variance = units / (units - 1) * float((residuals**2).sum()) / n**2
    limit = share * (1 - share) / (n - 1)  # of independent samples, and of those that balance each other in their units
    effective = share * (1 - share) / max(variance, limit) + 1
    if effective > units:
        few, many = t.ppf((1 + LEVEL) / 2, [units - 1, effective - 1])
        effective *= float(many / few) ** 2
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

    The ends are order statistics whose ranks are quantiles of the binomial distribution of n fair coins; they are NaN
    for fewer than six values, none of whose intervals is so wide.
    """
    from scipy.stats import binom

    ordered, n = np.sort(values), len(values)
    if n < MIN_MEDIAN:
        return float(np.median(values)) if n else math.nan, math.nan, math.nan
    low = int(binom.ppf((1 - LEVEL) / 2, n, 0.5)) - 1
    return float(np.median(values)), float(ordered[low]), float(ordered[n - 1 - low])
