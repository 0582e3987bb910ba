"""Evaluate several runs of one task as an ensemble, with the mean of their probabilities."""

import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

from patchwork.core.errors import ConfigError
from patchwork.runs.manifest import check_dataset
from patchwork.runs.run import Run

MEMBER_KEYS = ("model", "optimizer", "scheduler", "monitor", "mode")  # of the task, in which members may differ


class StoredOutputs(nn.Module):
    """Return stored outputs (N, …) batch by batch, in the order of the split that they are of, whatever the inputs."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs
        self.start = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        stop = self.start + len(inputs[0])
        outputs = self.outputs[self.start : stop].to(inputs[0].device)
        self.start = stop
        return outputs


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
    members = [run.manifest.get("metrics", {}) for run in runs]
    first.task.model = combine(runs)
    for name, value in first.evaluate().items():
        values = [metrics[name] for metrics in members if name in metrics]
        line = f"{name:<28} {value:.6f}"
        if values:
            line += f"  members {statistics.fmean(values):.6f}"
        if len(values) > 1:
            line += f" ± {statistics.stdev(values):.6f}"
        print(line)


def combine(runs: list[Run]) -> nn.Module:
    """Return a model with the outputs of the ensemble: from the runs' tables of predictions where they are enough."""
    task = runs[0].task
    ensemble = task.make_ensemble([run.model for run in runs])
    if task.averages_log_probs:
        log_probs = [run.predictions("test").log_probs for run in runs]
        outputs = [task.outputs_from_log_probs(values) for values in log_probs if values is not None]
        if len(outputs) == len(runs):
            return StoredOutputs(task.average_outputs(torch.stack(outputs)))
    return ensemble


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
