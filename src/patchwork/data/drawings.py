"""Single digits as levels to be predicted pixel by pixel (document 002)."""

from typing import Literal

import torch
from torch import Tensor

from patchwork.data.prompts import prompts
from patchwork.data.single import Single
from patchwork.data.stream import Batch, Key, Part, generator


class Drawings(Single):
    """One digit and what it is, in the levels that a generator knows.

    A batch holds `image` (B, 1, image_size, image_size), `label` (B,) and a `prompt` (B, L) that asks for
    that label in words, half of the time by a sum or difference, see `patchwork.data.prompts`; in training they begin
    anywhere in the row.

    With 256 levels the image is grey, from 0 to 255. With 2 it is binary: each pixel is 1 with the probability of its
    brightness, drawn anew whenever a training digit comes up, and once and for all for validation and test
    (Salakhutdinov and Murray 2008, https://www.cs.toronto.edu/~rsalakhu/papers/dbn_ais.pdf, call it binarised MNIST).

    Args:
        levels: 2 or 256.
    """

    gives = ("image", "label", "prompt")

    def __init__(self, *, levels: Literal[2, 256], **single: object) -> None:
        super().__init__(**single)  # type: ignore[arg-type]
        self.levels = levels

    def fix(self) -> None:
        super().fix()
        self.fixed = {part: self.ink(self.parts[part].images, generator(part, "ink")) for part in ("val", "test")}

    def ink(self, pixels: Tensor, draw: torch.Generator) -> Tensor:
        """Give pixels (n, height, width) from 0 to 255 their levels."""
        if self.levels == 256:
            return pixels.round().clamp(0, 255)
        return (torch.rand(pixels.shape, generator=draw) * 255 < pixels).to(pixels.dtype)

    def whole(self, part: Part) -> Batch:
        """Return all digits of a part at once; training digits get their levels by a fixed seed."""
        image = self.fixed[part] if part in self.fixed else self.ink(self.parts[part].images, generator(part, "ink"))
        return {"image": image.float()[:, None], "label": self.parts[part].labels}

    def make(self, part: Part, key: Key, shard: slice) -> Batch:
        epoch, index = key
        chosen, draw = self.chosen(part, epoch, index), generator("batch", self.seed, epoch, index)
        if part == "train":
            image = self.ink(self.pixels(part, chosen, self.deformations(part, len(chosen), draw=draw)), draw)
        else:
            image, draw = self.fixed[part][chosen], generator(part, "prompt", index)
        label = self.parts[part].labels[chosen]
        prompt = asked(label, draw)
        if part == "train":
            prompt = moved(prompt, draw)
        return {"image": image[shard].float()[:, None], "label": label[shard], "prompt": prompt[shard]}


def asked(digits: Tensor, draw: torch.Generator) -> Tensor:
    """Draw a prompt (B, LENGTH) for each of `digits` (B,) among those for training."""
    simple, chance = torch.rand(2, len(digits), generator=draw)
    return torch.where(
        (simple < 0.5)[:, None], prompts("numbers").draw(digits, chance), prompts("sums").draw(digits, chance)
    )


def moved(words: Tensor, draw: torch.Generator) -> Tensor:
    """Let prompts (B, L) begin later, so far as their words find room; before them are 0, as after them.

    A phrasing then stands nowhere in particular, and cannot be learned by heart.
    """
    room = (words == 0).sum(dim=1, keepdim=True)
    later = (torch.rand(room.shape, generator=draw) * (room + 1)).long()
    return words.gather(1, (torch.arange(words.shape[1]) - later) % words.shape[1])
