"""Learning rate schedules, each a function of an optimizer and the number of its steps.

They multiply the learning rate of every parameter group by the same factor, step by step.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from patchwork.core.types import Fraction


def cosine(optimizer: Optimizer, steps: int, *, warmup_ratio: Fraction, min_lr_ratio: Fraction) -> LambdaLR:
    """Linear warmup, then half a cosine (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983).

    Args:
        optimizer: whose learning rates to schedule.
        steps: how many steps the optimizer takes.
        warmup_ratio: fraction of the steps that warm up.
        min_lr_ratio: fraction of the learning rate that is left at the end.
    """

    def factor(step: int) -> float:
        warmup_steps = warmup_ratio * steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        angle = math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(angle))

    return LambdaLR(optimizer, factor)


def wsd(optimizer: Optimizer, steps: int, *, warmup_ratio: Fraction, decay_ratio: Fraction) -> LambdaLR:
    """Warmup–stable–decay: linear warmup, constant, linear decay to zero (Hu et al. 2024, https://arxiv.org/abs/2404.06395).

    Args:
        optimizer: whose learning rates to schedule.
        steps: how many steps the optimizer takes.
        warmup_ratio: fraction of the steps that warm up.
        decay_ratio: fraction of the steps, the last ones, that decay.
    """

    def factor(step: int) -> float:
        warmup = (step + 1) / (warmup_ratio * steps + 1)
        decay = (steps - step) / max(1, decay_ratio * steps)
        return max(0.0, min(1.0, warmup, decay))

    return LambdaLR(optimizer, factor)


def step(optimizer: Optimizer, steps: int, *, milestones: list[Fraction], gamma: Fraction) -> LambdaLR:
    """Multiply the learning rate by `gamma` at each milestone.

    Args:
        optimizer: whose learning rates to schedule.
        steps: how many steps the optimizer takes.
        milestones: fractions of the steps.
        gamma: factor of the learning rate at each milestone.
    """
    return LambdaLR(optimizer, lambda index: gamma ** sum(index >= milestone * steps for milestone in milestones))


def constant(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Keep the learning rate constant."""
    return LambdaLR(optimizer, lambda index: 1.0)
