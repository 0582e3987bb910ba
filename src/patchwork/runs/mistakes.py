"""The mistakes of a run that its model was surest of."""

from dataclasses import replace

import torch
from pytorch_lightning.plugins.precision import Precision

from patchwork.data import BaseDataModule
from patchwork.data.base import Batch
from patchwork.runs.predictions import to_task
from patchwork.tasks import Predictions, Sample, Task

NUM_MISTAKES = 12


@torch.inference_mode()
def mistake_samples(
    task: Task, data: BaseDataModule, predictions: Predictions, precision: Precision, count: int = NUM_MISTAKES
) -> list[Sample]:
    """Return the test samples that are predicted wrongly with the highest probability, the highest first.

    Args:
        task: Task with the weights that predicted.
        data: Data module of the test samples.
        predictions: Of the test split, in order.
        precision: Precision of the run.
        count: How many samples at most.

    Returns:
        Samples with the probability of the prediction as their note; none if nothing is wrong, or if predictions have
        no probability or cannot be compared with their targets.
    """
    rows = surest_mistakes(predictions, data.num_samples["test"], count)
    if not rows:
        return []
    probability = predictions.probability
    assert probability is not None
    batch = to_task(task, test_batch(data, rows))
    with precision.forward_context():
        samples = task.eval().samples(batch, len(rows))
    notes = [format_probability(value) for value in probability[rows].tolist()]
    return [replace(sample, note=note) for sample, note in zip(samples, notes, strict=True)]


def format_probability(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.001 else "< 0.1%"


def surest_mistakes(predictions: Predictions, num_samples: int, count: int) -> list[int]:
    """Return which of the first `num_samples` rows are wrong with the highest probability, the highest first."""
    correct, probability = predictions.correct, predictions.probability
    if correct is None or probability is None:
        return []
    wrong = (~correct[:num_samples]).nonzero().squeeze(1)
    order = probability[wrong].argsort(descending=True, stable=True)
    return wrong[order[:count]].tolist()


def test_batch(data: BaseDataModule, rows: list[int]) -> Batch:
    """Return a batch of the test samples with these indices."""
    batches = []
    for row in rows:
        index, offset = divmod(row, data.eval_batch_size)
        batches.append(data.make_batch("test", (0, index), slice(offset, offset + 1)))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
