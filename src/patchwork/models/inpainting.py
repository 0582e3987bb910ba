"""Inpainting with an autoregressive model by sequential Monte Carlo.

An autoregressive model knows the distribution of each token given the earlier ones, but not given later ones. Tokens
that are known after a gap are taken into account by particles: completions that are sampled in parallel, weighted by
the probability that they give to the known tokens, and resampled when few of them carry most of the weight. With more
particles the distribution of the completions converges to the model's own conditional distribution.

Source: Doucet and Johansen 2009, https://www.stats.ox.ac.uk/~doucet/doucet_johansen_tutorialPF2011.pdf
"""

from typing import Protocol

import torch
from torch import Tensor

from patchwork.models.sampling import gumbel, gumbel_max_sample, systematic_resample


class IncrementalDecoder(Protocol):
    """Samples that are being decoded, token after token."""

    image: Tensor  # (B, 1, height, width), as far as it is decoded

    def logits(self) -> Tensor:
        """Return the logits (B, V) of the next token."""
        ...

    def append(self, token: Tensor) -> None:
        """Set the next token (B,)."""
        ...

    def reorder(self, indices: Tensor) -> None:
        """Replace the samples by those at `indices` (B',)."""
        ...


def smc_inpaint(decoder: IncrementalDecoder, allowed: Tensor, rng: torch.Generator, *, num_particles: int) -> Tensor:
    """Sample one completion for each of the decoder's B samples.

    Args:
        decoder: B samples, of which nothing is decoded yet.
        allowed: which tokens agree with the known pixels (T, V), at each of T positions.
        rng: source of randomness.
        num_particles: particles P per sample. One is enough, and is used, where nothing is known after the first gap.

    Returns:
        Images (B, 1, height, width) that hold the known pixels.
    """
    batch_size, length = len(decoder.image), len(allowed)
    free = (allowed.sum(dim=1) > 1).nonzero()
    start = int(free[0]) if len(free) else length  # the first token to sample
    if allowed[start + 1 :].all():
        num_particles = 1
    first_particle = torch.arange(batch_size)[:, None] * num_particles  # (B, 1)
    log_weights = torch.zeros(batch_size, num_particles, dtype=torch.double)

    for index in range(length):
        if index == start:  # up to here all particles of a sample are equal
            decoder.reorder(torch.arange(batch_size).repeat_interleave(num_particles))
        log_probs = decoder.logits().log_softmax(dim=-1).masked_fill(~allowed[index], -torch.inf)  # (B · P, V)
        if index >= start and not allowed[index].all():
            log_weights = log_weights + log_probs.logsumexp(dim=-1).view_as(log_weights).cpu()
            weights = log_weights.softmax(dim=-1)
            effective_size = 1 / weights.square().sum(dim=-1, keepdim=True)  # (B, 1)
            degenerate = effective_size < num_particles / 2
            if degenerate.any():
                particles = torch.where(degenerate, systematic_resample(weights, rng), torch.arange(num_particles))
                indices = (first_particle + particles).flatten()
                decoder.reorder(indices)
                log_probs, log_weights = log_probs[indices], log_weights.masked_fill(degenerate, 0)
        decoder.append(gumbel_max_sample(log_probs, gumbel(log_probs.shape, rng).to(log_probs)))

    if start == length:  # every token was known
        return decoder.image
    chosen = first_particle + log_weights.softmax(dim=-1).multinomial(1, generator=rng)
    return decoder.image[chosen.flatten()]
