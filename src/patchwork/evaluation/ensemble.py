"""Evaluate several runs of one task as an ensemble, with the mean of their probabilities."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from patchwork.core.errors import ConfigError
from patchwork.runs.manifest import check_dataset
from patchwork.runs.predictions import to_task
from patchwork.runs.report import num_tested
from patchwork.runs.run import Run
from patchwork.stats.paired import mean_and_std
from patchwork.tasks import Predictions, Task

MEMBER_KEYS = ("model", "optimizer", "scheduler", "monitor", "mode")  # of the task, in which members may differ


class StoredOutputs(nn.Module):
    """A model whose outputs were computed before; its input is the index of each sample in its split.

    Args:
        index: Index of each stored row (N,) in the split, in any order.
        outputs: Outputs (N, …) of these samples.
    """

    def __init__(self, index: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs
        self.row = torch.empty(int(index.max()) + 1, dtype=torch.long)
        self.row[index] = torch.arange(len(index))

    def forward(self, index: Tensor) -> Tensor:
        """Return the outputs (B, …) of the samples `index` (B,)."""
        return self.outputs[self.row[index.cpu()]].to(index.device)


def evaluate_ensemble(run_dirs: list[Path]) -> None:
    """Print the test metrics of an ensemble, beside the mean and standard deviation of those of its members.

    Raises:
        ConfigError: if the runs are not of one task and the same test samples.
        PatchworkError: as `Run.load` and `Run.predictions` do.
    """
    runs = [Run.load(run_dir) for run_dir in run_dirs]
    first = runs[0]
    for run in runs:
        check_comparable(first, run)
    members = [test_metrics(run) for run in runs]
    set_model(first.task, combine(runs))
    metrics = first.evaluate()
    for name, value in metrics.items():
        mean, std = mean_and_std([member[name] for member in members])
        line = f"{name:<28} {value:.6f}  {'members' if len(members) > 1 else 'member'} {mean:.6f}"
        print(line if math.isnan(std) else f"{line} ± {std:.6f}")
    if summary := first.task.summary(metrics, num_tested(first.data)):
        print(summary)


def test_metrics(run: Run) -> dict[str, float]:
    """Return the test metrics of a run, measured now if it has none as it was stopped before its test."""
    saved = {name: value for name, value in run.manifest.get("metrics", {}).items() if name.startswith("test/")}
    return saved or run.evaluate()


def set_model(task: Task, model: nn.Module) -> None:
    """Replace the model of a task by an ensemble."""
    task.model = model
    task.input_names = ("index",) if isinstance(model, StoredOutputs) else task.model_interface["forward"]


def combine(runs: list[Run]) -> nn.Module:
    """Return a model with the outputs of the ensemble: from the runs' tables of predictions where they are enough.

    Raises:
        ConfigError: if the models' outputs cannot be averaged.
    """
    task = runs[0].task
    ensemble = task.make_ensemble([run.model for run in runs])
    for run in runs:
        check_same_outputs(runs[0], run)
    if task.averages_log_probs:
        tables = [run.predictions("test") for run in runs]
        outputs = [stored_outputs(run.task, table) for run, table in zip(runs, tables, strict=True)]
        known = [values for values in outputs if values is not None]
        if len(known) == len(runs):
            return StoredOutputs(tables[0].index.sort().values, task.average_outputs(torch.stack(known)))
    return ensemble


def stored_outputs(task: Task, table: Predictions) -> Tensor | None:
    """Return raw outputs (N, …) in the order of the split, or None if the table has no log-probabilities."""
    return None if table.log_probs is None else task.outputs_from_log_probs(table.log_probs[table.index.argsort()])


@torch.inference_mode()
def check_same_outputs(first: Run, other: Run) -> None:
    """Raise a `ConfigError` unless the models of two runs have outputs of the same shape, such as of the same kind."""
    shapes = []
    for run in (first, other):
        run.data.prepare_data()
        batch = to_task(run.task, run.data.make_batch("test", (0, 0), slice(0, 1)))
        with run.precision.forward_context():
            shapes.append(tuple(run.task.forward(batch).shape[1:]))
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"run={other.run_dir} has model outputs of shape {shapes[1]} per sample, and {first.run_dir} of "
            f"{shapes[0]}: an ensemble needs models of one kind of output"
        )


def check_comparable(first: Run, other: Run) -> None:
    """Raise a `ConfigError` unless two runs are of one task and are evaluated on the same samples."""
    tasks = [{key: run.config.task[key] for key in run.config.task if key not in MEMBER_KEYS} for run in (first, other)]
    if tasks[0] != tasks[1]:
        raise ConfigError(
            f"run={other.run_dir} is of another task than {first.run_dir}: an ensemble needs runs of one task"
        )
    batches = []
    for run in (first, other):
        run.data.prepare_data()
        check_dataset(run.manifest, run.data)
        batches.append(run.data.make_batch("test", (0, 0), slice(None)))
    size = min(len(batch["image"]) for batch in batches)  # as batch sizes may differ
    same = all(torch.equal(values[:size], batches[1][name][:size]) for name, values in batches[0].items())
    if not same or first.data.num_samples["test"] != other.data.num_samples["test"]:
        raise ConfigError(
            f"run={other.run_dir} has other test samples than {first.run_dir}: an ensemble needs the same data"
        )
