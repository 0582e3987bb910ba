"""What a finished run shows: figures in its directory, a few predictions and its test metrics on the terminal."""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.precision import Precision

from patchwork.core.errors import ResourceError
from patchwork.data import BaseDataModule
from patchwork.runs.predictions import to_task
from patchwork.tasks import Sample, Task

NUM_SAMPLES, NUM_PRINTED = 24, 5


def save_figures(run_dir: Path, task: Task, data: BaseDataModule, precision: Precision) -> list[Sample]:
    """Write the figures of a run, and return the test samples that they show.

    Args:
        run_dir: Directory of the run.
        task: Task with the weights to show.
        data: Data module of the test samples.
        precision: Precision of the run.

    Raises:
        ResourceError: if they cannot be written.
    """
    from patchwork.figures.curves import plot_curves
    from patchwork.figures.samples import plot_samples
    from patchwork.figures.style import save_figure

    samples = predict_test_samples(task, data, precision)
    figures = run_dir / "figures"
    try:
        if (run_dir / "metrics.csv").exists():
            curves = plot_curves(run_dir / "metrics.csv", monitor=task.monitor, mode=task.mode)
            save_figure(curves, figures / "curves.png")
        if samples:
            sheet = plot_samples(samples, title=f"{type(task).__name__} {task.samples_title}")
            save_figure(sheet, figures / "samples.png")
    except OSError as error:
        raise ResourceError(f"{figures} cannot be written: {error.strerror}") from error
    return samples


@torch.inference_mode()
def predict_test_samples(task: Task, data: BaseDataModule, precision: Precision) -> list[Sample]:
    """Return the first samples of the test split with their predictions."""
    batch = to_task(task, data.make_batch("test", (0, 0), slice(0, NUM_SAMPLES)))
    with precision.forward_context():
        return task.eval().samples(batch, NUM_SAMPLES)


def print_report(run_dir: Path, manifest: dict[str, Any], samples: list[Sample]) -> None:
    """Print a few predictions, the test metrics, and where the run is."""
    from patchwork.figures.braille import render

    if samples:
        width = shutil.get_terminal_size((120, 24)).columns
        print(render(samples[:NUM_PRINTED], color=sys.stdout.isatty(), width=width))
    epoch = manifest["best_epoch"]
    weights = f"weights of epoch {epoch}" if epoch else "last weights, as there was no validation"
    print(f"test metrics on {manifest['dataset']} ({weights}):")
    for name, values in group_metrics(manifest["metrics"]).items():
        print(f"  {name:<24} {' · '.join(values)}")
    print(
        f"trained for {manifest['train_seconds']:.0f} s, {manifest['parameters']:,} parameters, seed {manifest['seed']}"
    )
    print(f"saved in {run_dir}")


def group_metrics(metrics: dict[str, float]) -> dict[str, list[str]]:
    """Return the formatted test metrics; those of single classes or cells are grouped under their common name."""
    groups: dict[str, list[str]] = {}
    for name, value in sorted(metrics.items(), key=lambda item: item[0].count("/")):
        if name.startswith("test/"):
            title, _, part = name.removeprefix("test/").partition("/")
            groups.setdefault(f"test/{title}", []).append(f"{part} {value:.4f}".strip())
    return groups
