"""What the tokens of an attention layer stand for: the patches of an image, its cells, or any others.

A model is asked for nothing but its shared parts: a `PatchEmbed`, if it has one, and how many tokens there are.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from patchwork.models.patch_embed import PatchEmbed

Kind = Literal["patches", "cells", "tokens"]


@dataclass(frozen=True)
class Places:
    """The places of `prefix + rows · cols` tokens.

    Attributes:
        kind: what they are; `tokens` are any others in a row, as images of a sequence or written digits.
        rows: rows of their grid.
        cols: columns of their grid.
        prefix: tokens before the grid, such as a class token.
    """

    kind: Kind
    rows: int
    cols: int
    prefix: int = 0


def find_places(model: nn.Module, count: int, *, cells: tuple[int, int] | None = None) -> Places:
    """Return what `count` tokens of an attention layer of a model stand for.

    Args:
        model: the network.
        count: number of tokens, as the last dimension of attention weights.
        cells: rows and columns of the cells of its images, if there are several.
    """
    if cells is not None and count == cells[0] * cells[1]:
        return Places("cells", *cells)
    embed = find_patch_embed(model)
    if embed is not None and 0 <= count - embed.grid[0] * embed.grid[1] <= 1:
        return Places("patches", *embed.grid, prefix=count - embed.grid[0] * embed.grid[1])
    return Places("tokens", 1, count)


def find_patch_embed(model: nn.Module) -> PatchEmbed | None:
    """Return the module that cuts the images of a model into more than one patch, if there is one."""
    embeds = [module for module in model.modules() if isinstance(module, PatchEmbed)]
    return next((embed for embed in embeds if embed.grid != (1, 1)), None)


def receptive_fields(embed: PatchEmbed) -> Tensor:
    """Return which pixels each patch token depends on: (N, 4), the first row, the row after the last, and the columns.

    A stem widens a patch. Attention from or to a token concerns all of its field, not only its patch.
    """
    (height, width), (rows, cols) = embed.image_size, embed.grid
    vertical = [axis_field(embed, index, height) for index in range(rows)]
    horizontal = [axis_field(embed, index, width) for index in range(cols)]
    return torch.tensor([[*vertical[row], *horizontal[col]] for row in range(rows) for col in range(cols)])


def field_weights(embed: PatchEmbed) -> Tensor:
    """Return how much of what reaches each patch token comes from each pixel: (N, height, width), which add up to 1.

    It is the share of the paths through the stem that begin at the pixel: most in the middle of the field, as its edge
    reaches a token in few ways (Luo et al. 2016, https://arxiv.org/abs/1701.04128).
    """
    (height, width), (rows, cols) = embed.image_size, embed.grid
    vertical, horizontal = axis_weights(embed, rows, height), axis_weights(embed, cols, width)
    return torch.einsum("rh,cw->rchw", vertical, horizontal).flatten(0, 1)


def axis_weights(embed: PatchEmbed, count: int, size: int) -> Tensor:
    """Return the shares (count, size) of the pixels along an axis in each patch."""
    weights = torch.eye(count, dtype=torch.float64)
    layers = [window for layer in [*embed.stem, embed.proj] if (window := axis_window(layer)) is not None]
    sizes = [size]
    for kernel, stride, padding in layers[:-1]:
        sizes.append((sizes[-1] + 2 * padding - kernel) // stride + 1)
    for (kernel, stride, padding), length in zip(reversed(layers), reversed(sizes), strict=True):
        start = torch.arange(weights.shape[1])[:, None] * stride - padding + torch.arange(kernel)  # (outputs, kernel)
        inside = (start >= 0) & (start < length)
        spread = torch.zeros(weights.shape[1], length, dtype=torch.float64)
        spread.scatter_add_(1, start.clamp(0, length - 1), inside.double())
        weights = weights @ spread
    return weights / weights.sum(dim=1, keepdim=True)


def axis_window(layer: nn.Module) -> tuple[int, int, int] | None:
    """Return kernel, stride and padding along an axis of a layer that mixes pixels; None of any other."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    if isinstance(layer, nn.MaxPool2d):
        return int(layer.kernel_size), int(layer.stride), 0  # type: ignore[arg-type]
    return None


def axis_field(embed: PatchEmbed, index: int, size: int) -> tuple[int, int]:
    """Return the first pixel along an axis that a patch depends on, and the one after the last."""
    first = last = index
    for layer in [embed.proj, *reversed([*embed.stem])]:
        window = axis_window(layer)
        if window is None:
            continue
        kernel, stride, padding = window
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return max(first, 0), min(last + 1, size)


def cell_grid(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Return the rows and columns of cells that a model reads images (…, height, width) as; 1 × 1 if it names none."""
    rows, cols = getattr(model, "rows", 1), getattr(model, "cols", 1)
    return (rows, cols) if image.shape[-2] % rows == 0 and image.shape[-1] % cols == 0 else (1, 1)
