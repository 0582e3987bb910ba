"""Sum of a sequence by regression: every image is encoded, the images look at each other, one number comes out.

1. Encode each image by itself.
2. Self-attention among the images; they have no positions, as a sum knows no order, and padding is never looked at.
3. Pool what is not padding, and map it to a number (document 001).
"""

from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from patchwork.models.cnn import ItemEncoder
from patchwork.models.transformer import Block, ConvLayer


class SequenceRegressor(nn.Module):
    """Predict a number from a sequence of images, whatever its length.

    `stem` lists the layers of the images' encoder; without any it is document 001's. `pool` is how the images are put
    together: a mean loses how many there were.

    Raises:
        ValueError: if heads do not divide the width.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        in_channels: PositiveInt,
        stem: list[ConvLayer],
        stem_bfloat16: bool = False,
        embed_dim: PositiveInt = 128,
        num_heads: PositiveInt = 4,
        depth: NonNegativeInt = 1,
        mlp_ratio: PositiveFloat = 2.0,
        pool: Literal["sum", "mean"] = "sum",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.item_encoder = ItemEncoder(
            image_size=image_size, in_channels=in_channels, embed_dim=embed_dim, stem=stem, bfloat16=stem_bfloat16
        )
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, dropout=dropout, norm_first=norm_first)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim) if norm_first else nn.Identity()
        self.pool = pool
        self.mlp = nn.Sequential(nn.Linear(embed_dim, 64), nn.ReLU())
        self.head = nn.Linear(64, 1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Map images (B, S, C, size, size) to a number each (B,); `mask` (B, S) is true where there is an image."""
        x = self.item_encoder(image, mask)  # (B, S, D)
        for block in self.blocks:
            x = block(x, mask=mask)  # (B, S, D)
        x = (self.norm(x) * mask[..., None]).sum(dim=1)  # (B, D)
        if self.pool == "mean":
            x = x / mask.sum(dim=1, keepdim=True)
        return self.head(self.mlp(x)).squeeze(1)  # (B,)
