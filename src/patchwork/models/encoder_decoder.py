"""Encoder-decoder transformer: an image of a grid of digits in, the sequence of its digits out.

1. Cut the image into patches, linearly or after a convolutional stem, and encode their positions.
2. Encode: self-attention among the patches.
3. Decode autoregressively: predict each token from the earlier ones and, by cross-attention, from the patches.

The first input of the decoder is a beginning-of-sequence token, and an end-of-sequence token follows the last digit
(`<start>` and `<finish>` in the grid project, see `docs/references.md`).
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from patchwork.models.patch_embed import ConvStem, PatchEmbed
from patchwork.models.transformer import AxialRoPE, Block, KVCache, LearnedPosEmbed, init_weights

Caches = list[tuple[KVCache, KVCache]]  # of self- and cross-attention, for each block


class EncoderDecoder(nn.Module):
    """Read the digits of a grid in reading order.

    The vocabulary of V tokens is the `num_classes` digits, then `bos_id`, then `eos_id`.

    Args:
        rows: rows of the grid.
        cols: columns of the grid.
        cell_size: side of a cell in pixels.
        num_classes: number of digits.
        in_channels: channels of the image.
        patch_size: side of a patch in pixels.
        stem: convolutional stem; None embeds the pixels of a patch linearly.
        embed_dim: width D of the transformer.
        num_heads: attention heads of each block.
        encoder_depth: blocks of the encoder.
        decoder_depth: blocks of the decoder.
        mlp_ratio: hidden width of a block's MLP, as a multiple of `embed_dim`.
        pos_embed: positional encoding of patches: a learned vector for each, or a rotation by row and column.
        dropout: dropout probability.
        norm_first: normalize before each sublayer (pre-norm) instead of after it (post-norm).

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
        stem: ConvStem | None,
        embed_dim: PositiveInt = 64,
        num_heads: PositiveInt = 4,
        encoder_depth: NonNegativeInt = 2,
        decoder_depth: PositiveInt = 1,
        mlp_ratio: PositiveFloat = 2.0,
        pos_embed: Literal["learned", "rope"] = "learned",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        if pos_embed == "rope" and encoder_depth == 0:
            raise ValueError(
                "pos_embed=rope needs encoder_depth of 1 or more: it rotates queries and keys of the encoder"
            )
        self.rows, self.cols, self.length = rows, cols, rows * cols
        self.bos_id, self.eos_id = num_classes, num_classes + 1
        self.patch_embed = PatchEmbed(
            image_size=(rows * cell_size, cols * cell_size),
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=embed_dim,
            stem=stem,
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
            LearnedPosEmbed(length=grid[0] * grid[1], embed_dim=embed_dim) if pos_embed == "learned" else None
        )
        self.encoder = nn.ModuleList(Block(**block) for _ in range(encoder_depth))
        self.rope = AxialRoPE(head_dim=embed_dim // num_heads, grid=grid) if pos_embed == "rope" else None
        self.encoder_norm = nn.LayerNorm(embed_dim) if norm_first else nn.Identity()

        self.token_embed = nn.Embedding(num_classes + 2, embed_dim)
        self.token_pos_embed = LearnedPosEmbed(length=self.length + 1, embed_dim=embed_dim)
        self.decoder = nn.ModuleList(Block(**block, causal=True, cross=True) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(embed_dim) if norm_first else nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes + 2)
        init_weights(self)
        nn.init.zeros_(self.head.weight)  # start with a uniform prediction

    def encode(self, image: Tensor) -> Tensor:
        """Encode images (B, C, height, width) as the memory (B, N, D) that the decoder attends to."""
        x = self.patch_embed(image)  # (B, N, D)
        if self.pos_embed is not None:
            x = self.pos_embed(x)  # (B, N, D)
        for block in self.encoder:
            x = block(x, rope=self.rope)  # (B, N, D)
        return self.encoder_norm(x)  # (B, N, D)

    def decode(self, memory: Tensor, tokens: Tensor, caches: Caches | None = None) -> Tensor:
        """Return the logits (B, T, V) of the token after each of `tokens` (B, T).

        With `caches`, `tokens` are those that follow the cached ones.
        """
        start = caches[0][0].length if caches else 0
        x = self.token_pos_embed(self.token_embed(tokens), start)  # (B, T, D)
        for index, block in enumerate(self.decoder):
            x = block(x, memory, caches=caches[index] if caches else None)  # (B, T, D)
        return self.head(self.decoder_norm(x))  # (B, T, V)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits (B, T, V) of the token after each of `tokens` (B, T), whose first is `bos_id`."""
        return self.decode(self.encode(image), tokens)

    def make_caches(self, memory: Tensor, length: int) -> Caches:
        """Return empty caches for decoding `length` tokens from a memory (B, N, D)."""
        return [(KVCache(length), KVCache(memory.shape[1])) for _ in self.decoder]

    @torch.no_grad()
    def greedy_decode(self, memory: Tensor) -> Tensor:
        """Decode a memory (B, N, D) to the likeliest tokens (B, length); whatever follows `eos_id` is `eos_id`."""
        caches = self.make_caches(memory, self.length)
        start = memory.new_full((len(memory), 1), self.bos_id, dtype=torch.long)
        return greedy_decode(
            lambda tokens: self.decode(memory, tokens, caches), start, length=self.length, eos_id=self.eos_id
        )

    @torch.no_grad()
    def generate(self, image: Tensor) -> Tensor:
        """Decode images (B, C, height, width) greedily to tokens (B, length)."""
        return self.greedy_decode(self.encode(image))


def greedy_decode(next_logits: Callable[[Tensor], Tensor], start: Tensor, *, length: int, eos_id: int) -> Tensor:
    """Take the likeliest token `length` times.

    Args:
        next_logits: maps the newest tokens (B, 1) to the logits (B, 1, V) of the next ones.
        start: first input (B, 1).
        length: number of tokens to decode.
        eos_id: token after which nothing but itself follows.

    Returns:
        Tokens (B, length), without `start`.
    """
    tokens = [start]
    for _ in range(length):
        likeliest = next_logits(tokens[-1]).argmax(dim=-1)  # (B, 1)
        tokens.append(torch.where(tokens[-1] == eos_id, eos_id, likeliest))
    return torch.cat(tokens[1:], dim=1)
