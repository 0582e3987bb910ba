"""A task around a given model, and its metrics over given batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

from patchwork.tasks import Task
from patchwork.training.optimizers import adamw
from patchwork.training.schedulers import constant


@pytest.fixture
def make_task() -> Callable[..., Any]:
    """Return a function that builds a task of a class around a model."""

    def make(task_class: type[Task], model: nn.Module, *, monitor: str = "val/loss", **options: Any) -> Any:
        optimizer = partial(adamw, lr=0.01, betas=[0.9, 0.99], weight_decay=0.1)
        return task_class(model=model, optimizer=optimizer, scheduler=constant, monitor=monitor, **options)

    return make


@pytest.fixture
def compute_metrics() -> Callable[..., dict[str, float]]:
    """Return a function that evaluates a task on test batches and returns its metrics, without their prefix."""

    def evaluate(task: Task, *batches: dict[str, Tensor]) -> dict[str, float]:
        for batch in batches:
            task.eval_step(batch, "test")
        values = task.test_metrics.compute()
        return {name.removeprefix("test/"): float(value) for name, value in values.items()}

    return evaluate
