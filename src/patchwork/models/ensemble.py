"""Several networks that answer as one, with the mean of their probabilities.

Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from patchwork.models.encoder_decoder import EncoderDecoder


def mean_of_laws(logs: Tensor) -> Tensor:
    """Return the logarithm of the mean (B, ..., V) of laws whose logarithms are given (M, B, ..., V)."""
    return logs.logsumexp(dim=0) - math.log(len(logs))


class Ensemble(nn.Module):
    """What `members` say of the same inputs, brought together.

    Args:
        members: the networks.
        average: turns what they say (M, B, ...) into what one of them would say (B, ...).
    """

    def __init__(self, members: list[nn.Module], average: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.average = average

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.average(torch.stack([member(*inputs) for member in self.members]))


class Detectors(Ensemble):
    """An ensemble whose members also tell where they look."""

    def locate(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is said (B,), and the mean attention (B, S)."""
        said, attention = zip(*(member.locate(*inputs) for member in self.members), strict=True)  # type: ignore[operator]
        return self.average(torch.stack(said)), torch.stack(attention).mean(dim=0)


class Readers(nn.Module):
    """Encoder-decoders that write together: each token is the likeliest by their mean, and all go on from it."""

    def __init__(self, members: list[EncoderDecoder]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.length, self.start, self.finish = members[0].length, members[0].start, members[0].finish

    def encode(self, image: Tensor) -> list[Tensor]:
        return [member.encode(image) for member in self.members]  # type: ignore[operator]

    def decode(self, memory: list[Tensor], tokens: Tensor) -> Tensor:
        """Give for each of `tokens` (B, T) the logarithm of the law (B, T, V) of the token after it."""
        pairs = zip(self.members, memory, strict=True)
        return mean_of_laws(torch.stack([member.decode(seen, tokens) for member, seen in pairs]).log_softmax(-1))  # type: ignore[operator]

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        return self.decode(self.encode(image), tokens)

    @torch.no_grad()
    def greedy(self, memory: list[Tensor]) -> Tensor:
        """Decode to token ids (B, length), always taking the likeliest; `<finish>` is kept."""
        tokens = torch.full((len(memory[0]), 1), self.start, device=memory[0].device)  # (B, 1)
        for _ in range(self.length):
            chosen = self.decode(memory, tokens)[:, -1:].argmax(dim=-1)  # (B, 1)
            last = torch.where(tokens[:, -1:] == self.finish, self.finish, chosen)
            tokens = torch.cat([tokens, last], dim=1)
        return tokens[:, 1:]  # (B, length)

    @torch.no_grad()
    def generate(self, image: Tensor) -> Tensor:
        """Read images (B, C, height, width) as token ids (B, length)."""
        return self.greedy(self.encode(image))
