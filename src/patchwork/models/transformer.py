"""The parts that every network here is made of: attention, the block, patches and positions.

Shapes: B batch, N patches, T queries, S keys, D embed_dim, H heads, C channels. Attention is written once. It is the
fused kernel, but for a single query; `attention_weights` reads the weights out of that same kernel, so a picture can
never drift from what the network does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NotRequired

import torch
from einops import rearrange
from pydantic import ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict


class Cache:
    """Keys and values that one attention layer has already seen, so that decoding computes each of them once.

    Self-attention appends to it at every step; cross-attention, whose context does not change, fills it once.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in keys and values of new positions, both (B, H, T, D/H), and return those of all positions so far."""
        if self.keys is None or self.values is None:
            shape = (*keys.shape[:2], self.size, keys.shape[-1])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        start, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def keep(self, chosen: Tensor) -> None:
        """Go on with the samples `chosen` (B',) of those so far."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[chosen], self.values[chosen]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    Raises:
        ValueError: if `embed_dim` is not divisible by `num_heads`.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} is not divisible by num_heads={num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.causal = causal
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key_value = nn.Linear(embed_dim, 2 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.recorded: list[Tensor] | None = None

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Mix into each position of `x` (B, T, D) what it looks for in `context` (B, S, D), or in `x` itself.

        `mask` (B, S) is true where there is something to look at; each row needs one such place.
        """
        query = self.heads(self.query(x))  # (B, H, T, D/H)
        if context is not None and cache is not None and cache.keys is not None and cache.values is not None:
            key, value = cache.keys, cache.values
        else:
            key, value = self.key_value(x if context is None else context).chunk(2, dim=-1)
            key, value = self.heads(key), self.heads(value)  # (B, H, S, D/H)
            if rotate is not None:
                query, key = rotate(query), rotate(key)
            if cache is not None:
                key, value = cache.append(key, value)
        x = self.attend(query, key, value, mask)  # (B, H, T, D/H)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, T, D)

    def heads(self, x: Tensor) -> Tensor:
        # einops would be felt here, in a step of drawing
        return x.view(*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        targets, sources = query.shape[2], key.shape[2]
        if mask is not None:
            mask = mask[:, None, None, :]  # (B, 1, 1, S)
        elif self.causal and 1 < targets < sources:  # new positions after a cached prefix
            mask = torch.ones(targets, sources, dtype=torch.bool, device=query.device).tril(sources - targets)
        attention = partial(
            F.scaled_dot_product_attention,
            query,
            key,
            attn_mask=mask,
            is_causal=self.causal and 1 < targets == sources,
        )
        if targets == 1 and mask is None and self.recorded is None and not self.training:
            # as in a step of writing or drawing, where two small products take half the kernel's time
            return (query * query.shape[-1] ** -0.5 @ key.mT).softmax(dim=-1) @ value
        if self.recorded is not None:  # softmax(q kᵀ/√d) · I is the weights themselves
            eye = torch.eye(sources, dtype=query.dtype, device=query.device)
            self.recorded.append(attention(eye.expand(*key.shape[:2], -1, -1)).detach())  # (B, H, T, S)
        return attention(value, dropout_p=self.dropout if self.training else 0.0)


@contextmanager
def attention_weights(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record what every attention layer of `model` looks at for as long as the context is open.

    Yields:
        a dictionary from the layer's name to its weights (B, H, T, S), one tensor for each call of the layer; names
        end in `attn` for self-attention and in `cross_attn` for cross-attention.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    recorded: dict[str, list[Tensor]] = {name: [] for name in layers}
    outer = {name: layer.recorded for name, layer in layers.items()}  # of a context around this one
    for name, layer in layers.items():
        layer.recorded = recorded[name]
    try:
        yield recorded
    finally:
        for name, layer in layers.items():
            layer.recorded = outer[name]
            if layer.recorded is not None:
                layer.recorded.extend(recorded[name])


class Block(nn.Module):
    """One transformer layer: self-attention, cross-attention where there is a context, and an MLP.

    Each part is added to the stream. `norm_first` normalises what a part reads (pre-norm), otherwise the stream after
    the addition is normalised (post-norm, as in the 2017 paper).
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        causal: bool = False,
        cross: bool = False,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        hidden = round(embed_dim * mlp_ratio)
        if hidden == 0:
            raise ValueError(f"mlp_ratio={mlp_ratio} leaves no hidden unit of embed_dim={embed_dim}")
        self.norm_first = norm_first
        self.attn_norm = nn.LayerNorm(embed_dim)
        self.attn = Attention(embed_dim=embed_dim, num_heads=num_heads, dropout=dropout, causal=causal)
        if cross:
            self.cross_norm = nn.LayerNorm(embed_dim)
            self.cross_attn = Attention(embed_dim=embed_dim, num_heads=num_heads, dropout=dropout)
        self.mlp_norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(embed_dim, hidden), nn.GELU(), self.dropout, nn.Linear(hidden, embed_dim))

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
        caches: tuple[Cache, Cache] | None = None,
    ) -> Tensor:
        """Map the stream `x` (B, T, D) to (B, T, D).

        `mask` (B, T) is true where the stream has something to look at; `caches` hold the self- and the
        cross-attention's past.
        """
        own, cross = caches or (None, None)
        x = self.add(self.attn_norm, x, partial(self.attn, mask=mask, rotate=rotate, cache=own))
        if context is not None:
            x = self.add(self.cross_norm, x, partial(self.cross_attn, context=context, cache=cross))
        return self.add(self.mlp_norm, x, self.mlp)

    def add(self, norm: nn.Module, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + self.dropout(part(norm(x)))
        return norm(x + self.dropout(part(x)))


class ConvLayer(TypedDict):
    """One layer of a stem: a convolution, its stride, and the width of a max-pool after it; both 1 if not given."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    channels: PositiveInt
    kernel: PositiveInt
    stride: NotRequired[PositiveInt]
    pool: NotRequired[PositiveInt]


class PatchEmbed(nn.Module):
    """Cut an image into square patches and embed each: linearly, or after a convolutional stem.

    A stem lets strokes be seen before patches are cut (Xiao et al. 2021, https://arxiv.org/abs/2106.14881): layers of
    convolution, batch normalisation and ReLU. `patch_size` counts pixels of the image, whether or not a stem comes
    first. `bfloat16` computes both in that precision, which CPUs and GPUs of today do faster.

    Raises:
        ValueError: if the patches do not divide the image, or the stem's strides do not divide the patches.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        stem: Sequence[ConvLayer] = (),
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        height, width = image_size
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide the image of {height}×{width} pixels")
        layers: list[nn.Module] = []
        channels, stride = in_channels, 1
        for layer in stem:
            kernel, pool = layer["kernel"], layer.get("pool", 1)
            if kernel % 2 == 0:
                raise ValueError(f"stem: kernel={kernel} is even: an odd one keeps the map centred on the image")
            layers += [
                nn.Conv2d(channels, layer["channels"], kernel, layer.get("stride", 1), kernel // 2, bias=False),
                nn.BatchNorm2d(layer["channels"]),
                nn.MaxPool2d(pool) if pool > 1 else nn.Identity(),  # before ReLU it gives the same on a smaller map
                nn.ReLU(),
            ]
            channels, stride = layer["channels"], stride * layer.get("stride", 1) * pool
        if patch_size % stride:
            raise ValueError(f"patch_size={patch_size} is not a multiple of {stride}, the stride of the stem")
        self.image_size = image_size
        self.grid = (height // patch_size, width // patch_size)
        self.low_precision = bfloat16
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(channels, embed_dim, patch_size // stride, patch_size // stride)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the layout that convolutions are fastest in

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to patches (B, N, D) in reading order."""
        if image.shape[2:] != self.image_size:
            raise ValueError(
                f"an image of {tuple(image.shape[2:])} pixels is not of {self.image_size}, as the model is"
            )
        with torch.autocast(image.device.type, torch.bfloat16) if self.low_precision else nullcontext():
            x = self.stem(image.contiguous(memory_format=torch.channels_last))  # (B, C', height/stride, width/stride)
            x = self.proj(x)  # (B, D, rows, cols)
        return rearrange(x, "b d h w -> b (h w) d").to(image.dtype)  # (B, N, D)


class LearnedPositions(nn.Module):
    """A learned vector for each position, added to what stands there."""

    def __init__(self, *, length: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(length, embed_dim))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add to `x` (B, T, D) the vectors of positions `start` to `start + T`."""
        return x + self.weight.narrow(0, start, x.shape[1])


class AxialRotary(nn.Module):
    """Rotary positions in two dimensions: half of each head turns with the row, half with the column.

    Queries and keys are rotated, over positions and not over heads, so that their product depends on the offset alone
    (Su et al. 2021, https://arxiv.org/abs/2104.09864; axial: Heo et al. 2024, https://arxiv.org/abs/2403.13298). The
    base is small because these grids are.

    `prefix` counts tokens before the grid, such as a class token; they are not turned.

    Raises:
        ValueError: if `head_dim` is not divisible by 4.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, *, head_dim: int, grid: tuple[int, int], prefix: int = 0, base: float = 100.0) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"positions=rotary needs embed_dim / num_heads to be divisible by 4, and it is {head_dim}")
        frequency = base ** -(torch.arange(head_dim // 4) / (head_dim // 4))  # (D/4,)
        row, col = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        angle = torch.cat([axis.flatten()[:, None] * frequency for axis in (row, col)], dim=-1)  # (N, D/2)
        angle = torch.cat([torch.zeros(prefix, angle.shape[1]), angle])  # (prefix + N, D/2)
        # pairs (a, b), half a head apart, turn in their plane: (a cos - b sin, b cos + a sin)
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], dim=-1), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], dim=-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate `x` (B, H, T, D) by the angles of the first T positions."""
        return self.at(0, x.shape[2])(x)

    def at(self, start: int, count: int) -> Callable[[Tensor], Tensor]:
        """Return the rotation of `count` positions from `start` on."""
        cos, sin = self.cos.narrow(0, start, count), self.sin.narrow(0, start, count)

        def rotate(x: Tensor) -> Tensor:
            return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)

        return rotate


def initialise(model: nn.Module) -> None:
    """Set linear weights to a truncated normal law that keeps the scale of what passes, and biases to zero.

    Positions and tokens begin at half the scale of a normalised stream, so that attention can tell them apart from the
    first step on; at the usual 0.02 it takes hundreds of steps to find out.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding | LearnedPositions):
            nn.init.normal_(module.weight, std=0.5)
