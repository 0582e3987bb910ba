"""Explanations of an answer: which part of the image it comes from, according to several methods.

Each method maps samples to a map of the image for one answer of each. What is explained is by how much the logit of the
answer exceeds that of the runner-up. Methods that go through attention follow the tokens of the network, layer by
layer:

- `rollout`: the mean of the heads and the residual connection, multiplied up (Abnar and Zuidema 2020,
  https://arxiv.org/abs/2005.00928); it knows neither the answer nor what is moved.
- `relevance`: the same with each weight multiplied by its gradient, as far as that is positive (Chefer, Gur and Wolf
  2021, https://arxiv.org/abs/2103.15679).
- `gradient`: the gradient of the pixels times their difference to the background.
- `integrated`: that gradient averaged on the way from the background (Sundararajan et al. 2017,
  https://arxiv.org/abs/1703.01365), which adds up to the difference of logits.

B samples, T answers, N patches, C channels.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from patchwork.analysis.attention import is_cross_attention
from patchwork.analysis.inputs import logit_difference, require_answers, top_two
from patchwork.analysis.places import field_weights, find_patch_embed, find_places
from patchwork.analysis.result import NotApplicableError
from patchwork.data import Batch
from patchwork.models.interventions import intervene, point_names
from patchwork.models.transformer import AttentionCall, record_attention
from patchwork.tasks import Task

NUM_STEPS = 32  # of the path of integrated gradients


class Question(NamedTuple):
    """Samples, and which answer of each is explained.

    Attributes:
        task: the task, in double precision.
        batch: B samples of single images.
        answer: (B,) index of the answer.
        tokens: (B, T) what a decoder reads as its answers; None if it reads none.
        predicted: (B, T) classes.
        runner_up: (B, T) classes.
        background: value of an empty pixel.
    """

    task: Task
    batch: Batch
    answer: Tensor
    tokens: Tensor | None
    predicted: Tensor
    runner_up: Tensor
    background: float

    def score(self, image: Tensor) -> Tensor:
        """Return what is explained (B,), for other images (B, C, height, width) in the place of the samples'."""
        logits = self.task.answer_logits({**self.batch, "image": image}, self.tokens)
        return logit_difference(logits, self.predicted, self.runner_up)[torch.arange(len(image)), self.answer]

    def of(self, rows: Tensor) -> "Question":
        """Return the question about some of the samples (n,), as often as each is named."""
        batch = {name: values[rows] for name, values in self.batch.items()}
        tokens = None if self.tokens is None else self.tokens[rows]
        answer, predicted, runner_up = (each[rows] for each in (self.answer, self.predicted, self.runner_up))
        return Question(self.task, batch, answer, tokens, predicted, runner_up, self.background)

    def in_single_precision(self) -> "Question":
        """Return the question to a copy of the task in single precision, which answers several times as fast."""
        batch = {name: values.float() if values.is_floating_point() else values for name, values in self.batch.items()}
        return self._replace(task=deepcopy(self.task).float(), batch=batch)


def ask(task: Task, batch: Batch) -> Question:
    """Return the question why a task gives its answers, one of each sample in turn.

    Raises:
        NotApplicableError: if samples are not single images, or the task has no answers to explain.
    """
    if batch["image"].ndim != 4:
        raise NotApplicableError("samples are sequences of images, of which maps of one image say nothing")
    require_answers(task)
    with torch.no_grad():
        prediction = task.predict_step(batch, 0).prediction
        tokens = prediction if prediction.ndim == 2 else None
        logits = task.answer_logits(batch, tokens)
    return Question(task, batch, answers_in_turn(logits, tokens), tokens, *top_two(logits), float(batch["image"].min()))


def answers_in_turn(logits: Tensor, tokens: Tensor | None) -> Tensor:
    """Return an answer (B,) of each sample to explain: the first, the second, and so on, of logits (B, T, C).

    Where a decoder has ended too early, what is written after it was not decided by logits, and the next answer that
    was takes its place.
    """
    count = logits.shape[1]
    wanted = torch.arange(len(logits)) % count
    if tokens is None:
        return wanted
    steps = (torch.arange(count) - wanted[:, None]) % count  # from the wanted answer onward
    decided = tokens == logits.argmax(dim=-1)
    return torch.where(decided, steps, steps + count).argmin(dim=1)


# --- through attention -----------------------------------------------------------------------------------------------


class Flow(NamedTuple):
    """How much of each patch (keys of the image) has reached each token.

    Attributes:
        image: (B, S, S) the tokens of the image.
        text: (B, T, T) the tokens of a decoder.
        cross: (B, T, S) from the image to the decoder.
    """

    image: Tensor
    text: Tensor
    cross: Tensor


def rollout(question: Question) -> Tensor:
    """Return the share of each pixel's patch (B, height, width) by attention rollout."""
    layers = [(name, call.weights.mean(dim=1)) for name, call in record_layers(question)[1]]
    return follow(question, layers, mix=True)


def relevance(question: Question) -> Tensor:
    """Return the relevance of each pixel's patch (B, height, width), by weights times their gradients."""
    score, calls = record_layers(question)
    gradients = torch.autograd.grad(score.sum(), [call.mixed for _, call in calls], allow_unused=True)
    layers = []
    for (name, call), gradient in zip(calls, gradients, strict=True):
        weighted = torch.zeros_like(call.weights) if gradient is None else call.weights_grad(gradient) * call.weights
        layers.append((name, weighted.clamp_min(0).mean(dim=1).detach()))
    return follow(question, layers, mix=False)


def record_layers(question: Question) -> tuple[Tensor, list[tuple[str, AttentionCall]]]:
    """Return what is explained (B,), and the attention of all layers, in the order of the network.

    Raises:
        NotApplicableError: if the network has no attention.
    """
    model = question.task.model
    starts = [name for name in point_names(model) if name.endswith(".input")]
    with intervene(model, dict.fromkeys(starts, with_graph)), record_attention(model) as recorded:
        score = question.score(question.batch["image"].clone().requires_grad_())
    calls = [(name, each[-1]) for name, each in recorded.items() if each]
    if not calls:
        raise NotApplicableError(f"{type(model).__name__} has no attention to follow")
    return score, calls


def with_graph(activation: Tensor) -> Tensor:
    """Begin a graph where there is none, as at the tokens that a decoder reads: parameters need no gradient here."""
    return activation if activation.requires_grad else activation.detach().requires_grad_()


def follow(question: Question, layers: list[tuple[str, Tensor]], *, mix: bool) -> Tensor:
    """Follow the tokens through all layers, and return the map (B, height, width) of the answer.

    Args:
        question: what is asked.
        layers: name and means over the heads (B, T, S) of each layer, in the order of the network.
        mix: half from attention and half from the residual connection, so that all of it adds up to 1; otherwise
            attention is added.

    Raises:
        NotApplicableError: if the network has another structure than an encoder, or one and a decoder.
    """
    cross = [values for name, values in layers if is_cross_attention(name)]
    encoder = [values for name, values in layers if not is_cross_attention(name) and not name.startswith("decoder")]
    size = cross[0].shape[2] if cross else encoder[0].shape[2]
    if any(values.shape[1:] != (encoder[0].shape[1],) * 2 for values in encoder):
        raise NotApplicableError("the network's layers have different tokens")
    image = torch.eye(encoder[0].shape[1] if encoder else size, dtype=torch.float64).expand(
        len(question.answer), -1, -1
    )
    for values in encoder:
        image = update(image, values @ image, mix=mix)
    if not cross:
        own = 0 if mix else torch.eye(image.shape[1], dtype=torch.float64)  # each token's relevance to itself
        return to_pixels(question, readout(question, image - own))
    if image.shape[1] != size:
        image = pool_cells(question, image, size)
    text = torch.eye(cross[0].shape[1], dtype=torch.float64).expand(len(image), -1, -1)
    flow = torch.zeros(len(image), text.shape[1], image.shape[2], dtype=torch.float64)
    for name, values in layers:
        if is_cross_attention(name):
            flow = update(flow, values @ image, mix=mix)
        elif name.startswith("decoder"):
            text, flow = update(text, values @ text, mix=mix), update(flow, values @ flow, mix=mix)
    return to_pixels(question, flow[torch.arange(len(flow)), question.answer])


def update(state: Tensor, moved: Tensor, *, mix: bool) -> Tensor:
    return (state + moved) / 2 if mix else state + moved


def readout(question: Question, image: Tensor) -> Tensor:
    """Return what the answer reads (B, S) of the tokens of the image: the class token, or the mean of all."""
    places = find_places(question.task.model, image.shape[1])
    return image[:, 0, places.prefix :] if places.prefix else image.mean(dim=1)


def pool_cells(question: Question, image: Tensor, cells: int) -> Tensor:
    """Return the tokens of the image (B, S, S) pooled to cells (B, cells, S), as before a decoder of cells."""
    rows, cols = int(getattr(question.task.model, "rows", 1)), int(getattr(question.task.model, "cols", 1))
    places = find_places(question.task.model, image.shape[1])
    if rows * cols != cells or places.kind != "patches":
        raise NotApplicableError("the decoder reads tokens that are neither patches nor cells")
    return rearrange(
        image, "b (r p c q) s -> b (r c) (p q) s", r=rows, c=cols, p=places.rows // rows, q=places.cols // cols
    ).mean(dim=2)


def to_pixels(question: Question, tokens: Tensor) -> Tensor:
    """Spread the value of each patch (B, N) over the pixels that it sees (B, height, width), that of a cell evenly."""
    height, width = question.batch["image"].shape[-2:]
    cells = (int(getattr(question.task.model, "rows", 1)), int(getattr(question.task.model, "cols", 1)))
    places = find_places(question.task.model, tokens.shape[1], cells=cells if cells != (1, 1) else None)
    if places.kind == "tokens":
        raise NotApplicableError("the network's tokens have no place in the image")
    embed = find_patch_embed(question.task.model)
    if places.kind == "patches" and embed is not None:
        return torch.einsum("bn,nhw->bhw", tokens, field_weights(embed).to(tokens.dtype))
    grid = tokens.unflatten(1, (places.rows, places.cols))[:, None]
    area = (height // places.rows) * (width // places.cols)
    return F.interpolate(grid, size=(height, width), mode="nearest")[:, 0] / area


# --- through the pixels ----------------------------------------------------------------------------------------------


def gradient(question: Question) -> Tensor:
    """Return the gradient of each pixel times its difference to the background (B, height, width)."""
    return (pixel_gradient(question, question.batch["image"]) * difference(question)).sum(dim=1)


def integrated(question: Question) -> Tensor:
    """Return integrated gradients (B, height, width) on the straight way from the background, by midpoints.

    Raises:
        NotApplicableError: if they do not add up to the difference of the logits within 5 %, on the median sample.
    """
    image = question.batch["image"]
    empty = torch.full_like(image, question.background)
    steps = [(index + 0.5) / NUM_STEPS for index in range(NUM_STEPS)]
    mean = sum(pixel_gradient(question, torch.lerp(empty, image, step)) for step in steps) / NUM_STEPS
    attribution: Tensor = (mean * difference(question)).sum(dim=1)
    with torch.no_grad():
        change = question.score(image) - question.score(empty)
    gap = ((attribution.sum(dim=(1, 2)) - change).abs() / change.abs().clamp_min(1e-9)).median()
    if gap > 0.05:
        raise NotApplicableError(f"integrated gradients miss the difference of logits by {float(gap):.0%}")
    return attribution


def pixel_gradient(question: Question, image: Tensor) -> Tensor:
    """Return the gradient of what is explained with respect to the pixels of each channel (B, C, height, width)."""
    image = image.detach().clone().requires_grad_()
    (gradients,) = torch.autograd.grad(question.score(image).sum(), image)
    return gradients


def difference(question: Question) -> Tensor:
    """Return the difference of the pixels of each channel to the background (B, C, height, width)."""
    return question.batch["image"] - question.background


# --- controls that ignore the model ----------------------------------------------------------------------------------


def ink(question: Question) -> Tensor:
    """Return the brightness of each pixel (B, height, width), a control that ignores the model."""
    return difference(question).mean(dim=1)


def blurred_ink(question: Question) -> Tensor:
    """Return the brightness, blurred over 7×7 pixels (B, height, width)."""
    return F.avg_pool2d(ink(question)[:, None], 7, stride=1, padding=3)[:, 0]


def center(question: Question) -> Tensor:
    """Return a blob in the middle of the cell of the answer (B, height, width)."""
    rows, cols = int(getattr(question.task.model, "rows", 1)), int(getattr(question.task.model, "cols", 1))
    height, width = (
        size // count for size, count in zip(question.batch["image"].shape[-2:], (rows, cols), strict=True)
    )
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    blob = torch.exp(-2 * (x**2 + y**2)).double()
    maps = torch.zeros(len(question.answer), rows * cols, height, width, dtype=torch.float64)
    maps[torch.arange(len(maps)), question.answer.clamp(max=rows * cols - 1)] = blob
    return rearrange(maps, "b (r c) h w -> b (r h) (c w)", r=rows)


def random(question: Question) -> Tensor:
    """Return noise (B, height, width)."""
    shape = (len(question.answer), *question.batch["image"].shape[-2:])
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


Method = Callable[[Question], Tensor]
METHODS: dict[str, Method] = {method.__name__: method for method in (rollout, relevance, gradient, integrated)}
CONTROLS: dict[str, Method] = {method.__name__: method for method in (ink, blurred_ink, center, random)}


# --- faithfulness ----------------------------------------------------------------------------------------------------

UNIT = 4  # side in pixels of what is deleted at once
NUM_DELETIONS = 8
CHUNK = 256  # images that are scored at once


def deletion_curve(
    question: Question, maps: Tensor, *, insert: bool = False, replacement: Tensor | None = None
) -> Tensor:
    """Return what is explained while the most important parts of the image are deleted, one share after another.

    Args:
        question: what is asked.
        maps: importance of each pixel (B, height, width); that of a part of 4×4 pixels is their sum.
        insert: begin with all deleted, and insert the parts instead.
        replacement: images (B, C, height, width) that deleted parts are taken from; None for the background.

    Returns:
        Values (B, 1 + NUM_DELETIONS) after 0, 1/NUM_DELETIONS, … of the parts that deletion changes.
    """
    changes = parts_that_change(question, replacement)
    importance = F.avg_pool2d(maps[:, None], UNIT).flatten(1)
    ranks = importance.masked_fill(~changes, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    deleted = (ranks[:, None] < part_counts(changes)[:, :, None]) != insert  # (B, 1 + NUM_DELETIONS, N)
    rows = torch.arange(len(maps)).repeat_interleave(deleted.shape[1])
    return score_without(question, rows, deleted.flatten(0, 1), replacement).unflatten(0, deleted.shape[:2])


def greedy(question: Question) -> Tensor:
    """Return the importance (B, height, width) of parts by a search that sees what each deletion does.

    At each share of `deletion_curve`, the parts are deleted whose deletion alone lowers most what is left by then.
    """
    changes = parts_that_change(question, None)
    counts = part_counts(changes).diff(dim=1)  # (B, NUM_DELETIONS)
    importance = torch.zeros(changes.shape, dtype=torch.float64)
    for step in range(NUM_DELETIONS):
        left = changes & (importance == 0)
        rows, parts = left.nonzero(as_tuple=True)
        deleted = (importance > 0)[rows]
        deleted[torch.arange(len(rows)), parts] = True
        without = torch.full(changes.shape, torch.inf, dtype=torch.float64)
        without[rows, parts] = score_without(question, rows, deleted, None).double()
        ranks = without.argsort(dim=1, stable=True).argsort(dim=1)
        importance[left & (ranks < counts[:, step, None])] = NUM_DELETIONS - step
    height, width = (size // UNIT for size in question.batch["image"].shape[-2:])
    return repeat(importance, "b (h w) -> b (h p) (w q)", h=height, w=width, p=UNIT, q=UNIT)


def parts_that_change(question: Question, replacement: Tensor | None) -> Tensor:
    """Return which parts (B, N) of 4×4 pixels differ from what replaces them."""
    gap = difference(question) if replacement is None else question.batch["image"] - replacement
    return F.max_pool2d(gap.abs().amax(dim=1, keepdim=True), UNIT).flatten(1) > 1e-6


def part_counts(changes: Tensor) -> Tensor:
    """Return how many parts are deleted (B, 1 + NUM_DELETIONS) at each share of those (B, N) that change."""
    shares = torch.linspace(0, 1, NUM_DELETIONS + 1, dtype=torch.float64)
    return (shares[None] * changes.sum(dim=1, keepdim=True)).round()


@torch.no_grad()
def score_without(question: Question, rows: Tensor, deleted: Tensor, replacement: Tensor | None) -> Tensor:
    """Return what is explained (n,) of samples `rows` (n,), without the parts that are deleted (n, N)."""
    height, width = (size // UNIT for size in question.batch["image"].shape[-2:])
    scores = []
    for which, parts in zip(rows.split(CHUNK), deleted.split(CHUNK), strict=True):
        asked = question.of(which)
        mask = repeat(parts, "n (h w) -> n 1 (h p) (w q)", h=height, w=width, p=UNIT, q=UNIT)
        image = asked.batch["image"]
        empty = torch.full_like(image, question.background) if replacement is None else replacement[which]
        scores.append(asked.score(torch.where(mask, empty, image)))
    return torch.cat(scores)
