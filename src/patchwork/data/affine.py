"""Random affine augmentation of small images, each by itself and all of a batch at once."""

import math

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F


class Affine:
    """Shift, rotate, scale and shear images about their centre. There are no flips: a flipped digit is no digit.

    Args:
        shift: greatest shift along each axis, in pixels.
        rotation: greatest rotation either way, in degrees.
        scale: greatest relative change of size, as 0.1 for ±10 %; less than 1.
        shear: greatest horizontal shear either way, in degrees.

    Raises:
        ValueError: if `scale` is not less than 1.
    """

    def __init__(
        self,
        *,
        shift: NonNegativeFloat = 0.0,
        rotation: NonNegativeFloat = 0.0,
        scale: NonNegativeFloat = 0.0,
        shear: NonNegativeFloat = 0.0,
    ) -> None:
        if scale >= 1:
            raise ValueError(f"scale={scale} is out of range: 0 up to, but not including, 1")
        self.shift, self.rotation, self.scale, self.shear = shift, rotation, scale, shear

    def draw(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Draw parameters (*shape, 5) in [-1, 1): shift in x and y, rotation, scale, shear."""
        return torch.rand(*shape, 5, generator=generator) * 2 - 1

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Transform images (B, height, width), floating point, each by its own parameters (B, 5); outside is 0."""
        height, width = images.shape[-2:]
        x, y, rotation, scale, shear = parameters.unbind(-1)  # (B,) each
        angle = rotation * math.radians(self.rotation)
        size = 1 / (1 + scale * self.scale)  # grid_sample asks for the map back from target to source
        slant = (shear * math.radians(self.shear)).tan()
        cos, sin = angle.cos() * size, angle.sin() * size
        rows = [cos, cos * slant - sin, 2 * self.shift / width * x, sin, sin * slant + cos, 2 * self.shift / height * y]
        matrices = torch.stack(rows, dim=-1).view(-1, 2, 3)  # (B, 2, 3)
        grid = F.affine_grid(matrices, [len(images), 1, height, width], align_corners=False)  # (B, height, width, 2)
        return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]
