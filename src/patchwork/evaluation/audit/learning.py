"""Checks of training: gradients, the loss before it, and overfitting one batch.

They follow "verify loss @ init" and "overfit one batch" of https://karpathy.github.io/2019/04/25/recipe/.
"""

from copy import deepcopy

import torch

from patchwork.data import Batch
from patchwork.evaluation.audit.base import AuditContext, CheckResult, not_applicable, perturb_parameters
from patchwork.training.fit_steps import fit_steps
from patchwork.training.schedulers import wsd

ZERO_GRAD_RATIO = 1e-13  # of the largest gradient norm: smaller ones are rounding
INIT_LOSS_RTOL = 0.25
OVERFIT_STEPS = 150
MAX_LOSS_RATIO = 0.1  # of the loss without images, after overfitting


def gradient_flow(context: AuditContext) -> CheckResult:
    """Find parameters that receive no gradient in a training step.

    A trained network may have stopped to use some; noise on all parameters tells these from parts that are not wired.
    """
    task = perturb_parameters(context.task).train()
    torch.manual_seed(0)
    task.step(context.train_batch, "train").backward()
    norms = {
        name: 0.0 if parameter.grad is None else float(parameter.grad.norm())
        for name, parameter in task.model.named_parameters()
    }
    idle = [name for name, norm in norms.items() if norm <= ZERO_GRAD_RATIO * max(norms.values())]
    names = f": {', '.join(idle[:2])}" if idle else ""
    return CheckResult(not idle, f"{len(idle)} of {len(norms)} without gradient{names}", "0 parameters")


@torch.no_grad()
def initial_loss(context: AuditContext) -> CheckResult:
    """Compare the loss at initialization with that of a uniform prediction."""
    if context.trained:
        return not_applicable("the model is trained")
    expected = context.task.uniform_loss(context.train_batch)
    torch.manual_seed(0)
    loss = float(deepcopy(context.task).train().step(context.train_batch, "train"))
    return CheckResult(
        abs(loss / expected - 1) <= INIT_LOSS_RTOL, f"initial loss {loss:.3f}", f"{expected:.3f} ± {INIT_LOSS_RTOL:.0%}"
    )


def overfit_one_batch(context: AuditContext) -> CheckResult:
    """Train on one batch, and compare the loss with the best one that is possible without seeing its images."""
    if context.trained:
        return not_applicable("the model is trained")
    task = deepcopy(context.task).float().train()
    batch: Batch = {
        name: values.float() if values.is_floating_point() else values for name, values in context.train_batch.items()
    }
    torch.manual_seed(0)
    image_free = task.image_free_loss(batch)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3, betas=(0.9, 0.98), fused=True)
    scheduler = wsd(optimizer, OVERFIT_STEPS, warmup_ratio=0.2, decay_ratio=0.3)  # without it wide networks diverge
    loss = fit_steps(
        lambda index: task.step(batch, "train"), task.parameters(), optimizer, scheduler, OVERFIT_STEPS, max_norm=1.0
    )
    ratio = float(loss) / image_free
    return CheckResult(
        ratio <= MAX_LOSS_RATIO,
        f"loss falls to {100 * ratio:.1f} % of the image-free loss",
        f"at most {100 * MAX_LOSS_RATIO:.0f} % after {OVERFIT_STEPS} steps",
    )
