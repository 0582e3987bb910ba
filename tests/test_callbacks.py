"""The moving average of the weights."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from patchwork.callbacks import MovingAverage


def averaged(decay: float, values: list[float]) -> float:
    """Return the average of a weight that has had `values`, one after each step."""
    model = nn.Linear(1, 1, bias=False)
    average = AveragedModel(model, multi_avg_fn=MovingAverage(decay=decay).average)
    for value in values:
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    return average.module.weight.item()


def test_beginning_is_forgotten_long_before_the_horizon() -> None:
    """A plain average with this decay would still be 0.9 of where it began."""
    assert averaged(0.999, [1.0] + 99 * [0.0]) < 1e-6


def test_horizon_is_the_decay_in_the_end() -> None:
    before = averaged(0.9, 200 * [0.0])
    assert before == 0
    assert averaged(0.9, 200 * [0.0] + 5 * [1.0]) == pytest.approx(1 - 0.9**5)


def test_horizon_grows_with_the_training() -> None:
    """The average of a straight line lags behind by a share of the steps so far."""
    lags = [1 - averaged(0.9999, torch.arange(steps).tolist()) / steps for steps in (100, 1000)]
    assert lags == pytest.approx([0.1, 0.1], rel=0.1)
