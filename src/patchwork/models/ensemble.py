"""Ensembles of networks, which average the probabilities of their members.

Source: Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from patchwork.models.encoder_decoder import Caches, EncoderDecoder, greedy_decode
from patchwork.models.protocols import Locates


def log_mean_prob(log_probs: Tensor) -> Tensor:
    """Return the log of the mean probability (B, …) of M members, given their log-probabilities (M, B, …)."""
    return log_probs.logsumexp(dim=0) - math.log(len(log_probs))


class Ensemble(nn.Module):
    """Combine the outputs of networks that get the same inputs.

    Args:
        members: M networks.
        combine: maps their outputs (M, B, …) to an output (B, …) of the same meaning.
    """

    def __init__(self, members: Sequence[nn.Module], combine: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.combine = combine

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the combined outputs (B, …) of all members."""
        return self.combine(torch.stack([member(*inputs) for member in self.members]))


class AnchorDetectorEnsemble(Ensemble):
    """An ensemble of anchor detectors that report where they attend."""

    def locate(self, image: Tensor, mask: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the combined logits (B,) and the mean attention weight of each image (B, S)."""
        located = [cast(Locates, member).locate(image, mask, anchor) for member in self.members]
        logits, weights = (torch.stack(outputs) for outputs in zip(*located, strict=True))
        return self.combine(logits), weights.mean(dim=0)


class EncoderDecoderEnsemble(nn.Module):
    """Encoder-decoders that decode jointly: each token is the likeliest by the mean probability of all members.

    It is used like an `EncoderDecoder`; its memory and its caches are lists with an entry for each member.

    Args:
        members: M networks with the same grid and vocabulary.
    """

    def __init__(self, members: Sequence[EncoderDecoder]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        first = members[0]
        self.rows, self.cols, self.length = first.rows, first.cols, first.length
        self.bos_id, self.eos_id = first.bos_id, first.eos_id

    def encode(self, image: Tensor) -> list[Tensor]:
        """Encode images (B, C, height, width) as one memory (B, N, D) for each member."""
        return [member.encode(image) for member in self.encoder_decoders]

    def decode(self, memory: list[Tensor], tokens: Tensor, caches: list[Caches] | None = None) -> Tensor:
        """Return the log-probabilities (B, T, V) of the token after each of `tokens` (B, T)."""
        logits = [
            member.decode(memory[index], tokens, caches[index] if caches else None)
            for index, member in enumerate(self.encoder_decoders)
        ]
        return log_mean_prob(torch.stack(logits).log_softmax(dim=-1))

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        """Return the log-probabilities (B, T, V) of the token after each of `tokens` (B, T)."""
        return self.decode(self.encode(image), tokens)

    def make_caches(self, memory: list[Tensor], length: int) -> list[Caches]:
        """Return empty caches of every member for decoding `length` tokens."""
        return [
            member.make_caches(encoded, length) for member, encoded in zip(self.encoder_decoders, memory, strict=True)
        ]

    @torch.no_grad()
    def greedy_decode(self, memory: list[Tensor]) -> Tensor:
        """Decode to the likeliest tokens (B, length); whatever follows `eos_id` is `eos_id`."""
        caches = self.make_caches(memory, self.length)
        start = memory[0].new_full((len(memory[0]), 1), self.bos_id, dtype=torch.long)
        return greedy_decode(
            lambda tokens: self.decode(memory, tokens, caches), start, length=self.length, eos_id=self.eos_id
        )

    @torch.no_grad()
    def generate(self, image: Tensor) -> Tensor:
        """Decode images (B, C, height, width) greedily to tokens (B, length)."""
        return self.greedy_decode(self.encode(image))

    @property
    def encoder_decoders(self) -> list[EncoderDecoder]:
        """The members, with their type."""
        return [cast(EncoderDecoder, member) for member in self.members]
