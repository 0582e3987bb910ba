"""Small data modules, tasks and tables of predictions with planted truths."""

import torch
from torch import Tensor

from patchwork.data import BaseDataModule
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.tasks import Predictions, Task


def build_small(overrides: list[str]) -> tuple[BaseDataModule, Task]:
    """Build a data module, set up, and a task with new weights."""
    data, task = build(compose([*overrides, "data.eval_batch_size=16"]))
    data.prepare_data()
    data.setup("")
    return data, task


def planted_predictions(target: Tensor, prediction: Tensor, log_probs: Tensor | None = None) -> Predictions:
    """Return a table of the first samples of a split with these targets and predictions."""
    rows = torch.arange(len(target))
    return Predictions(rows, rows[:, None], target, prediction, log_probs)
