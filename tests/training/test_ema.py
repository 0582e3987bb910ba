"""The exponential moving average of the weights."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from patchwork.training.ema import EMAWeightAveraging


def ema_of(values: list[float], decay: float) -> float:
    """Return the average of a weight that had these values, one after each step."""
    model = nn.Linear(1, 1, bias=False)
    average = AveragedModel(model, multi_avg_fn=EMAWeightAveraging(decay=decay).average)
    for value in values:
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    return average.module.weight.item()


def test_ema_forgets_initial_weights_long_before_its_final_horizon() -> None:
    """With a constant decay of 0.999, the average would still be 0.9 after these steps."""
    assert ema_of([1.0] + 99 * [0.0], decay=0.999) < 1e-6


def test_ema_horizon_is_given_by_decay_late_in_training() -> None:
    assert ema_of(200 * [0.0], decay=0.9) == 0
    assert ema_of(200 * [0.0] + 5 * [1.0], decay=0.9) == pytest.approx(1 - 0.9**5)


def test_ema_horizon_grows_with_training() -> None:
    """The average of a linear trend lags behind by a fraction of the steps so far."""
    lags = [1 - ema_of(torch.arange(steps).tolist(), decay=0.9999) / steps for steps in (100, 1000)]
    assert lags == pytest.approx([0.1, 0.1], rel=0.1)
