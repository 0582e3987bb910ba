"""Training and wall-clock time across resumes."""

import time
from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch

from patchwork.training.timing import RunTimer

BATCH = {"image": torch.zeros(8, 1, 2, 2)}


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that advances a simulated clock by some seconds."""
    now = [1000.0]

    def advance_clock(seconds: float) -> None:
        now[0] += seconds

    for name in ("time", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: now[0])
    return advance_clock


def train_steps(timer: RunTimer, advance: Callable[[float], None], steps: int) -> None:
    """Take training steps of one second."""
    for index in range(steps):
        advance(1)
        timer.on_train_batch_end(Mock(world_size=2), Mock(), None, BATCH, index)


def test_train_time_excludes_validation_and_startup(advance: Callable[[float], None]) -> None:
    timer = RunTimer(time.time())
    advance(5)
    timer.on_train_start(Mock(), Mock())
    train_steps(timer, advance, 3)
    timer.on_validation_start(Mock(), Mock())
    advance(10)
    timer.on_validation_end(Mock(), Mock())
    train_steps(timer, advance, 1)
    timer.on_train_end(Mock(), Mock())
    advance(20)
    assert timer.summary() == {
        "wall_clock_seconds": 39,
        "train_seconds": 4,
        "startup_seconds": 6,
        "samples_per_second": 16,
    }


def test_resumed_time_adds_up_without_work_after_the_checkpoint(advance: Callable[[float], None]) -> None:
    killed = RunTimer(time.time())
    killed.on_train_start(Mock(), Mock())
    train_steps(killed, advance, 2)
    checkpoint = killed.state_dict()
    train_steps(killed, advance, 5)
    resumed = RunTimer(time.time())
    resumed.load_state_dict(checkpoint)
    resumed.on_train_start(Mock(), Mock())
    train_steps(resumed, advance, 1)
    resumed.on_exception(Mock(), Mock(), RuntimeError())
    summary = resumed.summary()
    assert summary["train_seconds"] == 3
    assert summary["wall_clock_seconds"] == 3
    assert summary["samples_per_second"] == 16
