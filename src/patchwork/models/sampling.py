"""Sampling from logits with the Gumbel-max trick, and resampling of particles."""

from collections.abc import Sequence

import torch
from torch import Tensor


def gumbel(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Sample standard Gumbel noise on the CPU."""
    return torch.empty(shape).exponential_(generator=rng).log_().neg_()


def gumbel_max_sample(logits: Tensor, noise: Tensor, *, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Sample tokens by the Gumbel-max trick (Maddison et al. 2014, https://arxiv.org/abs/1411.0030).

    Args:
        logits: unnormalized log-probabilities (B, V).
        noise: Gumbel noise (B, V); with zeros the likeliest token is taken.
        top_k: number of likeliest tokens to sample from; None for all.
        top_p: sample from the fewest likeliest tokens whose total probability reaches this.

    Returns:
        Token ids (B,).
    """
    if top_k is not None or top_p < 1:
        probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        removed = probs.cumsum(dim=-1) - probs >= top_p  # the likelier tokens alone reach top_p
        if top_k is not None:
            removed[:, top_k:] = True
        logits = logits.masked_fill(removed.scatter(1, order, removed), -torch.inf)
    return (logits + noise).argmax(dim=-1)


def systematic_resample(weights: Tensor, rng: torch.Generator) -> Tensor:
    """Resample P particles in proportion to their normalized weights (B, P); return their indices (B, P).

    Each particle is taken P · weight times, rounded up or down (Carpenter et al. 1999,
    https://doi.org/10.1049/ip-rsn:19990255).
    """
    num_particles = weights.shape[1]
    offset = torch.rand(len(weights), 1, generator=rng, dtype=weights.dtype)
    positions = (torch.arange(num_particles) + offset) / num_particles  # (B, P)
    return torch.searchsorted(weights.cumsum(dim=-1), positions).clamp_max(num_particles - 1)
