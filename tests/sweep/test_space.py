"""Sweeps' files: each is right, fits the configuration in every corner, and wrong ones are told in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, choices
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from patchwork.config import check
from patchwork.errors import ConfigError, DataError
from patchwork.sweep.setting import composed, impossible
from patchwork.sweep.space import Parameter, read_space, read_words, word_of

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
MINIMAL: dict[str, Any] = {
    "program": "train.py",
    "method": "bayes",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"seed": {"values": [1, 2]}},
}


def ends(found: BaseDistribution) -> list[Any]:
    """Return the values that a setting may have in the corners of a space, all of them if they are listed."""
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    assert isinstance(found, FloatDistribution | IntDistribution)
    return [found.low, found.high]


def test_every_task_has_a_sweep() -> None:
    assert set(choices("task")) <= set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_corner_can_be_trained(name: str) -> None:
    space = read_space(ROOT / "sweeps" / f"{name}.yaml")
    ranges = space.ranges()
    first, last = ({key: ends(found)[place] for key, found in ranges.items()} for place in (0, -1))
    settings = [first, last, *({**first, key: value} for key, found in ranges.items() for value in ends(found)[1:])]
    for setting in settings:
        words = [*space.fixed(), *(word_of(key, value) for key, value in setting.items())]
        assert impossible(words) is None, words
    config = composed(space.fixed())
    check(config)
    assert composed(words).task.monitor == space.metric.name
    assert {"max": "maximize", "min": "minimize"}[config.task.mode] == space.metric.goal
    assert config.task._target_.rpartition(".")[2].lower() == name.partition("_")[0]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_file_is_one_for_an_agent(name: str) -> None:
    content = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())
    assert content["method"] == "bayes"
    assert content["early_terminate"]["type"] == "hyperband"
    assert content["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    assert content["command"][-1] == "${args_no_hyphens}"
    assert "logger=wandb" in content["command"]


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"values": [1, "two", None, True]}, CategoricalDistribution([1, "two", None, True])),
        ({"value": 3}, CategoricalDistribution([3])),
        ({"min": 1, "max": 4}, IntDistribution(1, 4)),
        ({"min": 0.0, "max": 1}, FloatDistribution(0.0, 1.0)),
        ({"min": 0.1, "max": 0.5, "q": 0.1, "distribution": "q_uniform"}, FloatDistribution(0.1, 0.5, step=0.1)),
        ({"min": 1e-5, "max": 1, "distribution": "log_uniform_values"}, FloatDistribution(1e-5, 1.0, log=True)),
    ],
)
def test_parameters_are_read_as_wandb_reads_them(told: dict, found: BaseDistribution) -> None:
    assert Parameter.model_validate(told).range("x") == found


def test_a_parameter_of_one_value_is_the_same_in_all_trials(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    parameters = {"task": {"value": "sum"}, "seed": {"values": [1, 2]}}
    path.write_text(yaml.safe_dump({**MINIMAL, "parameters": parameters, "command": ["${program}", "digits=uci"]}))
    space = read_space(path)
    assert space.fixed() == ["digits=uci", "task=sum"]
    assert list(space.ranges()) == ["seed"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"program": "other.py"}, "program='other.py'"),
        ({"method": "luck"}, "method='luck' is not allowed: it should be 'bayes', 'random' or 'grid'"),
        ({"metric": {"name": "test/loss"}}, "metric.name='test/loss'"),
        ({"parameters": {}}, "parameters={}"),
        ({"parameters": {"a": {"parameters": {}}}}, "parameters.a.parameters={}"),
        ({"parameters": {"a": {"values": [{"b": 1}]}}}, "parameters.a.values.0"),
        ({"parameters": {"a": {"min": 1}}}, "parameters.a.max=null"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "parameters.a.max=1 is not allowed: it must be above min"),
        ({"parameters": {"a": {}}}, "parameters.a is not told: give value, values, or min and max"),
        ({"parameters": {"a": {"min": 0, "max": 1.0, "distribution": "log_uniform_values"}}}, "parameters.a.dist"),
        ({"method": "grid", "parameters": {"a": {"min": 1, "max": 2}}}, "method=grid needs values"),
        ({"early_terminate": {"type": "envelope"}}, "early_terminate.type='envelope'"),
        ({"epochs": 3}, "epochs=3"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, change: dict, said: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **change}))
    with pytest.raises(ConfigError) as caught:
        read_space(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "fault"), [(b"a: [", DataError), (b"\xff", DataError), (b"3", ConfigError)])
def test_what_is_no_file_of_a_sweep(tmp_path: Path, content: bytes, fault: type[Exception]) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    with pytest.raises(fault):
        read_space(path)
    with pytest.raises(DataError, match="No such file"):
        read_space(tmp_path / "none.yaml")


@pytest.mark.parametrize("value", [1, 0.25, 1e-05, "muon", "1", "a b", True, None])
def test_values_come_back_from_the_command_line(value: Any) -> None:
    assert read_words([word_of("x.y", value)]) == {"x.y": value}


@pytest.mark.parametrize("word", ["seed=1,2", "~logger", "=3", "x=[1"])
def test_words_that_are_no_setting_of_all_trials(word: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        read_words([word])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.embed_dim=30", "model.num_heads=4"], "30"),
        (["model=quadrant", "model.patch_size=8"], "patch_size=8 does not divide"),
        (["task=classify", "model.patch_size=5"], "patch_size=5 does not divide"),
        (["model.dropout=1.5"], "model.dropout=1.5"),
        (["model.widht=3"], "model.widht='3' is not a key of model"),
        (["task=sum", "model=vit"], "not fit"),
        (["data.train_size=32", "data.batch_size=64"], "train_size=32"),
    ],
)
def test_what_is_impossible_is_told_without_building_it(words: list[str], said: str) -> None:
    reason = impossible(words)
    assert reason is not None
    assert said in reason
