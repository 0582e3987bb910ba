"""Convolutional networks: an image in, one vector or the logits of its class out (document 001).

They are the baseline of the transformers, and the eyes of those that see a sequence of images.
"""

import math

from pydantic import PositiveInt
from torch import Tensor, nn

from patchwork.models.transformer import ConvLayer, PatchEmbed


class ImageEncoder(nn.Sequential):
    """Document 001's encoder: 5×5 convolution, pooling, 5×5 convolution, then a linear map.

    Maps images (n, C, size, size) to vectors (n, D).

    Raises:
        ValueError: if the image is too small for its layers.
    """

    def __init__(self, *, image_size: int, in_channels: int, embed_dim: int) -> None:
        side = (image_size - 4) // 2 - 4
        if side < 1:
            raise ValueError(f"image_size={image_size} is too small for two 5×5 convolutions: use 14 or more")
        super().__init__(
            nn.Conv2d(in_channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * side**2, embed_dim),
        )


class ItemEncoder(nn.Module):
    """Encode each image of a sequence by itself; where a sequence has ended there is nothing to encode, and zeros.

    With a `stem` an image is one patch of `PatchEmbed`; without, it is seen by document 001's encoder.

    Raises:
        ValueError: if the stem's strides do not divide the image, or it is too small for document 001's encoder.
    """

    def __init__(
        self, *, image_size: int, in_channels: int, embed_dim: int, stem: list[ConvLayer], bfloat16: bool = False
    ) -> None:
        super().__init__()
        stride = math.prod(layer.get("stride", 1) * layer.get("pool", 1) for layer in stem)
        if image_size % stride:
            raise ValueError(f"image_size={image_size} is not a multiple of {stride}, the stride of the stem")
        if stem:
            self.image = nn.Sequential(
                PatchEmbed(
                    image_size=(image_size, image_size),
                    patch_size=image_size,
                    in_channels=in_channels,
                    embed_dim=embed_dim,
                    stem=stem,
                    bfloat16=bfloat16,
                ),
                nn.Flatten(),
            )
        else:
            self.image = ImageEncoder(image_size=image_size, in_channels=in_channels, embed_dim=embed_dim)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Map images (B, S, C, size, size) to vectors (B, S, D); `mask` (B, S) is true where there is an image."""
        encoded = self.image(image[mask])  # (n, D)
        x = encoded.new_zeros(*mask.shape, encoded.shape[-1])
        x[mask] = encoded
        return x  # (B, S, D)


class CNN(nn.Module):
    """Classify images by document 001's network: two 5×5 convolutions, each with pooling, and one linear map.

    Raises:
        ValueError: if the image is too small for its layers.
    """

    def __init__(self, *, image_size: PositiveInt, in_channels: PositiveInt, num_classes: PositiveInt) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"image_size={image_size} is too small for two 5×5 convolutions: use 16 or more")
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(16 * side**2, num_classes)
        nn.init.zeros_(self.head.weight)  # begin with a uniform prediction
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to logits (B, num_classes)."""
        return self.head(self.layers(image))  # (B, num_classes)
