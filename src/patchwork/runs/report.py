"""What a finished run shows: figures in its directory, a few predictions and its test metrics on the terminal."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.precision import Precision

from patchwork.core.errors import ResourceError
from patchwork.core.overrides import shell_command
from patchwork.core.terminal import is_terminal, terminal_width
from patchwork.data import BaseDataModule
from patchwork.figures.braille import render, supports_unicode
from patchwork.report import PAGE_FILE
from patchwork.runs.mistakes import mistake_samples
from patchwork.runs.predictions import predictions_path, read_table, to_task
from patchwork.tasks import Pixels, Sample, Task
from patchwork.tasks.base import legend
from patchwork.training.step_counts import limited

NUM_SAMPLES, NUM_PRINTED = 24, 4
MAX_LINES = 20  # of the samples that are printed, so that the result stays in sight
PICTURES = ("samples", "mistakes", "curves")


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
            title = f"{type(task).__name__} {task.samples_title}"
            sheet = plot_samples(samples, title=with_legend(title, samples, task))
            save_figure(sheet, figures / "samples.png")
        if mistakes := saved_mistakes(run_dir, task, data, precision):
            title = f"{type(task).__name__} test: most confident mistakes, with their probability"
            save_figure(plot_samples(mistakes, title=with_legend(title, mistakes, task)), figures / "mistakes.png")
    except OSError as error:
        raise ResourceError(f"{figures} cannot be written: {error.strerror}") from error
    return samples


def with_legend(title: str, samples: list[Sample], task: Task) -> str:
    """Return the title of samples with the meanings of the symbols in them."""
    symbols = legend(samples, task.symbols)
    return f"{title} ({symbols})" if symbols else title


def saved_mistakes(run_dir: Path, task: Task, data: BaseDataModule, precision: Precision) -> list[Sample]:
    """Return the most confident mistakes among a run's saved test predictions; none if none are saved."""
    path = predictions_path(run_dir, "test")
    return mistake_samples(task, data, read_table(path)[0], precision) if path.exists() else []


@torch.inference_mode()
def predict_test_samples(task: Task, data: BaseDataModule, precision: Precision) -> list[Sample]:
    """Return the first samples of the test split with their predictions."""
    batch = to_task(task, data.make_batch("test", (0, 0), slice(0, NUM_SAMPLES)))
    with precision.forward_context():
        return task.eval().samples(batch, NUM_SAMPLES)


def print_report(
    run_dir: Path, manifest: dict[str, Any], samples: list[Sample], task: Task, data: BaseDataModule
) -> None:
    """Print a few predictions, the result in plain words, the test metrics, where the run is and what to do with it."""
    if samples and supports_unicode():
        print(render_some(samples))
        if symbols := legend(samples[:NUM_PRINTED], task.symbols):
            print(f"({symbols})")
    metrics = manifest["metrics"]
    if "trial" in manifest:
        print(manifest["trial"])
    elif "test/loss" in metrics and (summary := task.summary(metrics, num_tested(data))):
        print(summary)
    if manifest.get("stopped_by") == "max_time":
        print(describe_max_time(manifest))
    epoch = manifest["best_epoch"]
    weights = f"weights of epoch {epoch}" if epoch else "last weights, as there was no validation"
    if "test/loss" in metrics:
        result = ", not a result" if "trial" in manifest else ""
        print(f"test metrics on {manifest['dataset']} ({weights}{result}):")
    else:
        print(f"nothing was tested ({weights}): trainer.limit_test_batches=0")
    for name, values in group_metrics(manifest["metrics"]).items():
        print(f"  {name:<24} {' · '.join(values)}")
    seconds = manifest["train_seconds"]
    duration = f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:.0f}"
    print(f"trained for {duration} s, {manifest['parameters']:,} parameters, seed {manifest['seed']}")
    print(f"saved in {run_dir}")
    for line in next_steps(run_dir, task, is_trial="trial" in manifest):
        print(f"  {line}")


def describe_max_time(manifest: dict[str, Any]) -> str:
    """Return where training and its learning rate schedule stood when `max_time` ended them."""
    percent = float(f"{100 * manifest['lr_ratio']:.2g}")
    return (
        f"ended by trainer.max_time at step {manifest['steps']:,} of {manifest['planned_steps']:,}; the learning rate "
        f"was at {percent:g} % of its highest, as its schedule is that of all steps"
    )


def render_some(samples: list[Sample]) -> str:
    """Render as many samples as fit into a few lines of the terminal, at least one."""
    width, color = terminal_width(), is_terminal(sys.stdout) and "NO_COLOR" not in os.environ
    for count in range(min(NUM_PRINTED, len(samples)), 0, -1):
        text = render(samples[:count], color=color, width=width)
        if text.count("\n") < MAX_LINES:
            break
    return text


def num_tested(data: BaseDataModule) -> int:
    """Return how many test samples a run is measured on, which a limit of the trainer may make fewer."""
    total = data.num_samples["test"]
    limit: int | float = getattr(data.trainer, "limit_test_batches", 1.0) if data.trainer else 1.0
    return min(limited(limit, data.num_batches("test")) * data.eval_batch_size, total)


def next_steps(run_dir: Path, task: Task, *, is_trial: bool) -> list[str]:
    """Return the pictures to look at, and commands to type next; those need a result, which a trial is not."""
    pictures = [f"{name}.png" for name in PICTURES if (run_dir / "figures" / f"{name}.png").exists()]
    lines = [f"look at    {run_dir / 'figures'}: {', '.join(pictures)}"] if pictures else []
    if (run_dir / PAGE_FILE).exists():
        lines.insert(0, f"open       {run_dir / PAGE_FILE}")
    if is_trial:
        return lines
    if isinstance(task, Pixels):
        lines.append(f"generate   {shell_command('generate', run=str(run_dir))}")
        lines.append(f"score      {shell_command('evaluate', run=str(run_dir))}")
        return lines
    table = shell_command("predict", run=str(run_dir), out="predictions.csv")
    return [*lines, f"predict    {table}", f"measure    {shell_command('evaluate', run=str(run_dir))}"]


def group_metrics(metrics: dict[str, float]) -> dict[str, list[str]]:
    """Return the formatted test metrics; those of single classes or cells are grouped under their common name."""
    groups: dict[str, list[str]] = {}
    for name, value in sorted(metrics.items(), key=lambda item: item[0].count("/")):
        if name.startswith("test/"):
            title, _, part = name.removeprefix("test/").partition("/")
            groups.setdefault(f"test/{title}", []).append(f"{part} {value:.4f}".strip())
    return groups
