"""The vision transformer: which patches its prediction depends on, and both positional encodings."""

import pytest
import torch
from torch import Tensor

from patchwork.models import ViT
from patchwork.models.protocols import HasFeatures
from patchwork.models.transformer import record_attention

SIZES = {"image_size": 12, "in_channels": 1, "num_classes": 5, "patch_size": 4, "stem": None, "embed_dim": 16}


def make_vit(**options: object) -> ViT:
    """Return a small model whose head is not zero."""
    model = ViT(**{**SIZES, "num_heads": 2, "depth": 2, **options}).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def make_images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_logits_depend_on_every_patch_and_its_position(pool: str, pos_embed: str) -> None:
    model = make_vit(pool=pool, pos_embed=pos_embed)
    image = make_images()
    logits = model(image)
    for row in range(3):
        for col in range(3):
            changed = image.clone()
            changed[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] += 1
            assert (model(changed) - logits).abs().max() > 1e-4
    assert (model(image.roll(4, dims=3)) - logits).abs().max() > 1e-4


@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_vit_starts_with_a_uniform_prediction(pos_embed: str) -> None:
    assert not ViT(**SIZES, pos_embed=pos_embed)(make_images()).any()


def test_logits_are_the_head_of_the_features() -> None:
    model = make_vit()
    assert isinstance(model, HasFeatures)
    assert torch.equal(model.head(model.features(make_images())), model(make_images()))


@pytest.mark.parametrize(("pool", "tokens"), [("cls", 10), ("mean", 9)])
def test_attention_weights_of_every_block_are_recorded(pool: str, tokens: int) -> None:
    model = make_vit(pool=pool)
    with record_attention(model) as recorded:
        model(make_images())
    assert list(recorded) == ["blocks.0.attn", "blocks.1.attn"]
    for (call,) in recorded.values():
        weights = call.weights
        assert weights.shape == (3, 2, tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, tokens))


def test_rope_does_not_rotate_the_class_token() -> None:
    rope = make_vit(pos_embed="rope", pool="cls").rope
    x = torch.randn(1, 2, 10, 8)
    assert torch.equal(rope(x)[:, :, 0], x[:, :, 0])


def test_patches_must_divide_the_image() -> None:
    with pytest.raises(ValueError, match="patch_size=5"):
        make_vit(patch_size=5)
