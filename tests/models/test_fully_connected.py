"""The fully connected baseline: inputs that do not fit are rejected."""

import pytest
import torch
from torch import Tensor

from patchwork.models import FullyConnected
from patchwork.models.protocols import HasMaxLength, OrderSensitive

SIZES = {"image_size": 14, "in_channels": 1, "max_length": 6}


def test_sequences_beyond_max_length_are_rejected(padded_images: tuple[Tensor, Tensor]) -> None:
    image, mask = padded_images
    with pytest.raises(ValueError, match="max_length=6"):
        FullyConnected(**SIZES, anchored=False)(image.repeat(1, 2, 1, 1, 1), mask.repeat(1, 2))


@pytest.mark.parametrize("anchored", [False, True])
def test_a_missing_or_unexpected_anchor_is_rejected(padded_images: tuple[Tensor, Tensor], anchored: bool) -> None:
    image, mask = padded_images
    with pytest.raises(ValueError, match=f"anchored={anchored}"):
        FullyConnected(**SIZES, anchored=anchored)(image, mask, None if anchored else image[:, 0])


@pytest.mark.parametrize("anchored", [False, True])
def test_predictions_depend_on_the_order_of_images(padded_images: tuple[Tensor, Tensor], anchored: bool) -> None:
    model = FullyConnected(**SIZES, anchored=anchored)
    image, mask = padded_images[0][1:2], padded_images[1][1:2]  # six images
    anchor = (image[:, 0],) if anchored else ()
    assert isinstance(model, OrderSensitive)
    assert isinstance(model, HasMaxLength)
    assert not torch.allclose(model(image, mask, *anchor), model(image.flip(1), mask, *anchor))
