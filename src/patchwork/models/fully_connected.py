"""The baseline without attention: all images of a sequence side by side, then fully connected layers.

1. Encode each image independently; padding becomes zeros.
2. Concatenate the vectors of all positions, after the anchor's if there is one.
3. Three linear layers map them to a number.

The baseline of the sequence project (see `docs/references.md`).
"""

import torch
from einops import rearrange
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.image_sequence import ImageSequenceEncoder


class FullyConnected(nn.Module):
    """Predict a number from a sequence of up to `max_length` images.

    Args:
        image_size: side of an image in pixels.
        in_channels: channels of an image.
        max_length: images of the longest sequence.
        anchored: whether each sequence comes with an anchor image.
        embed_dim: width D of an image's vector.
    """

    order_sensitive = True  # every position has weights of its own

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        in_channels: PositiveInt,
        max_length: PositiveInt,
        anchored: bool,
        embed_dim: PositiveInt = 128,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.anchored = anchored
        self.image_encoder = ImageSequenceEncoder(
            image_size=image_size, in_channels=in_channels, embed_dim=embed_dim, stem=None
        )
        self.mlp = nn.Sequential(
            nn.Linear((max_length + anchored) * embed_dim, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, 1)

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor | None = None) -> Tensor:
        """Map images (B, S, C, size, size), and anchors (B, C, size, size), to a number each (B,).

        `mask` (B, S) is true where there is an image.

        Raises:
            ValueError: if the sequence is longer than `max_length`, or an anchor is missing or unexpected.
        """
        if mask.shape[1] > self.max_length:
            raise ValueError(f"a sequence of {mask.shape[1]} images exceeds max_length={self.max_length}")
        if (anchor is not None) is not self.anchored:
            raise ValueError(f"anchored={self.anchored}, but {'no' if anchor is None else 'an'} anchor was given")
        x = self.image_encoder(image, mask)  # (B, S, D)
        x = F.pad(x, (0, 0, 0, self.max_length - mask.shape[1]))  # (B, max_length, D)
        if anchor is not None:
            encoded = self.image_encoder(anchor[:, None], mask.new_ones(len(anchor), 1))  # (B, 1, D)
            x = torch.cat([encoded, x], dim=1)  # (B, 1 + max_length, D)
        return self.head(self.mlp(rearrange(x, "b s d -> b (s d)"))).squeeze(1)  # (B,)
