"""What all checks share: their input, their result, and comparing outputs in double precision."""

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from patchwork.analysis.inputs import to_double, to_double_values
from patchwork.data import BaseDataModule, Batch
from patchwork.data.base import Split
from patchwork.data.rng import make_rng
from patchwork.tasks import Task

NUM_SAMPLES = 16  # of a batch
ATOL = 1e-8  # largest relative change of outputs that double precision explains
MIN_EFFECT = 1e-3  # smallest relative change of outputs that shows that an input matters
PERTURBATION_STD = 0.02


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check: whether it passed (None if it does not apply), what was measured, what was expected."""

    passed: bool | None
    measured: str
    expected: str


@dataclass(frozen=True)
class AuditContext:
    """What a check works on.

    Args:
        task: in double precision and in eval mode; a check changes copies only.
        batch: of the validation split.
        train_batch: of the training split.
        data: the data module that the batches are from.
        trained: whether the weights are trained.
    """

    task: Task
    batch: Batch
    train_batch: Batch
    data: BaseDataModule
    trained: bool

    @classmethod
    def from_task(cls, task: Task, data: BaseDataModule, *, trained: bool) -> "AuditContext":
        """Copy a task in double precision, and take the first batches of a data module that is set up."""
        return cls(to_double(task).eval(), first_batch(data, "val"), first_batch(data, "train"), data, trained)


def first_batch(data: BaseDataModule, split: Split) -> Batch:
    """Return the first samples of a split, in double precision."""
    batch = data.make_batch(split, (0, 0), slice(None))
    return {name: to_double_values(values[:NUM_SAMPLES]) for name, values in batch.items()}


def perturb_parameters(task: Task) -> Task:
    """Return a copy of a task with noise added to all parameters: a zero-initialized network ignores its input."""
    task = deepcopy(task)
    rng = make_rng("audit")
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=PERTURBATION_STD)
    return task


def prepare(context: AuditContext) -> Task:
    """Return a copy of the task whose outputs depend on its inputs, trained or not."""
    return deepcopy(context.task) if context.trained else perturb_parameters(context.task)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference relative to the mean absolute value of `a`; inf if it is not finite."""
    difference = float((a - b).abs().max() / a.abs().mean().clamp_min(1e-12))
    return difference if math.isfinite(difference) else math.inf


def expect_unchanged(difference: float, reason: str) -> CheckResult:
    """Pass if outputs are the same up to rounding."""
    return CheckResult(difference <= ATOL, f"outputs change by {difference:.1e}", f"at most {ATOL:.0e}: {reason}")


def expect_changed(difference: float, reason: str) -> CheckResult:
    """Pass if outputs differ by more than rounding explains."""
    return CheckResult(
        difference >= MIN_EFFECT, f"outputs change by {difference:.1e}", f"at least {MIN_EFFECT:.0e}: {reason}"
    )


def not_applicable(reason: str) -> CheckResult:
    return CheckResult(None, reason, "not applicable")
