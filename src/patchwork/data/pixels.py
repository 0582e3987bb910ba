"""Single images as pixel levels, to be modeled pixel by pixel."""

from typing import Literal

import torch
from torch import Tensor

from patchwork.data.base import Batch, BatchIndex, Split
from patchwork.data.images import ImagesDataModule
from patchwork.data.prompts import prompts
from patchwork.data.rng import make_rng


class PixelsDataModule(ImagesDataModule):
    """One quantized image, its class, and a text prompt for that class.

    A batch holds `image` (B, C, image_size, image_size), float32 levels from 0 to `num_levels` - 1; `label` (B,); and
    `prompt` (B, L), the tokens of a prompt for that label, half of the time as a sum or difference, see
    `patchwork.data.prompts`; they name a class by its number, whatever its name. In training, prompts begin anywhere in
    their row.

    With 256 levels an image is grayscale. With 2 it is binary: each pixel is 1 with the probability of its brightness,
    sampled anew whenever a training image is seen, and once for validation and test (Salakhutdinov and Murray 2008,
    https://www.cs.toronto.edu/~rsalakhu/papers/dbn_ais.pdf, call it binarized MNIST).

    Args:
        num_levels: 2 or 256.
    """

    batch_keys = ("image", "label", "prompt")

    def __init__(self, *, num_levels: Literal[2, 256], **images: object) -> None:
        super().__init__(**images)  # type: ignore[arg-type]
        self.num_levels = num_levels

    def build_eval_samples(self) -> None:
        super().build_eval_samples()
        self.eval_images = {
            split: self.quantize(self.splits[split].images, make_rng(split, "ink")) for split in ("val", "test")
        }

    def quantize(self, pixels: Tensor, rng: torch.Generator) -> Tensor:
        """Return the levels of pixels (n, C, H, W) from 0 to 255."""
        if self.num_levels == 256:
            return pixels.round().clamp(0, 255)
        return (torch.rand(pixels.shape, generator=rng) * 255 < pixels).to(pixels.dtype)

    def full_split(self, split: Split) -> Batch:
        """Return all images and labels of a split at once; training images are quantized by a fixed seed."""
        if split == "train":
            image = self.quantize(self.splits[split].images, make_rng(split, "ink"))
        else:
            image = self.eval_images[split]
        return {"image": image.float(), "label": self.splits[split].labels}

    def make_batch(self, split: Split, batch_index: BatchIndex, shard: slice) -> Batch:
        indices = self.batch_indices(split, batch_index)
        label = self.splits[split].labels[indices]
        if split == "train":
            rng = make_rng("batch", self.seed, *batch_index)
            params = self.sample_augmentation(split, len(indices), rng=rng)
            image = self.quantize(self.augmented_images(split, indices, params), rng)
            prompt = randomly_shift(sample_prompts(label, rng), rng)
        else:
            image = self.eval_images[split][indices]
            prompt = sample_prompts(label, make_rng(split, "prompt", batch_index[1]))
        indices = indices[shard]
        batch = {"image": image[shard].float(), "label": label[shard], "prompt": prompt[shard]}
        if split != "train":
            batch |= self.sample_ids(split, indices, indices[:, None])
        return batch


def sample_prompts(label: Tensor, rng: torch.Generator) -> Tensor:
    """Sample a training prompt (B, L) for each of `label` (B,)."""
    kind, choice = torch.rand(2, len(label), generator=rng)
    return torch.where(
        (kind < 0.5)[:, None], prompts("numbers").sample(label, choice), prompts("sums").sample(label, choice)
    )


def randomly_shift(prompt: Tensor, rng: torch.Generator) -> Tensor:
    """Shift the tokens of prompts (B, L) right by as much as fits, at random, padding with 0 on both sides.

    So no phrasing has a fixed position, and none can be memorized by position.
    """
    padding = (prompt == 0).sum(dim=1, keepdim=True)
    shift = (torch.rand(padding.shape, generator=rng) * (padding + 1)).long()
    return prompt.gather(1, (torch.arange(prompt.shape[1]) - shift) % prompt.shape[1])
