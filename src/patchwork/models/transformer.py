"""Building blocks of the transformers: attention, blocks, positional encodings and initialization.

Shapes: B batch, N patches, T queries, S keys, D embed_dim, H heads, C channels.

Attention is implemented once, by torch's fused kernel (except for a single query). `record_attention` computes the
weights with that same kernel, so that a figure of them cannot differ from what the network computes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBED_STD = 0.5  # of new embeddings of positions and tokens


class KVCache:
    """Keys and values of one attention layer, so that incremental decoding computes each of them once.

    Self-attention appends to its cache at every step; cross-attention, whose context does not change, fills it once.

    Args:
        size: positions to allocate.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values of new positions, both (B, H, T, D/H), and return those of all positions so far."""
        if self.keys is None or self.values is None:
            shape = (*keys.shape[:2], self.size, keys.shape[-1])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        start, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def reorder(self, indices: Tensor) -> None:
        """Replace the samples by those at `indices` (B',)."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[indices], self.values[indices]


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one call of an attention layer has computed.

    Attributes:
        weights: (B, H, T, S), each row sums to 1; without gradient.
        values: (B, H, S, D/H), without gradient.
        mixed: (B, H, T, D/H), the weighted means of the values, before the heads are combined; part of the graph, so
            that gradients with respect to it can be asked for.
    """

    weights: Tensor
    values: Tensor
    mixed: Tensor

    def weights_grad(self, mixed_grad: Tensor) -> Tensor:
        """Return the gradient with respect to the weights (B, H, T, S) that follows from that to `mixed`.

        As `mixed = weights · values`, it is exactly `mixed_grad · valuesᵀ`: the fused kernel need not be taken apart.
        """
        return mixed_grad @ self.values.mT


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    Args:
        embed_dim: width D.
        num_heads: number of heads H.
        dropout: dropout probability of the attention weights.
        causal: whether a position attends only to itself and earlier ones.

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
        self.calls: list[AttentionCall] | None = None  # a list while `record_attention` fills it

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        rope: Callable[[Tensor], Tensor] | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Attend from `x` (B, T, D) to `context` (B, S, D), or to `x` itself.

        Args:
            x: queries.
            context: keys and values of cross-attention; None for self-attention.
            mask: which keys (B, S) may be attended to; at least one in each row.
            rope: rotary positional encoding of queries and keys.
            cache: keys and values of earlier calls.

        Returns:
            The output (B, T, D).
        """
        query = self.split_heads(self.query(x))  # (B, H, T, D/H)
        if context is not None and cache is not None and cache.keys is not None and cache.values is not None:
            key, value = cache.keys, cache.values
        else:
            key, value = self.key_value(x if context is None else context).chunk(2, dim=-1)
            key, value = self.split_heads(key), self.split_heads(value)  # (B, H, S, D/H)
            if rope is not None:
                query, key = rope(query), rope(key)
            if cache is not None:
                key, value = cache.append(key, value)
        x = self.attend(query, key, value, mask)  # (B, H, T, D/H)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, T, D)

    def split_heads(self, x: Tensor) -> Tensor:
        """Reshape (B, T, D) to (B, H, T, D/H)."""
        # einops would slow down a step of decoding measurably
        return x.view(*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weighted mean of the values (B, H, T, D/H) for each query, and record the weights if asked to."""
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
        if targets == 1 and mask is None and self.calls is None and not self.training:
            # a step of decoding: two small products take half the kernel's time
            return (query * query.shape[-1] ** -0.5 @ key.mT).softmax(dim=-1) @ value
        mixed = attention(value, dropout_p=self.dropout if self.training else 0.0)
        if self.calls is not None:  # softmax(q kᵀ/√d) · I is the weights themselves
            eye = torch.eye(sources, dtype=query.dtype, device=query.device)
            weights = attention(eye.expand(*key.shape[:2], -1, -1)).detach()  # (B, H, T, S)
            self.calls.append(AttentionCall(weights, value.detach(), mixed))
        return mixed


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[AttentionCall]]]:
    """Record every call of every attention layer of `model` while the context is open.

    Yields:
        A dictionary from the layer's name to its calls. Names end in `attn` for self-attention and in `cross_attn` for
        cross-attention.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    recorded: dict[str, list[AttentionCall]] = {name: [] for name in layers}
    outer = {name: layer.calls for name, layer in layers.items()}  # of a context around this one
    for name, layer in layers.items():
        layer.calls = recorded[name]
    try:
        yield recorded
    finally:
        for name, layer in layers.items():
            layer.calls = outer[name]
            if layer.calls is not None:
                layer.calls.extend(recorded[name])


class Block(nn.Module):
    """One transformer block: self-attention, optional cross-attention, and an MLP, each with a residual connection.

    Args:
        embed_dim: width D.
        num_heads: number of attention heads.
        mlp_ratio: hidden width of the MLP, as a multiple of `embed_dim`.
        dropout: dropout probability.
        causal: whether self-attention is causal.
        cross: whether there is cross-attention.
        norm_first: normalize the input of each sublayer (pre-norm) instead of the sum after it (post-norm, as in
            Vaswani et al. 2017).

    Raises:
        ValueError: if the MLP would have no hidden unit.
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
        rope: Callable[[Tensor], Tensor] | None = None,
        caches: tuple[KVCache, KVCache] | None = None,
    ) -> Tensor:
        """Map `x` (B, T, D) to (B, T, D).

        Args:
            x: input.
            context: context (B, S, D) of cross-attention.
            mask: which positions (B, T) self-attention may attend to.
            rope: rotary positional encoding of self-attention.
            caches: the caches of self- and cross-attention.
        """
        self_cache, cross_cache = caches or (None, None)
        x = self.residual(self.attn_norm, x, partial(self.attn, mask=mask, rope=rope, cache=self_cache))
        if context is not None:
            x = self.residual(self.cross_norm, x, partial(self.cross_attn, context=context, cache=cross_cache))
        return self.residual(self.mlp_norm, x, self.mlp)

    def residual(self, norm: nn.Module, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Add the output of a sublayer to `x`, with dropout and normalization."""
        if self.norm_first:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))


class LearnedPosEmbed(nn.Module):
    """Add a learned vector for each position.

    Args:
        length: number of positions.
        embed_dim: width D of the vectors.
    """

    def __init__(self, *, length: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(length, embed_dim))

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        nn.init.normal_(self.weight, std=EMBED_STD)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add the vectors of positions `start` to `start + T` to `x` (B, T, D)."""
        return x + self.weight.narrow(0, start, x.shape[1])


class AxialRoPE(nn.Module):
    """Rotary positional encoding in two dimensions: half of each head rotates with the row, half with the column.

    Queries and keys are rotated by angles that depend on the position, so that their product depends on the offset only
    (Su et al. 2021, https://arxiv.org/abs/2104.09864; axial: Heo et al. 2024, https://arxiv.org/abs/2403.13298).

    Args:
        head_dim: width of a head.
        grid: rows and columns of the patches.
        prefix: number of tokens before the grid, such as a class token; they are not rotated.
        base: base of the geometric sequence of wavelengths; small because the grids are.

    Raises:
        ValueError: if `head_dim` is not divisible by 4.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, *, head_dim: int, grid: tuple[int, int], prefix: int = 0, base: float = 100.0) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"pos_embed=rope needs embed_dim / num_heads to be divisible by 4, but it is {head_dim}")
        frequency = base ** -(torch.arange(head_dim // 4) / (head_dim // 4))  # (D/4,)
        row, col = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        angle = torch.cat([axis.flatten()[:, None] * frequency for axis in (row, col)], dim=-1)  # (N, D/2)
        angle = torch.cat([torch.zeros(prefix, angle.shape[1]), angle])  # (prefix + N, D/2)
        # pairs (a, b), half a head apart, are rotated to (a cos - b sin, b cos + a sin)
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], dim=-1), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], dim=-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate `x` (B, H, T, D) by the angles of the first T positions."""
        return self.at(0, x.shape[2])(x)

    def at(self, start: int, count: int) -> Callable[[Tensor], Tensor]:
        """Return the rotation of `count` positions, beginning at `start`."""
        cos, sin = self.cos.narrow(0, start, count), self.sin.narrow(0, start, count)

        def rope(x: Tensor) -> Tensor:
            return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)

        return rope


def init_weights(model: nn.Module) -> None:
    """Initialize linear weights from a truncated normal distribution that preserves the scale, and biases to zero.

    Embeddings of positions and tokens start at half the scale of a normalized input, so that attention can distinguish
    them from the first step on; at the usual 0.02 that takes hundreds of steps to learn.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBED_STD)
        elif isinstance(module, LearnedPosEmbed):
            module.reset_parameters()
