"""The comparison of settings: how good, how stable, how fast each is, and which differences are more than luck."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchwork.core.errors import DataError
from patchwork.evaluation.compare.runs import Answers, FinishedRun, Metric, Setting, mean_over_folds
from patchwork.stats.overlap import sum_variance
from patchwork.stats.paired import (
    PairedTest,
    SeedTest,
    holm,
    luck_of_best,
    mean_and_std,
    paired_test,
    recipe_test,
    seeds_needed,
    unit_differences,
    verdict,
)

SIGNIFICANT = 0.05
MARGIN = 0.001  # of differences that count, unless another is given


@dataclass(frozen=True)
class SettingRow:
    """What is known of a setting.

    Attributes:
        setting: its runs.
        mean: of the metric over its seeds.
        std: standard deviation over its seeds (n - 1), each the mean over its folds; NaN of one seed.
        test_std: by how much the metric of one run would vary with another test set of the same size; NaN if unknown.
        seconds: mean training time.
        parameters: of its network.
        model: its name.
    """

    setting: Setting
    mean: float
    std: float
    test_std: float
    seconds: float
    parameters: int
    model: str


@dataclass(frozen=True)
class SettingComparison:
    """Another setting against the best one.

    Attributes:
        label: of the other setting.
        difference: of the means, by how much the best is better; never negative.
        models: test of the trained models over new images; None without saved answers of runs of the same seed.
        p_value: of it, corrected for the number of comparisons (Holm).
        recipe: test of the recipes over new seeds, and of an accuracy over new images as well; None without a common
            seed, or answers to it.
        recipe_p_value: of it, corrected likewise.
        verdict: on the other recipe: better, worse, no matter, cannot tell.
        seeds: how many seeds of each would tell the margin; None if nothing is known of their spread.
    """

    label: str
    difference: float
    models: PairedTest | None
    p_value: float
    recipe: SeedTest | None
    recipe_p_value: float
    verdict: str
    seeds: int | None


@dataclass(frozen=True)
class Comparison:
    """All settings, the best first, and the others against it.

    Attributes:
        metric: what they are compared by.
        margin: the smallest difference that counts.
        rows: settings, by metric, then spread, speed and size.
        others: comparisons with the first row.
        luck: how far above its true value the best of `num_rivals` equal settings is expected to be.
        num_rivals: number of settings that may be as good as the best, with itself.
        n: number of test samples; 0 if no answers are saved.
    """

    metric: Metric
    margin: float
    rows: Sequence[SettingRow]
    others: Sequence[SettingComparison]
    luck: float
    num_rivals: int
    n: int


def compare(settings: Sequence[Setting], *, metric: Metric, margin: float) -> Comparison:
    """Compare settings.

    Raises:
        DataError: if saved answers are on other samples, or damaged.
    """
    answers = {run.run_dir: run.answers() if metric.is_accuracy else None for each in settings for run in each.runs}
    check_alike(answers)
    sign = 1 if metric.mode == "max" else -1
    rows = sorted((describe(setting, answers) for setting in settings), key=lambda row: sort_key(row, sign))
    best, others = rows[0], []
    pairs = [paired_runs(best.setting, row.setting) for row in rows[1:]]
    models = [test_models(each, answers) for each in pairs]
    recipes = [
        None if metric.is_accuracy and test is None else test_recipes(each, sign, test)
        for each, test in zip(pairs, models, strict=True)
    ]
    p_values = corrected([None if test is None else test.p_value for test in models])
    recipe_p_values = corrected([None if test is None else test.p_value for test in recipes])
    for row, test, p_value, recipe, recipe_p_value in zip(
        rows[1:], models, p_values, recipes, recipe_p_values, strict=True
    ):
        others.append(
            SettingComparison(
                row.setting.label,
                sign * (best.mean - row.mean),
                test,
                p_value,
                recipe,
                recipe_p_value,
                recipe_verdict(recipe, recipe_p_value, margin),
                needed_seeds(best, row, margin),
            )
        )
    known = next((each for each in answers.values() if each is not None), None)
    rivals = [each for each in zip(rows[1:], others, strict=True) if may_be_as_good(each[1])]
    noise = luck([best, *(row for row, _ in rivals)], [other.models for _, other in rivals if other.models is not None])
    return Comparison(metric, margin, rows, others, noise, 1 + len(rivals), 0 if known is None else len(known.right))


def corrected(p_values: list[float | None]) -> list[float]:
    """Return p values that are corrected for how many there are; what could not be tested has 1."""
    return holm([1.0 if p_value is None else p_value for p_value in p_values])


def check_alike(answers: dict[Path, Answers | None]) -> None:
    """Raise a `DataError` if saved answers are not all on the same samples."""
    keys = {run_dir: each.key for run_dir, each in answers.items() if each is not None}
    if len({*keys.values()}) > 1:
        first = next(iter(keys))
        other = next(run_dir for run_dir, key in keys.items() if key != keys[first])
        raise DataError(f"{first} and {other} were tested on different samples: they cannot be compared")


def describe(setting: Setting, answers: dict[Path, Answers | None]) -> SettingRow:
    """Return the row of a setting."""
    runs, (mean, std) = setting.runs, mean_and_std(setting.seed_means)
    spread = [sampling_spread(each) for run in runs if (each := answers[run.run_dir]) is not None]
    return SettingRow(
        setting,
        mean,
        std,
        float(np.mean(spread)) if spread else math.nan,
        float(np.mean([run.manifest.get("train_seconds", math.nan) for run in runs])),
        int(runs[0].manifest.get("parameters", 0)),
        str(runs[0].manifest.get("model", "")),
    )


def sampling_spread(answers: Answers) -> float:
    """Return by how much the share of right samples would vary with other images, which samples share."""
    right = np.asarray(answers.right.all(axis=1))
    return math.sqrt(sum_variance(right - right.mean(), answers.units)) / len(right)


def sort_key(row: SettingRow, sign: int) -> tuple[float, float, float, int]:
    """Order by the metric, then by stability, speed and size."""
    return -sign * row.mean, 0 if math.isnan(row.std) else row.std, row.seconds, row.parameters


def paired_runs(one: Setting, other: Setting) -> list[tuple[FinishedRun, FinishedRun]]:
    """Return the runs of two settings that have fold and seeds in common."""
    runs = {run.replicate: run for run in other.runs}
    return [(run, runs[run.replicate]) for run in one.runs if run.replicate in runs]


def test_models(
    pairs: Sequence[tuple[FinishedRun, FinishedRun]], answers: dict[Path, Answers | None]
) -> PairedTest | None:
    """Test the trained models of pairs of runs over new images; None without a pair, or if answers are not saved."""
    sums: dict[int, float] = {}
    count = num_tested = 0
    for run_a, run_b in pairs:
        a, b = answers[run_a.run_dir], answers[run_b.run_dir]
        if a is None or b is None:
            return None
        contributions, units = unit_differences(a.right, b.right, a.units)
        count, num_tested = len(a.right), len(np.unique(a.units[a.units >= 0]))
        for unit, value in zip(units.tolist(), contributions.tolist(), strict=True):
            sums[unit] = sums.get(unit, 0.0) + value / len(pairs)
    return paired_test(np.array([*sums.values()]), count, num_tested) if pairs else None


def test_recipes(
    pairs: Sequence[tuple[FinishedRun, FinishedRun]], sign: int, models: PairedTest | None
) -> SeedTest | None:
    """Test the recipes of pairs of runs over new seeds, and over new images as far as `models` tells; None without one.

    Folds of one seed are one observation.
    """
    if not pairs:
        return None
    differences = mean_over_folds([(a.replicate, sign * (a.value - b.value)) for a, b in pairs])
    return recipe_test(differences, 0.0 if models is None else models.std_error)


def recipe_verdict(recipe: SeedTest | None, p_value: float, margin: float) -> str:
    """Return the verdict on the other setting; a difference must survive the correction `p_value` as well."""
    if recipe is None:
        return "cannot tell"
    found = verdict(-recipe.high, -recipe.low, margin)
    return "cannot tell" if found in ("better", "worse") and p_value >= SIGNIFICANT else found


def needed_seeds(best: SettingRow, other: SettingRow, margin: float) -> int | None:
    """Return how many seeds of each setting would tell the margin, by the spread over those that there are."""
    spreads = [row.std for row in (best, other) if not math.isnan(row.std)]
    if not spreads or max(spreads) == 0:
        return None
    return seeds_needed(math.sqrt(2) * float(np.sqrt(np.mean(np.square(spreads)))), margin)


def may_be_as_good(other: SettingComparison) -> bool:
    """Return whether neither the trained models nor the recipe are found to be worse than the best.

    Only of such settings any could have been the best by luck, and those that fail often vary more.
    """
    return other.p_value >= SIGNIFICANT and other.verdict != "worse"


def luck(rows: Sequence[SettingRow], tests: Sequence[PairedTest]) -> float:
    """Return how far the best of so many settings is expected to lie above its true value if all are equally good.

    The noise of a setting is its spread over seeds; of single runs that of the images on which they differ.
    """
    spreads = [row.std / math.sqrt(len(row.setting.seed_means)) for row in rows if not math.isnan(row.std)]
    return luck_of_best(len(rows), spreads or [test.std_error / math.sqrt(2) for test in tests])
