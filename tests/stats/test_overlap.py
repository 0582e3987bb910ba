import numpy as np
import pytest

from patchwork.stats.intervals import mean_interval, wilson
from patchwork.stats.overlap import overlapping_mean_interval, overlapping_slope, overlapping_wilson, sum_variance


def sequences(rng: np.random.Generator, *, count: int = 1200, images: int = 800, longest: int = 6) -> np.ndarray:
    """Return the images (count, longest) of random sequences, -1 where one has ended."""
    ids = rng.integers(0, images, (count, longest))
    return np.where(np.arange(longest) < rng.integers(1, longest + 1, (count, 1)), ids, -1)


def test_interval_covers_the_share_of_sequences_that_share_misread_images() -> None:
    rng = np.random.default_rng(0)
    truth = np.mean([0.95**length for length in range(1, 7)])
    covered = []
    for _ in range(200):
        ids, misread = sequences(rng), rng.random(800) < 0.05
        success = ~(misread[ids] & (ids >= 0)).any(axis=1)
        intervals = overlapping_wilson(success, ids), wilson(success.sum(), len(success))
        covered.append([low < truth < high for low, high in intervals])
    overlapping, naive = np.mean(covered, axis=0)
    assert 0.91 < overlapping < 0.99
    assert naive < 0.8


def test_samples_that_share_nothing_are_independent() -> None:
    rng = np.random.default_rng(0)
    ids, values = np.arange(60).reshape(30, 2), rng.normal(size=30)
    assert overlapping_mean_interval(values, ids) == pytest.approx(mean_interval(values))
    assert overlapping_mean_interval(values, np.full((30, 1), -1)) == pytest.approx(mean_interval(values))
    assert overlapping_wilson(values > 0, ids) == pytest.approx(wilson((values > 0).sum(), 30))


def test_copies_of_a_sample_add_nothing() -> None:
    rng = np.random.default_rng(0)
    success = rng.random(50) < 0.8
    once = overlapping_wilson(success, np.arange(50)[:, None])
    assert overlapping_wilson(success.repeat(4), np.arange(50).repeat(4)[:, None]) == pytest.approx(once)
    assert overlapping_wilson(np.ones(200, bool), np.arange(50).repeat(4)[:, None]) == pytest.approx(wilson(50, 50))


def test_variance_is_the_sum_over_all_pairs_that_overlap() -> None:
    rng = np.random.default_rng(1)
    ids, residuals = sequences(rng, count=1300, images=900, longest=3), rng.random(1300)
    shared = np.zeros((1300, 1300), bool)
    for one in range(3):
        for other in range(3):
            shared |= (ids[:, one, None] == ids[None, :, other]) & (ids[:, one, None] >= 0)
    np.fill_diagonal(shared, True)
    assert sum_variance(residuals, ids) == pytest.approx(residuals @ shared @ residuals)


def test_slope_needs_something_that_varies() -> None:
    x = np.array([-1.0, 2.0, 3.0])
    assert overlapping_slope(x, 2 * x, np.arange(3)[:, None]) == pytest.approx((2, 2, 2))
    assert np.isnan(overlapping_slope(np.zeros(3), x, np.arange(3)[:, None])).all()
