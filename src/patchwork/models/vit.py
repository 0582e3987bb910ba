"""Vision transformer: an image in, the logits of its class out (Dosovitskiy et al. 2021; documents 003 and 004).

1. Cut the image into patches, linearly or after a convolutional stem, and give each its position.
2. Put a class token before them, if the answer is read from one.
3. Self-attention among all tokens, layer after layer.
4. Read the answer from the class token or from the mean of the patches.

Source: https://arxiv.org/abs/2010.11929
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from patchwork.models.transformer import AxialRotary, Block, ConvLayer, LearnedPositions, PatchEmbed, initialise


class ViT(nn.Module):
    """Classify square images of `image_size` pixels into `num_classes`.

    `stem` lists the layers of a convolutional stem; without any, the pixels of a patch are embedded linearly. `pool` is
    where the answer is read, `positions` how patches know where they are.

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
        stem: list[ConvLayer],
        stem_bfloat16: bool = False,
        embed_dim: PositiveInt = 64,
        num_heads: PositiveInt = 4,
        depth: PositiveInt = 4,
        mlp_ratio: PositiveFloat = 2.0,
        positions: Literal["learned", "rotary"] = "learned",
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
            bfloat16=stem_bfloat16,
        )
        grid, extra = self.patch_embed.grid, int(pool == "cls")
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if pool == "cls" else None
        self.pos_embed = self.rotary = None
        if positions == "learned":
            self.pos_embed = LearnedPositions(length=extra + grid[0] * grid[1], embed_dim=embed_dim)
        else:
            self.rotary = AxialRotary(head_dim=embed_dim // num_heads, grid=grid, prefix=extra)
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, dropout=dropout, norm_first=norm_first)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim) if norm_first else nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes)
        initialise(self)
        nn.init.zeros_(self.head.weight)  # begin with a uniform prediction

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to logits (B, num_classes)."""
        return self.head(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to what the answer is read from (B, D)."""
        x = self.patch_embed(image)  # (B, N, D)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, D)
        if self.pos_embed is not None:
            x = self.pos_embed(x)
        for block in self.blocks:
            x = block(x, rotate=self.rotary)
        x = self.norm(x)
        return x.mean(dim=1) if self.cls_token is None else x[:, 0]  # (B, D)
