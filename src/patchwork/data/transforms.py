"""Random augmentation of small images: each independently, all of a batch at once."""

import math
from functools import cache

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

NODES = 5  # of the elastic grid, along each side
NUM_PARAMS = 5 + 2 * NODES**2  # of one image: translation in x and y, rotation, scale, shear; then the nodes' x and y


class RandomAffineElastic:
    """Translate, rotate, scale, shear and bend images. There are no flips: a flipped digit is not a digit.

    1. An affine map about the center, each of its parameters uniform around the identity.
    2. An elastic displacement: 5 × 5 nodes move by normal distributions, and what lies between them is interpolated
       (Simard et al. 2003, https://doi.org/10.1109/ICDAR.2003.1227801).
    3. Bilinear sampling; outside the image is 0.

    Args:
        translate: largest translation along each axis, in pixels.
        degrees: largest rotation in either direction, in degrees.
        scale: largest relative change of size, as 0.1 for ±10 %; less than 1.
        shear: largest horizontal shear in either direction, in degrees; less than 90.
        elastic_std: standard deviation of a node's displacement along each axis, in pixels.

    Raises:
        ValueError: if `scale` or `shear` is out of range.
    """

    def __init__(
        self,
        *,
        translate: NonNegativeFloat = 0.0,
        degrees: NonNegativeFloat = 0.0,
        scale: NonNegativeFloat = 0.0,
        shear: NonNegativeFloat = 0.0,
        elastic_std: NonNegativeFloat = 0.0,
    ) -> None:
        if scale >= 1:
            raise ValueError(f"scale={scale} is out of range: 0 up to, but not including, 1")
        if shear >= 90:
            raise ValueError(f"shear={shear} is out of range: 0 up to, but not including, 90 degrees")
        self.translate = translate
        self.degrees = degrees
        self.scale = scale
        self.shear = shear
        self.elastic_std = elastic_std

    def sample_params(self, *shape: int, rng: torch.Generator) -> Tensor:
        """Sample parameters (*shape, P): those of the affine map in [-1, 1), those of the nodes standard normal."""
        affine = torch.rand(*shape, 5, generator=rng) * 2 - 1
        return torch.cat([affine, torch.randn(*shape, 2 * NODES**2, generator=rng)], dim=-1)

    def __call__(self, images: Tensor, params: Tensor) -> Tensor:
        """Transform square images (B, C, H, W), float32, each by its own parameters (B, P)."""
        height, width = images.shape[-2:]
        affine, nodes = params.split([5, 2 * NODES**2], dim=-1)
        unit = 2 / torch.tensor([width, height])  # a pixel, in grid_sample's coordinates from -1 to 1
        displacement = self.elastic_std * nodes.view(-1, 2, NODES**2)  # (B, 2, nodes), pixels
        matrices = self.affine_matrices(affine, unit)
        coefficients = torch.cat([matrices, displacement * unit[:, None]], dim=-1)  # (B, 2, 3 + nodes)
        grid = coefficients.flatten(0, 1) @ coordinate_basis(height, width)  # (2 B, H · W): where each pixel comes from
        grid = grid.view(-1, 2, height, width).permute(0, 2, 3, 1)  # (B, H, W, 2)
        return F.grid_sample(images, grid, align_corners=False)

    def affine_matrices(self, params: Tensor, unit: Tensor) -> Tensor:
        """Return the affine maps (B, 2, 3) from target to source for parameters (B, 5) in [-1, 1)."""
        rotation, scale, shear = params[:, 2:].unbind(-1)  # (B,) each
        angle = rotation * math.radians(self.degrees)
        slant = (shear * math.radians(self.shear)).tan()
        size = 1 / (1 + scale * self.scale)
        cos, sin = angle.cos() * size, angle.sin() * size
        shift = params[:, :2] * self.translate * unit  # (B, 2)
        entries = [cos, cos * slant - sin, shift[:, 0], sin, sin * slant + cos, shift[:, 1]]
        return torch.stack(entries, dim=-1).view(-1, 2, 3)


@cache
def coordinate_basis(height: int, width: int) -> Tensor:
    """Return the basis (3 + nodes, H · W) of the sampling grid: x, y, 1, each node's bicubic weight at every pixel."""
    y, x = ((2 * torch.arange(size) + 1) / size - 1 for size in (height, width))  # from -1 to 1 between the borders
    plane = torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones(height * width)])
    nodes = torch.eye(NODES**2).view(NODES**2, 1, NODES, NODES)
    return torch.cat([plane, F.interpolate(nodes, (height, width), mode="bicubic", align_corners=True).flatten(1)])
