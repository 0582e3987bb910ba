"""Detect whether an image of the anchor's class is in a sequence, and where, by cross-attention from the anchor.

`similarity=cosine`:

1. Encode anchor and images by the same network, and project them by the same matrix, so that images of one class come
   close together. (With separate query and key matrices, training stays at the majority baseline for a long time.)
2. The score of an image is its cosine with the anchor, scaled and shifted. A null key has score 0.
3. The attention that is not on the null key is the probability of a match; its logit is log Σ exp(score).

`similarity=cross_attention`, as in the sequence project (see `docs/references.md`): multi-head attention with the
anchor as its query and the images as its context, followed by an MLP.
"""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.image_sequence import ImageSequenceEncoder
from patchwork.models.patch_embed import ConvStem
from patchwork.models.transformer import Attention, init_weights, record_attention


class CosineSimilarity(nn.Module):
    """Score the similarity of an anchor and each image by their cosine under one shared projection.

    The projection is normalized over the batch, so that unrelated images are orthogonal from the first step on; without
    it all vectors start nearly parallel.

    Args:
        embed_dim: width D of the vectors.
    """

    def __init__(self, *, embed_dim: int) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.norm = nn.BatchNorm1d(embed_dim, affine=False)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))  # its logarithm
        self.bias = nn.Parameter(torch.tensor(-1.7))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the scores (B, S) of images against their anchor, which comes first in `x` (B, 1 + S, D).

        They are -inf where `mask` (B, 1 + S) is false.
        """
        projected = self.norm(self.proj(self.act(x[mask])))  # (n, D)
        unit = projected.new_zeros(x.shape)  # (B, 1 + S, D)
        unit[mask] = F.normalize(projected, dim=-1)
        cosine = (unit[:, :1] * unit[:, 1:]).sum(dim=-1)  # (B, S)
        scores = cosine * self.logit_scale.exp() + self.bias
        return scores.masked_fill(~mask[:, 1:], -torch.inf)


class AnchorDetector(nn.Module):
    """Predict the logit that an image of the anchor's class is in a sequence of any length.

    Args:
        image_size: side of an image in pixels.
        in_channels: channels of an image.
        stem: convolutional stem of the image encoder; None takes `LeNetEncoder`.
        embed_dim: width D of the vectors.
        similarity: how anchor and images are compared.
        num_heads: attention heads of `similarity=cross_attention`.

    Raises:
        ValueError: if heads do not divide the width.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        in_channels: PositiveInt,
        stem: ConvStem | None,
        embed_dim: PositiveInt = 64,
        similarity: Literal["cosine", "cross_attention"] = "cosine",
        num_heads: PositiveInt = 4,
    ) -> None:
        super().__init__()
        self.image_encoder = ImageSequenceEncoder(
            image_size=image_size, in_channels=in_channels, embed_dim=embed_dim, stem=stem
        )
        self.similarity: CosineSimilarity | None = None
        if similarity == "cosine":
            self.similarity = CosineSimilarity(embed_dim=embed_dim)
            init_weights(self)
        else:
            self.cross_attn = Attention(embed_dim=embed_dim, num_heads=num_heads)
            self.mlp = nn.Sequential(nn.Linear(embed_dim, 64), nn.ReLU())
            self.head = nn.Linear(64, 1)

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor) -> Tensor:
        """Map images (B, S, C, size, size) and anchors (B, C, size, size) to logits (B,).

        `mask` (B, S) is true where there is an image.
        """
        x, mask = self.encode(image, mask, anchor)
        if self.similarity is not None:
            return self.similarity(x, mask).logsumexp(dim=1)
        x = self.cross_attn(x[:, :1], x[:, 1:], mask=mask[:, 1:])  # (B, 1, D)
        return self.head(self.mlp(x))[:, 0, 0]

    def encode(self, image: Tensor, mask: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors (B, 1 + S, D) of an anchor and the images after it, and their mask (B, 1 + S)."""
        mask = F.pad(mask, (1, 0), value=True)
        return self.image_encoder(torch.cat([anchor[:, None], image], dim=1), mask), mask

    def locate(self, image: Tensor, mask: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B,) and the attention weight of each image (B, S)."""
        if self.similarity is not None:
            scores = self.similarity(*self.encode(image, mask, anchor))  # (B, S)
            return scores.logsumexp(dim=1), F.pad(scores, (1, 0)).softmax(dim=1)[:, 1:]
        with record_attention(self) as calls:
            logits = self(image, mask, anchor)
        return logits, calls["cross_attn"][0].weights.mean(dim=1)[:, 0]
