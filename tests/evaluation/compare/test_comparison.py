"""Settings with planted differences, and the files and pages of a comparison."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchwork.core.errors import DataError
from patchwork.evaluation.compare.comparison import compare
from patchwork.evaluation.compare.output import comparison_page, sentences, setting_rows
from patchwork.evaluation.compare.runs import Answers, FinishedRun, Setting

NUM_DIGITS, NUM_GRIDS = 2000, 2000
UNITS = np.random.default_rng(0).integers(0, NUM_DIGITS, (NUM_GRIDS, 4))


class SimulatedRun(FinishedRun):
    """A run that errs on random digits."""

    saved: Answers | None

    def answers(self) -> Answers | None:
        return self.saved


def make_setting(label: str, error: float, seeds: int = 5, *, units: np.ndarray = UNITS, seconds: float = 9) -> Setting:
    runs = []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, *label.encode()])
        right = (rng.random(NUM_DIGITS) >= error)[units]
        manifest: dict[str, Any] = {"train_seconds": seconds, "parameters": 7}
        run = SimulatedRun(Path(f"{label}/{seed}"), seed, None, float(right.all(axis=1).mean()), manifest, {})
        object.__setattr__(run, "saved", Answers(right, units, units.tobytes()))
        runs.append(run)
    return Setting(label, runs)


def compared(*settings: Setting, margin: float = 0.002) -> Any:
    return compare(settings, metric="accuracy", mode="max", margin=margin)


def test_a_clear_difference_is_found_and_a_setting_like_the_best_is_not() -> None:
    result = compared(make_setting("bad", 0.02), make_setting("good", 0.005), make_setting("as_good", 0.005))
    labels = [row.setting.label for row in result.rows]
    assert labels[-1] == "bad"
    verdicts = {other.label: other.verdict for other in result.others}
    assert verdicts["bad"] == "worse"
    assert verdicts[labels[1]] == "cannot tell"
    assert "bad: " in sentences(result)[-1]
    assert "worse" in sentences(result)[-1]


def test_equal_settings_are_rarely_called_worse_than_the_best_of_them() -> None:
    found = []
    for index in range(20):
        result = compared(*(make_setting(f"{index}-{name}", 0.01, seeds=3) for name in range(6)))
        found.append(any(other.verdict == "worse" for other in result.others))
        assert result.luck > 0
    assert sum(found) <= 2


def test_test_set_spread_is_larger_than_that_of_independent_grids() -> None:
    (row,) = compared(make_setting("only", 0.01)).rows
    error = 1 - row.mean
    independent = (error * (1 - error) / NUM_GRIDS) ** 0.5
    assert row.test_std > 1.5 * independent
    assert row.test_std == pytest.approx(row.std, rel=0.9)  # each simulated seed errs on digits of its own


def test_one_seed_tells_nothing_of_the_recipe() -> None:
    result = compared(make_setting("bad", 0.05, seeds=1), make_setting("good", 0.005, seeds=1))
    (other,) = result.others
    assert other.verdict == "cannot tell"
    assert other.p_value < 0.01
    assert sentences(result)[-1].endswith("one seed tells nothing of the recipe.")


def test_ties_go_to_the_faster_and_settings_without_answers_cannot_be_told() -> None:
    slow, fast = make_setting("same", 0.01), make_setting("same", 0.01, seconds=1)
    result = compared(slow, replace(fast, label="fast"))
    assert result.rows[0].setting.label == "fast"
    assert result.others[0].models.p_value == 1
    for run in (*slow.runs, *fast.runs):
        object.__setattr__(run, "saved", None)
    (other,) = compared(slow, replace(fast, label="fast")).others
    assert (other.verdict, other.models) == ("cannot tell", None)


def test_other_samples_are_refused() -> None:
    with pytest.raises(DataError, match="were tested on different samples"):
        compared(make_setting("one", 0.01), make_setting("other", 0.01, units=UNITS[::-1].copy()))


def test_rows_and_page_hold_what_was_found() -> None:
    result = compared(make_setting("<b>", 0.02), make_setting("good", 0.005))
    best, other = setting_rows(result)
    assert (best["verdict"], other["verdict"]) == ("best", "worse")
    assert other["models_p_value_holm"] == other["models_p_value"] < 0.05
    assert best["seeds"] == [0, 1, 2, 3, 4]
    page = comparison_page(result, "patchwork compare")
    assert page == comparison_page(result, "patchwork compare")
    assert b"<b>" not in page.replace(b"<b>0</b>", b"")
