"""The baseline without attention: all images of a sequence side by side, then fully connected layers (document 001).

1. Encode each image by itself; where a sequence has ended there are zeros.
2. Put the vectors of all places, and the anchor's before them if there is one, into one long vector.
3. Three linear layers map it to a number.
"""

import torch
from einops import rearrange
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.cnn import ItemEncoder


class FullyConnected(nn.Module):
    """Predict a number from a sequence of up to `max_length` images, after an anchor image if `anchored`."""

    ordered = True  # it tells places apart, though sums and anchors have no order

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
        self.item_encoder = ItemEncoder(image_size=image_size, in_channels=in_channels, embed_dim=embed_dim, stem=[])
        self.mlp = nn.Sequential(
            nn.Linear((max_length + anchored) * embed_dim, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, 1)

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor | None = None) -> Tensor:
        """Map images (B, S, C, size, size), and anchors (B, C, size, size), to a number each (B,).

        `mask` (B, S) is true where there is an image.

        Raises:
            ValueError: if the sequence is longer than `max_length`, or an anchor is missing or too many.
        """
        if mask.shape[1] > self.max_length:
            raise ValueError(f"{mask.shape[1]} images are more than max_length={self.max_length}, as the model has")
        if (anchor is not None) is not self.anchored:
            raise ValueError(f"anchored={self.anchored} decides whether there is an anchor")
        x = self.item_encoder(image, mask)  # (B, S, D)
        x = F.pad(x, (0, 0, 0, self.max_length - mask.shape[1]))  # (B, max_length, D)
        if anchor is not None:
            alone = mask.new_ones(len(anchor), 1)
            x = torch.cat([self.item_encoder(anchor[:, None], alone), x], dim=1)  # (B, 1 + max_length, D)
        return self.head(self.mlp(rearrange(x, "b s d -> b (s d)"))).squeeze(1)  # (B,)
