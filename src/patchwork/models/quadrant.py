"""The encoder-decoder of document 003: the encoder's patches are pooled to one vector per cell of the grid.

1. Encode the patches as `EncoderDecoder` does.
2. Take the mean over the patches of each cell, a quadrant of a 2×2 grid, and map it linearly.
3. Decode from these rows × cols vectors.
"""

from typing import Any

from einops import reduce
from pydantic import PositiveInt
from torch import Tensor, nn

from patchwork.models.encoder_decoder import EncoderDecoder
from patchwork.models.transformer import initialise


class Quadrant(EncoderDecoder):
    """An `EncoderDecoder` whose decoder sees one vector per cell.

    Raises:
        ValueError: if `patch_size` does not divide `cell_size`; and as `EncoderDecoder` does.
    """

    def __init__(
        self, *, cell_size: PositiveInt, patch_size: PositiveInt, embed_dim: PositiveInt = 64, **rest: Any
    ) -> None:
        if cell_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide cell_size={cell_size}: a patch would span cells")
        super().__init__(cell_size=cell_size, patch_size=patch_size, embed_dim=embed_dim, **rest)
        self.side = cell_size // patch_size
        self.cell_proj = nn.Linear(embed_dim, embed_dim)
        initialise(self.cell_proj)

    def encode(self, image: Tensor) -> Tensor:
        """Turn images (B, C, height, width) into one vector per cell (B, rows × cols, D) in reading order."""
        x = super().encode(image)  # (B, N, D)
        x = reduce(x, "b (r p c q) d -> b (r c) d", "mean", r=self.rows, p=self.side, q=self.side)
        return self.cell_proj(x)  # (B, rows × cols, D)
