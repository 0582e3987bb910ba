"""The interface of generative image models, on which `task=pixels`, the scorecard and `patchwork generate` rely."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor


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
    """

    num_levels: int
    image_size: int
    num_classes: int
    null_class: int  # equals num_classes
    likelihood: (
        Literal["exact", "bound"] | None
    )  # what `log_likelihood` returns: log p, a lower bound on it, or nothing
    has_text_encoder: bool

    def loss(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return the training loss of each image (B,), in nats."""
        ...

    def log_likelihood(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return log p(image | condition) of each image (B,), in nats."""
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

        The tensor may be reused: copy what has to outlive the next step.
        """
        ...

    def inpaint(
        self, image: Tensor, known: Tensor, label: Tensor, rng: torch.Generator, *, num_particles: int
    ) -> Tensor:
        """Sample the pixels of one image (1, height, width) that are not `known` (height, width), for each label (B,).

        Returns:
            Images (B, 1, height, width) that hold the known pixels.
        """
        ...

    def prompt_alignment_loss(self, label: Tensor, prompt: Tensor) -> Tensor:
        """Return the mean squared difference () between the embeddings of prompts and of their classes."""
        ...


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
