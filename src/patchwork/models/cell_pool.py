"""An encoder-decoder whose patches are pooled to one vector per cell of the grid.

1. Encode the patches as `EncoderDecoder` does.
2. Take the mean over the patches of each cell, and map it linearly.
3. Decode from these rows × cols vectors.

The model of the ViT project (see `docs/references.md`), where the cells are the quadrants of a 2×2 grid.
"""

from typing import Any

from einops import reduce
from pydantic import PositiveInt
from torch import Tensor, nn

from patchwork.models.encoder_decoder import EncoderDecoder
from patchwork.models.transformer import init_weights


class CellPoolEncoderDecoder(EncoderDecoder):
    """An `EncoderDecoder` whose decoder attends to one vector per cell.

    Args:
        cell_size: side of a cell in pixels.
        patch_size: side of a patch in pixels.
        embed_dim: width D of the transformer.
        **encoder_decoder: arguments of `EncoderDecoder`.

    Raises:
        ValueError: if `patch_size` does not divide `cell_size`, or as `EncoderDecoder` does.
    """

    def __init__(
        self, *, cell_size: PositiveInt, patch_size: PositiveInt, embed_dim: PositiveInt = 64, **encoder_decoder: Any
    ) -> None:
        if cell_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide cell_size={cell_size}: a patch would span cells")
        super().__init__(cell_size=cell_size, patch_size=patch_size, embed_dim=embed_dim, **encoder_decoder)
        self.cell_grid_size = cell_size // patch_size  # patches in a row of a cell
        self.cell_proj = nn.Linear(embed_dim, embed_dim)
        init_weights(self.cell_proj)

    def encode(self, image: Tensor) -> Tensor:
        """Encode images (B, C, height, width) as one vector per cell (B, rows · cols, D), in reading order."""
        x = super().encode(image)  # (B, N, D)
        size = self.cell_grid_size
        x = reduce(x, "b (r p c q) d -> b (r c) d", "mean", r=self.rows, p=size, q=size)  # (B, rows · cols, D)
        return self.cell_proj(x)
