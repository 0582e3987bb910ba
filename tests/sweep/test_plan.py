"""A plan tells what is impossible and what the rest costs, and leaves nothing behind."""

import math
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from patchwork.cli import guarded
from patchwork.sweep.command import command as sweep
from patchwork.sweep.plan import LISTED, Cost, Pace, cost, listed, seconds_of
from patchwork.sweep.setting import composed

SPACE = {
    "program": "train.py",
    "method": "grid",
    "metric": {"name": "val/sequence_accuracy", "goal": "maximize"},
    "parameters": {"model.embed_dim": {"values": [16, 64]}, "model.num_heads": {"values": [2, 3]}},
}


def test_plan_of_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    words = [word for word in TINY if "embed_dim" not in word]
    assert guarded(lambda: sweep(["space.yaml", "plan=true", "jobs=2", *words])) == 0
    said = capsys.readouterr().out
    assert "4 settings, 2 of them impossible" in said
    assert "1 × model: embed_dim=16 is not divisible by num_heads=3" in said
    rows = [line.split() for line in said.splitlines() if "MiB" in line]
    assert [row[-2:] for row in rows] == [[f"model.embed_dim={width}", "model.num_heads=2"] for width in (16, 64)]
    parameters, operations = ([float(row[place].replace(",", "")) for row in rows] for place in (0, 1))
    assert parameters[0] < parameters[1]
    assert operations[0] <= operations[1]
    assert "2 trials take about" in said
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


@pytest.mark.parametrize("task", ["classify", "sum", "anchor", "icons", "pixels", "seq2seq"])
def test_cost_of_every_task(task: str) -> None:
    small = composed([f"task={task}", "digits=uci", "data.batch_size=16", "trainer.max_epochs=2"])
    large = composed([f"task={task}", "digits=uci", "data.batch_size=32", "trainer.max_epochs=1", "callbacks=none"])
    one, other = cost(small), cost(large)
    assert one.parameters == other.parameters
    assert one.memory > 4 * 4 * one.parameters  # weights, gradients, an optimizer's state and an average
    assert other.memory > one.memory - 4 * one.parameters
    assert other.operations == pytest.approx(2 * one.operations, rel=0.01)
    assert (one.steps, other.steps) == (2 * (small.data.train_size // 16), large.data.train_size // 32)
    assert one.evaluation > other.evaluation


def test_steps_end_where_the_trainer_does() -> None:
    words = ["task=classify", "digits=uci", "data.train_size=1280", "trainer.max_epochs=3"]
    assert cost(composed(words)).steps == 30
    assert cost(composed([*words, "trainer.max_steps=7"])).steps == 7
    assert cost(composed([*words, "trainer.limit_train_batches=0.5"])).steps == 15
    assert cost(composed([*words, "trainer.limit_train_batches=4", "trainer.accumulate_grad_batches=2"])).steps == 6
    assert cost(composed([*words, "trainer.max_time=00:00:01:30"])).limit == 90


def test_minutes_are_a_line_over_operations_up_to_a_limit() -> None:
    pace = Pace(start=6.0, least=0.1, slope=1e-9)
    assert pace.minutes(Cost(1, 1, 1e8, 300, 0.0, math.inf)) == pytest.approx(1.1)
    assert pace.minutes(Cost(1, 1, 1e8, 300, 6e9, math.inf)) == pytest.approx(1.2)
    assert pace.minutes(Cost(1, 1, 1e8, 300, 0.0, 54.0)) == pytest.approx(1.0)
    assert seconds_of("01:02:03:04") == 93784


def test_large_spaces_are_listed_by_their_corners() -> None:
    few = {"a": CategoricalDistribution([1, 2, 3]), "b": FloatDistribution(1e-4, 1e-2, log=True)}
    settings, what = listed(few)
    assert what == "settings"
    assert [setting["a"] for setting in settings] == [1, 2, 3]
    assert settings[0]["b"] == pytest.approx(1e-3)
    settings, what = listed({**few, "c": IntDistribution(1, 9), "d": IntDistribution(0, 9)})
    assert what == "corners"
    assert [one["d"] for one in settings] == [0, 9] * 4
    assert {(one["a"], one["c"]) for one in settings} == {(1, 1), (1, 9), (3, 1), (3, 9)}
    assert len(listed({str(number): IntDistribution(0, 1) for number in range(9)})[0]) == LISTED
