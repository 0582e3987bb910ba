"""The regressor of sums: any length, and no influence of padding."""

import torch
from torch import Tensor

from patchwork.models import SequenceRegressor

SIZES = {"image_size": 14, "in_channels": 1, "stem": None, "embed_dim": 8}


def test_padding_does_not_change_the_predicted_sum(padded_images: tuple[Tensor, Tensor]) -> None:
    model = SequenceRegressor(**SIZES).eval()
    image, mask = padded_images
    torch.testing.assert_close(model(image, mask)[:1], model(image[:1, :4], mask[:1, :4]))


def test_sequence_regressor_takes_sequences_of_any_length(padded_images: tuple[Tensor, Tensor]) -> None:
    model = SequenceRegressor(**SIZES).eval()
    image, _ = padded_images
    prediction = model(image.repeat(1, 5, 1, 1, 1), torch.ones(3, 30, dtype=torch.bool))
    assert prediction.shape == (3,)
    assert prediction.isfinite().all()
