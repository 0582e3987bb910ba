"""Results are selected by accuracy, stability, speed and size, and written as an experiment that can be run by name."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from helpers import TINY
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from patchwork.commands.sweep import command as sweep
from patchwork.core.table import format_table
from patchwork.runs.compose import compose
from patchwork.sweep.results import best_trials, experiment_yaml, group_trials, param_importances, select, wrap_params

UNIT = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("x", "y")}
SEED = {"seed": optuna.distributions.IntDistribution(0, 9)}
TRIALS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 0.1), st.floats(1, 100), st.integers(1, 100)), min_size=1, max_size=8
)


def make_study(
    *trials: tuple[float, float, float, int], direction: str = "maximize", vary_seed: bool = False
) -> optuna.Study:
    """Make a study of finished trials: value, val_std, seconds and number of parameters of each."""
    study = optuna.create_study(direction=direction)
    for number, (value, val_std, seconds, num_parameters) in enumerate(trials):
        params = {"x": 0.0, "y": 0.0, "seed": number} if vary_seed else {"x": number / 100, "y": 0.0}
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={**UNIT, **SEED} if vary_seed else UNIT,
                value=value,
                user_attrs={"val_std": val_std, "seconds": seconds, "num_parameters": num_parameters},
            )
        )
    return study


@pytest.mark.parametrize(
    ("trials", "selected", "reason"),
    [
        ([(0.90, 0.01, 9, 9), (0.95, 0.01, 9, 9)], "1", "no other is within its standard deviation of 0.01"),
        ([(0.95, 0.01, 9, 9), (0.945, 0.001, 99, 99), (0.90, 0.0, 1, 1)], "1", "the most stable of 2"),
        ([(0.95, 0.01, 9, 9), (0.945, 0.01, 5, 99), (0.90, 0.0, 1, 1)], "1", "the fastest of 2"),
        ([(0.95, 0.01, 9, 9), (0.945, 0.01, 9, 5), (0.90, 0.0, 1, 1)], "1", "the smallest of 2"),
        ([(0.95, 0.01, 9, 9)], "0", "the only result"),
    ],
)
def test_selection_by_accuracy_stability_speed_and_size(trials: list, selected: str, reason: str) -> None:
    result, explanation = select(group_trials(make_study(*trials)))
    assert result.numbers == selected
    assert reason in explanation


@given(trials=TRIALS, direction=st.sampled_from(["maximize", "minimize"]))
@settings(max_examples=30, deadline=None)
def test_selected_result_is_good_by_each_criterion(trials: list, direction: str) -> None:
    results = group_trials(make_study(*trials, direction=direction))
    values = [result.mean for result in results]
    assert values == sorted(values, reverse=direction == "maximize")
    selected, _ = select(results)
    similar = [result for result in results if abs(result.mean - values[0]) <= results[0].val_std]
    assert selected in similar
    assert selected.val_std <= 1.5 * min(result.val_std for result in similar)
    as_stable = [result for result in similar if result.val_std <= selected.val_std]
    assert selected.seconds <= 1.1 * min(result.seconds for result in as_stable)
    as_fast = [result for result in as_stable if result.seconds <= selected.seconds]
    assert selected.num_parameters == min(result.num_parameters for result in as_fast)


def test_best_trials_are_sorted_by_the_goal() -> None:
    trials = [(0.1, 0, 1, 1), (0.3, 0, 1, 1), (0.2, 0, 1, 1)]
    assert [trial.number for trial in best_trials(make_study(*trials), 2)] == [1, 2]
    assert [trial.number for trial in best_trials(make_study(*trials, direction="minimize"), 5)] == [0, 2, 1]


def test_trials_that_differ_only_in_seed_are_one_result() -> None:
    (result,) = group_trials(make_study((0.9, 0.01, 1, 1), (0.8, 0.01, 1, 1), vary_seed=True))
    assert result.mean == pytest.approx(0.85)
    assert result.seed_std == pytest.approx(0.0707, abs=1e-4)
    assert "seed" not in result.params


def test_trials_that_repeat_a_seed_are_no_seeds() -> None:
    study = make_study((0.9, 0.01, 9, 9), (0.8, 0.01, 9, 9), vary_seed=True)
    study.add_trial(study.trials[1])
    (result,) = group_trials(study)
    assert (result.mean, result.numbers) == (pytest.approx(0.85), "0,1,2")
    assert result.std_error == pytest.approx(0.05)


def test_importance_is_highest_for_the_parameter_that_matters() -> None:
    study = optuna.create_study()
    for number in range(60):
        params = {"x": (number * 7 % 60) / 60, "y": (number * 11 % 60) / 60}
        value = params["x"] + 0.1 * params["y"]
        study.add_trial(optuna.trial.create_trial(params=params, distributions=UNIT, value=value))
    importances = param_importances(study)
    assert sum(importances.values()) == pytest.approx(1)
    assert importances["x"] > 0.9
    assert param_importances(make_study((0.9, 0, 1, 1), (0.8, 0, 1, 1))) == {}


def test_long_parameters_continue_below_themselves_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"trial": "0", "hyperparameters": " ".join(f"optimizer.lr{index}=0.01" for index in range(9))}]
    assert wrap_params(rows) == rows  # of a pipe
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    wrapped = wrap_params(rows)
    assert all(len(line) <= 60 for line in format_table(wrapped).splitlines())
    assert " ".join(row["hyperparameters"] for row in wrapped) == rows[0]["hyperparameters"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=sum", "model=sequence_regressor", "optimizer=adam", "optimizer.lr=0.001", "model.embed_dim=32"],
        ["experiment=paper_cell_pool", "optimizer=muon", "data.batch_size=32", "callbacks=none"],
        ["task=classify", "data.augment=null", "debug=fast", "data.val_size=64"],
        ["seed=3", "accelerator=cpu", "callbacks.show_samples=null"],
    ],
)
def test_experiment_composes_to_the_same_configuration_as_overrides(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], overrides: list[str]
) -> None:
    path = Path("results/experiment/best.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(experiment_yaml(overrides, Path("results"), "Found."))
    assert command("train", "--config-dir=results", "experiment=best", "--cfg", "job", "--resolve") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    GlobalHydra.instance().clear()
    expected = OmegaConf.to_container(compose(overrides), resolve=True)
    unset = {"task_name": None, "model_name": None}  # Hydra prints the configuration before they are set
    assert {**printed, **unset} == {**expected, **unset}


def test_search_end_to_end(command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    space: dict[str, Any] = {
        "program": "train.py",
        "method": "bayes",
        "metric": {"name": "val/accuracy", "goal": "maximize"},
        "parameters": {"optimizer.lr": {"min": 0.01, "max": 0.03}, "model.num_heads": {"values": [2, 4]}},
        "command": ["${program}", "task=classify", "logger=wandb", "${args_no_hyphens}"],
    }
    Path("space.yaml").write_text(yaml.safe_dump(space))
    args = ["n_trials=2", "n_jobs=2", "ensemble=2", *TINY, "trainer.max_epochs=2"]
    assert sweep(["space.yaml", "sweep_dir=results", *args]) == 0
    output = capsys.readouterr().out
    assert "2 trials: 2 finished" in output
    assert "test/accuracy" in output.partition("ensemble of the best 2")[2]
    runs = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("results/trials/*/manifest.json"))]
    assert [run["status"] for run in runs] == ["finished"] * 2
    assert command("train", "--config-dir=results", "experiment=best", "run_dir=best") == 0
    best = json.loads(Path("best/manifest.json").read_text())
    assert best["weights_sha256"] in [run["weights_sha256"] for run in runs]
    printed = next(line.strip() for line in output.splitlines() if line.strip().startswith("patchwork train task="))
    assert {override.partition("=")[0] for override in shlex.split(printed)[2:]} >= space["parameters"].keys()
