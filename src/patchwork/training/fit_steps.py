"""A plain training loop, for the few places that train outside of a run."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def fit_steps(
    loss_fn: Callable[[int], Tensor],
    parameters: Iterable[nn.Parameter],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    steps: int,
    max_norm: float | None = None,
) -> Tensor:
    """Take optimizer steps without a Trainer: no validation, no logging, no checkpoints.

    Args:
        loss_fn: returns the scalar loss of the step with this index, from 0 on.
        parameters: all parameters whose gradients are clipped together.
        optimizer: takes one step per loss.
        scheduler: takes one step after each of the optimizer's.
        steps: how many steps to take, at least one.
        max_norm: the largest norm of the gradient of all parameters together; None does not clip.

    Returns:
        The loss () of the last step, detached.
    """
    parameters = list(parameters)
    loss = torch.zeros(())
    for index in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(index)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, torch.inf if max_norm is None else max_norm)
        optimizer.step()
        scheduler.step()
    return loss.detach()
