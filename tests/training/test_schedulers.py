"""The shapes of learning rate schedules."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from patchwork.training.schedulers import constant, cosine, step, wsd

NUM_STEPS = [1, 2, 7, 100, 333]
RATIOS = [0.0, 0.1, 0.25, 0.5, 1.0]


def lr_factors(schedule: Callable[[Optimizer, int], Any], steps: int) -> list[float]:
    """Return the factor of the learning rate at each step, and the one after the last step."""
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 0.5}, {"params": [torch.zeros(1)], "lr": 4.0}])
    scheduler, factors = schedule(optimizer, steps), []
    for _ in range(steps + 1):
        first_lr, second_lr = (group["lr"] for group in optimizer.param_groups)
        assert second_lr == pytest.approx(8 * first_lr)  # groups keep their ratio
        factors.append(first_lr / 0.5)
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize("steps", NUM_STEPS)
@pytest.mark.parametrize("warmup_ratio", RATIOS)
@pytest.mark.parametrize("min_lr_ratio", [0.0, 0.1, 1.0])
def test_cosine_warms_up_once_then_decays_to_min_lr(steps: int, warmup_ratio: float, min_lr_ratio: float) -> None:
    factors = lr_factors(partial(cosine, warmup_ratio=warmup_ratio, min_lr_ratio=min_lr_ratio), steps)
    peak = max(range(len(factors)), key=factors.__getitem__)
    assert all(0 <= factor <= 1 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[: peak + 1]))
    assert all(a >= b for a, b in pairwise(factors[peak:]))
    assert factors[0] == pytest.approx(1 / (warmup_ratio * steps + 1))
    assert abs(peak - warmup_ratio * steps) <= 1
    assert factors[peak] > 0.9 or steps < 10 or warmup_ratio == 1
    if steps * (1 - warmup_ratio) >= 1:
        assert factors[-1] == pytest.approx(min_lr_ratio, abs=1e-12)


@pytest.mark.parametrize("steps", NUM_STEPS)
@pytest.mark.parametrize("min_lr_ratio", [0.0, 0.3])
def test_cosine_without_warmup_is_symmetric(steps: int, min_lr_ratio: float) -> None:
    factors = lr_factors(partial(cosine, warmup_ratio=0.0, min_lr_ratio=min_lr_ratio), steps)
    for early, late in zip(factors, reversed(factors), strict=True):
        assert early + late == pytest.approx(1 + min_lr_ratio)
    assert sum(factors[:-1]) == pytest.approx(steps * (1 + min_lr_ratio) / 2 + (1 - min_lr_ratio) / 2)


@pytest.mark.parametrize("steps", NUM_STEPS)
@pytest.mark.parametrize("warmup_ratio", RATIOS)
@pytest.mark.parametrize("decay_ratio", RATIOS)
def test_wsd_is_a_trapezoid_that_ends_at_zero(steps: int, warmup_ratio: float, decay_ratio: float) -> None:
    factors = lr_factors(partial(wsd, warmup_ratio=warmup_ratio, decay_ratio=decay_ratio), steps)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[-1] == 0
    assert 0 < factors[0] <= 1 / (warmup_ratio * steps + 1) + 1e-12
    changes = [b - a for a, b in pairwise(factors)]
    falls = [change < -1e-12 for change in changes]
    assert falls == sorted(falls)  # it never rises again
    assert len({round(change, 9) for change in changes}) <= 5  # three lines, whose corners may lie between two steps
    if warmup_ratio + decay_ratio <= 1:
        stable_start = math.ceil(warmup_ratio * steps)
        stable_end = min(steps, math.floor((1 - decay_ratio) * steps + 1e-9) + 1)
        assert factors[stable_start:stable_end] == pytest.approx([1.0] * max(0, stable_end - stable_start))


@pytest.mark.parametrize("steps", NUM_STEPS)
def test_constant_schedule_is_constant(steps: int) -> None:
    assert set(lr_factors(constant, steps)) == {1.0}


def test_step_schedule_multiplies_by_gamma_at_each_milestone() -> None:
    factors = lr_factors(partial(step, milestones=[0.6, 0.8], gamma=0.1), 10)
    assert factors == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 3)
