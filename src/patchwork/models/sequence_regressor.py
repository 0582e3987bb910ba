"""The sum of a sequence by regression: encode the images, let them attend to each other, predict one number.

1. Encode each image independently.
2. Self-attention among the images, without positions, as a sum has no order; padding is masked.
3. Pool over the images, and map the result to a number.

The regressor of the sequence project (see `docs/references.md`).
"""

from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from patchwork.models.image_sequence import ImageSequenceEncoder
from patchwork.models.patch_embed import ConvStem
from patchwork.models.transformer import Block


class SequenceRegressor(nn.Module):
    """Predict a number from a sequence of images of any length.

    Args:
        image_size: side of an image in pixels.
        in_channels: channels of an image.
        stem: convolutional stem of the image encoder; None takes `LeNetEncoder`.
        embed_dim: width D of the transformer.
        num_heads: attention heads of each block.
        depth: number of blocks.
        mlp_ratio: hidden width of a block's MLP, as a multiple of `embed_dim`.
        pool: sum or mean over the images; a mean loses their number.
        dropout: dropout probability.
        norm_first: normalize before each sublayer (pre-norm) instead of after it (post-norm).

    Raises:
        ValueError: if heads do not divide the width.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        in_channels: PositiveInt,
        stem: ConvStem | None,
        embed_dim: PositiveInt = 128,
        num_heads: PositiveInt = 4,
        depth: NonNegativeInt = 1,
        mlp_ratio: PositiveFloat = 2.0,
        pool: Literal["sum", "mean"] = "sum",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.image_encoder = ImageSequenceEncoder(
            image_size=image_size, in_channels=in_channels, embed_dim=embed_dim, stem=stem
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
        x = self.image_encoder(image, mask)  # (B, S, D)
        for block in self.blocks:
            x = block(x, mask=mask)  # (B, S, D)
        x = (self.norm(x) * mask[..., None]).sum(dim=1)  # (B, D)
        if self.pool == "mean":
            x = x / mask.sum(dim=1, keepdim=True)
        return self.head(self.mlp(x)).squeeze(1)  # (B,)
