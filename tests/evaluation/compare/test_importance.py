"""Grids of settings in which one key matters, or none."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.compare.test_curves import make_comparison

from patchwork.evaluation.compare.importance import (
    encode,
    key_importance,
    plot_parallel,
    render_importance,
    varied_keys,
)
from patchwork.evaluation.compare.runs import FinishedRun
from patchwork.figures.rendered import Rendered

RATES, DEPTHS = (1e-4, 1e-3, 1e-2, 1e-1), (1, 2, 10)


def make_runs(metric: Callable[[dict[str, Any]], float]) -> list[FinishedRun]:
    configs = [
        {"seed": seed, "optimizer.lr": lr, "model.<b>": depth, "model.same": 2 * depth, "batch": 32}
        for lr, depth, seed in product(RATES, DEPTHS, (0, 1))
    ]
    return [FinishedRun(Path(str(i)), int(c["seed"]), None, metric(c), {}, c) for i, c in enumerate(configs)]


def test_the_key_that_matters_is_found_and_the_other_is_not() -> None:
    found = key_importance(make_runs(lambda config: 0.9 + 0.02 * RATES.index(config["optimizer.lr"])))
    assert found is not None
    assert found.keys == ["optimizer.lr", "model.<b>, model.same"]
    assert found.r2 > 0.8
    assert found.share[0] > 0.5
    assert abs(found.share[1]) < 0.1


def test_noise_cannot_be_told_although_seeds_of_a_setting_agree() -> None:
    rng = np.random.default_rng(0)
    noise = {pair: float(rng.normal()) for pair in product(RATES, DEPTHS)}
    runs = make_runs(lambda config: noise[config["optimizer.lr"], config["model.<b>"]])
    found = key_importance(runs)
    assert found is not None
    assert found.r2 <= 0
    rendered = render_importance(runs, make_comparison([]))
    assert isinstance(rendered, Rendered)
    assert "cannot tell" in rendered.caption
    assert "<table" not in rendered.html


def test_figure_names_the_method_and_escapes_keys() -> None:
    runs = make_runs(lambda config: 0.9 + 0.02 * RATES.index(config["optimizer.lr"]))
    rendered = render_importance(runs, make_comparison([]))
    assert isinstance(rendered, Rendered)
    assert "24 runs that differ in 2 keys, out-of-sample R² 1.00" in rendered.caption
    assert "<b>" not in rendered.html


def test_runs_of_the_same_values_are_lines_of_their_own() -> None:
    runs = make_runs(lambda config: 0.9 + 0.001 * config["seed"] + 0.02 * RATES.index(config["optimizer.lr"]))
    found = key_importance(runs)
    assert found is not None
    axes = plot_parallel(found, np.array([run.value for run in runs]), "accuracy", "max").axes[0]
    lines = [tuple(np.asarray(line.get_ydata())[:-1].round(6)) for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(lines) == len({*lines}) == len(runs)


@pytest.mark.parametrize("metric", [lambda config: 0.5, lambda config: float(config["seed"])])
def test_too_little_says_nothing(metric: Callable[[dict[str, Any]], float]) -> None:
    runs = make_runs(metric)
    assert key_importance(runs[:7]) is None
    assert key_importance([run for run in runs if run.config["model.<b>"] == 1]) is None


def test_numbers_are_ordered_by_size_and_replicate_keys_are_no_keys() -> None:
    codes, labels = encode([10, 2, 10, 1])
    assert codes.tolist() == [2, 1, 2, 0]
    assert labels == ["1", "2", "10"]
    assert varied_keys([{"seed": 0, "a": 1}, {"seed": 1, "a": 1}]) == {}
