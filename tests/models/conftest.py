"""What the tests of models share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from patchwork.models import PixelTransformer


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def padded_images() -> tuple[Tensor, Tensor]:
    """Return images (3, 6, 1, 14, 14) of sequences of 4, 6 and 1, padded with zeros, and their mask (3, 6)."""
    mask = torch.arange(6) < torch.tensor([4, 6, 1])[:, None]
    rng = torch.Generator().manual_seed(0)
    return torch.randn(3, 6, 1, 14, 14, generator=rng) * mask[..., None, None, None], mask


@pytest.fixture
def make_pixel_transformer() -> Callable[..., PixelTransformer]:
    """Return a function that makes a small one in double precision, with weights far from the initial ones."""

    def make(tokenizer: str = "patch4x4", image_size: int = 8, **options: Any) -> PixelTransformer:
        torch.manual_seed(0)
        num_levels = 256 if tokenizer == "gray256" else 2
        sizes = {"image_size": image_size, "num_classes": 3, "embed_dim": 16, "num_heads": 2, "depth": 2}
        model = PixelTransformer(**{**sizes, **options}, num_levels=num_levels, tokenizer=tokenizer).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        return model

    return make


@pytest.fixture
def sample_images() -> Callable[..., Tensor]:
    """Return a function that samples images (count, 1, size, size) of a model's levels, uniformly."""

    def sample(model: PixelTransformer, count: int = 3) -> Tensor:
        rng = torch.Generator().manual_seed(1)
        return torch.randint(model.num_levels, (count, 1, model.image_size, model.image_size), generator=rng).double()

    return sample
