import math

import numpy as np
import pytest
from scipy.stats import binomtest

from patchwork.stats.intervals import clustered_wilson, mean_interval, median_interval, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (9_960, 10_000)])
def test_wilson_interval_is_that_of_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high))


def test_nothing_counted_leaves_everything_possible() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert mean_interval(np.array([1.0])) == (-math.inf, math.inf)


def test_mean_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(size=5)) for _ in range(2000)]
    assert np.mean([low < 0 < high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_interval_of_clusters_covers_the_share_where_that_of_samples_does_not() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        unit = rng.integers(0, 2000, 8000)  # each unit about four times, always right or always wrong
        success = (rng.random(2000) < 0.9)[unit]
        intervals = clustered_wilson(success, unit), wilson(success.sum(), len(success))
        covered.append([low < 0.9 < high for low, high in intervals])
    clustered, naive = np.mean(covered, axis=0)
    assert 0.93 < clustered < 0.97
    assert naive < 0.75


def test_clusters_of_one_are_samples() -> None:
    success = np.random.default_rng(0).random(500) < 0.3
    assert clustered_wilson(success, np.arange(500)) == pytest.approx(wilson(success.sum(), 500))
    assert clustered_wilson(np.ones(8, bool), np.arange(8) // 4)[0] == pytest.approx(wilson(2, 2)[0])


def test_few_clusters_cover_as_often_as_many() -> None:
    """Ten units of ten samples each, which are right as often as their unit is."""
    rng = np.random.default_rng(0)
    unit, covered = np.arange(100) // 10, []
    for _ in range(1000):
        low, high = clustered_wilson(rng.random(100) < rng.beta(4, 2, 10)[unit], unit)
        covered.append(low < 4 / 6 < high)
    assert 0.935 < np.mean(covered) < 0.97


def test_one_cluster_tells_nothing_and_rounding_is_no_variance() -> None:
    assert clustered_wilson(np.arange(9) < 3, np.zeros(9)) == (0, 1)
    assert clustered_wilson(np.array([True]), np.zeros(1)) == pytest.approx(wilson(1, 1))
    alike = np.tile(np.arange(7) < 3, 60)  # 60 units that are right in three of seven samples each
    low, high = clustered_wilson(alike, np.arange(420) // 7)
    assert (low, high) == pytest.approx(wilson(180, 420), abs=2e-3)


def test_interval_of_the_median_covers_it_whatever_the_distribution() -> None:
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.exponential(size=50)) for _ in range(1000)]
    assert 0.94 < np.mean([low < np.log(2) < high for _, low, high in intervals]) < 0.985


def test_fewer_than_six_values_have_no_interval_of_the_median() -> None:
    median, low, high = median_interval(np.arange(5.0))
    assert (median, math.isnan(low), math.isnan(high)) == (2, True, True)
    assert median_interval(np.arange(6.0)) == (2.5, 0, 5)
