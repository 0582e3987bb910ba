"""An estimate lists what is infeasible and what the others cost, and writes nothing."""

import math
import re
from pathlib import Path

import pytest
import yaml
from helpers import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from patchwork.commands.sweep import command
from patchwork.runs.compose import compose
from patchwork.sweep.estimate import (
    MAX_ENUMERATED,
    CostEstimate,
    TimeModel,
    enumerate_params,
    estimate_cost,
    parse_max_time,
    print_total,
)
from patchwork.sweep.priors import Prior

SPACE = {
    "program": "train.py",
    "method": "grid",
    "metric": {"name": "val/sequence_accuracy", "goal": "maximize"},
    "parameters": {"model.embed_dim": {"values": [16, 64]}, "model.num_heads": {"values": [2, 3]}},
}


def test_dry_run_of_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    overrides = [override for override in TINY if "embed_dim" not in override]
    assert command(["space.yaml", "dry_run=true", "n_jobs=2", *overrides]) == 0
    output = capsys.readouterr().out
    assert "4 configurations, 2 of them infeasible" in output
    assert "1 × model: embed_dim=16 is not divisible by num_heads=3" in output
    rows = [line.split() for line in output.splitlines() if line.endswith("num_heads=2")]
    assert [row[-2:] for row in rows] == [[f"model.embed_dim={width}", "model.num_heads=2"] for width in (16, 64)]
    sizes, operations = ([float(row[column].replace(",", "")) for row in rows] for column in (0, 1))
    assert sizes[0] < sizes[1]
    assert operations[0] <= operations[1]
    assert "2 trials take about" in output
    assert "with n_jobs=2" in output
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


def test_dry_run_of_a_search_samples_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("patchwork.sweep.estimate.RANDOM_SAMPLES", 2)
    parameters = {"optimizer.lr": {"min": 0.01, "max": 0.02}}
    Path("space.yaml").write_text(yaml.safe_dump({**SPACE, "method": "random", "parameters": parameters}))
    assert command(["space.yaml", "dry_run=true", "n_trials=7", *TINY]) == 0
    output = capsys.readouterr().out
    assert "1 configuration, 0 of them infeasible" in output
    assert re.search(r"7 trials take about \d+ (seconds|minutes?|h)", output)


def test_total_is_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_total([6.0], n_trials=1, n_jobs=1)
    print_total([6.0, 18.0], n_trials=10, n_jobs=4)
    output = capsys.readouterr().out
    assert "1 trial takes about 6 minutes, and" in output
    assert "10 trials take about 2 h, 30 minutes with n_jobs=4" in output


@pytest.mark.parametrize("task", ["classify", "sum", "anchor", "icons", "pixels", "seq2seq"])
def test_cost_of_every_task(task: str) -> None:
    small = compose([f"task={task}", "dataset=uci", "data.batch_size=16", "trainer.max_epochs=2"])
    large = compose([f"task={task}", "dataset=uci", "data.batch_size=32", "trainer.max_epochs=1", "callbacks=none"])
    small_cost, large_cost = estimate_cost(small), estimate_cost(large)
    assert small_cost.num_parameters == large_cost.num_parameters
    assert small_cost.memory > 4 * 4 * small_cost.num_parameters  # weights, gradients, an optimizer state and the EMA
    assert large_cost.memory > small_cost.memory - 4 * small_cost.num_parameters
    assert large_cost.step_operations == pytest.approx(2 * small_cost.step_operations, rel=0.01)
    assert small_cost.num_steps == 2 * (small.data.samples_per_epoch // 16)
    assert large_cost.num_steps == large.data.samples_per_epoch // 32
    assert small_cost.eval_operations > large_cost.eval_operations


def test_step_count_respects_the_limits_of_the_trainer() -> None:
    overrides = ["task=classify", "dataset=uci", "data.samples_per_epoch=1280", "trainer.max_epochs=3"]

    def cost(*limits: str) -> CostEstimate:
        return estimate_cost(compose([*overrides, *limits]))

    assert cost().num_steps == 30
    assert cost("trainer.max_steps=7").num_steps == 7
    assert cost("trainer.limit_train_batches=0.5").num_steps == 15
    assert cost("trainer.limit_train_batches=4", "trainer.accumulate_grad_batches=2").num_steps == 6
    assert cost("trainer.max_time=00:00:01:30").max_seconds == 90


def test_minutes_are_linear_in_operations_up_to_the_time_limit() -> None:
    time_model = TimeModel(startup=6.0, intercept=0.1, slope=1e-9)

    def minutes(eval_operations: float, max_seconds: float) -> float:
        return time_model.minutes(CostEstimate(1, 1, 1e8, 300, eval_operations, max_seconds))

    assert minutes(0.0, math.inf) == pytest.approx(1.1)
    assert minutes(6e9, math.inf) == pytest.approx(1.2)
    assert minutes(0.0, 54.0) == pytest.approx(1.0)


@given(days=st.integers(0, 99), hours=st.integers(0, 23), minutes=st.integers(0, 59), seconds=st.integers(0, 59))
@settings(max_examples=20, deadline=None)
def test_max_time_is_in_seconds(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = 86400 * days + 3600 * hours + 60 * minutes + seconds
    assert parse_max_time(f"{days:02}:{hours:02}:{minutes:02}:{seconds:02}") == expected
    assert parse_max_time(None) == math.inf


def test_large_spaces_are_enumerated_by_their_corners() -> None:
    small = {
        "a": Prior(CategoricalDistribution([1, 2, 3])),
        "b": Prior(FloatDistribution(1e-4, 1e-2, log=True)),
    }
    params, complete = enumerate_params(small)
    assert complete
    assert [each["a"] for each in params] == [1, 2, 3]
    assert params[0]["b"] == pytest.approx(1e-3)
    params, complete = enumerate_params({**small, "c": Prior(IntDistribution(1, 9)), "d": Prior(IntDistribution(0, 9))})
    assert not complete
    assert [each["d"] for each in params] == [0, 9] * 4
    assert {(each["a"], each["c"]) for each in params} == {(1, 1), (1, 9), (3, 1), (3, 9)}
    assert len(enumerate_params({str(index): Prior(IntDistribution(0, 1)) for index in range(9)})[0]) == MAX_ENUMERATED
