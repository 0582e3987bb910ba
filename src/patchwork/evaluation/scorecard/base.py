"""The form of a score, the real images to compare with, and generating images in chunks.

The keys of `make_rng` in this package are part of the random streams: changing one changes every published score.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from patchwork.data import Batch, PixelsDataModule
from patchwork.data.rng import make_rng
from patchwork.models.generator import Generator, SamplingOptions, generate

CHUNK_SIZE = 500  # images that are generated or classified at a time


@dataclass(frozen=True)
class Score:
    """One score of a generator.

    Args:
        name: name of the score.
        value: score of the generated images.
        real: score of real images, or None if there is none.
        meaning: description of the score in a few words.
        upper_bound: whether `value` is an upper bound of the score.
    """

    name: str
    value: float
    real: float | None
    meaning: str
    upper_bound: bool = False

    def __str__(self) -> str:
        value = f"{'≤ ' if self.upper_bound else ''}{format_number(self.value)}"
        real = "" if self.real is None else format_number(self.real)
        return f"  {self.name:<36} {value:>10} {real:>12}   {self.meaning}"


HEADER = f"  {'scorecard':<36} {'generated':>10} {'real images':>12}"


@dataclass(frozen=True)
class ReferenceImages:
    """The real images that generated ones are compared with.

    Args:
        train: `image` (n, 1, height, width) from 0 to `num_levels - 1` and `label` (n,) of the training split.
        test: the same of the test split.
        num_levels: values of a pixel.
    """

    train: Batch
    test: Batch
    num_levels: int

    @classmethod
    def from_data(cls, data: PixelsDataModule) -> "ReferenceImages":
        size = data.num_samples["test"]
        test = {name: values[:size] for name, values in data.full_split("test").items()}
        return cls(data.full_split("train"), test, data.num_levels)

    def train_subset(self, count: int, *key: str) -> tuple[Tensor, Tensor]:
        """Return the images and labels of up to `count` random training images; `key` seeds the choice."""
        indices = torch.randperm(len(self.train["label"]), generator=make_rng(*key))[:count]
        return self.train["image"][indices], self.train["label"][indices]


def generate_images(
    generator: Generator, label: Tensor, *key: str, prompt: Tensor | None = None, options: SamplingOptions
) -> Tensor:
    """Generate images (n, 1, height, width) of labels (n,), or of prompts (n, L); `key` seeds them."""
    rng = make_rng(*key)
    prompts = [None] * len(label.split(CHUNK_SIZE)) if prompt is None else prompt.split(CHUNK_SIZE)
    chunks = zip(label.split(CHUNK_SIZE), prompts, strict=True)
    return torch.cat([generate(generator, label, rng, prompt=prompt, options=options) for label, prompt in chunks])


def fraction(correct: Tensor) -> float:
    """Return the fraction of true values."""
    return float(correct.double().mean())


def format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"
