"""A small transformer that reads a prompt, word by word, and says in one vector what is wanted.

1. Embed each word, and add its place.
2. Self-attention among the words, both ways; what is beyond the last word is masked.
3. Take the mean over the words, and map it to the width of the network that is told.
"""

from torch import Tensor, nn

from patchwork.models.transformer import Block, LearnedPositions, initialise

WIDTH, HEADS = 64, 4


class TextEncoder(nn.Module):
    """Read prompts of up to `length` words of a vocabulary of `num_words`, where 0 stands for none."""

    def __init__(self, *, num_words: int, length: int, embed_dim: int, depth: int) -> None:
        super().__init__()
        self.token_embed = nn.Embedding(num_words, WIDTH)
        self.pos_embed = LearnedPositions(length=length, embed_dim=WIDTH)
        self.blocks = nn.ModuleList(Block(embed_dim=WIDTH, num_heads=HEADS, mlp_ratio=2.0) for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, embed_dim)
        initialise(self)

    def forward(self, prompt: Tensor) -> Tensor:
        """Map prompts (B, L), each of one word or more, to vectors (B, embed_dim)."""
        mask = prompt > 0  # (B, L)
        x = self.pos_embed(self.token_embed(prompt))  # (B, L, D)
        for block in self.blocks:
            x = block(x, mask=mask)  # (B, L, D)
        x = (self.norm(x) * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)  # (B, D)
        return self.proj(x)
