"""Confidence intervals over samples that overlap, as grids or sequences that show some of the same images.

An image that is misread makes every sample that shows it wrong, so that samples are less than independent. Those that
show no image in common are taken to be independent, and all others to depend on each other in any way (the
dyadic-robust variance: Fafchamps and Gubert 2007, https://doi.org/10.1016/j.jdeveco.2006.05.005).

n samples; `images` (n, K) the images that each shows, −1 where it shows fewer than K.
"""

import numpy as np

from patchwork.stats.intervals import LEVEL, Z, wilson

CHUNK = 1000  # samples whose pairs are counted at once


def overlapping_wilson(success: np.ndarray, images: np.ndarray) -> tuple[float, float]:
    """Return the Wilson interval of a share: that of as many independent samples as would vary as much.

    Args:
        success: (n,) true or false.
        images: (n, K) of each.
    """
    n = len(success)
    if n == 0:
        return wilson(0, 0)
    share = float(success.mean())
    independent = share * (1 - share) * n
    if independent:
        effective = n * independent / sum_variance(success - share, images)
    else:  # nothing varies: as many as there are if overlapping samples are all alike
        effective = n**2 / sum_variance(np.ones(n), images)
    return wilson(share * effective, effective)


def overlapping_mean_interval(values: np.ndarray, images: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values (n,) of samples with `images` (n, K); infinite for fewer than two.

    It is the t interval where no samples overlap.
    """
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return -np.inf, np.inf
    mean = float(values.mean())
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * np.sqrt(sum_variance(values - mean, images) / (n * (n - 1)))
    return mean - half, mean + half


def overlapping_slope(x: np.ndarray, y: np.ndarray, images: np.ndarray) -> tuple[float, float, float]:
    """Return the slope of y = slope · x by least squares with its 95 % interval; NaN where x does not vary from 0.

    Args:
        x: (n,) of each sample.
        y: (n,) of each sample; its variance may differ from sample to sample.
        images: (n, K) of each.
    """
    square = float((x**2).sum())
    if not square:
        return np.nan, np.nan, np.nan
    value = float((x * y).sum()) / square
    half = Z * float(np.sqrt(sum_variance(x * (y - value * x), images))) / square
    return value, value - half, value + half


def sum_variance(residuals: np.ndarray, images: np.ndarray) -> float:
    """Return the variance of the sum of residuals (n,): of all products of samples that overlap.

    It is at least that of independent samples, as the estimate of a small one may even be negative.
    """
    from scipy.sparse import csr_array

    independent = float((residuals**2).sum())
    row, column = (images >= 0).nonzero()
    if not len(row):
        return independent
    _, which = np.unique(images[row, column], return_inverse=True)
    size = len(residuals), int(which.max()) + 1
    shows = csr_array((np.ones(len(row)), (row, which)), shape=size)
    crossed = 0.0
    for start in range(0, size[0], CHUNK):
        pairs = (shows[start : start + CHUNK] @ shows.T).tocoo()
        others = pairs.row + start != pairs.col
        crossed += float((residuals[pairs.row + start] * residuals[pairs.col])[others].sum())
    return max(independent + crossed, independent)
