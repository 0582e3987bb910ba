"""Prediction of the sub-tokens within a patch, one after the other."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.transformer import LearnedPosEmbed


class PatchHead(nn.Module):
    """Predict the K sub-tokens of a patch in turn.

    Each prediction sees the transformer's output for the patch, the pixels of the patches around it that precede it,
    and the pixels of the patch's earlier sub-tokens.

    Args:
        embed_dim: width D of the transformer.
        hidden_dim: width H of this head.
        context_size: number of preceding pixels around a patch.
        patch_pixels: number of pixels of a patch.
        sub_tokens: number K of sub-tokens of a patch.
        vocab_size: number V of values of a sub-token.
    """

    def __init__(
        self, *, embed_dim: int, hidden_dim: int, context_size: int, patch_pixels: int, sub_tokens: int, vocab_size: int
    ) -> None:
        super().__init__()
        self.sub_tokens = sub_tokens
        self.proj_hidden = nn.Linear(embed_dim, hidden_dim)
        self.proj_context = nn.Linear(context_size, hidden_dim, bias=False)
        self.proj_prefix = nn.Linear(patch_pixels, hidden_dim, bias=False)
        self.pos_embed = LearnedPosEmbed(length=sub_tokens, embed_dim=hidden_dim)
        self.fc = nn.Linear(hidden_dim, hidden_dim)
        self.head = nn.Linear(hidden_dim, vocab_size)

    def context(self, x: Tensor, pixels: Tensor) -> Tensor:
        """Combine the transformer's output `x` (B, T, D) with the preceding pixels (B, T, context_size): (B, T, H)."""
        return self.proj_hidden(x) + self.proj_context(pixels)

    def forward(self, context: Tensor, prefix: Tensor) -> Tensor:
        """Return the logits (B, T, K, V) of all sub-tokens; `prefix` (B, T, K, P) holds the pixels of earlier ones."""
        return silu_mlp(context[:, :, None] + self.proj_prefix(prefix) + self.pos_embed.weight, *self.mlp_weights())

    def mlp_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the weights of `silu_mlp`."""
        return self.fc.weight, self.fc.bias, self.head.weight, self.head.bias

    def hidden_updates(self, vocab_pixels: Tensor) -> Tensor:
        """Return what each value of a sub-token adds to the hidden state of the next one (K - 1, V, H).

        `vocab_pixels` (V, U) are the pixels of every token. In incremental decoding these sums replace `proj_prefix`.
        """
        weight = self.proj_prefix.weight.unflatten(1, (self.sub_tokens, -1))  # (H, K, U)
        updates = torch.einsum("hkp,vp->kvh", weight, vocab_pixels * 2 - 1)[:-1]  # (K - 1, V, H)
        return updates + self.pos_embed.weight.diff(dim=0)[:, None]


def silu_mlp(hidden: Tensor, weight: Tensor, bias: Tensor, head_weight: Tensor, head_bias: Tensor) -> Tensor:
    """Map (…, H) to (…, V) by two layers.

    Functions instead of modules, and SiLU instead of GELU, because both are measurably faster in a step of decoding.

    Args:
        hidden: input (…, H).
        weight: weight (H, H) of the first layer.
        bias: bias (H,) of the first layer.
        head_weight: weight (V, H) of the second layer.
        head_bias: bias (V,) of the second layer.
    """
    return F.linear(F.silu(F.linear(F.silu(hidden), weight, bias)), head_weight, head_bias)
