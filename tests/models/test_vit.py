"""The vision transformer: what the class token sees, and positions of both kinds."""

import pytest
import torch
from torch import Tensor

from patchwork.models import ViT
from patchwork.models.transformer import attention_weights

SETTINGS = {"image_size": 12, "in_channels": 1, "num_classes": 5, "patch_size": 4, "stem": [], "embed_dim": 16}


def vit(**changes: object) -> ViT:
    torch.manual_seed(0)
    model = ViT(**{**SETTINGS, "num_heads": 2, "depth": 2, **changes}).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(model.head.weight)
    return model


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_every_patch_and_its_place_matter(pool: str, positions: str) -> None:
    model = vit(pool=pool, positions=positions)
    image = images()
    plain = model(image)
    for row in range(3):
        for col in range(3):
            changed = image.clone()
            changed[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] += 1
            assert (model(changed) - plain).abs().max() > 1e-4
    assert (model(image.roll(4, dims=3)) - plain).abs().max() > 1e-4


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_begins_with_a_uniform_prediction(positions: str) -> None:
    assert not ViT(**SETTINGS, positions=positions)(images()).any()  # type: ignore[arg-type]


@pytest.mark.parametrize(("pool", "tokens"), [("cls", 10), ("mean", 9)])
def test_attention_is_readable(pool: str, tokens: int) -> None:
    model = vit(pool=pool)
    with attention_weights(model) as seen:
        model(images())
    assert list(seen) == ["blocks.0.attn", "blocks.1.attn"]
    for (weights,) in seen.values():
        assert weights.shape == (3, 2, tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, tokens))


def test_relative_rotation_does_not_turn_the_class_token() -> None:
    rotary = vit(positions="rotary").rotary
    assert rotary is not None
    x = torch.randn(1, 2, 10, 8)
    assert torch.equal(rotary(x)[:, :, 0], x[:, :, 0])


def test_patches_must_divide_the_image() -> None:
    with pytest.raises(ValueError, match="patch_size=5"):
        vit(patch_size=5)
