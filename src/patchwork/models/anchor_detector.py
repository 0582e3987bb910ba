"""Does a digit of the anchor's class occur in a sequence? Cross-attention from the anchor tells, and shows where.

`matching=cosine`, ours:

1. Encode anchor and images by the same network, and project them by the same matrix: like shall meet like. (With two
   matrices, as attention usually has, training does not leave the majority's answer for a long time.)
2. The anchor looks at each image by their cosine, scaled and shifted, and at nothing by a null key of score 0.
3. The answer is the attention that is not on nothing: its log-odds are log Σ exp(score).

`matching=attention`, document 001's: multi-head attention with the anchor as its query and the images as its context;
an MLP reads the answer from what comes back.
"""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.cnn import ItemEncoder
from patchwork.models.transformer import Attention, ConvLayer, attention_weights, initialise


class CosineMatch(nn.Module):
    """Score how alike an anchor and each image are, by their cosine under one projection for both.

    What is projected is brought to mean 0 and deviation 1, so that unlike images are at right angles from the first
    step on; otherwise all begin alike.
    """

    def __init__(self, *, embed_dim: int) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.norm = nn.BatchNorm1d(embed_dim, affine=False)
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.shift = nn.Parameter(torch.tensor(-1.7))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the scores (B, S) of images for their anchor, which comes first in `x` (B, 1 + S, D).

        They are -inf where `mask` (B, 1 + S) is false.
        """
        found = self.norm(self.proj(self.act(x[mask])))  # (n, D)
        like = found.new_zeros(x.shape)
        like[mask] = F.normalize(found, dim=-1)
        score = (like[:, :1] * like[:, 1:]).sum(dim=-1) * self.log_scale.exp() + self.shift  # (B, S)
        return score.masked_fill(~mask[:, 1:], -torch.inf)


class AnchorDetector(nn.Module):
    """Predict the log-odds that an image of the anchor's class is in a sequence, whatever its length.

    `stem` lists the layers of the images' encoder; without any it is document 001's. `num_heads` is for
    `matching=attention` alone.

    Raises:
        ValueError: if heads do not divide the width.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        in_channels: PositiveInt,
        stem: list[ConvLayer],
        stem_bfloat16: bool = False,
        embed_dim: PositiveInt = 64,
        matching: Literal["cosine", "attention"] = "cosine",
        num_heads: PositiveInt = 4,
    ) -> None:
        super().__init__()
        self.item_encoder = ItemEncoder(
            image_size=image_size, in_channels=in_channels, embed_dim=embed_dim, stem=stem, bfloat16=stem_bfloat16
        )
        self.match = CosineMatch(embed_dim=embed_dim) if matching == "cosine" else None
        if matching == "attention":
            self.cross_attn = Attention(embed_dim=embed_dim, num_heads=num_heads)
            self.mlp = nn.Sequential(nn.Linear(embed_dim, 64), nn.ReLU())
            self.head = nn.Linear(64, 1)
        if matching == "cosine":
            initialise(self)

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor) -> Tensor:
        """Map images (B, S, C, size, size) and anchors (B, C, size, size) to log-odds (B,).

        `mask` (B, S) is true where there is an image.
        """
        x, mask = self.encode(image, mask, anchor)
        if self.match is not None:
            return self.match(x, mask).logsumexp(dim=1)
        found = self.cross_attn(x[:, :1], x[:, 1:], mask=mask[:, 1:])  # (B, 1, D)
        return self.head(self.mlp(found))[:, 0, 0]

    def encode(self, image: Tensor, mask: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors (B, 1 + S, D) of an anchor and the images after it, and where there are any (B, 1 + S)."""
        mask = F.pad(mask, (1, 0), value=True)
        return self.item_encoder(torch.cat([anchor[:, None], image], dim=1), mask), mask

    def locate(self, image: Tensor, mask: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-odds (B,), and the share of the anchor's attention that each image gets (B, S)."""
        if self.match is not None:
            score = self.match(*self.encode(image, mask, anchor))  # (B, S)
            return score.logsumexp(dim=1), F.pad(score, (1, 0)).softmax(dim=1)[:, 1:]
        with attention_weights(self) as seen:
            said = self(image, mask, anchor)
        return said, seen["cross_attn"][0].mean(dim=1)[:, 0]
