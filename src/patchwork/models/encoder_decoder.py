"""Encoder-decoder transformer: an image of digits in, their sequence out, one digit after the other (document 000).

1. Cut the image into patches, linearly or after a convolutional stem, and give each its position.
2. Encode: self-attention among the patches.
3. Decode: from `<start>` on, predict each token from those before it and, by cross-attention, from the patches.
4. `<finish>` follows the last digit.
"""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from patchwork.models.transformer import (
    AxialRotary,
    Block,
    Cache,
    ConvLayer,
    LearnedPositions,
    PatchEmbed,
    initialise,
)


class EncoderDecoder(nn.Module):
    """Read the digits of a grid of `rows` × `cols` cells, each of `cell_size` pixels, in reading order.

    The vocabulary is the `num_classes` digits, then `<start>`, then `<finish>`. `stem` lists the layers of
    a convolutional stem; without any, the pixels of a patch are embedded linearly. `positions` is how patches know
    where they are.

    Raises:
        ValueError: if patches do not divide the image or heads do not divide the width.
    """

    def __init__(
        self,
        *,
        rows: PositiveInt,
        cols: PositiveInt,
        cell_size: PositiveInt,
        num_classes: PositiveInt,
        in_channels: PositiveInt = 1,
        patch_size: PositiveInt = 28,
        stem: list[ConvLayer],
        stem_bfloat16: bool = False,
        embed_dim: PositiveInt = 64,
        num_heads: PositiveInt = 4,
        encoder_depth: NonNegativeInt = 2,
        decoder_depth: PositiveInt = 1,
        mlp_ratio: PositiveFloat = 2.0,
        positions: Literal["learned", "rotary"] = "learned",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        if positions == "rotary" and encoder_depth == 0:
            raise ValueError("positions=rotary needs encoder_depth of 1 or more: it turns the encoder's attention")
        self.rows, self.cols, self.length = rows, cols, rows * cols
        self.start, self.finish = num_classes, num_classes + 1
        self.patch_embed = PatchEmbed(
            image_size=(rows * cell_size, cols * cell_size),
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=embed_dim,
            stem=stem,
            bfloat16=stem_bfloat16,
        )
        grid = self.patch_embed.grid
        block: dict[str, Any] = {
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "dropout": dropout,
            "norm_first": norm_first,
        }
        self.pos_embed = (
            LearnedPositions(length=grid[0] * grid[1], embed_dim=embed_dim) if positions == "learned" else None
        )
        self.encoder = nn.ModuleList(Block(**block) for _ in range(encoder_depth))
        self.rotary = AxialRotary(head_dim=embed_dim // num_heads, grid=grid) if positions == "rotary" else None
        self.encoder_norm = nn.LayerNorm(embed_dim) if norm_first else nn.Identity()

        self.token_embed = nn.Embedding(num_classes + 2, embed_dim)
        self.token_pos_embed = LearnedPositions(length=self.length + 1, embed_dim=embed_dim)
        self.decoder = nn.ModuleList(Block(**block, causal=True, cross=True) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(embed_dim) if norm_first else nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes + 2)
        initialise(self)
        nn.init.zeros_(self.head.weight)  # begin with a uniform prediction

    def encode(self, image: Tensor) -> Tensor:
        """Turn images (B, C, height, width) into the memory (B, N, D) that the decoder looks at."""
        x = self.patch_embed(image)  # (B, N, D)
        if self.pos_embed is not None:
            x = self.pos_embed(x)  # (B, N, D)
        for block in self.encoder:
            x = block(x, rotate=self.rotary)  # (B, N, D)
        return self.encoder_norm(x)  # (B, N, D)

    def decode(self, memory: Tensor, tokens: Tensor, caches: list[tuple[Cache, Cache]] | None = None) -> Tensor:
        """Give for each of `tokens` (B, T) the logits (B, T, V) of the token after it.

        With `caches`, `tokens` are the ones that follow those already read.
        """
        start = caches[0][0].length if caches else 0
        x = self.token_pos_embed(self.token_embed(tokens), start)  # (B, T, D)
        for index, block in enumerate(self.decoder):
            x = block(x, memory, caches=caches[index] if caches else None)  # (B, T, D)
        return self.head(self.decoder_norm(x))  # (B, T, V)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: logits (B, T, V) of the token after each of `tokens` (B, T), which begin with `<start>`."""
        return self.decode(self.encode(image), tokens)

    @torch.no_grad()
    def greedy(self, memory: Tensor) -> Tensor:
        """Decode the memory (B, N, D) to token ids (B, length), always taking the likeliest; `<finish>` is kept."""
        caches = [(Cache(self.length), Cache(memory.shape[1])) for _ in self.decoder]
        tokens = memory.new_full((memory.shape[0], 1), self.start, dtype=torch.long)  # (B, 1)
        read = []
        for _ in range(self.length):
            chosen = self.decode(memory, tokens, caches).argmax(dim=-1)  # (B, 1)
            tokens = torch.where(tokens == self.finish, self.finish, chosen)
            read.append(tokens)
        return torch.cat(read, dim=1)  # (B, length)

    @torch.no_grad()
    def generate(self, image: Tensor) -> Tensor:
        """Read images (B, C, height, width) as token ids (B, length)."""
        return self.greedy(self.encode(image))
