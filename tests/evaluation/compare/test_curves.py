"""Curves with planted values, read from the tables of runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patchwork.evaluation.compare.comparison import Comparison, SettingRow
from patchwork.evaluation.compare.curves import mean_curve, render_curves, setting_curves
from patchwork.evaluation.compare.runs import FinishedRun, Metric, Setting
from patchwork.figures.metrics import Series
from patchwork.figures.rendered import Rendered


def make_run(run_dir: Path, seed: int, points: Sequence[tuple[int, float]] | None) -> FinishedRun:
    run_dir.mkdir(parents=True)
    if points is not None:
        lines = [f"{epoch},{step},,{value}" for epoch, (step, value) in enumerate(points)]
        table = ["epoch,step,train/loss,val/accuracy", "0,5,0.7,", *lines]
        (run_dir / "metrics.csv").write_text("\n".join(table) + "\n")
    return FinishedRun(run_dir, seed, None, 0.5, {}, {})


def make_comparison(settings: Sequence[Setting], metric: str = "accuracy") -> Comparison:
    nan = float("nan")
    return Comparison(
        Metric(metric, "max", True, metric),
        0.001,
        [SettingRow(each, 0.5, nan, nan, 1, 1, "") for each in settings],
        [],
        nan,
        1,
        0,
    )


def test_curves_of_all_seeds_and_their_mean_at_common_steps(tmp_path: Path) -> None:
    planted = [[(10, 0.2), (20, 0.5), (30, 0.9)], [(10, 0.4), (20, 0.7)], None]
    runs = [make_run(tmp_path / str(seed), seed, points) for seed, points in enumerate(planted)]
    (curves,) = setting_curves(make_comparison([Setting("planted", runs)]))
    assert [run.value.tolist() for run in curves.runs] == [[0.2, 0.5, 0.9], [0.4, 0.7]]
    assert curves.missing == 1
    assert curves.mean is not None
    assert curves.mean.step.tolist() == [10, 20]
    np.testing.assert_allclose(curves.mean.value, [0.3, 0.6])


def test_the_last_value_of_a_step_counts_and_curves_without_common_steps_have_no_mean() -> None:
    twice = Series(np.array([1.0, 1.0]), np.array([1.0, 1.0]), np.array([0.1, 0.3]))
    once = Series(np.array([1.0]), np.array([1.0]), np.array([0.5]))
    mean = mean_curve([twice, once])
    assert mean is not None
    np.testing.assert_allclose(mean.value, [0.4])
    assert mean_curve([once, Series(np.array([2.0]), np.array([1.0]), np.array([0.5]))]) is None
    assert mean_curve([]) is None


def test_page_section_escapes_labels_names_its_runs_and_gives_numbers(tmp_path: Path) -> None:
    settings = []
    for index in range(14):
        runs = [make_run(tmp_path / f"{index}-{seed}", seed, [(10, 0.2), (20, 0.75)]) for seed in range(2)]
        settings.append(Setting(f"<i>$x_{index}$", runs))
    rendered = render_curves(make_comparison(settings))
    assert isinstance(rendered, Rendered)
    assert "24 runs of 12 settings" in rendered.caption
    assert "2 lower settings are left out" in rendered.caption
    assert "<i>" not in rendered.html + rendered.table
    assert rendered.table.count("0.7500") == 28


def test_without_curves_the_section_says_why(tmp_path: Path) -> None:
    setting = Setting("only", [make_run(tmp_path / "run", 0, [(10, 0.2)])])
    assert render_curves(make_comparison([setting], "f1")) == "No run has logged val/f1 in its metrics.csv."
