"""The encoder of image sequences: one vector for each image, whatever the others."""

import pytest
import torch
from torch import Tensor

from patchwork.models import CNN, ConvStem
from patchwork.models.image_sequence import ImageSequenceEncoder

STEM = ConvStem(layers=[{"channels": 3, "kernel": 3, "stride": 2}])
stems = pytest.mark.parametrize("stem", [None, STEM], ids=["lenet", "stem"])


@stems
def test_images_are_encoded_independently_and_padding_is_zero(
    padded_images: tuple[Tensor, Tensor], stem: ConvStem | None
) -> None:
    encoder = ImageSequenceEncoder(image_size=14, in_channels=1, embed_dim=8, stem=stem).eval()
    image, mask = padded_images
    encoded = encoder(image, mask)
    assert encoded.shape == (3, 6, 8)
    assert not encoded[~mask].any()
    alone = encoder(image[mask][:, None], torch.ones(11, 1, dtype=torch.bool))
    torch.testing.assert_close(encoded[mask], alone[:, 0])


def test_stem_must_divide_the_image() -> None:
    stem = ConvStem(layers=[{"channels": 3, "kernel": 3, "stride": 4}])
    with pytest.raises(ValueError, match=r"image_size=14\b.*\b4\b"):
        ImageSequenceEncoder(image_size=14, in_channels=1, embed_dim=8, stem=stem)


def test_lenet_rejects_images_that_are_too_small() -> None:
    ImageSequenceEncoder(image_size=14, in_channels=1, embed_dim=8, stem=None)
    with pytest.raises(ValueError, match=r"image_size=13\b.*\b14\b"):
        ImageSequenceEncoder(image_size=13, in_channels=1, embed_dim=8, stem=None)
    CNN(image_size=16, in_channels=1, num_classes=3)
    with pytest.raises(ValueError, match=r"image_size=15\b.*\b16\b"):
        CNN(image_size=15, in_channels=1, num_classes=3)


def test_cnn_starts_with_a_uniform_prediction() -> None:
    assert not CNN(image_size=16, in_channels=2, num_classes=3)(torch.randn(4, 2, 16, 16)).any()
