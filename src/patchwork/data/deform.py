"""Random deformation of small images as augmentation, each by itself and all of a batch at once."""

import math
from functools import cache

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

NODES = 5  # of the elastic grid, along each side


class Deform:
    """Shift, rotate, scale, shear and bend images. There are no flips: a flipped digit is no digit.

    1. An affine map about the centre, each of its parameters drawn evenly from both sides of none.
    2. An elastic displacement: 5 × 5 nodes move by a normal law, and what lies between them follows smoothly, as the
       hand does (Simard et al. 2003, https://doi.org/10.1109/ICDAR.2003.1227801).
    3. Bilinear sampling; outside the image is 0.

    Args:
        shift: greatest shift along each axis, in pixels.
        rotation: greatest rotation either way, in degrees.
        scale: greatest relative change of size, as 0.1 for ±10 %; less than 1.
        shear: greatest horizontal shear either way, in degrees; less than 90.
        elastic: standard deviation of a node's displacement along each axis, in pixels.

    Raises:
        ValueError: if `scale` or `shear` is out of range.
    """

    def __init__(
        self,
        *,
        shift: NonNegativeFloat = 0.0,
        rotation: NonNegativeFloat = 0.0,
        scale: NonNegativeFloat = 0.0,
        shear: NonNegativeFloat = 0.0,
        elastic: NonNegativeFloat = 0.0,
    ) -> None:
        if scale >= 1:
            raise ValueError(f"scale={scale} is out of range: 0 up to, but not including, 1")
        if shear >= 90:
            raise ValueError(f"shear={shear} is out of range: 0 up to, but not including, 90 degrees")
        self.shift, self.rotation, self.scale, self.shear, self.elastic = shift, rotation, scale, shear, elastic

    def draw(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Draw parameters (*shape, 55): five of the affine map in [-1, 1), and a normal displacement of each node."""
        affine = torch.rand(*shape, 5, generator=generator) * 2 - 1
        return torch.cat([affine, torch.randn(*shape, 2 * NODES**2, generator=generator)], dim=-1)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Deform square images (B, size, size), float32, each by its own parameters (B, 55)."""
        height, width = images.shape[-2:]
        affine, nodes = parameters.split([5, 2 * NODES**2], dim=-1)
        unit = 2 / torch.tensor([width, height])  # grid_sample counts in halves of an image
        moved = self.elastic * nodes.view(-1, 2, NODES**2)  # (B, 2, nodes), pixels
        coefficients = torch.cat([self.matrices(affine, unit), moved * unit[:, None]], dim=-1)  # (B, 2, 3 + nodes)
        grid = coefficients.flatten(0, 1) @ basis(height, width)  # (2 B, height · width): where each pixel comes from
        grid = grid.view(-1, 2, height, width).permute(0, 2, 3, 1)  # (B, height, width, 2)
        return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]

    def matrices(self, parameters: Tensor, unit: Tensor) -> Tensor:
        """Return the affine maps (B, 2, 3) from target to source for parameters (B, 5) in [-1, 1)."""
        rotation, scale, shear = parameters[:, 2:].unbind(-1)  # (B,) each
        angle = rotation * math.radians(self.rotation)
        slant = (shear * math.radians(self.shear)).tan()
        size = 1 / (1 + scale * self.scale)
        cos, sin = angle.cos() * size, angle.sin() * size
        shift = parameters[:, :2] * self.shift * unit  # (B, 2)
        rows = [cos, cos * slant - sin, shift[:, 0], sin, sin * slant + cos, shift[:, 1]]
        return torch.stack(rows, dim=-1).view(-1, 2, 3)


@cache
def basis(height: int, width: int) -> Tensor:
    """Return what a map is made of at each pixel (3 + nodes, height · width): x, y, 1, and how it follows each node."""
    y, x = ((2 * torch.arange(size) + 1) / size - 1 for size in (height, width))  # from -1 to 1 between the borders
    plane = torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones(height * width)])
    nodes = torch.eye(NODES**2).view(NODES**2, 1, NODES, NODES)
    return torch.cat([plane, F.interpolate(nodes, (height, width), mode="bicubic", align_corners=True).flatten(1)])
