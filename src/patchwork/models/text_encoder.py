"""A small transformer that reads a prompt, word by word, and says in one vector what is wanted.

1. Embed each word, and add its place.
2. Self-attention among the words, both ways; what is beyond the last word is masked.
3. Take the mean over the words, and map it to the width that is asked for.
"""

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from patchwork.models.transformer import Block, LearnedPositions, initialise


class TextEncoder(nn.Module):
    """Read prompts of up to `length` words of a vocabulary of `num_words`, where 0 stands for none.

    Raises:
        ValueError: if heads do not divide the width.
    """

    def __init__(
        self,
        *,
        num_words: PositiveInt,
        length: PositiveInt,
        out_dim: PositiveInt,
        embed_dim: PositiveInt = 64,
        num_heads: PositiveInt = 4,
        depth: NonNegativeInt = 2,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        self.token_embed = nn.Embedding(num_words, embed_dim)
        self.pos_embed = LearnedPositions(length=length, embed_dim=embed_dim)
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.proj = nn.Linear(embed_dim, out_dim)
        initialise(self)

    def forward(self, prompt: Tensor) -> Tensor:
        """Map prompts (B, L), each of one word or more, to vectors (B, out_dim)."""
        mask = prompt > 0  # (B, L)
        x = self.pos_embed(self.token_embed(prompt))  # (B, L, D)
        for block in self.blocks:
            x = block(x, mask=mask)  # (B, L, D)
        x = (self.norm(x) * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)  # (B, D)
        return self.proj(x)
