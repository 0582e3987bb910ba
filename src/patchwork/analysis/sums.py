"""How a sum is made of its images: what each image is read as alone, and what exchanging one does to the whole.

If a model adds up, the distribution of a sum is the convolution of its images' distributions, and exchanging an image
moves the expected sum by the difference of the two digits.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.data.base import Batch
from patchwork.models.sum_distribution import convolve_distributions
from patchwork.stats.overlap import overlapping_slope, overlapping_wilson
from patchwork.tasks import Predictions, Sum, Task
from patchwork.tasks.base import to_unit_range
from patchwork.tasks.sum import expected_sum

NUM_SEQUENCES, NUM_SHOWN = 300, 4
LARGEST_ERROR = 3  # errors beyond are counted with it


@dataclass(frozen=True, eq=False)
class Sums(Result):
    """Sums, what their images are read as, and what exchanges do.

    Attributes:
        images: (E, S, C, height, width) uint8 of the sequences that are shown.
        length: (E,) how many images each has.
        alone: (E, S, K) the distribution of each image alone; of a model that gives a number, the number (K = 1).
        whole: (E, W) the distribution of the sum, or the number.
        target: (E,) the sums.
        remainder: largest difference between a sum's distribution and the convolution of its images'; NaN for numbers.
        slope: (3,) change of the expected sum for each unit of a digit that is exchanged, with its 95 % interval; NaN
            if no digits differ.
        n: number of exchanges.
        lengths: (L,) of all test sequences.
        errors: (L, 7) counts of prediction minus target, from −3 or less to 3 or more.
        intervals: (L, 2) 95 % interval of the share that is right, over sequences that share images.
        unit: what samples are.
    """

    name: ClassVar[str] = "sums"
    images: np.ndarray
    length: np.ndarray
    alone: np.ndarray
    whole: np.ndarray
    target: np.ndarray
    remainder: float
    slope: np.ndarray
    n: int
    lengths: np.ndarray
    errors: np.ndarray
    intervals: np.ndarray
    unit: str

    def numbers(self) -> dict[str, Estimate]:
        value, low, high = self.slope.tolist()
        numbers = {
            "slope of an exchange": Estimate(value, self.n, "exchanges", low, high, "least squares, over images")
        }
        for length, counts, ends in zip(self.lengths.tolist(), self.errors, self.intervals.tolist(), strict=True):
            total, (low, high) = int(counts.sum()), ends
            share = float(counts[LARGEST_ERROR]) / total
            numbers[f"right at length {length}"] = Estimate(share, total, self.unit, low, high, "Wilson, over images")
        return numbers


@torch.no_grad()
def analyze(inputs: AnalysisInputs) -> Sums:
    """Read each image alone, exchange one of each sequence, and count the errors of all predictions.

    Raises:
        NotApplicableError: if the task is not to add up.
    """
    task = inputs.task
    if not isinstance(task, Sum):
        raise NotApplicableError("the task adds nothing up")
    batch = inputs.first(NUM_SEQUENCES)
    mask, target = batch["mask"], batch["digits"].sum(dim=1)
    whole, alone = task(batch), read_alone(task, batch)
    digit_change, sum_change, images = exchange(task, batch)
    lengths, errors, intervals = count_errors(inputs.saved_predictions())
    shown = slice(NUM_SHOWN)
    longest = int(mask[shown].sum(dim=1).max())
    return Sums(
        images=(to_unit_range(batch["image"][shown, :longest]) * 255).round().byte().numpy(),
        length=mask[shown].sum(dim=1).numpy(),
        alone=alone[shown, :longest].numpy(),
        whole=(whole.exp() if whole.ndim == 2 else whole[:, None])[shown].numpy(),
        target=target[shown].numpy(),
        remainder=convolution_error(whole, alone, mask) if whole.ndim == 2 else np.nan,
        slope=np.array(overlapping_slope(digit_change.numpy(), sum_change.numpy(), images.numpy())),
        n=len(digit_change),
        lengths=lengths,
        errors=errors,
        intervals=intervals,
        unit=f"{inputs.split} {task.samples_name}",
    )


def read_alone(task: Task, batch: Batch) -> Tensor:
    """Return what each image is read as in a sequence of its own: a distribution (B, S, K), or a number (K = 1)."""
    images = batch["image"].flatten(0, 1)[:, None]
    single = {"image": images, "mask": torch.ones(len(images), 1, dtype=torch.bool)}
    outputs = task(single)
    values = outputs.exp() if outputs.ndim == 2 else outputs[:, None]
    return values.unflatten(0, batch["mask"].shape)


def convolution_error(log_probs: Tensor, alone: Tensor, mask: Tensor) -> float:
    """Return the largest difference between distributions of sums (B, W) and the convolutions of (B, S, K)."""
    zero = torch.eye(alone.shape[-1], dtype=alone.dtype)[0]  # what padding adds
    convolved = convolve_distributions(torch.where(mask[..., None], alone, zero))
    return float((convolved - log_probs.exp()).abs().max())


def exchange(task: Task, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Exchange the first image of each sequence with that of the next one.

    Returns:
        By how much the digit differs (n,), by how much the expected sum moves (n,), and the images that it depends on
        (n, S + 1), where digits differ.
    """
    images = batch["image"].clone()
    images[:, 0] = batch["image"][:, 0].roll(1, dims=0)
    change = (batch["digits"][:, 0].roll(1, dims=0) - batch["digits"][:, 0]).double()
    moved = expected_sum(task({**batch, "image": images})) - expected_sum(task(batch))
    ids = torch.cat([batch["image_ids"], batch["image_ids"][:, :1].roll(1, dims=0)], dim=1)
    return change[change != 0], moved[change != 0].double(), ids[change != 0]


def count_errors(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lengths (L,) of sequences, the counts (L, 7) of their errors, and intervals (L, 2) of those right."""
    assert predictions.target is not None
    length = (predictions.image_ids >= 0).sum(dim=1).numpy()
    error = (predictions.prediction.double().round() - predictions.target).clamp(-LARGEST_ERROR, LARGEST_ERROR)
    column = (error.long() + LARGEST_ERROR).numpy()
    lengths = np.unique(length)
    size = 2 * LARGEST_ERROR + 1
    counts = np.stack([np.bincount(column[length == each], minlength=size) for each in lengths])
    right, images = column == LARGEST_ERROR, predictions.image_ids.numpy()
    intervals = [overlapping_wilson(right[length == each], images[length == each]) for each in lengths]
    return lengths, counts, np.array(intervals)
