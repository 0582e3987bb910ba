"""The exact distribution of a sum of digits: no attention, no positions, nothing that depends on the length.

1. Encode each image independently and predict the distribution of its digit: a probability for each of 0 to 9.
2. The distribution of a sum of independent numbers is the convolution of their distributions. Neighbors are convolved
   pairwise, then the pairs, and so on; padding is a digit that is 0 with certainty.

The only label is the sum. Its loss -log P(sum) reaches every image through the convolution, in proportion to what the
other images leave open, so that the digits are learned without labels. What the network learns about an image does not
depend on the sequence, and so it extrapolates to sequences of any length.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.image_sequence import ImageSequenceEncoder
from patchwork.models.patch_embed import ConvStem
from patchwork.models.transformer import init_weights

EPS = 1e-30  # smallest probability, so that its logarithm is finite


class SumDistribution(nn.Module):
    """Predict the distribution of the sum of the digits in a sequence of images.

    Args:
        image_size: side of an image in pixels.
        in_channels: channels of an image.
        num_classes: number K of digits: 0 to K - 1.
        stem: convolutional stem of the image encoder; None takes `LeNetEncoder`.
        embed_dim: width D of an image's vector.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        in_channels: PositiveInt,
        num_classes: PositiveInt,
        stem: ConvStem | None,
        embed_dim: PositiveInt = 64,
    ) -> None:
        super().__init__()
        self.image_encoder = ImageSequenceEncoder(
            image_size=image_size, in_channels=in_channels, embed_dim=embed_dim, stem=stem
        )
        self.act = nn.GELU()
        self.head = nn.Linear(embed_dim, num_classes)
        init_weights(self)
        # a nearly uniform prediction; equal weights would stay equal
        nn.init.normal_(self.head.weight, std=0.1 * embed_dim**-0.5)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Map images (B, S, C, size, size) to the log-probabilities (B, S · (K - 1) + 1) of their sums.

        `mask` (B, S) is true where there is an image.
        """
        logits = self.head(self.act(self.image_encoder(image, mask)))  # (B, S, K)
        with torch.autocast(image.device.type, enabled=False):  # small probabilities need full precision
            probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1)
            zero = F.one_hot(torch.zeros_like(mask, dtype=torch.long), probs.shape[-1])  # (B, S, K)
            probs = torch.where(mask[..., None], probs, zero.to(probs.dtype))
            return convolve_distributions(probs).clamp_min(EPS).log()


def convolve_distributions(probs: Tensor) -> Tensor:
    """Return the distribution of the sum of S independent numbers below K.

    Args:
        probs: the distribution of each number (B, S, K).

    Returns:
        Probabilities (B, S · (K - 1) + 1) of the sums from 0 on.
    """
    length = probs.shape[1] * (probs.shape[2] - 1) + 1
    while probs.shape[1] > 1:
        if probs.shape[1] % 2:  # pad with a number that is 0 with certainty
            zero = F.pad(probs.new_ones(len(probs), 1, 1), (0, probs.shape[2] - 1))
            probs = torch.cat([probs, zero], dim=1)
        even, odd = probs[:, ::2], probs[:, 1::2]  # (B, S/2, K) each
        size = even.shape[-1]
        windows = F.pad(even, (size - 1, size - 1)).unfold(-1, size, 1)  # (B, S/2, 2K - 1, K)
        probs = (windows @ odd.flip(-1)[..., None]).squeeze(-1)  # (B, S/2, 2K - 1)
    return probs[:, 0, :length]
