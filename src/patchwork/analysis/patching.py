"""Which activation carries an answer: exchange it between two samples that differ in one digit, and see what changes.

A pair is a sample A and the same sample B with another digit in one cell, taken from the cell of another sample; of a
single image, B is a sample of another class. An activation of B is put into the run on A, and of A into that on B:

    effect = (difference(patched) - difference(A)) / (difference(B) - difference(A))

where the difference is that of the logits of A's and B's answer, at the answer that differs. 1 means that the
activation alone makes A answer like B (it is sufficient), in the other direction that without it B does not (it is
necessary); 0 that it carries nothing of it. See Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255; logits,
as probabilities saturate (Zhang and Nanda 2023, https://arxiv.org/abs/2309.16042).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from patchwork.analysis.features import stream_points
from patchwork.analysis.inputs import AnalysisInputs, cached_patches, logit_difference, require_answers
from patchwork.analysis.places import find_patch_embed
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.data import Batch
from patchwork.models.interventions import intervene, point_names, record_points
from patchwork.stats.intervals import median_interval

NUM_PAIRS = 50
MIN_DIFFERENCE = 0.1  # logits between A and B, below which a pair says nothing
DIRECTIONS = ("from B into A", "from A into B")
NUM_PATCH_PAIRS = 16  # whose patches are exchanged one by one
MAX_POSITIONS = 65  # of them: 8×8 patches and a class token


class Pairs(NamedTuple):
    """Pairs of samples A and B, which answer (P,) differs, and what a decoder reads as its answers, those on A."""

    clean: Batch
    corrupt: Batch
    answer: Tensor
    tokens: Tensor | None


@dataclass(frozen=True, eq=False)
class Patching(Result):
    """Effects of exchanged activations.

    Attributes:
        points: names of the activations, see `patchwork.models.interventions`.
        tokens: which tokens were exchanged, by what they are to the answer that differs: `its own`, `others` or `all`.
        effect: (K, G, D, 3) median effect on the answer that differs, with 95 % interval, for each point, group of
            tokens and direction; NaN where a point has no such tokens.
        others_changed: (K, G) share of the other answers that change; NaN if there are none.
        streams: names of the points of the stream whose tokens were exchanged by position as well.
        by_position: (S, P, A) median effect of the tokens at one position of each, from B into A, on pairs that differ
            in the A-th answer: positions are the cells of a grid, or what a decoder has written before each answer, and
            the class token and patches of the first 16 pairs of single images; NaN where there are no such tokens or
            pairs.
        n: number of pairs.
        left_out: number of pairs whose answers differ by too little.
        unit: what the samples are.
    """

    name: ClassVar[str] = "patching"
    points: tuple[str, ...]
    tokens: tuple[str, ...]
    effect: np.ndarray
    others_changed: np.ndarray
    streams: tuple[str, ...]
    by_position: np.ndarray
    n: int
    left_out: int
    unit: str

    def numbers(self) -> dict[str, Estimate]:
        numbers = {}
        for point, row in zip(self.points, self.effect, strict=True):
            for token, cells in zip(self.tokens, row, strict=True):
                value, low, high = cells[0].tolist()
                if np.isfinite(value):
                    name = f"{point}, {token}"
                    numbers[name] = Estimate(value, self.n, f"pairs of {self.unit}", low, high, "of the median")
        return numbers


def analyze(inputs: AnalysisInputs) -> Patching:
    """Exchange every activation of the network between pairs of samples.

    Raises:
        NotApplicableError: if the network has no blocks, or samples are not images with classes.
    """
    require_answers(inputs.task)
    points = point_names(inputs.task.model)
    if not points:
        raise NotApplicableError(f"{type(inputs.task.model).__name__} has no activations of blocks to exchange")
    with torch.no_grad(), cached_patches(inputs.task.model):
        pairs, left_out = make_pairs(inputs)
        runs = [run(inputs, pairs, batch, points) for batch in (pairs.clean, pairs.corrupt)]
        groups = ("its own", "others") if has_cells(inputs) else ("all",)
        effects, changed = zip(*(point_effects(inputs, pairs, point, groups, runs) for point in points), strict=True)
        streams, by_position = position_effects(inputs, pairs, runs)
    return Patching(
        points=tuple(points),
        tokens=groups,
        effect=np.array(effects),
        others_changed=np.array(changed),
        streams=streams,
        by_position=by_position,
        n=len(pairs.answer),
        left_out=left_out,
        unit=f"{inputs.split} {inputs.task.samples_name}",
    )


def has_cells(inputs: AnalysisInputs) -> bool:
    return num_cells(inputs) > 1


def num_cells(inputs: AnalysisInputs) -> int:
    rows, cols = cell_grid(inputs)
    return rows * cols


def cell_grid(inputs: AnalysisInputs) -> tuple[int, int]:
    """Return the rows and columns of the cells of an image, one each if it is a single one."""
    return int(getattr(inputs.task.model, "rows", 1)), int(getattr(inputs.task.model, "cols", 1))


# --- pairs -----------------------------------------------------------------------------------------------------------


def make_pairs(inputs: AnalysisInputs) -> tuple[Pairs, int]:
    """Return pairs whose answers differ by enough, and how many were left out.

    Raises:
        NotApplicableError: if samples are sequences of images or have no classes, or no pair is left.
    """
    batch = inputs.first(2 * NUM_PAIRS)
    if batch["image"].ndim != 4 or not {"digits", "label", *getattr(inputs.task, "factors", ())} & {*batch}:
        raise NotApplicableError("samples are not images with classes, of which one could be exchanged")
    half = len(batch["image"]) // 2
    clean = {name: values[:half] for name, values in batch.items()}
    other = {name: values[half : 2 * half] for name, values in batch.items()}
    answer = torch.arange(half) % num_cells(inputs)
    corrupt = exchange_cell(inputs, clean, other, answer)
    tokens = inputs.task.predict_step(clean, 0).prediction if has_cells(inputs) else None
    logits = [inputs.task.answer_logits(each, tokens) for each in (clean, corrupt)]
    predicted = [own_answer(each, answer).argmax(dim=-1) for each in logits]
    gap = difference(logits[0], answer, predicted) - difference(logits[1], answer, predicted)
    keep = (predicted[0] != predicted[1]) & (gap.abs() >= MIN_DIFFERENCE)
    if not keep.any():
        raise NotApplicableError("the answers of no pair of samples differ")
    kept = [{name: values[keep] for name, values in each.items()} for each in (clean, corrupt)]
    return Pairs(kept[0], kept[1], answer[keep], None if tokens is None else tokens[keep]), int((~keep).sum())


def exchange_cell(inputs: AnalysisInputs, clean: Batch, other: Batch, cell: Tensor) -> Batch:
    """Return the samples with one cell (P,) of each taken from another sample, or the other images."""
    if not has_cells(inputs):
        return other
    rows, cols = cell_grid(inputs)
    images = [
        rearrange(each["image"], "b c (r h) (k w) -> b (r k) c h w", r=rows, k=cols).clone() for each in (clean, other)
    ]
    which = torch.arange(len(cell))
    images[0][which, cell] = images[1][which, cell]
    return {**clean, "image": rearrange(images[0], "b (r k) c h w -> b c (r h) (k w)", r=rows, k=cols)}


def own_answer(logits: Tensor, answer: Tensor) -> Tensor:
    """Return the logits (P, C) of the answer that differs, of all (P, T, C)."""
    return logits[torch.arange(len(answer)), answer.clamp(max=logits.shape[1] - 1)]


def difference(logits: Tensor, answer: Tensor, predicted: list[Tensor]) -> Tensor:
    """Return by how much the logit of A's answer exceeds that of B's (P,), at the answer that differs."""
    own = own_answer(logits, answer)[:, None]
    return logit_difference(own, predicted[0][:, None], predicted[1][:, None])[:, 0]


# --- effects ---------------------------------------------------------------------------------------------------------


class PairRun(NamedTuple):
    """The logits (P, T, C) of a batch of pairs, and its activations by point."""

    batch: Batch
    logits: Tensor
    activations: dict[str, Tensor]


def run(inputs: AnalysisInputs, pairs: Pairs, batch: Batch, points: list[str]) -> PairRun:
    """Run the network on a batch, and record all points."""
    with record_points(inputs.task.model, points) as recorded:
        logits = inputs.task.answer_logits(batch, pairs.tokens)
    return PairRun(batch, logits, {name: values[-1] for name, values in recorded.items() if values})


def point_effects(
    inputs: AnalysisInputs, pairs: Pairs, point: str, groups: tuple[str, ...], runs: list[PairRun]
) -> tuple[list[list[tuple[float, float, float]]], list[float]]:
    """Return the effects at a point, for each group of tokens and direction, and the share of other answers changed."""
    effects, changed = [], []
    for mask in token_masks(inputs, pairs, groups, runs[0].activations[point]):
        row = []
        for target, source in ((0, 1), (1, 0)):
            logits = patched_logits(inputs, pairs, point, mask, runs[target], runs[source])
            effect = pair_effects(pairs, logits, runs[target], runs[source])
            row.append(median_interval(effect) if mask is not None else (np.nan,) * 3)
            if target == 0:
                changed.append(others_changed(logits, runs[0].logits, pairs.answer))
        effects.append(row)
    return effects, changed


def pair_effects(pairs: Pairs, logits: Tensor, target: PairRun, source: PairRun) -> np.ndarray:
    """Return the effect (P,) on each pair, by the logits (P, T, C) with activations of `source` put into `target`."""
    predicted = [own_answer(each.logits, pairs.answer).argmax(dim=-1) for each in (target, source)]
    patched, before, other = (
        difference(each, pairs.answer, predicted) for each in (logits, target.logits, source.logits)
    )
    return ((patched - before) / (other - before)).numpy()


def position_effects(inputs: AnalysisInputs, pairs: Pairs, runs: list[PairRun]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the points of the stream, and the effects (S, P, A) of their tokens at each position on each answer."""
    points = [point for point in stream_points(inputs.task.model) if point in runs[0].activations]
    if not has_cells(inputs):  # as many positions as patches
        pairs = first_pairs(pairs, NUM_PATCH_PAIRS)
        runs = [run(inputs, pairs, batch, points) for batch in (pairs.clean, pairs.corrupt)]
    positions = {point: token_positions(inputs, runs[0].activations[point].shape[1]) for point in points}
    known = {point: each for point, each in positions.items() if each is not None}
    longest = max((int(each.max()) + 1 for each in known.values()), default=0)
    table = np.full((len(known), longest, num_cells(inputs)), np.nan)
    for row, (point, position) in zip(table, known.items(), strict=True):
        for at in range(int(position.max()) + 1):
            mask = (position == at).expand(len(pairs.answer), -1)
            logits = patched_logits(inputs, pairs, point, mask, *runs)
            effect = pair_effects(pairs, logits, *runs)
            for answer in pairs.answer.unique().tolist():
                row[at, answer] = np.median(effect[(pairs.answer == answer).numpy()])
    return tuple(known), table


def first_pairs(pairs: Pairs, count: int) -> Pairs:
    clean, corrupt = ({name: values[:count] for name, values in batch.items()} for batch in pairs[:2])
    return Pairs(clean, corrupt, pairs.answer[:count], None if pairs.tokens is None else pairs.tokens[:count])


def token_positions(inputs: AnalysisInputs, count: int) -> Tensor | None:
    """Return the position (T,) of each of `count` tokens: its cell, or of a single image its own; None of too many."""
    if has_cells(inputs):
        return token_cells(inputs, count)
    return torch.arange(count) if count <= MAX_POSITIONS else None


def token_masks(
    inputs: AnalysisInputs, pairs: Pairs, groups: tuple[str, ...], activation: Tensor
) -> Iterator[Tensor | None]:
    """Yield which tokens (P, T) of a point are exchanged, for each group; None where there are no such tokens.

    Tokens of a grid belong to cells, in reading order; those of a decoder to the answers that they predict.
    """
    count, cells = activation.shape[1], num_cells(inputs)
    if groups == ("all",):
        yield torch.ones(len(pairs.answer), count, dtype=torch.bool)
        return
    belongs = token_cells(inputs, count)
    own = None if belongs is None else belongs[None] == pairs.answer[:, None]
    yield own
    yield None if own is None or cells == 1 else ~own


def token_cells(inputs: AnalysisInputs, count: int) -> Tensor | None:
    """Return the cell (T,) that each of `count` tokens belongs to, or None if they do not."""
    rows, cols = cell_grid(inputs)
    if count in (rows * cols, rows * cols + 1):
        return torch.arange(count)
    embed = find_patch_embed(inputs.task.model)
    grid = (0, 0) if embed is None else embed.grid
    if count != grid[0] * grid[1] or grid[0] % rows or grid[1] % cols:
        return None
    row, col = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return (row // (grid[0] // rows) * cols + col // (grid[1] // cols)).flatten()


def patched_logits(
    inputs: AnalysisInputs, pairs: Pairs, point: str, mask: Tensor | None, target: PairRun, source: PairRun
) -> Tensor:
    """Return the logits of a run in which some tokens of a point are those of another run."""
    if mask is None:
        return target.logits

    def edit(activation: Tensor) -> Tensor:
        if activation.shape != source.activations[point].shape:  # a step of decoding
            return activation
        where = mask.reshape(*mask.shape, *[1] * (activation.ndim - 2))
        return torch.where(where, source.activations[point], activation)

    with intervene(inputs.task.model, {point: edit}):
        return inputs.task.answer_logits(target.batch, pairs.tokens)


def others_changed(logits: Tensor, before: Tensor, answer: Tensor) -> float:
    """Return the share of the answers, other than the one that differs, that change; NaN if there are none."""
    others = torch.arange(logits.shape[1])[None] != answer[:, None]
    changed = (logits.argmax(dim=-1) != before.argmax(dim=-1))[others]
    return float(changed.double().mean()) if changed.numel() else float("nan")
