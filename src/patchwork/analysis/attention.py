"""Where every head of every layer looks, as the fused kernel computes it, and what it moves from there.

Weights say where a head looks, not what it takes from there: a value may be small. Beside each weight stands its share
of what is moved, the weight times the length of the value after the output projection of its head (Kobayashi et al.
2020, https://arxiv.org/abs/2004.10102).
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.places import Places, find_patch_embed, find_places, receptive_fields
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.data import Batch
from patchwork.models.transformer import Attention, AttentionCall, record_attention
from patchwork.stats.overlap import overlapping_mean_interval
from patchwork.tasks.base import to_unit_range

NUM_SAMPLES, NUM_SHOWN = 200, 4
MAX_ENTRIES = 40_000  # of one layer's weights of one sample that are kept


class Layer(NamedTuple):
    """A layer of attention.

    Attributes:
        name: of its module.
        weights: (n, H, T, S) of the samples that are shown.
        moved: (n, H, T, S) shares of what is moved.
        keys: what its S keys stand for.
        entropy: (H, 3) effective number of keys, exp of the entropy: mean and 95 % interval.
        distance: (H,) mean distance in patches between query and key; NaN if they have no common grid.
        own_cell: (H, 3) share of the weights of the t-th query on the t-th cell, with interval; NaN without cells, and
            where a patch lies in several.
    """

    name: str
    weights: np.ndarray
    moved: np.ndarray
    keys: Places
    entropy: np.ndarray
    distance: np.ndarray
    own_cell: np.ndarray

    @property
    def is_self_attention(self) -> bool:
        return not is_cross_attention(self.name)


def is_cross_attention(name: str) -> bool:
    """Return whether a layer of this name reads other tokens than its own."""
    return name.endswith("cross_attn")


@dataclass(frozen=True, eq=False)
class AttentionMaps(Result):
    """The attention of all layers, flattened one after the other; see `Layer`.

    Attributes:
        layers: names.
        shapes: (L, 3) heads, queries and keys.
        kinds: of the keys of each layer.
        grids: (L, 3) rows, columns and prefix of its keys.
        weights: of the samples that are shown, n of a layer.
        moved: shares of what is moved, likewise.
        statistics: (Σ H, 7) of all heads: entropy with interval, distance, share on the own cell with interval.
        images: (n, C, height, width) uint8 of the samples; those of a sequence are side by side.
        answers: what the model answers.
        fields: (N, 4) the pixels that each patch depends on, see `receptive_fields`; empty without patches.
        n: number of samples of the statistics.
        unit: what they are.
    """

    name: ClassVar[str] = "attention"
    layers: tuple[str, ...]
    shapes: np.ndarray
    kinds: tuple[str, ...]
    grids: np.ndarray
    weights: np.ndarray
    moved: np.ndarray
    statistics: np.ndarray
    images: np.ndarray
    answers: tuple[str, ...]
    fields: np.ndarray
    n: int
    unit: str

    def by_layer(self) -> list[Layer]:
        """Return the layers one by one."""
        found, entry, head, count = [], 0, 0, len(self.images)
        for name, shape, kind, grid in zip(self.layers, self.shapes.tolist(), self.kinds, self.grids, strict=True):
            size = count * int(np.prod(shape))
            part, heads = slice(entry, entry + size), self.statistics[head : head + shape[0]]
            rows, cols, prefix = grid.tolist()
            found.append(
                Layer(
                    name,
                    self.weights[part].reshape(count, *shape),
                    self.moved[part].reshape(count, *shape),
                    Places(kind, rows, cols, prefix),  # type: ignore[arg-type]
                    heads[:, :3],
                    heads[:, 3],
                    heads[:, 4:],
                )
            )
            entry, head = entry + size, head + shape[0]
        return found

    def numbers(self) -> dict[str, Estimate]:
        numbers = {}
        for layer in self.by_layer():
            for head, (value, low, high) in enumerate(layer.entropy.tolist()):
                name = f"{layer.name} head {head + 1}, effective keys"
                numbers[name] = Estimate(value, self.n, self.unit, low, high, "t, over images")
            for head, (value, low, high) in enumerate(layer.own_cell.tolist()):
                if np.isfinite(value):
                    name = f"{layer.name} head {head + 1}, share on the cell of the digit"
                    numbers[name] = Estimate(value, self.n, self.unit, low, high, "t, over images")
        return numbers


def analyze(inputs: AnalysisInputs) -> AttentionMaps:
    """Record the attention of the first samples of the split.

    Raises:
        NotApplicableError: if the model has no attention.
    """
    model, task = inputs.task.model, inputs.task
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    if not modules:
        raise NotApplicableError(f"{type(model).__name__} has no attention")
    batch = inputs.first(NUM_SAMPLES)
    with torch.no_grad(), record_attention(model) as recorded:
        run_model(inputs, batch)
        shown = {name: values[:NUM_SHOWN] for name, values in batch.items()}
        samples = task.samples(shown, NUM_SHOWN)
    calls = {name: first_call(each) for name, each in recorded.items() if each}
    if not calls:
        raise NotApplicableError(f"the attention of {type(model).__name__} is not used")
    cells = cell_grid(inputs)
    layers = {
        name: describe(name, modules[name], call, find_places(model, call.weights.shape[-1], cells=cells), cells, batch)
        for name, call in calls.items()
    }
    embed = find_patch_embed(model)
    images = batch["image"][:NUM_SHOWN]
    if images.ndim == 5:
        images = rearrange(images, "n s c h w -> n c h (s w)")
    return AttentionMaps(
        layers=tuple(layers),
        shapes=np.array([call.weights.shape[1:] for call in calls.values()]),
        kinds=tuple(each.keys.kind for each in layers.values()),
        grids=np.array([[each.keys.rows, each.keys.cols, each.keys.prefix] for each in layers.values()]),
        weights=np.concatenate([each.weights.flatten() for each in layers.values()]),
        moved=np.concatenate([each.moved.flatten() for each in layers.values()]),
        statistics=np.concatenate(
            [np.concatenate([each.entropy, each.distance[:, None], each.own_cell], axis=1) for each in layers.values()]
        ),
        images=(to_unit_range(images) * 255).round().byte().numpy(),
        answers=tuple(" ".join(sample.prediction) for sample in samples),
        fields=np.zeros((0, 4), np.int64) if embed is None else receptive_fields(embed).numpy(),
        n=len(batch["image"]),
        unit=f"{inputs.split} {task.samples_name}",
    )


def run_model(inputs: AnalysisInputs, batch: dict[str, Tensor]) -> None:
    """Let the model answer a batch once."""
    if inputs.task.has_answers:
        inputs.task.answer_logits(batch)
    else:
        inputs.task(batch)


def first_call(calls: list[AttentionCall]) -> AttentionCall:
    """Return the call with the most queries: the whole sequence, where a decoder was called for each token, too."""
    return max(calls, key=lambda call: call.weights.shape[2])


def cell_grid(inputs: AnalysisInputs) -> tuple[int, int] | None:
    """Return the rows and columns of the cells of a task's images, if there are several."""
    rows, cols = getattr(inputs.task.model, "rows", 1), getattr(inputs.task.model, "cols", 1)
    return (rows, cols) if rows * cols > 1 else None


def describe(
    name: str, module: Attention, call: AttentionCall, keys: Places, cells: tuple[int, int] | None, batch: Batch
) -> Layer:
    """Return a layer with its statistics over all samples and the weights of those that are shown.

    Args:
        name: of its module.
        module: the layer.
        call: its weights and values for all samples.
        keys: what its keys stand for.
        cells: rows and columns of the cells, if there are several.
        batch: the samples.
    """
    weights, moved = call.weights, moved_shares(module, call)
    if weights[0].numel() > MAX_ENTRIES:
        raise NotApplicableError(f"a layer has {weights[0].numel():,} weights, more than can be shown")
    entropy = -torch.special.xlogy(weights, weights).sum(dim=-1)  # (B, H, T)
    return Layer(
        name,
        weights[:NUM_SHOWN].numpy().astype(np.float32),
        moved[:NUM_SHOWN].numpy().astype(np.float32),
        keys,
        with_intervals(mean_over_queries(entropy.exp(), batch.get("mask")), batch["image_ids"]),
        mean_distance(weights, keys),
        own_cell_share(weights, keys, cells if is_cross_attention(name) else None, batch["image_ids"]),
    )


def moved_shares(module: Attention, call: AttentionCall) -> Tensor:
    """Return the share (B, H, T, S) of each key in what a head moves to a query; rows sum to 1, or are 0."""
    proj = module.proj.weight.unflatten(1, (module.num_heads, -1))  # (D, H, D/H)
    length = torch.einsum("bhsd,ehd->bhse", call.values, proj).norm(dim=-1)  # (B, H, S)
    moved = call.weights * length[:, :, None]
    return moved / moved.sum(dim=-1, keepdim=True).clamp_min(1e-30)


def mean_over_queries(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (B, H) of values (B, H, T) over the queries that are no padding, as `mask` (B, T) tells."""
    if mask is None or mask.shape[1] != values.shape[2]:
        return values.mean(dim=2)
    exists = mask[:, None].to(values.dtype)  # (B, 1, T)
    return (values * exists).sum(dim=2) / exists.sum(dim=2)


def with_intervals(values: Tensor, image_ids: Tensor) -> np.ndarray:
    """Return mean and 95 % interval (H, 3) of values (B, H) of samples with images (B, K)."""
    images = image_ids.numpy()
    return np.array([[row.mean(), *overlapping_mean_interval(row, images)] for row in values.numpy().T])


def mean_distance(weights: Tensor, keys: Places) -> np.ndarray:
    """Return the mean distance (H,) in patches between query and key, where both are patches."""
    heads, queries, count = weights.shape[1:]
    if keys.kind != "patches" or queries != count or keys.rows * keys.cols < 2:
        return np.full(heads, np.nan)
    row, col = torch.meshgrid(torch.arange(keys.rows), torch.arange(keys.cols), indexing="ij")
    position = torch.stack([row.flatten(), col.flatten()], dim=1).double()
    among = weights[:, :, keys.prefix :, keys.prefix :]
    among = among / among.sum(dim=-1, keepdim=True).clamp_min(1e-30)
    mean: np.ndarray = (among * torch.cdist(position, position)).sum(dim=-1).mean(dim=(0, 2)).numpy()
    return mean


def own_cell_share(weights: Tensor, keys: Places, cells: tuple[int, int] | None, image_ids: Tensor) -> np.ndarray:
    """Return the share (H, 3) of the t-th query's weights on the t-th cell, with interval, of cross-attention.

    It is NaN where there are no cells, or a patch lies in several.
    """
    heads, queries, _ = weights.shape[1:]
    rows, cols = cells or (1, 1)
    is_divided = keys.rows % rows == 0 and keys.cols % cols == 0  # else a patch lies in several cells
    if cells is None or keys.kind == "tokens" or keys.prefix or not is_divided:
        return np.full((heads, 3), np.nan)
    table = rearrange(
        weights, "b h t (r p c q) -> b h t (r c) (p q)", r=rows, c=cols, p=keys.rows // rows, q=keys.cols // cols
    ).sum(dim=-1)  # (B, H, T, cells)
    count = min(queries, rows * cols)
    return with_intervals(table[:, :, :count, :count].diagonal(dim1=2, dim2=3).mean(dim=-1), image_ids)
