"""Simulations of models whose errors stick to digits that grids share."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from patchwork.stats.paired import (
    blame,
    expected_maximum,
    holm,
    paired_test,
    recipe_test,
    samples_needed,
    seeds_needed,
    sign_flip_p_value,
    unit_differences,
    verdict,
)

NUM_DIGITS, NUM_GRIDS = 2000, 2000


def simulate(rng: np.random.Generator, error_a: float, error_b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return whether two models are right in each cell of grids, and the digits; each model errs on its own digits."""
    units = rng.integers(0, NUM_DIGITS, (NUM_GRIDS, 4))
    right = [(rng.random(NUM_DIGITS) >= error)[units] for error in (error_a, error_b)]
    return right[0], right[1], units


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Return the p value of the usual test, which takes grids for independent."""
    a, b = right_a.all(axis=1), right_b.all(axis=1)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def rejections(count: int) -> tuple[float, float]:
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        right_a, right_b, units = simulate(rng, 0.01, 0.01)
        contributions, _ = unit_differences(right_a, right_b, units)
        found.append((sign_flip_p_value(contributions) < 0.05, mcnemar(right_a, right_b) < 0.05))
    ours, naive = np.mean(found, axis=0)
    return float(ours), float(naive)


def test_equal_models_are_called_different_as_often_as_the_level_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchwork.stats.paired.NUM_FLIPS", 999)
    ours, naive = rejections(1000)
    assert 0.036 <= ours <= 0.064
    assert naive > 0.25  # which is why grids are no units


def test_interval_covers_the_difference_and_power_is_what_the_formula_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchwork.stats.paired.NUM_FLIPS", 9)
    rng, covered, found, errors = np.random.default_rng(1), [], [], []
    error_a, error_b = 0.008, 0.013
    truth = (1 - error_a) ** 4 - (1 - error_b) ** 4
    for _ in range(1000):
        right_a, right_b, units = simulate(rng, error_a, error_b)
        contributions, _ = unit_differences(right_a, right_b, units)
        test = paired_test(contributions, NUM_GRIDS, len(np.unique(units)))
        covered.append(test.low < truth < test.high)
        found.append(test.low > 0)
        errors.append(test.std_error)
    assert 0.935 <= np.mean(covered) <= 0.965
    assert np.mean(found) == pytest.approx(norm.cdf(truth / np.mean(errors) - 1.96), abs=0.03)


def test_standard_error_is_that_of_large_differences_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchwork.stats.paired.NUM_FLIPS", 9)
    rng, tests = np.random.default_rng(3), []
    for _ in range(1000):
        right_a, right_b = rng.random((360, 1)) < 0.96, rng.random((360, 1)) < 0.63
        contributions, _ = unit_differences(right_a, right_b, np.arange(360)[:, None])
        tests.append(paired_test(contributions, 360, 360))
    expected = np.std([test.difference for test in tests])
    assert np.mean([test.std_error for test in tests]) == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize("sticks", [True, False])
def test_answers_about_several_images_are_tested_over_the_image_to_blame(
    monkeypatch: pytest.MonkeyPatch, sticks: bool
) -> None:
    """Equal models whose errors stick to images are called different as often as the level says, others less."""
    monkeypatch.setattr("patchwork.stats.paired.NUM_FLIPS", 999)
    rng, found = np.random.default_rng(2), []
    for _ in range(400):
        images = rng.integers(0, 1000, (1000, 5))
        images[rng.random(1000) < 0.5, 3:] = -1
        if sticks:
            wrong = [(rng.random(1000) < 0.008)[images] & (images >= 0) for _ in range(2)]
        else:
            wrong = [rng.random((1000, 1)) < 0.02 for _ in range(2)]
        right_a, right_b = (~each.any(axis=1, keepdims=True) for each in wrong)
        contributions, _ = unit_differences(right_a, right_b, images)
        found.append(sign_flip_p_value(contributions) < 0.05)
    assert (0.02 if sticks else 0.005) <= np.mean(found) <= 0.085  # three standard errors


def test_blame_goes_to_the_image_of_most_answers() -> None:
    images = np.array([[1, 2], [2, 3], [2, -1], [4, 5], [6, 7]])
    differs = np.array([[True], [True], [True], [True], [False]])
    assert blame(differs, images)[:, 0].tolist() == [2, 2, 2, 4, -5]


def test_blame_is_that_of_a_plain_search_and_stays_quick() -> None:
    """Of equally many answers, the image with the smaller number is to blame."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        images = rng.integers(-1, 15, (40, 3))
        differs = rng.random((40, 1)) < 0.6
        expected = -1 - np.arange(40)
        left = {row for row in range(40) if differs[row, 0]}
        while counts := {image: sum(image in images[row] for row in left) for image in range(15)}:
            worst = max(counts, key=lambda image: counts[image])
            if not counts[worst]:
                break
            explained = [row for row in left if worst in images[row]]
            expected[explained] = worst
            left -= {*explained}
        assert blame(differs, images)[:, 0].tolist() == expected.tolist()
    images = rng.integers(0, 20_000, (20_000, 5))
    assert (blame(np.ones((20_000, 1), bool), images) >= 0).all()  # a search over all images each time takes minutes


def test_contributions_add_up_to_the_difference() -> None:
    right_a, right_b, units = simulate(np.random.default_rng(0), 0.05, 0.1)
    contributions, digits = unit_differences(right_a, right_b, units)
    assert contributions.sum() == pytest.approx(float(right_a.all(1).sum()) - float(right_b.all(1).sum()))
    assert len(digits) == len(set(digits.tolist())) == len(contributions)
    swapped, same = unit_differences(right_b, right_a, units)
    assert np.allclose(swapped, -contributions)
    assert np.array_equal(same, digits)


def test_a_model_against_itself_is_no_different() -> None:
    right, _, units = simulate(np.random.default_rng(0), 0.05, 0.1)
    test = paired_test(unit_differences(right, right, units)[0], NUM_GRIDS, NUM_DIGITS)
    assert (test.difference, test.p_value, test.num_units) == (0, 1, 0)


def test_order_of_samples_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    arrays = simulate(rng, 0.05, 0.1)
    order = rng.permutation(NUM_GRIDS)
    one, other = (
        paired_test(unit_differences(*(array[rows] for array in arrays))[0], NUM_GRIDS, NUM_DIGITS)
        for rows in (np.arange(NUM_GRIDS), order)
    )
    assert one == pytest.approx(other)


def test_single_images_are_tested_as_mcnemar_does() -> None:
    rng = np.random.default_rng(0)
    right_a, right_b = rng.random((3000, 1)) > 0.02, rng.random((3000, 1)) > 0.03
    contributions, _ = unit_differences(right_a, right_b, np.arange(3000)[:, None])
    assert sign_flip_p_value(contributions) == pytest.approx(mcnemar(right_a, right_b), abs=0.02)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, "better"), (-0.3, -0.1, "worse"), (-0.05, 0.05, "no matter"), (-0.2, 0.05, "cannot tell")],
)
def test_verdicts(low: float, high: float, expected: str) -> None:
    assert verdict(low, high, 0.1) == expected


def test_one_seed_tells_nothing_of_others() -> None:
    test = recipe_test(np.array([0.01]), 0.001)
    assert verdict(test.low, test.high, 0.001) == "cannot tell"
    assert recipe_test(np.array([0.01, 0.011, 0.009]), 0.0001).low > 0


def test_holm_is_that_of_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_luck_of_the_best_is_the_mean_of_the_largest() -> None:
    largest = np.random.default_rng(0).normal(size=(20_000, 24)).max(axis=1).mean()
    assert expected_maximum(24) == pytest.approx(largest, abs=0.02)
    assert expected_maximum(1) == pytest.approx(0, abs=1e-6)


def test_as_many_seeds_and_samples_are_planned_as_find_the_difference() -> None:
    seeds = seeds_needed(0.1, 0.05)
    assert seeds == 32
    assert norm.cdf(0.05 / (0.1 / np.sqrt(seeds)) - 1.96) >= 0.8
    assert samples_needed(0.0025, 10_000, 0.0035) == 40_000
