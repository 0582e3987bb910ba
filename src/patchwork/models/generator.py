"""The interface of generative image models, on which `task=pixels`, the scorecard and `patchwork generate` rely.

Every model is a `Generator`. The other protocols add what only some models offer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import get_protocol_members


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample from a generator; the defaults sample from its own distribution.

    Args:
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: number of likeliest tokens to sample from; None for all.
        top_p: sample from the fewest likeliest tokens whose total probability reaches this (nucleus sampling).
        guidance: scale of classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598). 1 is none;
            other values double the cost.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    guidance: float = 1.0


DEFAULT_SAMPLING = SamplingOptions()


@runtime_checkable
class Generator(Protocol):
    """A model of p(image), p(image | class) and, with a text encoder, p(image | prompt).

    Images are (B, 1, height, width) with integer values from 0 to `num_levels - 1`. Labels (B,) are classes from 0 to
    `num_classes - 1`, or `null_class` for no condition. Prompts (B, L) are word ids, padded with 0; a row without words
    leaves the condition to the label.

    A model whose `likelihood` is not None must also be a `LikelihoodGenerator`, and one with `has_text_encoder` a
    `PromptGenerator`, see `missing_members`.
    """

    num_levels: int
    image_size: int
    num_classes: int
    null_class: int  # equals num_classes
    # what `log_likelihood` returns: log p, or a lower bound on it; None without that method
    likelihood: Literal["exact", "bound"] | None
    has_text_encoder: bool

    def loss(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return the training loss of each image (B,), in nats."""
        ...

    def sample(
        self,
        label: Tensor,
        rng: torch.Generator,
        *,
        prompt: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Iterator[Tensor]:
        """Yield the images (B, 1, height, width) as they grow; the last ones are complete.

        The tensor may be reused: copy what has to outlive the next step. A model that samples its noise in advance does
        so in this call, not in the first iteration: the scorecard times the iterations.
        """
        ...


@runtime_checkable
class LikelihoodGenerator(Generator, Protocol):
    """A generator that knows the likelihood of an image, or a lower bound on it."""

    def log_likelihood(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return log p(image | condition) of each image (B,), in nats."""
        ...


@runtime_checkable
class PromptGenerator(Generator, Protocol):
    """A generator that embeds text prompts and classes in one space."""

    def prompt_alignment_loss(self, label: Tensor, prompt: Tensor) -> Tensor:
        """Return the mean squared difference () between the embeddings of prompts and of their classes."""
        ...


@runtime_checkable
class InpaintingGenerator(Generator, Protocol):
    """A generator that completes images."""

    def inpaint(
        self, image: Tensor, known: Tensor, label: Tensor, rng: torch.Generator, *, num_particles: int
    ) -> Tensor:
        """Sample the pixels of one image (1, height, width) that are not `known` (height, width), for each label (B,).

        Returns:
            Images (B, 1, height, width) that hold the known pixels.
        """
        ...


@runtime_checkable
class TokenGenerator(Generator, Protocol):
    """A generator that predicts an image token by token: N patches with K sub-tokens each, of a vocabulary of V."""

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the logits (B, N, K, V) of each token given the earlier ones."""
        ...

    def tokenize(self, image: Tensor) -> Tensor:
        """Map images (B, 1, height, width) to tokens (B, N, K)."""
        ...

    def detokenize(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, K) to images (B, 1, height, width)."""
        ...

    def cached_logits(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the logits (B, N, K, V) of a call, computed one token at a time."""
        ...


def missing_members(model: object) -> list[str]:
    """Return what a model lacks of `Generator`, and of the protocols that its own attributes announce."""
    protocols: list[type] = [Generator]
    if getattr(model, "likelihood", None) is not None:
        protocols.append(LikelihoodGenerator)
    if getattr(model, "has_text_encoder", False):
        protocols.append(PromptGenerator)
    members = {name for protocol in protocols for name in get_protocol_members(protocol)}
    return sorted(name for name in members if not hasattr(model, name))


def generate(
    generator: Generator,
    label: Tensor,
    rng: torch.Generator,
    *,
    prompt: Tensor | None = None,
    options: SamplingOptions = DEFAULT_SAMPLING,
) -> Tensor:
    """Return the complete images (B, 1, height, width) of `generator.sample`."""
    for images in generator.sample(label, rng, prompt=prompt, options=options):
        complete = images
    return complete
