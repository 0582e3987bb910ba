"""What each part adds to an answer directly, and which answer could be read before the network is through.

In a pre-norm transformer the stream before the final norm is a sum: of the embedding, its position, and what every head
and every MLP adds. With the scale of the final norm held at what it was, logits are linear in that sum, so that each
part has an exact share of them (Elhage et al. 2021, https://transformer-circuits.pub/2021/framework/index.html). That
is the direct effect alone: what later parts make of a part counts as theirs.

The lens reads the unfinished sum with the network's own norm and head (nostalgebraist 2020, the logit lens). Earlier
parts need not write in the directions that the head reads, so that a low accuracy does not mean that nothing is there.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from patchwork.analysis.features import linear_heads
from patchwork.analysis.inputs import AnalysisInputs, cached_patches, logit_difference, require_answers, top_two
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.data import Batch
from patchwork.models.interventions import intervene, point_names, record_points, replace_with
from patchwork.models.transformer import Attention, Block, LearnedPosEmbed
from patchwork.stats.intervals import clustered_wilson
from patchwork.stats.overlap import overlapping_mean_interval
from patchwork.tasks import Predictions

NUM_SAMPLES = 200
TOLERANCE = 1e-8  # of the sum, relative to the logits; it is exact but for rounding


@dataclass(frozen=True, eq=False)
class LogitAttribution(Result):
    """Shares of the logit difference between the answer and the runner-up, and the accuracy of the unfinished sum.

    Attributes:
        parts: names, as `embedding`, `blocks.0.attn head 2` or `blocks.0.mlp`, in the order of the network.
        contribution: (K, 3) what each part adds: mean over answers, and its 95 % interval.
        by_answer: (K, T) the means of each of the T answers of a sample.
        difference: (3,) the logit difference, the sum of all parts.
        remainder: the largest difference between that sum and the network's logits.
        places: up to where the stream is summed, as `blocks.0.mlp`.
        lens_accuracy: (L, 3) share of right answers read there, and its 95 % interval.
        lens_agreement: (L,) share of answers read there that are the final ones.
        n: number of samples.
        unit: what they are.
    """

    name: ClassVar[str] = "logit_attribution"
    parts: tuple[str, ...]
    contribution: np.ndarray
    by_answer: np.ndarray
    difference: np.ndarray
    remainder: float
    places: tuple[str, ...]
    lens_accuracy: np.ndarray
    lens_agreement: np.ndarray
    n: int
    unit: str

    def numbers(self) -> dict[str, Estimate]:
        order = np.argsort(-np.abs(self.contribution[:, 0]), kind="stable").tolist()
        shares = {"logit difference": self.difference}
        shares |= {f"added by {self.parts[index]}": self.contribution[index] for index in order}
        reads = {f"accuracy after {place}": row for place, row in zip(self.places, self.lens_accuracy, strict=True)}
        return self.estimates(shares, "t, over images") | self.estimates(reads, "clustered Wilson")

    def estimates(self, rows: dict[str, np.ndarray], interval: str) -> dict[str, Estimate]:
        """Return estimates of rows (3,) of a value and its interval, without those that are not known."""
        return {
            name: Estimate(float(value), self.n, self.unit, float(low), float(high), interval)
            for name, (value, low, high) in rows.items()
            if np.isfinite(value)
        }


def analyze(inputs: AnalysisInputs) -> LogitAttribution:
    """Take the logits of the first samples apart, and read the stream between all parts.

    Raises:
        NotApplicableError: if the logits are no linear function of a normalized stream that blocks add to.
    """
    require_answers(inputs.task)
    require_stream(inputs.task.model)
    batch = inputs.first(NUM_SAMPLES)
    with cached_patches(inputs.task.model):
        with torch.no_grad():
            predictions = inputs.task.predict_step(batch, 0)
        answers = predictions.prediction if predictions.prediction.ndim == 2 else None
        run = trace(inputs, batch, answers)
        parts, difference = attribute(inputs.task.model, run)
        places, read = lens(inputs, batch, answers, run)
    values = torch.stack([*parts.values()])  # (K, B, T)
    remainder = float((values.sum(dim=0) - difference).abs().max())
    if remainder > TOLERANCE * max(float(run.logits.detach().abs().max()), 1):
        raise NotApplicableError("its parts do not add up to its logits: they are read by more than a norm and a head")
    accuracy, agreement = lens_scores(predictions, run.logits.argmax(dim=-1), read)
    return LogitAttribution(
        parts=tuple(parts),
        contribution=np.array([with_interval(each, batch["image_ids"]) for each in values]),
        by_answer=values.mean(dim=1).numpy(),
        difference=np.array(with_interval(difference, batch["image_ids"])),
        remainder=remainder,
        places=places,
        lens_accuracy=accuracy,
        lens_agreement=agreement,
        n=len(difference),
        unit=f"{inputs.split} {inputs.task.samples_name}",
    )


def with_interval(values: Tensor, image_ids: Tensor) -> tuple[float, float, float]:
    """Return the mean of values (B, T) of samples with images (B, K), and its 95 % interval."""
    per_sample = values.mean(dim=1).numpy()
    return float(per_sample.mean()), *overlapping_mean_interval(per_sample, image_ids.numpy())


# --- the stream ------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One run of the network, taken apart.

    Attributes:
        logits: (B, T, C) of the answers, a function of `normed`.
        points: activations of the blocks that add to the stream, by point.
        blocks: the names of these blocks, in order.
        position: (B, T', D) what the positional encoding adds to the first block's input; None without one.
        norm: the final norm.
        stream: (B, T', D) what it reads.
        normed: (B, T', D) what it returns.
        head: the layer that gives the logits.
        outputs: what that returns.
    """

    logits: Tensor
    points: dict[str, Tensor]
    blocks: list[str]
    position: Tensor | None
    norm: nn.LayerNorm
    stream: Tensor
    normed: Tensor
    head: nn.Linear
    outputs: Tensor


def require_stream(model: nn.Module) -> None:
    """Raise a `NotApplicableError` if a network has no blocks that add to a stream, or nothing that reads it."""
    name = type(model).__name__
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise NotApplicableError(f"{name} has no blocks that add to a stream")
    if not all(block.norm_first for block in blocks):
        raise NotApplicableError("with norm_first=false blocks rescale the stream, so that logits are no sum of parts")
    if not linear_heads(model):
        raise NotApplicableError(f"{name} has no linear layer `head` that its logits are read from")


def trace(inputs: AnalysisInputs, batch: Batch, answers: Tensor | None) -> Run:
    """Run the network once, and find its stream: from the final norm back, through the blocks that feed it.

    Raises:
        NotApplicableError: if it ends in no norm, or no block feeds that.
    """
    model = inputs.task.model
    inner = {id(norm) for block in model.modules() if isinstance(block, Block) for norm in block.modules()}
    norms = [each for each in model.modules() if isinstance(each, nn.LayerNorm) and id(each) not in inner]
    embeds = [each for each in model.modules() if isinstance(each, LearnedPosEmbed)]
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(module, nn.LayerNorm):  # the graph begins here: logits are taken apart from the norm on
            output = output.detach().requires_grad_()
        calls.append((module, args[0], output))
        return output

    with ExitStack() as stack, torch.enable_grad():
        for module in (*norms, *embeds, *linear_heads(model)):
            stack.callback(module.register_forward_hook(record).remove)
        recorded = stack.enter_context(record_points(model, point_names(model)))
        logits = inputs.task.answer_logits(batch, answers)
    points = {name: values[-1].detach() for name, values in recorded.items() if values}
    read = {type(module): (module, x, y) for module, x, y in calls}  # the last call of each kind
    if nn.LayerNorm not in read or nn.Linear not in read:
        raise NotApplicableError(f"{type(model).__name__} has no final norm, with which its head reads the stream")
    norm, stream, normed = read[nn.LayerNorm]
    head, _, outputs = read[nn.Linear]
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(head, nn.Linear)
    blocks = feeding_blocks(model, points, stream)
    if not blocks:
        raise NotApplicableError(f"the final norm of {type(model).__name__} does not read the output of a block")
    first = points[f"{blocks[0]}.input"]
    position = next((y - x for each, x, y in calls if each in embeds and torch.equal(y, first)), None)
    return Run(logits, points, blocks, position, norm, stream.detach(), normed, head, outputs)


def feeding_blocks(model: nn.Module, points: dict[str, Tensor], stream: Tensor) -> list[str]:
    """Return the names of the blocks that a stream has come through, the first one first."""
    names = [name for name, module in model.named_modules() if isinstance(module, Block) and name in points]
    blocks: list[str] = []
    for name in names[::-1]:
        if torch.equal(points[name], stream):
            blocks.insert(0, name)
            stream = points[f"{name}.input"]
    return blocks


# --- shares of the logits --------------------------------------------------------------------------------------------


def attribute(model: nn.Module, run: Run) -> tuple[dict[str, Tensor], Tensor]:
    """Return what each part adds to the logit differences (B, T), and these, both without the graph."""
    difference = logit_difference(run.logits, *top_two(run.logits.detach()))  # (B, T)
    sources = (run.normed, run.outputs)
    gradients = [torch.autograd.grad(each.sum(), sources, retain_graph=True) for each in difference.unbind(dim=1)]
    to_normed, to_outputs = (torch.stack(each, dim=1) for each in zip(*gradients, strict=True))  # (B, T, T', ·)
    scale = (run.stream.var(dim=-1, correction=0, keepdim=True) + run.norm.eps).rsqrt()
    if run.norm.elementwise_affine:
        scale = scale * run.norm.weight
    weights = to_normed * scale[:, None]
    weights = weights - weights.mean(dim=-1, keepdim=True)  # the norm subtracts the mean
    parts = dict(block_parts(model, run, weights))
    if run.norm.bias is not None:
        parts["bias of the norm"] = (to_normed * run.norm.bias).sum(dim=(2, 3))
    if run.head.bias is not None:
        parts["bias of the head"] = (to_outputs * run.head.bias).flatten(2).sum(dim=2)
    return parts, difference.detach()


def block_parts(model: nn.Module, run: Run, weights: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield what each part of the stream adds to the logit differences (B, T), as `weights` (B, T, T', D) read it."""

    def read(values: Tensor) -> Tensor:
        return torch.einsum("btsd,bsd->bt", weights, values.expand(len(weights), *values.shape[1:]))

    first = run.points[f"{run.blocks[0]}.input"]
    yield "embedding", read(first if run.position is None else first - run.position)
    if run.position is not None:
        yield "position", read(run.position)
    for name in run.blocks:
        block = model.get_submodule(name)
        for kind in sublayers(name, run):
            layer = getattr(block, kind)
            if not isinstance(layer, Attention):
                yield f"{name}.{kind}", read(run.points[f"{name}.{kind}"])
                continue
            mixed = run.points[f"{name}.{kind}.heads"]  # (B, T', H, D/H)
            through = (weights @ layer.proj.weight).unflatten(-1, mixed.shape[2:])  # (B, T, T', H, D/H)
            for head, each in enumerate(torch.einsum("btshd,bshd->hbt", through, mixed)):
                yield f"{name}.{kind} head {head + 1}", each
            if layer.proj.bias is not None:
                yield f"{name}.{kind} bias", read(layer.proj.bias.expand_as(run.stream))


def sublayers(block: str, run: Run) -> list[str]:
    return [kind for kind in ("attn", "cross_attn", "mlp") if f"{block}.{kind}" in run.points]


# --- the lens --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def lens(
    inputs: AnalysisInputs, batch: Batch, answers: Tensor | None, run: Run
) -> tuple[tuple[str, ...], list[Tensor]]:
    """Return the places between the parts of the stream, and the answers (B, T) that are read there."""
    places, read = [], []
    for place, stream in partial_streams(run):
        with intervene(inputs.task.model, {run.blocks[-1]: replace_with(stream)}):
            read.append(inputs.task.answer_logits(batch, answers).argmax(dim=-1))
        places.append(place)
    return tuple(places), read


def partial_streams(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Yield the stream (B, T', D) after each part, by the name of the last one that has added to it."""
    stream = run.points[f"{run.blocks[0]}.input"]
    yield "embedding", stream
    for block in run.blocks:
        for kind in sublayers(block, run):
            stream = stream + run.points[f"{block}.{kind}"]
            yield f"{block}.{kind}", stream


def lens_scores(predictions: Predictions, final: Tensor, read: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracy (L, 3) of answers (B, T) with 95 % intervals over digits, and how many are final (L,)."""
    agreement = np.array([float((each == final).double().mean()) for each in read])
    if predictions.target is None:
        return np.full((len(read), 3), np.nan), agreement
    target = predictions.target.reshape(final.shape)
    ids = predictions.image_ids
    unit = ids if ids.shape == final.shape and (ids >= 0).all() else torch.arange(len(final))[:, None].expand_as(final)
    rows = []
    for each in read:
        right = (each == target).flatten().numpy()
        rows.append((float(right.mean()), *clustered_wilson(right, unit.flatten().numpy())))
    return np.array(rows), agreement
