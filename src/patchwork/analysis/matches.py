"""What a detector takes for its anchor: the attention on images that match, on others, and on nothing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.stats.overlap import overlapping_mean_interval, overlapping_wilson
from patchwork.tasks import Anchor
from patchwork.tasks.base import to_unit_range

NUM_SEQUENCES, NUM_SHOWN = 1000, 6
NUM_BINS = 20
SMALLEST = 1e-6  # weights below are drawn as it


@dataclass(frozen=True, eq=False)
class Matches(Result):
    """The attention of anchors on the images of their sequences.

    Attributes:
        edges: (21,) of bins of the attention weight, on a logarithmic scale.
        matching: (20,) counts of images that match.
        others: (20,) counts of those that do not.
        shares: (2, 3, 3) of sequences with and without a match: the attention on matches, on other images and on
            nothing, each with its 95 % interval over sequences that share images; NaN without such a sequence.
        located: (3,) how often the greatest weight is on a match, of sequences with one, with its 95 % interval; NaN
            without one.
        counts: (2,) number of sequences with and without a match.
        fooled: (K,) weight of the images without a match that got most.
        fooled_images: (K, 2, C, height, width) uint8: the anchor, and that image.
        missed: (K',) weight of the images that match and got least, in sequences where they are alone.
        missed_images: (K', 2, C, height, width) uint8.
        unit: what samples are.
    """

    name: ClassVar[str] = "matches"
    edges: np.ndarray
    matching: np.ndarray
    others: np.ndarray
    shares: np.ndarray
    located: np.ndarray
    counts: np.ndarray
    fooled: np.ndarray
    fooled_images: np.ndarray
    missed: np.ndarray
    missed_images: np.ndarray
    unit: str

    def numbers(self) -> dict[str, Estimate]:
        numbers = {}
        value, low, high = self.located.tolist()
        if np.isfinite(value):
            numbers["located"] = Estimate(value, int(self.counts[0]), self.unit, low, high, "Wilson, over images")
        for kind, name in enumerate(("with a match", "without one")):
            for place, what in enumerate(("matches", "other images", "nothing")):
                value, low, high = self.shares[kind, place].tolist()
                if np.isfinite(value):
                    n = int(self.counts[kind])
                    numbers[f"attention on {what}, {name}"] = Estimate(value, n, self.unit, low, high, "t, over images")
        return numbers


@torch.no_grad()
def analyze(inputs: AnalysisInputs) -> Matches:
    """Look where the anchors of the first test sequences find their match.

    Raises:
        NotApplicableError: if the task has no anchors, or its model attends to no images.
    """
    task = inputs.task
    if not isinstance(task, Anchor):
        raise NotApplicableError("the task has no anchor")
    batch = inputs.first(NUM_SEQUENCES)
    _, weights = task.locate(batch)  # (B, S)
    if weights is None:
        raise NotApplicableError(f"{type(task.model).__name__} attends to no images")
    mask, match = batch["mask"], batch["match"]
    present = match.any(dim=1)
    nothing = (1 - weights.sum(dim=1)).clamp_min(0)
    parts = torch.stack([(weights * match).sum(dim=1), (weights * (mask & ~match)).sum(dim=1), nothing], dim=1)
    edges = np.logspace(np.log10(SMALLEST), 0, NUM_BINS + 1)
    alone = match & (match.sum(dim=1, keepdim=True) == 1)
    found, images = match[torch.arange(len(match)), weights.argmax(dim=1)], batch["image_ids"]
    fooled, fooled_images = extremes(batch, weights, mask & ~match & ~present[:, None], largest=True)
    missed, missed_images = extremes(batch, weights, alone, largest=False)
    return Matches(
        edges=edges,
        matching=histogram(weights[match], edges),
        others=histogram(weights[mask & ~match], edges),
        shares=np.array(
            [[with_interval(parts[which, place], images[which]) for place in range(3)] for which in (present, ~present)]
        ),
        located=np.array(share_found(found[present].numpy(), images[present].numpy())),
        counts=np.array([int(present.sum()), int((~present).sum())]),
        fooled=fooled,
        fooled_images=fooled_images,
        missed=missed,
        missed_images=missed_images,
        unit=f"{inputs.split} {task.samples_name}",
    )


def histogram(weights: Tensor, edges: np.ndarray) -> np.ndarray:
    return np.histogram(weights.clamp(SMALLEST, 1).numpy(), edges)[0]


def with_interval(values: Tensor, images: Tensor) -> tuple[float, float, float]:
    """Return the mean of values (n,) of samples with `images` (n, K), and its 95 % interval; NaN without any."""
    if not len(values):
        return np.nan, np.nan, np.nan
    return float(values.mean()), *overlapping_mean_interval(values.numpy(), images.numpy())


def share_found(found: np.ndarray, images: np.ndarray) -> tuple[float, float, float]:
    """Return the share of found (n,) in samples with `images` (n, K), and its 95 % interval; NaN without any."""
    if not len(found):
        return np.nan, np.nan, np.nan
    return float(found.mean()), *overlapping_wilson(found, images)


def extremes(
    batch: dict[str, Tensor], weights: Tensor, which: Tensor, *, largest: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the extreme weights (K,) among those of `which` (B, S), and their anchors and images as uint8."""
    row, place = which.nonzero(as_tuple=True)
    found, order = weights[row, place].topk(min(NUM_SHOWN, len(row)), largest=largest)
    row, place = row[order], place[order]
    pairs = torch.stack([batch["anchor"][row], batch["image"][row, place]], dim=1)
    images = (to_unit_range(pairs) * 255).round().byte() if len(row) else pairs.byte()
    return found.numpy(), images.numpy()
