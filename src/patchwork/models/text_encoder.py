"""A small transformer that encodes a text prompt as one vector.

1. Embed each word and add a learned position.
2. Self-attention among the words, in both directions; padding is masked.
3. Take the mean over the words and project it to the width of the network that it conditions.
"""

from torch import Tensor, nn

from patchwork.models.transformer import Block, LearnedPosEmbed, init_weights


class TextEncoder(nn.Module):
    """Encode prompts of up to `max_length` word ids.

    Args:
        num_words: size of the vocabulary, including the padding id 0.
        max_length: words of the longest prompt.
        out_dim: width of the output.
        depth: number of transformer blocks.
        embed_dim: width of the blocks.
        num_heads: attention heads of each block.
    """

    def __init__(
        self, *, num_words: int, max_length: int, out_dim: int, depth: int, embed_dim: int = 64, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.token_embed = nn.Embedding(num_words, embed_dim)
        self.pos_embed = LearnedPosEmbed(length=max_length, embed_dim=embed_dim)
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_ratio=2.0) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.proj = nn.Linear(embed_dim, out_dim)
        init_weights(self)

    def forward(self, prompt: Tensor) -> Tensor:
        """Map prompts (B, L), each of one word or more and padded with 0, to vectors (B, out_dim)."""
        mask = prompt > 0  # (B, L)
        x = self.pos_embed(self.token_embed(prompt))  # (B, L, D)
        for block in self.blocks:
            x = block(x, mask=mask)  # (B, L, D)
        x = (self.norm(x) * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)  # (B, D)
        return self.proj(x)  # (B, out_dim)
