"""Which of two models is better, judged by the digits that they were tested on, not by samples that share digits.

Grids share digits, so that their errors are not independent: a digit that is read wrong makes all of its grids wrong.
A test that takes grids for independent, as McNemar's, finds differences between equally good models in a third of all
cases instead of one in twenty. Here each difference between two models is attributed to the digits that cause it, and
the digits are the units.

N samples of T parts each, as the cells of a grid; `right` (N, T) whether the answer to each is right, `units` (N, T)
which digit it shows. Of samples with one answer about S images, as a sum, `right` is (N, 1) and `units` (N, S): which
image is to blame is not known then, see `blame`.
"""

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np

from patchwork.stats.intervals import LEVEL, Z

POWER_FACTOR = 2.80  # standard errors that a true difference must have to be found in 80 % of cases at the 5 % level
NUM_FLIPS = 10_000


class PairedTest(NamedTuple):
    """The difference of two accuracies on the same samples.

    Attributes:
        difference: of the shares of samples that are right.
        std_error: its standard error over new digits.
        low: lower end of its 95 % interval.
        high: upper end of it.
        p_value: of no difference, by flipping the signs of digits at random.
        num_units: digits on which the models differ.
    """

    difference: float
    std_error: float
    low: float
    high: float
    p_value: float
    num_units: int

    @property
    def detectable(self) -> float:
        """Return the smallest true difference that such a test finds in 80 % of cases."""
        return POWER_FACTOR * self.std_error


def unit_differences(right_a: np.ndarray, right_b: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what each unit contributes to the difference of two accuracies, and the units themselves.

    A sample that A answers and B does not counts 1, shared out among the parts that B has wrong, and the other way
    round; the contributions of all units add up to the difference times N. Units without a difference are left out.

    Args:
        right_a: (N, T) answers of A.
        right_b: (N, T) answers of B.
        units: (N, T), or (N, S) if T is 1; −1 where there is none.

    Returns:
        Contributions (U,) and units (U,), in ascending order.
    """
    if units.shape != right_a.shape:
        units = blame(right_a != right_b, units)
    whole_a, whole_b = right_a.all(axis=1), right_b.all(axis=1)
    shares = np.zeros(right_a.shape)
    for wins, loses, sign in ((whole_a, ~right_b, 1.0), (whole_b, ~right_a, -1.0)):
        decided = wins & loses.any(axis=1)
        shares[decided] += sign * loses[decided] / loses[decided].sum(axis=1, keepdims=True)
    which, inverse = np.unique(units, return_inverse=True)
    contributions = np.bincount(inverse.flatten(), weights=shares.flatten(), minlength=len(which))
    differing = np.bincount(inverse.flatten(), weights=np.abs(shares).flatten(), minlength=len(which)) > 0
    return contributions[differing], which[differing]


def blame(differs: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the image (N, 1) that each answer on which two models differ is attributed to; −1 − row of others.

    It is the one that is part of most of these answers, which are then explained, and so on: if a digit is misread, all
    of its samples are one observation. Where answers err independently, few share an image, and it makes no difference.

    Args:
        differs: (N, 1) whether the two models differ.
        images: (N, S) of each sample, −1 where there is none.
    """
    culprit = -1 - np.arange(len(images))
    rows, cols = np.nonzero(differs & (images >= 0))
    known, which = np.unique(images[rows, cols], return_inverse=True)
    answers: list[set[int]] = [set() for _ in known]  # of each image
    shown: dict[int, set[int]] = {}  # the images of each answer that is not yet explained
    for image, row in zip(which.tolist(), rows.tolist(), strict=True):
        answers[image].add(row)
        shown.setdefault(row, set()).add(image)
    left = [len(each) for each in answers]
    heap = [(-count, image) for image, count in enumerate(left)]  # counts may have fallen since
    heapify(heap)
    while heap:
        count, worst = heappop(heap)
        if -count > left[worst]:
            if left[worst]:
                heappush(heap, (-left[worst], worst))
            continue
        for row in answers[worst] & shown.keys():
            culprit[row] = known[worst]
            for image in shown.pop(row):
                left[image] -= 1
    return culprit[:, None]


def paired_test(contributions: np.ndarray, num_samples: int, num_tested: int) -> PairedTest:
    """Test whether two models are equally good on new digits.

    Args:
        contributions: (U,) of the units on which they differ, see `unit_differences`; means over seeds, if there are
            several pairs.
        num_samples: N.
        num_tested: number of all units, most of which contribute nothing: the standard error is about their mean.
    """
    difference = float(contributions.sum()) / num_samples
    mean = float(contributions.sum()) / num_tested
    std_error = math.sqrt(max(float((contributions**2).sum()) - num_tested * mean**2, 0)) / num_samples
    return PairedTest(
        difference,
        std_error,
        difference - Z * std_error,
        difference + Z * std_error,
        sign_flip_p_value(contributions),
        len(contributions),
    )


def sign_flip_p_value(contributions: np.ndarray) -> float:
    """Return how probable a sum at least as far from 0 is if each unit could as well favor the other model."""
    if not np.any(contributions):
        return 1.0
    rng = np.random.default_rng(0)
    signs = rng.integers(0, 2, (NUM_FLIPS, len(contributions)), dtype=np.int8) * 2 - 1
    sums = np.abs(signs @ contributions)
    return float((1 + (sums >= abs(contributions.sum()) - 1e-9).sum()) / (1 + NUM_FLIPS))


class SeedTest(NamedTuple):
    """The mean difference of two recipes over seeds that both were trained with, its 95 % interval and p value."""

    difference: float
    std_error: float
    low: float
    high: float
    num_seeds: int
    p_value: float


def recipe_test(differences: np.ndarray, digit_std_error: float) -> SeedTest:
    """Test whether a recipe is better than another: on new seeds, and on new digits.

    Args:
        differences: (k,) of accuracies, with the same seed each.
        digit_std_error: standard error of their mean over digits, see `paired_test`; 0 if it is not known, and nothing
            is said of other digits.

    Returns:
        The test; without an end to its interval if there is one seed, as nothing is known of others.
    """
    from scipy.stats import t

    k, mean = len(differences), float(differences.mean())
    if k < 2:
        return SeedTest(mean, math.inf, -math.inf, math.inf, k, 1.0)
    std_error = math.sqrt(differences.var(ddof=1) / k + digit_std_error**2)
    half = float(t.ppf((1 + LEVEL) / 2, k - 1)) * std_error
    p_value = 2 * float(t.sf(abs(mean) / std_error, k - 1)) if std_error else float(mean == 0)
    return SeedTest(mean, std_error, mean - half, mean + half, k, p_value)


def verdict(low: float, high: float, margin: float) -> str:
    """Return what an interval of a difference says, if differences within ± `margin` do not count."""
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "no matter" if -margin < low and high < margin else "cannot tell"


def holm(p_values: list[float]) -> list[float]:
    """Return p values that are corrected for how many there are (Holm 1979, https://www.jstor.org/stable/4615733)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        corrected[index] = largest
    return corrected


def seeds_needed(std: float, difference: float) -> int:
    """Return how many seeds each recipe takes for a true difference to be found in 80 % of cases.

    Args:
        std: standard deviation of the difference of two runs over seeds.
        difference: the true one.
    """
    return max(math.ceil((POWER_FACTOR * std / difference) ** 2), 2)


def samples_needed(std_error: float, num_samples: int, difference: float) -> int:
    """Return how many test samples it takes, given the standard error with `num_samples` of them."""
    return math.ceil(num_samples * (POWER_FACTOR * std_error / difference) ** 2)


def mean_and_std(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation (n − 1) over seeds; the latter is NaN of one."""
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


def luck_of_best(count: int, std_errors: Sequence[float]) -> float:
    """Return how far the best of `count` equally good settings is expected to lie above its true value.

    Args:
        count: number of settings.
        std_errors: of the means of some of them; NaN is returned if none is known.
    """
    if not std_errors:
        return math.nan
    return expected_maximum(count) * float(np.sqrt(np.mean(np.square(std_errors))))


def expected_maximum(count: int) -> float:
    """Return the mean of the largest of `count` independent standard normal numbers: the luck of the best of them."""
    x = np.linspace(-9, 9, 20_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    cumulative = np.cumsum(density) * (x[1] - x[0])
    return float((x * count * density * cumulative ** (count - 1)).sum() * (x[1] - x[0]))
