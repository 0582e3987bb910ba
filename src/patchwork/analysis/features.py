"""What a network holds about each answer after each layer: the vectors that probes and maps of embeddings read."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from patchwork.analysis.inputs import AnalysisInputs, cached_patches
from patchwork.analysis.places import cell_grid, find_places
from patchwork.analysis.result import NotApplicableError
from patchwork.data.base import Batch, Split
from patchwork.models.interventions import record_points
from patchwork.models.transformer import Block
from patchwork.tasks import Predictions, Sum, Task
from patchwork.tasks.base import to_unit_range
from patchwork.tasks.predictions import ClassAnswers

HEAD = "before the head"


class Samples(NamedTuple):
    """Samples with what is known of them.

    Attributes:
        batch: the samples (B, …).
        kinds: the classes that they have, by what those are about: of grids of all cells, of sequences of all images.
        target: the targets (B, …) of the task.
    """

    batch: Batch
    kinds: dict[str, ClassAnswers]
    target: Tensor | None

    @property
    def answers(self) -> ClassAnswers:
        """Return the first kind of classes."""
        return next(iter(self.kinds.values()))


def first_samples(inputs: AnalysisInputs, split: Split, num_answers: int) -> Samples:
    """Return the first samples of a split, as many as have about `num_answers` classes.

    Raises:
        NotApplicableError: if samples have no classes, or predictions are not saved.
    """
    if split not in inputs.predictions:
        raise NotApplicableError(f"its predictions of the {split} split are not saved")
    table = inputs.predictions[split]
    count = num_samples_with(num_answers, table.image_ids)
    batch = inputs.batch(torch.arange(count), split)
    predictions = Predictions.from_tensors({name: values[:count] for name, values in table.tensors().items()})
    return Samples(batch, known_classes(inputs.task, batch, predictions), predictions.target)


def num_samples_with(num_answers: int, image_ids: Tensor) -> int:
    """Return how many first samples show up to `num_answers` images, one sample at least.

    Args:
        num_answers: number of images.
        image_ids: (B, N) of each sample, −1 where there is none; all are −1 if they are unknown.
    """
    shown = image_ids >= 0
    images = (shown if shown.any() else torch.ones_like(shown)).sum(dim=1)
    return max(int((images.cumsum(dim=0) <= num_answers).sum()), 1)


def known_classes(task: Task, batch: Batch, predictions: Predictions) -> dict[str, ClassAnswers]:
    """Return the classes of samples, or of each image of sequences, by what they are about.

    Raises:
        NotApplicableError: if there are none.
    """
    if "mask" in batch and "digits" in batch:
        digits = image_classes(batch, predictions)
        return (
            {"digit": digits, "sum so far": running_sums(batch, digits)} if isinstance(task, Sum) else {"digit": digits}
        )
    answers = task.class_answers(predictions) if predictions.target is not None else {}
    if not answers:
        raise NotApplicableError(f"the samples of task={type(task).__name__.lower()} have no classes")
    first = next(iter(answers.values()))
    return {"digit": first} if first.others else answers  # of all cells; those of each are among them


def image_classes(batch: Batch, predictions: Predictions) -> ClassAnswers:
    """Return the classes of the images of sequences, of which nothing is predicted by itself."""
    sample, cell = batch["mask"].nonzero(as_tuple=True)
    target = batch["digits"][sample, cell]
    names = tuple(map(str, range(int(target.max()) + 1)))
    ids = predictions.image_ids
    known = ids.shape[1] > int(cell.max())
    image_id = ids[sample, cell] if known else torch.full_like(sample, -1)
    return ClassAnswers(target, target, sample, cell, image_id, names)


def running_sums(batch: Batch, digits: ClassAnswers) -> ClassAnswers:
    """Return the sum of the digits of a sequence up to each image, with it."""
    sums = (batch["digits"] * batch["mask"]).cumsum(dim=1)[digits.sample, digits.cell]
    return replace(digits, target=sums, prediction=sums, names=tuple(map(str, range(int(sums.max()) + 1))))


@torch.no_grad()
def layer_features(task: Task, samples: Samples) -> dict[str, Tensor]:
    """Return what a network holds about each of n classes, by layer: features (n, D), in the order of the network.

    A cell of a grid is read where its tokens are: the mean of its patches, or its own token. What a decoder holds is
    read at the token that writes the answer, after the right ones before it.

    Raises:
        NotApplicableError: if no layer has a vector for each class.
    """
    model, batch, answers, target = task.model, samples.batch, samples.answers, samples.target
    written = target if target is not None and target.ndim == 2 and not target.is_floating_point() else None
    before_head: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(cached_patches(model))
        recorded = stack.enter_context(record_points(model, stream_points(model)))
        for head in linear_heads(model):
            hook = head.register_forward_pre_hook(lambda _, args: before_head.append(args[0]))
            stack.callback(hook.remove)
        task.answer_logits(batch, written)
    features: dict[str, Tensor] = {}
    for name, calls in recorded.items():
        if calls:
            features |= dict(at_answers(model, name, calls[-1], answers, batch))
    if before_head:
        features |= dict(at_answers(model, HEAD, before_head[-1], answers, batch))
    if not features:
        raise NotApplicableError(f"{type(model).__name__} has no layer with a vector for each answer")
    return features


def linear_heads(model: nn.Module) -> list[nn.Linear]:
    named = model.named_modules()
    return [module for name, module in named if name.split(".")[-1] == "head" and isinstance(module, nn.Linear)]


def stream_points(model: nn.Module) -> list[str]:
    """Return the points of the stream: before the first block of each stack, what a decoder reads, after each block."""
    points, stacks = [], set()
    for name, module in model.named_modules():
        if isinstance(module, Block):
            stack = name.rpartition(".")[0]
            if stack not in stacks:
                points += [f"{name}.input", *([f"{name}.context"] if hasattr(module, "cross_attn") else [])]
            stacks.add(stack)
            points.append(name)
    return points


def at_answers(
    model: nn.Module, name: str, values: Tensor, answers: ClassAnswers, batch: Batch
) -> Iterator[tuple[str, Tensor]]:
    """Yield features (n, D) of answers of an activation (B, D) or (B, T, D), by name; none if it has none of them."""
    if len(values) != len(batch["image"]):
        return
    if values.ndim == 2:
        yield name, values[answers.sample]
        return
    count, last = values.shape[1], int(answers.cell.max())
    block: Any = model.get_submodule(name.removesuffix(".input")) if name != HEAD and "context" not in name else None
    if name == HEAD or hasattr(block, "cross_attn") or "mask" in batch:
        if count > last:
            yield name, values[answers.sample, answers.cell]
        return
    grid = cell_grid(model, batch["image"])
    places = find_places(model, count, cells=grid)
    if places.prefix:
        yield f"{name}, class token", values[answers.sample, 0]
    tokens = values[:, places.prefix :]
    if places.kind == "patches" and (places.rows < grid[0] or places.cols < grid[1]):
        return  # cells without a patch
    if places.kind == "patches":
        tokens = mean_by_cell(rearrange(tokens, "b (r c) d -> b r c d", r=places.rows), grid)
    if tokens.shape[1] > last:
        yield name, tokens[answers.sample, answers.cell]


def mean_by_cell(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean (B, rows · cols, D) of the patches (B, R, C, D) whose centers are in each cell of a grid.

    It is NaN in cells without one, as there are where patches are fewer than cells.
    """
    rows, cols = grid
    row = (2 * torch.arange(tokens.shape[1]) + 1) * rows // (2 * tokens.shape[1])
    col = (2 * torch.arange(tokens.shape[2]) + 1) * cols // (2 * tokens.shape[2])
    cell = (row[:, None] * cols + col).flatten()  # (R · C,)
    weights = torch.eye(rows * cols, dtype=tokens.dtype)[:, cell]
    return (weights / weights.sum(dim=1, keepdim=True)) @ tokens.flatten(1, 2)


def cell_images(model: nn.Module, samples: Samples) -> Tensor:
    """Return the images (n, C, height, width), in [0, 1], of the cells that the classes are about."""
    image, answers = to_unit_range(samples.batch["image"]), samples.answers
    if image.ndim == 5:  # sequences
        return image[answers.sample, answers.cell]
    rows, cols = cell_grid(model, image)
    return rearrange(image, "b c (r h) (k w) -> b (r k) c h w", r=rows, k=cols)[answers.sample, answers.cell]


def one_of_each_image(answers: ClassAnswers, *, whole: bool) -> ClassAnswers:
    """Return the first answer about each image: the others are about copies of it, as grids share some.

    Args:
        answers: n of them; all about unknown images are kept.
        whole: whether an image is all of a sample, whose cells are no copies of each other.
    """
    count = int(answers.cell.max()) + 1 if whole else 1
    image = answers.image_id * count + answers.cell * whole
    unit = torch.where(answers.image_id >= 0, image, -1 - torch.arange(len(image)))
    unique, which = unit.unique(return_inverse=True)
    first = torch.full_like(unique, len(unit)).scatter_reduce(0, which, torch.arange(len(unit)), "amin")
    return select_answers(answers, first.sort().values)


def select_answers(answers: ClassAnswers, rows: Tensor) -> ClassAnswers:
    """Return some rows (m,) of answers."""
    fields = ("target", "prediction", "sample", "cell", "image_id")
    return replace(answers, **{name: getattr(answers, name)[rows] for name in fields})


def independent_units(answers: ClassAnswers) -> Tensor:
    """Return what is independent (n,): images, or samples where images are unknown."""
    return torch.where(answers.image_id >= 0, answers.image_id, -1 - answers.sample)
