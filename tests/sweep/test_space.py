"""Sweep files: each packaged one is valid in all corners of its space, and invalid ones are reported in one line."""

import math
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
from patchwork.sweep.space import Hyperband, Parameter, read_space

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


@pytest.mark.parametrize(
    "name", [name if name == "seq2seq" else pytest.param(name, marks=pytest.mark.slow) for name in SWEEPS]
)
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
        ({"values": [2, "two", None, True]}, CategoricalDistribution([2, "two", None, True])),
        ({"value": 3}, CategoricalDistribution([3])),
        ({"min": 1, "max": 4}, IntDistribution(1, 4)),
        ({"min": 0.0, "max": 1}, FloatDistribution(0.0, 1.0)),
        ({"min": 0.1, "max": 0.5, "q": 0.1, "distribution": "q_uniform"}, FloatDistribution(0.1, 0.5, step=0.1)),
        ({"min": 1e-5, "max": 1, "distribution": "log_uniform_values"}, FloatDistribution(1e-5, 1.0, log=True)),
        ({"values": [[0.9, "0.98"], []]}, CategoricalDistribution([[0.9, 0.98], []])),
        ({"values": ["1e-3", "x", "None", ".5"]}, CategoricalDistribution([0.001, "x", None, 0.5])),
        ({"value": None}, CategoricalDistribution([None])),
        ({"value": "5E-4", "distribution": "constant"}, CategoricalDistribution([0.0005])),
        ({"min": "1e-05", "max": "1e-1"}, FloatDistribution(1e-5, 0.1)),
        ({"min": 1, "max": 256, "q": 8, "distribution": "q_uniform"}, IntDistribution(8, 256, step=8)),
        ({"min": 0, "max": 3, "distribution": "q_uniform"}, IntDistribution(0, 3)),
        ({"min": 16, "max": 256, "q": 16, "distribution": "q_log_uniform_values"}, IntDistribution(16, 256, log=True)),
        ({"min": -2, "max": 0, "distribution": "log_uniform"}, FloatDistribution(math.exp(-2), 1.0, log=True)),
        ({"min": 0.1, "max": 1, "distribution": "inv_log_uniform_values"}, FloatDistribution(0.1, 1.0, log=True)),
        ({"distribution": "normal", "mu": "1e1", "sigma": 1}, FloatDistribution(6, 14)),
        ({"distribution": "q_normal", "mu": 10, "sigma": 1, "q": 2}, IntDistribution(6, 14, step=2)),
    ],
)
def test_parameter_has_the_distribution_that_wandb_gives_it(content: dict, distribution: BaseDistribution) -> None:
    assert Parameter.model_validate(content).to_prior("x").distribution == distribution  # in Optuna's terms


def test_parameter_of_one_value_is_an_override_of_all_trials(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    parameters = {"task": {"value": "sum"}, "seed": {"values": [1, 2]}}
    path.write_text(yaml.safe_dump({**MINIMAL, "parameters": parameters, "command": ["${program}", "dataset=uci"]}))
    space = read_space(path)
    assert space.fixed_overrides() == ["dataset=uci", "task=sum"]
    assert list(space.searched()) == ["seed"]


def test_numbers_nested_keys_and_programs_are_read_as_wandb_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "program: ./train.py\nmethod: random\nmetric: {name: val/loss, target: 1e-3}\n"
        "early_terminate: {type: hyperband, max_iter: 27, s: 2, strict: true}\n"
        "parameters:\n  seed: {values: [1, 2]}\n"
        "  optimizer: {parameters: {lr: {min: 1e-5, max: 5E-4}, betas: {values: [[.9, 0.98], ~]}}}\n"
        "  model: {parameters: {x: {parameters: {y: {value: null}, on: {value: off}}}}}\n"
    )
    space = read_space(path)
    assert space.searched()["optimizer.lr"].distribution == FloatDistribution(1e-5, 5e-4)
    assert space.searched()["optimizer.betas"].grid() == [[0.9, 0.98], None]
    assert space.fixed_overrides() == ["model.x.y=null", "model.x.True=false"]  # YAML 1.1: on is true
    assert space.metric.target == 0.001
    assert space.early_terminate is not None
    assert space.early_terminate.first == 3


@pytest.mark.parametrize(
    ("keys", "first"),
    [({"min_iter": 3}, 3), ({"max_iter": 27, "s": 2}, 3), ({"max_iter": 4, "s": 9}, 1)],
)
def test_hyperband_starts_where_wandb_starts_it(keys: dict[str, int], first: int) -> None:
    assert Hyperband.model_validate({"type": "hyperband", **keys}).first == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": "other.py"}, "program=other.py is not allowed: it must be train.py"),
        ({"method": "luck"}, "method=luck is not allowed: it must be one of bayes, random, grid"),
        ({"metric": {"name": "test/loss"}}, "metric.name=test/loss is not allowed: it must be a validation metric"),
        ({"metric": {"name": "accuracy"}}, "it must be a validation metric, as val/accuracy"),
        ({"metric": {"name": "val/loss", "goal": "max"}}, "it must be one of maximize, minimize"),
        ({"metric": {"name": "val/loss", "target": "low"}}, "metric.target=low is not allowed: it must be a number"),
        ({"metric": "val/loss"}, "metric=val/loss is not allowed: it must be a mapping"),
        ({"parameters": {}}, "parameters={} is not allowed: it must be a mapping of one or more keys"),
        ({"parameters": {"a": {"parameters": {}}}}, "parameters.a.parameters={}"),
        ({"parameters": {"a": {"values": [{"b": 1}]}}}, "parameters.a.values.0"),
        ({"parameters": {"a": {"min": 1}}}, "parameters.a needs one of value, values, or min and max, not min"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "parameters.a.max=1 is not allowed: it must be above min"),
        ({"parameters": {"a": {}}}, "parameters.a needs one of value, values, or min and max"),
        ({"parameters": {"a": {"min": 0, "max": 1.0, "distribution": "log_uniform_values"}}}, "parameters.a.dist"),
        ({"parameters": {"a": {"values": [1], "min": 2, "max": 3}}}, "parameters.a needs one of"),
        (
            {"parameters": {"a": {"min": 1, "maximum": 3}}},
            "parameters.a.maximum=3 is not allowed: the keys here are value",
        ),
        (
            {"parameters": {"a": {"min": 1, "max": 3, "distribution": "beta"}}},
            "distribution=beta is not allowed: use one",
        ),
        (
            {"parameters": {"a": {"distribution": "normal", "mu": 0}}},
            "distribution=normal needs method=random, not bayes",
        ),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.5]}}}, "probabilities needs method=random"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [1.0]}}}, "one for each value, in sum 1"),
        ({"parameters": {"a": {"min": 0, "max": 1000, "distribution": "log_uniform"}}}, "distribution=log_uniform"),
        ({"parameters": {"a": {"min": 0.1, "max": 2, "distribution": "int_uniform"}}}, "must be whole numbers"),
        ({"parameters": {"a": 3}}, "a needs one of value, values"),
        ({"parameters": {"a": {"parameters": {"b": {"min": 1}}}}}, "parameters.a.b needs one of"),
        ({"command": "python train.py ${args}"}, "command="),
        ({"command": ["${program}", "${args_json}"]}, "${args_json} is not allowed"),
        ({"method": "grid", "parameters": {"a": {"min": 1.0, "max": 2}}}, "method=grid needs values"),
        ({"early_terminate": {"type": "envelope"}}, "early_terminate.type=envelope is not allowed: it must be hyperb"),
        ({"early_terminate": {"type": "hyperband"}}, "is not allowed: it needs min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 27}}, "it needs min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "s": 2}}, "it needs min_iter, or max_iter and s"),
        ({"early_terminate": 3}, "early_terminate=3 is not allowed: it must be a mapping"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 0}},
            "early_terminate.min_iter=0 is not allowed: it must be a positive integer",
        ),
        ({"run_cap": 0}, "run_cap=0 is not allowed: it must be a positive integer"),
        ({"parameters": {"a": {"min": 0, "max": math.inf}}}, "parameters.a.max=inf is not allowed: it must be finite"),
        ({"parameters": {"a": {"min": 0, "max": math.nan}}}, "it must be finite"),
        ({"parameters": {"a": {"min": "a", "max": 3}}}, "parameters.a.min=a is not allowed: it must be a number"),
        ({"parameters": {"a": {"min": 0, "max": 2**70}}}, "it must be below 2**63"),
        ({"parameters": {"a": {"min": -1e308, "max": 1e308}}}, "the values are too large"),
        ({"parameters": {"a": {"values": [math.nan, 0.1]}}}, "parameters.a.values.0=nan is not allowed: it must be"),
        ({"parameters": {"a": {"values": [[0.1, math.inf], 0.1]}}}, "it must be finite"),
        ({"parameters": {"a": {"value": math.inf}}}, "parameters.a.value=inf is not allowed: it must be finite"),
        ({"parameters": {"a": {"values": [0.1, "0.1"]}}}, "parameters.a.values.1=0.1 is not allowed: it is listed twi"),
        ({"parameters": {"a": {"values": [None, "None"]}}}, "parameters.a.values.1=null is not allowed: it is listed"),
        ({"parameters": {"a": {"values": []}}}, "it must be a list of one or more values"),
        (
            {"method": "random", "parameters": {"a": {"values": [1, 2], "probabilities": [-1, 2]}}},
            "parameters.a.probabilities.0=-1 is not allowed: it must be a number of 0 or more",
        ),
        (
            {"method": "random", "parameters": {"a": {"distribution": "log_normal", "mu": -3, "sigma": 300}}},
            "parameters.a.distribution=log_normal: the values are too large",
        ),
        (
            {"method": "random", "parameters": {"a": {"distribution": "normal", "sigma": 0}}},
            "parameters.a.sigma=0 is not allowed: it must be a positive number",
        ),
        ({"epochs": 3}, "epochs=3 is not allowed: the keys here are program, method"),
    ],
)
def test_invalid_space_is_reported_in_one_line(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **change}))
    with pytest.raises(ConfigError) as error:
        read_space(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_text_of_a_key_that_is_text_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    values = {"values": ["1e3", "1000.0", "1_0"]}
    path.write_text(yaml.safe_dump({**MINIMAL, "parameters": {"task_name": values, "model_name": {"value": "1e3"}}}))
    space = read_space(path)
    assert space.searched()["task_name"].grid() == values["values"]
    assert space.fixed_overrides() == ["model_name='1e3'"]


@pytest.mark.parametrize(("content", "error"), [(b"a: [", DataError), (b"\xff", DataError), (b"3", ConfigError)])
def test_file_that_is_not_a_space_is_refused(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    with pytest.raises(error):
        read_space(path)
    with pytest.raises(DataError, match="No such file"):
        read_space(tmp_path / "none.yaml")
