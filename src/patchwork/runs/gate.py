"""Keep fine-tuned weights only if they are better on corrections that were held out, and not worse on MNIST.

Labels of corrections can be wrong, and a model that is trained on a few drawings forgets what it has learned before.
So a run on `dataset=corrections` compares its weights with those that it began with, before anything is tested.
"""

from typing import Any

from torch import Tensor

from patchwork.core.errors import ConfigError
from patchwork.core.progress import Progress
from patchwork.data import BaseDataModule
from patchwork.data.images import ImagesDataModule
from patchwork.data.sources import Corrections, LabeledImages
from patchwork.data.stitched import StitchedDataModule
from patchwork.runs.predictions import predict, predict_images
from patchwork.tasks import Task

MAX_P = 0.05  # of no improvement on the corrections
MAX_LOSS = 0.001  # of accuracy on validation


def needs_gate(data: BaseDataModule) -> bool:
    return isinstance(getattr(data, "dataset", None), Corrections)


def check_gate(data: BaseDataModule, init_from: str | None, num_processes: int) -> None:
    """Check that there are weights to compare with, and that one process can compare them image by image.

    Raises:
        ConfigError: if not.
    """
    if not needs_gate(data):
        return
    if init_from is None:
        raise ConfigError("init_from=null is not allowed with dataset=corrections: name the weights to fine-tune")
    if not isinstance(data, ImagesDataModule | StitchedDataModule):
        raise ConfigError("dataset=corrections is for task=classify and task=seq2seq, which answer single digits")
    if num_processes > 1:
        raise ConfigError(f"dataset=corrections is trained by one process, not {num_processes}: use trainer.devices=1")


def judge(task: Task, data: BaseDataModule, initial: dict[str, Tensor]) -> dict[str, Any]:
    """Compare the weights of a task with those that its training began with; the better ones are left in it.

    Args:
        task: Task with the weights that were trained.
        data: Data module of the run.
        initial: Weights that it began with.

    Returns:
        The verdict for the manifest: `passed` and the numbers that it follows from.
    """
    assert isinstance(data, ImagesDataModule | StitchedDataModule)
    assert isinstance(data.dataset, Corrections)
    held_out = data.dataset.load_held_out()
    trained = {name: weight.clone() for name, weight in task.state_dict().items()}
    with Progress("comparing with the weights it began with"):
        new_right, new_accuracy = right_corrections(task, data, held_out), validation_accuracy(task, data)
        task.load_state_dict(initial)
        old_right, old_accuracy = right_corrections(task, data, held_out), validation_accuracy(task, data)
    better, worse = int((new_right & ~old_right).sum()), int((old_right & ~new_right).sum())
    p_value = improvement_p_value(better, worse)
    passed = p_value < MAX_P and new_accuracy >= old_accuracy - MAX_LOSS
    if passed:
        task.load_state_dict(trained)
    return {
        "passed": passed,
        "held_out": len(held_out.labels),
        "held_out_accuracy": round(float(new_right.double().mean()), 6),
        "held_out_accuracy_before": round(float(old_right.double().mean()), 6),
        "p_value": float(f"{p_value:.3g}"),
        "val_accuracy": round(new_accuracy, 6),
        "val_accuracy_before": round(old_accuracy, 6),
    }


def right_corrections(task: Task, data: ImagesDataModule | StitchedDataModule, images: LabeledImages) -> Tensor:
    """Return whether each image (n, 1, H, W) is predicted right; in a grid all cells show it, and all must be right."""
    pixels = images.images
    if isinstance(data, StitchedDataModule):
        pixels = pixels.repeat(1, 1, data.rows, data.cols)
    predictions = predict_images(task, data, pixels).prediction
    return (predictions.reshape(len(pixels), -1) == images.labels[:, None]).all(dim=1)


def validation_accuracy(task: Task, data: BaseDataModule) -> float:
    """Return the share of validation answers that are right, of a grid's each one for itself."""
    predictions = predict(task, data, "val")
    assert predictions.target is not None
    return float((predictions.prediction == predictions.target).double().mean())


def improvement_p_value(better: int, worse: int) -> float:
    """Return the one-sided p-value of no improvement (McNemar's exact test), by how many answers changed each way."""
    from scipy.stats import binom

    return float(binom.sf(better - 1, better + worse, 0.5)) if better + worse else 1.0


def describe_verdict(verdict: dict[str, Any], init_from: str) -> str:
    """Return the verdict in a sentence."""
    kept = "the new weights are kept" if verdict["passed"] else f"the weights of {init_from} are kept"
    return (
        f"{kept}: {100 * verdict['held_out_accuracy']:.1f} % of {verdict['held_out']} corrections that were held out "
        f"are right (before: {100 * verdict['held_out_accuracy_before']:.1f} %, p = {verdict['p_value']:.2g}), and "
        f"{100 * verdict['val_accuracy']:.2f} % of MNIST's validation answers "
        f"(before: {100 * verdict['val_accuracy_before']:.2f} %)"
    )
