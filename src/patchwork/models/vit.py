"""Vision transformer: an image in, the logits of its class out (Dosovitskiy et al. 2021).

1. Cut the image into patches, linearly or after a convolutional stem, and encode their positions.
2. Prepend a class token if it is what the logits are read from.
3. Self-attention among all tokens, block after block.
4. Read the logits from the class token or from the mean of the patches.

Source: https://arxiv.org/abs/2010.11929; also the ViT project and the icons lab, see `docs/references.md`.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from patchwork.models.patch_embed import ConvStem, PatchEmbed
from patchwork.models.transformer import AxialRoPE, Block, LearnedPosEmbed, init_weights


class ViT(nn.Module):
    """Classify square images.

    Args:
        image_size: side of the image in pixels.
        in_channels: channels of the image.
        num_classes: number of classes.
        patch_size: side of a patch in pixels.
        stem: convolutional stem; None embeds the pixels of a patch linearly.
        embed_dim: width D of the transformer.
        num_heads: attention heads of each block.
        depth: number of blocks.
        mlp_ratio: hidden width of a block's MLP, as a multiple of `embed_dim`.
        pos_embed: positional encoding of patches: a learned vector for each, or a rotation by row and column.
        pool: read the logits from the class token, or from the mean of the patches.
        dropout: dropout probability.
        norm_first: normalize before each sublayer (pre-norm) instead of after it (post-norm).

    Raises:
        ValueError: if patches do not divide the image or heads do not divide the width.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        in_channels: PositiveInt,
        num_classes: PositiveInt,
        patch_size: PositiveInt,
        stem: ConvStem | None,
        embed_dim: PositiveInt = 64,
        num_heads: PositiveInt = 4,
        depth: PositiveInt = 4,
        mlp_ratio: PositiveFloat = 2.0,
        pos_embed: Literal["learned", "rope"] = "learned",
        pool: Literal["cls", "mean"] = "cls",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(
            image_size=(image_size, image_size),
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=embed_dim,
            stem=stem,
        )
        grid, prefix = self.patch_embed.grid, int(pool == "cls")
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if pool == "cls" else None
        self.pos_embed = self.rope = None
        if pos_embed == "learned":
            self.pos_embed = LearnedPosEmbed(length=prefix + grid[0] * grid[1], embed_dim=embed_dim)
        else:
            self.rope = AxialRoPE(head_dim=embed_dim // num_heads, grid=grid, prefix=prefix)
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, dropout=dropout, norm_first=norm_first)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim) if norm_first else nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes)
        init_weights(self)
        nn.init.zeros_(self.head.weight)  # start with a uniform prediction

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to logits (B, num_classes)."""
        return self.head(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to the features (B, D) that the logits are read from."""
        x = self.patch_embed(image)  # (B, N, D)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, D)
        if self.pos_embed is not None:
            x = self.pos_embed(x)  # (B, 1 + N, D)
        for block in self.blocks:
            x = block(x, rope=self.rope)  # (B, 1 + N, D)
        x = self.norm(x)  # (B, 1 + N, D)
        return x.mean(dim=1) if self.cls_token is None else x[:, 0]  # (B, D)
