"""The comparison of settings: how good, how stable, how fast each is, and which differences are more than luck."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchwork.core.errors import DataError
from patchwork.evaluation.compare.runs import Answers, FinishedRun, Setting
from patchwork.stats.paired import (
    PairedTest,
    SeedTest,
    expected_maximum,
    holm,
    paired_test,
    recipe_test,
    seeds_needed,
    unit_differences,
    verdict,
)

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class SettingRow:
    """What is known of a setting.

    Attributes:
        setting: its runs.
        mean: of the metric over its runs.
        std: standard deviation over its runs (n - 1); NaN of one run.
        test_std: by how much the metric of one run would vary with another test set of the same size; NaN if unknown.
        seconds: mean training time.
        parameters: of its network.
    """

    setting: Setting
    mean: float
    std: float
    test_std: float
    seconds: float
    parameters: int


@dataclass(frozen=True)
class SettingComparison:
    """Another setting against the best one.

    Attributes:
        label: of the other setting.
        difference: of the means, that of the best minus that of the other; positive if the best is better.
        models: test of the trained models over new digits; None without saved answers of runs of the same seed.
        p_value: of it, corrected for the number of comparisons (Holm).
        recipe: test of the recipes over new seeds and digits; None likewise.
        verdict: on the other recipe: better, worse, no matter, cannot tell.
        seeds: how many seeds of each would tell the margin; None if nothing is known of their spread.
    """

    label: str
    difference: float
    models: PairedTest | None
    p_value: float
    recipe: SeedTest | None
    verdict: str
    seeds: int | None


@dataclass(frozen=True)
class Comparison:
    """All settings, the best first, and the others against it.

    Attributes:
        metric: its name, without the split.
        mode: whether more of it is better (`max`) or less (`min`).
        margin: the smallest difference that counts.
        rows: settings, by metric, then spread, speed and size.
        others: comparisons with the first row.
        luck: how far above its true value the best of that many equal settings is expected to be.
        n: number of test samples; 0 if no answers are saved.
    """

    metric: str
    mode: str
    margin: float
    rows: Sequence[SettingRow]
    others: Sequence[SettingComparison]
    luck: float
    n: int


def compare(settings: Sequence[Setting], *, metric: str, mode: str, margin: float) -> Comparison:
    """Compare settings.

    Raises:
        DataError: if saved answers are on other samples, or damaged.
    """
    answers = {run.run_dir: run.answers() for setting in settings for run in setting.runs}
    check_alike(answers)
    sign = 1 if mode == "max" else -1
    rows = sorted((describe(setting, answers) for setting in settings), key=lambda row: sort_key(row, sign))
    best, others = rows[0], []
    tests = [pair_tests(best.setting, row.setting, answers) for row in rows[1:]]
    corrected = holm([1.0 if models is None else models.p_value for models, _ in tests])
    for row, (models, recipe), p_value in zip(rows[1:], tests, corrected, strict=True):
        others.append(
            SettingComparison(
                row.setting.label,
                sign * (best.mean - row.mean),
                models,
                p_value,
                recipe,
                recipe_verdict(recipe, p_value, margin),
                needed_seeds(best, row, margin),
            )
        )
    known = next((each for each in answers.values() if each is not None), None)
    noise = luck(rows, [models for models, _ in tests if models is not None])
    return Comparison(metric, mode, margin, rows, others, noise, 0 if known is None else len(known.right))


def check_alike(answers: dict[Path, Answers | None]) -> None:
    """Raise a `DataError` if saved answers are not all on the same samples."""
    keys = {run_dir: each.key for run_dir, each in answers.items() if each is not None}
    if len({*keys.values()}) > 1:
        first = next(iter(keys))
        other = next(run_dir for run_dir, key in keys.items() if key != keys[first])
        raise DataError(f"{first} and {other} were tested on different samples: they cannot be compared")


def describe(setting: Setting, answers: dict[Path, Answers | None]) -> SettingRow:
    """Return the row of a setting."""
    values, runs = setting.values, setting.runs
    spread = [sampling_spread(each) for run in runs if (each := answers[run.run_dir]) is not None]
    return SettingRow(
        setting,
        float(values.mean()),
        float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        float(np.mean(spread)) if spread else math.nan,
        float(np.mean([run.manifest.get("train_seconds", math.nan) for run in runs])),
        int(runs[0].manifest.get("parameters", 0)),
    )


def sampling_spread(answers: Answers) -> float:
    """Return by how much the share of right samples would vary with other units: images, as far as they are known."""
    nothing_wrong = np.ones_like(answers.right)
    contributions, _ = unit_differences(nothing_wrong, answers.right, answers.units)
    return paired_std(contributions, len(answers.right))


def paired_std(contributions: np.ndarray, num_samples: int) -> float:
    return math.sqrt(float((contributions**2).sum())) / num_samples


def sort_key(row: SettingRow, sign: int) -> tuple[float, float, float, int]:
    """Order by the metric, then by stability, speed and size."""
    return -sign * row.mean, 0 if math.isnan(row.std) else row.std, row.seconds, row.parameters


def paired_runs(one: Setting, other: Setting) -> list[tuple[FinishedRun, FinishedRun]]:
    """Return the runs of two settings that have fold and seed in common."""
    runs = dict(zip(other.replicates, other.runs, strict=True))
    return [(run, runs[key]) for key, run in zip(one.replicates, one.runs, strict=True) if key in runs]


def pair_tests(
    one: Setting, other: Setting, answers: dict[Path, Answers | None]
) -> tuple[PairedTest | None, SeedTest | None]:
    """Test two settings on their common seeds: the trained models over digits, the recipes over seeds and digits."""
    sums: dict[int, float] = {}
    pairs, differences, count = paired_runs(one, other), [], 0
    for run_a, run_b in pairs:
        a, b = answers[run_a.run_dir], answers[run_b.run_dir]
        if a is None or b is None:
            return None, None
        contributions, units = unit_differences(a.right, b.right, a.units)
        count = len(a.right)
        differences.append(contributions.sum() / count)
        for unit, value in zip(units.tolist(), contributions.tolist(), strict=True):
            sums[unit] = sums.get(unit, 0.0) + value / len(pairs)
    if not pairs:
        return None, None
    models = paired_test(np.array([*sums.values()]), count)
    return models, recipe_test(np.array(differences), models.std_error)


def recipe_verdict(recipe: SeedTest | None, p_value: float, margin: float) -> str:
    """Return the verdict on the other setting; a difference must survive the correction as well."""
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


def luck(rows: Sequence[SettingRow], tests: Sequence[PairedTest]) -> float:
    """Return how far the best of so many settings is expected to lie above its true value if all are equally good.

    The noise of a setting is its spread over seeds; of single runs that of the digits on which they differ.
    """
    spreads = [row.std / math.sqrt(len(row.setting.runs)) for row in rows if not math.isnan(row.std)]
    if not spreads:
        spreads = [test.std_error / math.sqrt(2) for test in tests]
    return expected_maximum(len(rows)) * float(np.sqrt(np.mean(np.square(spreads)))) if spreads else math.nan
