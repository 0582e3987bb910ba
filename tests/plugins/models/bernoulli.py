"""Two generators that share nothing with `PixelTransformer`, to test what relies on the `Generator` interface alone."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.generator import DEFAULT_SAMPLING, SamplingOptions


class Bernoulli(nn.Module):
    """Independent binary pixels for each class, and so an exact likelihood; no tokens, prompts or inpainting."""

    likelihood: Literal["exact", "bound"] | None = "exact"
    has_text_encoder = False

    def __init__(self, *, image_size: int, num_classes: int, num_levels: Literal[2]) -> None:
        super().__init__()
        self.image_size, self.num_levels = image_size, num_levels
        self.num_classes = self.null_class = num_classes
        self.pixel_logits = nn.Parameter(torch.zeros(num_classes + 1, 1, image_size, image_size))

    def loss(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        return -self.log_likelihood(image, label)

    def log_likelihood(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        logits = self.pixel_logits[label]
        return -F.binary_cross_entropy_with_logits(logits, image, reduction="none").sum(dim=(1, 2, 3))

    @torch.inference_mode()
    def sample(
        self,
        label: Tensor,
        rng: torch.Generator,
        *,
        prompt: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Iterator[Tensor]:
        unconditional = self.pixel_logits[self.null_class]
        logits = unconditional + options.guidance * (self.pixel_logits[label] - unconditional)
        probs = (logits / options.temperature).sigmoid()
        image = (torch.rand(probs.shape, generator=rng) < probs).float()
        upper_half = image.clone()
        upper_half[:, :, self.image_size // 2 :] = 0
        return iter([upper_half, image])


class MeanImage(nn.Module):
    """The mean gray image of each class with noise: no likelihood, and nothing else that a generator may lack."""

    likelihood: Literal["exact", "bound"] | None = None
    has_text_encoder = False

    def __init__(self, *, image_size: int, num_classes: int, num_levels: int) -> None:
        super().__init__()
        self.image_size, self.num_levels = image_size, num_levels
        self.num_classes = self.null_class = num_classes
        self.mean = nn.Parameter(torch.zeros(num_classes + 1, 1, image_size, image_size))

    def loss(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        return (self.mean[label] - image / (self.num_levels - 1)).square().sum(dim=(1, 2, 3))

    @torch.inference_mode()
    def sample(
        self,
        label: Tensor,
        rng: torch.Generator,
        *,
        prompt: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Iterator[Tensor]:
        mean = self.mean[label]
        image = mean + 0.1 * options.temperature * torch.randn(mean.shape, generator=rng)
        yield (image.clamp(0, 1) * (self.num_levels - 1)).round()


class Incomplete(nn.Module):
    """A model with the methods that every generator has, and without its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def loss(self, image: Tensor, label: Tensor) -> Tensor:
        return image.sum(dim=(1, 2, 3)) * self.weight.sum()

    def sample(self, label: Tensor, rng: torch.Generator) -> Iterator[Tensor]:
        yield torch.zeros(len(label), 1, 28, 28)
