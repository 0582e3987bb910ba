"""Sweep files: each packaged one is valid in all corners of its space, and invalid ones are reported in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT, choices
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from patchwork.core.errors import ConfigError, DataError
from patchwork.core.schema import check_config
from patchwork.runs.compose import compose
from patchwork.sweep.compose import infeasible_reason, load_sweep
from patchwork.sweep.space import Parameter, read_space

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
MINIMAL: dict[str, Any] = {
    "program": "train.py",
    "method": "bayes",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"seed": {"values": [1, 2]}},
}


def extreme_values(distribution: BaseDistribution) -> list[Any]:
    """Return the values of a parameter at the corners of a space, all of them if they are listed."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def test_every_task_has_a_sweep() -> None:
    assert set(choices("task")) <= set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_corner_of_the_space_is_feasible(name: str) -> None:
    sweep = load_sweep(ROOT / "sweeps" / f"{name}.yaml", [])
    values = {key: extreme_values(distribution) for key, distribution in sweep.distributions.items()}
    first = {key: choices[0] for key, choices in values.items()}
    last = {key: choices[-1] for key, choices in values.items()}
    discrete = {key for key, each in sweep.distributions.items() if not isinstance(each, FloatDistribution)}
    neighbors = [{**first, key: value} for key in discrete for value in values[key][1:]]  # floats change no shape
    for params in (first, last, *neighbors):
        assert infeasible_reason(sweep.trial_overrides(params)) is None, params
    config = sweep.base_config
    check_config(config)
    assert compose(sweep.trial_overrides(last)).task.monitor == sweep.metric
    assert {"max": "maximize", "min": "minimize"}[config.task.mode] == sweep.space.metric.goal
    assert config.task._target_.rpartition(".")[2].lower() == name.partition("_")[0]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_file_works_with_wandb_agents(name: str) -> None:
    content = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())
    assert content["method"] == "bayes"
    assert content["early_terminate"]["type"] == "hyperband"
    assert content["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    assert content["command"][-1] == "${args_no_hyphens}"
    assert "logger=wandb" in content["command"]


@pytest.mark.parametrize(
    ("content", "distribution"),
    [
        ({"values": [1, "two", None, True]}, CategoricalDistribution([1, "two", None, True])),
        ({"value": 3}, CategoricalDistribution([3])),
        ({"min": 1, "max": 4}, IntDistribution(1, 4)),
        ({"min": 0.0, "max": 1}, FloatDistribution(0.0, 1.0)),
        ({"min": 0.1, "max": 0.5, "q": 0.1, "distribution": "q_uniform"}, FloatDistribution(0.1, 0.5, step=0.1)),
        ({"min": 1e-5, "max": 1, "distribution": "log_uniform_values"}, FloatDistribution(1e-5, 1.0, log=True)),
    ],
)
def test_parameter_has_the_distribution_that_wandb_gives_it(content: dict, distribution: BaseDistribution) -> None:
    assert Parameter.model_validate(content).to_distribution("x") == distribution


def test_parameter_of_one_value_is_an_override_of_all_trials(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    parameters = {"task": {"value": "sum"}, "seed": {"values": [1, 2]}}
    path.write_text(yaml.safe_dump({**MINIMAL, "parameters": parameters, "command": ["${program}", "dataset=uci"]}))
    space = read_space(path)
    assert space.fixed_overrides() == ["dataset=uci", "task=sum"]
    assert list(space.distributions()) == ["seed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": "other.py"}, "program='other.py'"),
        ({"method": "luck"}, "method='luck' is not allowed: it should be 'bayes', 'random' or 'grid'"),
        ({"metric": {"name": "test/loss"}}, "metric.name='test/loss'"),
        ({"parameters": {}}, "parameters={}"),
        ({"parameters": {"a": {"parameters": {}}}}, "parameters.a.parameters={}"),
        ({"parameters": {"a": {"values": [{"b": 1}]}}}, "parameters.a.values.0"),
        ({"parameters": {"a": {"min": 1}}}, "parameters.a.max=null"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "parameters.a.max=1 is not allowed: it must be above min"),
        ({"parameters": {"a": {}}}, "parameters.a needs one of value, values, or min and max"),
        ({"parameters": {"a": {"min": 0, "max": 1.0, "distribution": "log_uniform_values"}}}, "parameters.a.dist"),
        ({"method": "grid", "parameters": {"a": {"min": 1, "max": 2}}}, "method=grid needs values"),
        ({"early_terminate": {"type": "envelope"}}, "early_terminate.type='envelope'"),
        ({"epochs": 3}, "epochs=3"),
    ],
)
def test_invalid_space_is_reported_in_one_line(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **change}))
    with pytest.raises(ConfigError) as error:
        read_space(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "error"), [(b"a: [", DataError), (b"\xff", DataError), (b"3", ConfigError)])
def test_file_that_is_not_a_space_is_refused(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    with pytest.raises(error):
        read_space(path)
    with pytest.raises(DataError, match="No such file"):
        read_space(tmp_path / "none.yaml")
