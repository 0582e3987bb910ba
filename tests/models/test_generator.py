"""The interface of generators: what a model has to have follows from what it announces."""

from patchwork.models import PixelTransformer
from patchwork.models.generator import (
    Generator,
    InpaintingGenerator,
    LikelihoodGenerator,
    PromptGenerator,
    TokenGenerator,
    missing_members,
)


def test_pixel_transformer_implements_every_protocol() -> None:
    model = PixelTransformer(image_size=8, num_classes=3, num_levels=2, embed_dim=16, num_heads=2)
    assert missing_members(model) == []
    for protocol in (Generator, LikelihoodGenerator, PromptGenerator, InpaintingGenerator, TokenGenerator):
        assert isinstance(model, protocol)


def test_missing_members_follow_from_what_a_model_announces() -> None:
    class Minimal:
        likelihood, has_text_encoder = None, False
        num_levels, image_size, num_classes, null_class = 2, 8, 3, 3

        def loss(self) -> None: ...

        def sample(self) -> None: ...

    class Announcing(Minimal):
        likelihood, has_text_encoder = "bound", True

    assert missing_members(Minimal()) == []
    assert isinstance(Minimal(), Generator)
    assert missing_members(Announcing()) == ["log_likelihood", "prompt_alignment_loss"]
    assert "sample" in missing_members(object())
