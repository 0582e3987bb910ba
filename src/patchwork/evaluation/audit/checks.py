"""All checks by name, and running those that a task declares in `Task.checks`."""

from collections.abc import Callable, Iterator

from patchwork.core.progress import Progress
from patchwork.data import BaseDataModule
from patchwork.evaluation.audit.base import AuditContext, CheckResult
from patchwork.evaluation.audit.data import split_leakage
from patchwork.evaluation.audit.invariance import (
    batch_independence,
    causality,
    eval_determinism,
    input_sensitivity,
    kv_cache_equivalence,
    padding_invariance,
    permutation_invariance,
    position_sensitivity,
)
from patchwork.evaluation.audit.learning import gradient_flow, initial_loss, overfit_one_batch
from patchwork.tasks import Task

Check = Callable[[AuditContext], CheckResult]

CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        batch_independence,
        eval_determinism,
        input_sensitivity,
        padding_invariance,
        permutation_invariance,
        position_sensitivity,
        causality,
        kv_cache_equivalence,
        gradient_flow,
        initial_loss,
        overfit_one_batch,
        split_leakage,
    )
}


def run_checks(task: Task, data: BaseDataModule, *, trained: bool = False) -> Iterator[tuple[str, CheckResult]]:
    """Run the checks that a task declares, one after the other; the task itself is not changed.

    Args:
        task: with its model.
        data: set up.
        trained: whether the weights are trained; checks of training from scratch are then skipped.

    Yields:
        The name of each check and its result.
    """
    context = AuditContext.from_task(task, data, trained=trained)
    for name in task.checks:
        with Progress(f"checking {name}"):
            result = CHECKS[name](context)
        yield name, result
