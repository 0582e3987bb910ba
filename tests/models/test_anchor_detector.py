"""The anchor detector: its attention is what its prediction is made of."""

import pytest
import torch
from torch import Tensor

from patchwork.models import AnchorDetector
from patchwork.models.protocols import Locates

SIZES = {"image_size": 14, "in_channels": 1, "stem": None, "embed_dim": 8}


@pytest.mark.parametrize("similarity", ["cosine", "cross_attention"])
def test_locate_returns_the_logits_of_forward_and_attends_to_no_padding(
    padded_images: tuple[Tensor, Tensor], similarity: str
) -> None:
    model = AnchorDetector(**SIZES, similarity=similarity).eval()
    image, mask = padded_images
    anchor = torch.randn(3, 1, 14, 14)
    logits, attention = model.locate(image, mask, anchor)
    assert isinstance(model, Locates)
    torch.testing.assert_close(logits, model(image, mask, anchor))
    assert not attention[~mask].any()


def test_total_attention_is_the_probability_of_a_match(padded_images: tuple[Tensor, Tensor]) -> None:
    model = AnchorDetector(**SIZES).eval()
    image, mask = padded_images
    logits, attention = model.locate(image, mask, torch.randn(3, 1, 14, 14))
    torch.testing.assert_close(attention.sum(dim=1), logits.sigmoid())  # the rest is on the null key


def test_anchor_attends_to_itself(padded_images: tuple[Tensor, Tensor]) -> None:
    model = AnchorDetector(**SIZES).eval()
    image, mask = padded_images
    _, attention = model.locate(image, mask, image[:, 0])
    assert attention.argmax(dim=1).tolist() == [0, 0, 0]
