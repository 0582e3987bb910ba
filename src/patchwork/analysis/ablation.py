"""What breaks without a part: every head, MLP and attention layer replaced by what says nothing about the sample.

A part is replaced by its mean over samples at the same position, by what it is on another sample, or by zero. Zero is
far from what the rest has seen in training, so the mean is the measure, and zero is beside it to compare. An effect is
a lower bound: other parts may do the work of the missing one (Rushing and Nanda 2024, https://arxiv.org/abs/2402.15390).
That is why heads are also left out two at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from patchwork.analysis.inputs import AnalysisInputs, cached_patches, require_answers
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.data import Batch
from patchwork.models.interventions import Edit, intervene, point_names, record_points, replace_with
from patchwork.models.transformer import Attention
from patchwork.stats.overlap import overlapping_mean_interval

NUM_SAMPLES = 200
REPLACEMENTS = ("mean", "another sample", "zero")
MAX_PAIRED_HEADS = 16  # whose pairs are tried


@dataclass(frozen=True, eq=False)
class Ablation(Result):
    """The effect of leaving out a part, on the same samples with and without it.

    Attributes:
        parts: names, as `decoder.0.attn` or `decoder.0.attn head 2`.
        accuracy: share of right answers with all parts.
        accuracy_drop: (P, R, 3) by how much it falls without a part: mean and 95 % interval, for each
            replacement of `REPLACEMENTS`.
        loss_rise: (P, R, 3) by how much the loss of the target rises, in nats (of a number: its squared error).
        heads: the heads that were left out in pairs.
        pairs: (Q, Q) the loss that two heads cost together beyond the sum of both alone; 0 on the diagonal.
        n: number of samples.
        unit: what they are.
    """

    name: ClassVar[str] = "ablation"
    parts: tuple[str, ...]
    accuracy: float
    accuracy_drop: np.ndarray
    loss_rise: np.ndarray
    heads: tuple[str, ...]
    pairs: np.ndarray
    n: int
    unit: str

    @property
    def order(self) -> list[int]:
        """Return the parts by what they cost, the most needed first."""
        return np.argsort(-self.loss_rise[:, 0, 0], kind="stable").tolist()

    def numbers(self) -> dict[str, Estimate]:
        numbers = {"accuracy": Estimate(self.accuracy, self.n, self.unit)}
        for index in self.order:
            value, low, high = self.accuracy_drop[index, 0].tolist()
            numbers[f"accuracy lost without {self.parts[index]}"] = Estimate(
                value, self.n, self.unit, low, high, "t, over images"
            )
        return numbers


def analyze(inputs: AnalysisInputs) -> Ablation:
    """Leave out every part of the network, and pairs of heads.

    Raises:
        NotApplicableError: if the network has no blocks or the task no answers.
    """
    task, model = inputs.task, inputs.task.model
    require_answers(task)
    parts = find_parts(inputs)
    if not parts:
        raise NotApplicableError(f"{type(model).__name__} has no attention and no blocks that could be left out")
    batch = inputs.first(NUM_SAMPLES)
    mask = batch.get("mask")
    with torch.no_grad(), cached_patches(model):
        right, loss = measure(inputs, batch)
        points = sorted({point for point, _ in parts.values()})
        with record_points(model, points) as recorded:
            task.predict_step(batch, 0)
        activations = {name: merge_steps(values) for name, values in recorded.items()}
        effects = [
            [effect(inputs, batch, right, loss, edits) for edits in replacements(point, head, activations[point], mask)]
            for point, head in parts.values()
        ]
        heads = [name for name, (_, head) in parts.items() if head is not None][:MAX_PAIRED_HEADS]
        means = {name: next(replacements(*parts[name], activations[parts[name][0]], mask)) for name in heads}
        pairs = pair_effects(inputs, batch, right, loss, means)
    table = np.array(effects)  # (P, R, 2, 3)
    return Ablation(
        parts=tuple(parts),
        accuracy=float(right.mean()),
        accuracy_drop=table[:, :, 0],
        loss_rise=table[:, :, 1],
        heads=tuple(heads),
        pairs=pairs,
        n=len(right),
        unit=f"{inputs.split} {task.samples_name}",
    )


def find_parts(inputs: AnalysisInputs) -> dict[str, tuple[str, int | None]]:
    """Return the points of all parts by their name, and the head if a part is one."""
    parts: dict[str, tuple[str, int | None]] = {}
    model = inputs.task.model
    for point in point_names(model):
        layer, _, kind = point.rpartition(".")
        if kind == "heads":
            attention = model.get_submodule(layer)
            assert isinstance(attention, Attention)
            parts |= {f"{layer} head {head + 1}": (point, head) for head in range(attention.num_heads)}
        elif kind in ("attn", "cross_attn", "mlp"):
            parts[point] = (point, None)
    return parts


def measure(inputs: AnalysisInputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return how right the answers of each sample are (B,), and their loss (B,), means over the tokens of a sequence.

    Raises:
        NotApplicableError: if the task has no answers that can be right.
    """
    predictions = inputs.task.predict_step(batch, 0)
    if predictions.target is None:
        raise NotApplicableError("the task has no answers that are right or wrong")
    target = predictions.target.reshape(len(predictions), -1)
    prediction = predictions.prediction.reshape(len(predictions), -1)
    right = (prediction == target).double().mean(dim=1)
    if predictions.log_probs is None:
        number = inputs.task.answer_logits(batch)[:, :, 0]
        return right, (number - target).square().mean(dim=1)
    log_probs = predictions.log_probs.reshape(*target.shape, -1)
    return right, -log_probs.gather(-1, target[..., None])[..., 0].clamp_min(-100).mean(dim=1)


def merge_steps(values: list[Tensor]) -> Tensor:
    """Return an activation of whole sequences (B, T, …), of one pass or of the steps of decoding."""
    longest = max(value.shape[1] for value in values)
    if longest > 1 or len(values) == 1:
        return next(value for value in values if value.shape[1] == longest)
    return torch.cat(values, dim=1)


def replacements(
    point: str, head: int | None, activation: Tensor, mask: Tensor | None = None
) -> Iterator[dict[str, Edit]]:
    """Yield the edits that leave out a part, one for each of `REPLACEMENTS`.

    Args:
        point: of the part.
        head: the head that it is; None if it is the whole point.
        activation: (B, T, …) of all samples.
        mask: (B, T) which tokens are no padding, of which nothing is taken; None if there is none.
    """
    if mask is None or mask.shape != activation.shape[:2]:
        mask = torch.ones(activation.shape[:2], dtype=torch.bool)
    exists = mask.reshape(*mask.shape, *[1] * (activation.ndim - 2)).to(activation.dtype)
    mean = (activation * exists).sum(dim=0, keepdim=True) / exists.sum(dim=0, keepdim=True).clamp_min(1)
    yield {point: at_position(mean, head)}
    yield {point: at_position(activation[previous_sample(mask), torch.arange(mask.shape[1])], head)}
    yield {point: at_position(torch.zeros_like(activation[:1]), head)}


def previous_sample(mask: Tensor) -> Tensor:
    """Return the sample (B, T) before each that has a token there, as `mask` (B, T) tells; itself where it has none."""
    count, rank = mask.sum(dim=0), mask.cumsum(dim=0) - 1
    order = (~mask).long().argsort(dim=0, stable=True)  # those that have one first, in their order
    before = order.gather(0, (rank - 1) % count.clamp_min(1))
    return torch.where(mask, before, torch.arange(len(mask))[:, None])


def at_position(replacement: Tensor, head: int | None) -> Edit:
    """Return an edit that puts a replacement (·, T, …) in place; while decoding, that of the step it is called in."""
    step = 0

    def edit(activation: Tensor) -> Tensor:
        nonlocal step
        count, total = activation.shape[1], replacement.shape[1]
        if count == total:
            step = 0
            return replace_with(replacement, head=head)(activation)
        here = replacement[:, step : step + count]
        step = (step + count) % total
        return replace_with(here, head=head)(activation)

    return edit


def effect(
    inputs: AnalysisInputs, batch: Batch, right: Tensor, loss: Tensor, edits: dict[str, Edit]
) -> list[tuple[float, float, float]]:
    """Return the drop of the accuracy and the rise of the loss under edits: means and 95 % intervals.

    Samples that share images are not independent, see `patchwork.stats.overlap`.
    """
    with intervene(inputs.task.model, edits):
        edited_right, edited_loss = measure(inputs, batch)
    differences = (right - edited_right).numpy(), (edited_loss - loss).numpy()
    images = batch["image_ids"].numpy()
    return [(float(values.mean()), *overlapping_mean_interval(values, images)) for values in differences]


def pair_effects(
    inputs: AnalysisInputs, batch: Batch, right: Tensor, loss: Tensor, heads: dict[str, dict[str, Edit]]
) -> np.ndarray:
    """Return the loss (Q, Q) that two heads cost together beyond the sum of both alone."""
    alone = {name: effect(inputs, batch, right, loss, edits)[1][0] for name, edits in heads.items()}
    names, pairs = [*heads], np.zeros((len(heads), len(heads)))
    for (i, one), (j, other) in combinations(enumerate(names), 2):
        edits = [*heads[one].items(), *heads[other].items()]
        with intervene(inputs.task.model, dict(edits[:1])):
            both = effect(inputs, batch, right, loss, dict(edits[1:]))[1][0]
        pairs[i, j] = pairs[j, i] = both - alone[one] - alone[other]
    return pairs
