"""The condition of a generator: a class, a text prompt, or none, as one vector."""

from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.text_encoder import TextEncoder


class Conditioning(nn.Module):
    """Embed classes and prompts in one space.

    The class table has one more row, `num_classes`: the null class, which stands for no condition.

    Args:
        num_classes: number of classes.
        embed_dim: width of the condition.
        text_encoder_depth: blocks of the text encoder; 0 for none.
        num_words: vocabulary of prompts, including the padding id 0.
        prompt_length: words of the longest prompt.
    """

    def __init__(
        self, *, num_classes: int, embed_dim: int, text_encoder_depth: int, num_words: int, prompt_length: int
    ) -> None:
        super().__init__()
        self.class_embed = nn.Embedding(num_classes + 1, embed_dim)
        self.text_encoder = (
            TextEncoder(num_words=num_words, max_length=prompt_length, depth=text_encoder_depth, out_dim=embed_dim)
            if text_encoder_depth
            else None
        )

    def forward(self, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return the condition (B, D) of each sample.

        Args:
            label: classes (B,), or the null class.
            prompt: word ids (B, L), padded with 0. It replaces the class, except in rows without words.
        """
        cond = self.class_embed(label)  # (B, D)
        if prompt is None or self.text_encoder is None:
            return cond
        prompted = prompt.any(dim=1).nonzero()[:, 0]
        return cond.index_put((prompted,), self.text_encoder(prompt[prompted]).to(cond.dtype))

    def alignment_loss(self, label: Tensor, prompt: Tensor) -> Tensor:
        """Return the mean squared difference () between prompts (B, L) and their classes (B,).

        The gradient reaches the text encoder only: the class table is the target.

        Raises:
            ValueError: if there is no text encoder.
        """
        if self.text_encoder is None:
            raise ValueError("the model has no text encoder: set text_encoder_depth above 0")
        return F.mse_loss(self.text_encoder(prompt), self.class_embed(label).detach())
