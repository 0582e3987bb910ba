"""Settings with planted differences, and the files and pages of a comparison."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchwork.core.errors import DataError
from patchwork.evaluation.compare.comparison import compare, sampling_spread
from patchwork.evaluation.compare.output import (
    comparison_page,
    comparison_text,
    dots,
    plot_dots,
    sentences,
    setting_rows,
)
from patchwork.evaluation.compare.runs import (
    Answers,
    FinishedRun,
    Metric,
    Setting,
    choose_metric,
    find_runs,
    make_labels,
    newest,
)

NUM_DIGITS, NUM_GRIDS = 2000, 2000
ACCURACY = Metric("accuracy", "max", True, "accuracy")
LOSS = Metric("loss", "min", False, "loss")
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
    return compare(settings, metric=ACCURACY, margin=margin)


def test_a_clear_difference_is_found_and_a_setting_like_the_best_is_not() -> None:
    result = compared(make_setting("bad", 0.02), make_setting("good", 0.005), make_setting("as_good", 0.005))
    labels = [row.setting.label for row in result.rows]
    assert labels[-1] == "bad"
    verdicts = {other.label: other.verdict for other in result.others}
    assert verdicts["bad"] == "worse"
    assert verdicts[labels[1]] == "cannot tell"
    assert "bad: " in sentences(result)[-1]
    assert "of the recipe, over 5 seeds: worse" in sentences(result)[-1]
    assert "(p < 0.001 over" in sentences(result)[-1]


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


def test_test_set_spread_is_that_over_other_digits() -> None:
    """Half of the grids are right, so that residuals that are not centered would vary twice as much."""
    rng, values, spreads = np.random.default_rng(0), [], []
    for _ in range(400):
        right = (rng.random(300) >= 0.16)[UNITS[:300] % 300]
        values.append(right.all(axis=1).mean())
        spreads.append(sampling_spread(Answers(right, UNITS[:300] % 300, b"")))
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.1)


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


def make_folds(label: str, values: dict[tuple[int, int], float]) -> Setting:
    """Return a setting with a loss for each seed and fold."""
    runs = [FinishedRun(Path(f"{label}/{key}"), key[0], key[1], value, {}, {}) for key, value in values.items()]
    return Setting(label, runs)


def test_losses_are_ranked_and_tested_over_seeds_alone() -> None:
    rng = np.random.default_rng(0)
    low, high = (
        make_folds(name, {(seed, 0): mean + 0.01 * rng.random() for seed in range(5)})
        for name, mean in (("low", 0.1), ("high", 0.2))
    )
    result = compare([high, low], metric=LOSS, margin=0.001)
    assert result.rows[0].setting.label == "low"
    (other,) = result.others
    assert other.difference == pytest.approx(0.1, abs=0.01)
    assert (other.models, other.verdict) == (None, "worse")
    text = " ".join(sentences(result))
    assert "%" not in text
    assert "points" not in text
    assert "loss (lower is better)" in comparison_text(result)
    assert b"loss (lower is better)" in comparison_page(result, "")
    assert "high: 0.09" in text or "high: 0.1" in text


def test_folds_of_one_seed_are_no_seeds() -> None:
    folds = {(0, fold): 0.1 * fold for fold in range(5)}
    one, other = make_folds("one", folds), make_folds("other", {key: value + 0.5 for key, value in folds.items()})
    result = compare([one, other], metric=LOSS, margin=0.001)
    assert setting_rows(result)[0]["folds"] == [0, 1, 2, 3, 4]
    assert np.isnan(result.rows[0].std)
    assert result.rows[0].mean == pytest.approx(0.2)
    assert result.others[0].recipe is not None
    assert result.others[0].recipe.num_seeds == 1
    assert result.others[0].verdict == "cannot tell"


def test_of_runs_of_one_seed_the_newest_counts() -> None:
    runs = [
        FinishedRun(Path(name), 0, None, value, {"started": started}, {"data.seed": data_seed})
        for name, value, started, data_seed in (
            ("old", 1, "2026-01-01", 0),
            ("new", 2, "2026-02-01", 0),
            ("b", 3, "", 1),
        )
    ]
    assert [run.run_dir.name for run in newest(runs)] == ["new", "b"]
    result = compare([Setting("only", newest(runs), 1)], metric=LOSS, margin=0.1)
    text = " ".join(sentences(result))
    assert "Left out: 1 of the runs" in text
    assert "There is nothing to compare with only" in text
    assert setting_rows(result)[0]["verdict"] == ""


def test_runs_selected_by_their_loss_are_compared_by_their_answers() -> None:
    runs = list(make_setting("one", 0.01).runs)
    for run in runs:
        metrics = {"test/loss": 0.3, "test/joint_accuracy": run.value + 1e-9}
        object.__setattr__(run, "manifest", {"monitor": "val/loss", "metrics": metrics})
        object.__setattr__(run, "config", {"task.mode": "min"})
    shares = [run.value for run in runs]
    for run in runs:
        object.__setattr__(run, "value", 0.3)
    metric, found = choose_metric(runs)
    assert metric == Metric("joint_accuracy", "max", True, "loss")
    assert [run.value for run in found] == pytest.approx(shares)
    object.__setattr__(runs[0], "saved", None)
    assert choose_metric(runs)[0] == LOSS


def test_luck_is_that_of_settings_which_may_be_as_good() -> None:
    settings = [make_setting(name, 0.01) for name in ("one", "other")]
    expected = compared(*settings)
    found = compared(*settings, make_setting("bad", 0.1))
    assert (found.num_rivals, found.luck) == (expected.num_rivals, expected.luck)
    assert found.num_rivals == 2
    assert "By luck, the best of 2 equally good settings" in sentences(found)[1]
    alone = compared(settings[0], make_setting("bad", 0.1))
    assert "By luck" not in " ".join(sentences(alone))
    assert "  < 0.001  " in comparison_text(alone)


def test_other_samples_are_refused() -> None:
    with pytest.raises(DataError, match="were tested on different samples"):
        compared(make_setting("one", 0.01), make_setting("other", 0.01, units=UNITS[::-1].copy()))


def test_long_labels_leave_the_width_to_the_dots() -> None:
    result = compared(make_setting("model.depth=2 " * 12, 0.01), make_setting("other", 0.02))
    figure = plot_dots(result)
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.9
    assert "stroke: var(--panel)" in dots(result).html


def test_what_is_compared_is_named() -> None:
    one, other = (replace(make_setting(name, 0.01), shared="dataset=uci") for name in ("one", "other"))
    for run in (*one.runs, *other.runs):
        run.manifest["task"], run.manifest["model"] = "seq2seq", "reader"
    text = comparison_text(compared(one, other))
    assert text.startswith("10 runs of task seq2seq, all with dataset=uci:\nsetting")
    assert text.count("  reader  ") == 2
    assert b"accuracy of 10 runs of task seq2seq, all with dataset=uci" in comparison_page(compared(one, other), "")


def test_rows_and_page_hold_what_was_found() -> None:
    result = compared(make_setting("<b>", 0.02), make_setting("good", 0.005))
    best, other = setting_rows(result)
    assert (best["verdict"], other["verdict"]) == ("best", "worse")
    assert other["models_p_value_holm"] == other["models_p_value"] < 0.05
    assert best["seeds"] == [0, 1, 2, 3, 4]
    page = comparison_page(result, "patchwork compare")
    assert page == comparison_page(result, "patchwork compare")
    assert b"<b>" not in page.replace(b"<b>0</b>", b"")


def test_labels_begin_with_what_tells_settings_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {
        "a": ["x=1", "long=1", "y=1"],
        "b": ["x=1", "long=1", "y=2"],
        "c": ["x=1", "long=1", "y=2", "z=1"],
        "d": ["x=1"],
    }
    monkeypatch.setattr("patchwork.evaluation.compare.runs.typed_overrides", lambda run: words[run.run_dir.name])
    labels, shared = make_labels([[FinishedRun(Path(name), 0, None, 0, {}, {})] for name in words])
    assert labels == ["y=1 long=1", "y=2 long=1", "z=1 y=2 long=1", "default"]
    assert shared == "x=1"


def test_a_multirun_names_the_runs_of_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    multirun = tmp_path / "outputs" / "multirun" / "now"
    multirun.mkdir(parents=True)
    for job in (0, 1, 2):
        run_dir = Path("outputs") / "seq2seq" / str(job)
        (multirun / f"{job}.json").write_text(json.dumps({"run_dir": str(run_dir)} if job else {"status": "skipped"}))
        (tmp_path / run_dir).mkdir(parents=True)
        (tmp_path / run_dir / "config.yaml").touch()
        (tmp_path / run_dir / "manifest.json").touch()
    expected = [Path("outputs") / "seq2seq" / str(job) for job in (1, 2)]
    monkeypatch.chdir(tmp_path)
    assert find_runs(["outputs/multirun/now"]) == expected
    monkeypatch.chdir(multirun)
    assert find_runs([str(multirun)]) == [tmp_path / each for each in expected]
