"""Encoders for sequences of images: every image becomes one vector, independently of the others."""

from torch import Tensor, nn

from patchwork.models.cnn import lenet_layers
from patchwork.models.patch_embed import ConvStem, PatchEmbed


class LeNetEncoder(nn.Sequential):
    """Map images (n, C, size, size) to vectors (n, D): two 5×5 convolutions, pooling between them, and a linear layer.

    The encoder of the sequence project (see `docs/references.md`).

    Args:
        image_size: side of an image in pixels.
        in_channels: channels C of an image.
        embed_dim: width D of the vectors.

    Raises:
        ValueError: if the image is too small.
    """

    def __init__(self, *, image_size: int, in_channels: int, embed_dim: int) -> None:
        layers, num_features = lenet_layers(image_size=image_size, in_channels=in_channels, final_pool=False)
        super().__init__(*layers, nn.Linear(num_features, embed_dim))


class ImageSequenceEncoder(nn.Module):
    """Encode each image of padded sequences; padding becomes zeros.

    Args:
        image_size: side of an image in pixels.
        in_channels: channels of an image.
        embed_dim: width D of the vectors.
        stem: convolutional stem, after which the whole image is one patch; None takes `LeNetEncoder`.

    Raises:
        ValueError: if the stem's stride does not divide the image, or the image is too small.
    """

    def __init__(self, *, image_size: int, in_channels: int, embed_dim: int, stem: ConvStem | None) -> None:
        super().__init__()
        self.encoder: nn.Module
        if stem is None:
            self.encoder = LeNetEncoder(image_size=image_size, in_channels=in_channels, embed_dim=embed_dim)
            return
        if image_size % stem.stride:
            raise ValueError(f"image_size={image_size} is not a multiple of {stem.stride}, the stride of the stem")
        patch_embed = PatchEmbed(
            image_size=(image_size, image_size),
            patch_size=image_size,
            in_channels=in_channels,
            embed_dim=embed_dim,
            stem=stem,
        )
        self.encoder = nn.Sequential(patch_embed, nn.Flatten())

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Map images (B, S, C, size, size) to vectors (B, S, D); `mask` (B, S) is true where there is an image."""
        encoded = self.encoder(image[mask])  # (n, D)
        x = encoded.new_zeros(*mask.shape, encoded.shape[-1])
        x[mask] = encoded
        return x  # (B, S, D)
