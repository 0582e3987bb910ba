"""The law of a sum, exactly: no attention, no positions, nothing that length could break.

1. Encode each image by itself and give the law of its digit: a probability for each of 0 to 9.
2. The law of the sum of independent numbers is the convolution of their laws. Neighbours are added pairwise, then the
   pairs, and so on; where a sequence has ended there is a digit that is 0 for certain.

Training sees the sum alone: its loss −log P(sum) blames each image as much as the others' laws leave open, and the
digits are found without a label. What it learns of an image is the same in a sequence of ten and of a hundred.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.cnn import ItemEncoder
from patchwork.models.transformer import ConvLayer, initialise

LEAST = 1e-30  # of a probability, so that its logarithm is finite


class SumDistribution(nn.Module):
    """Predict the law of the sum of the digits 0 to `num_classes` - 1 in a sequence of images.

    `stem` lists the layers of the images' encoder; without any it is document 001's.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        in_channels: PositiveInt,
        num_classes: PositiveInt,
        stem: list[ConvLayer],
        stem_bfloat16: bool = False,
        embed_dim: PositiveInt = 64,
    ) -> None:
        super().__init__()
        self.item_encoder = ItemEncoder(
            image_size=image_size, in_channels=in_channels, embed_dim=embed_dim, stem=stem, bfloat16=stem_bfloat16
        )
        self.act = nn.GELU()
        self.head = nn.Linear(embed_dim, num_classes)
        initialise(self)
        nn.init.normal_(self.head.weight, std=0.1 * embed_dim**-0.5)  # nearly uniform: equal digits would stay equal

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Map images (B, S, C, size, size) to the logarithm of the law of their sum (B, S · (num_classes - 1) + 1).

        `mask` (B, S) is true where there is an image.
        """
        logits = self.head(self.act(self.item_encoder(image, mask)))  # (B, S, 10)
        with torch.autocast(image.device.type, enabled=False):  # half precision is too coarse for small chances
            law = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1)
            zero = F.one_hot(torch.zeros_like(mask, dtype=torch.long), law.shape[-1])  # (B, S, 10)
            law = torch.where(mask[..., None], law, zero.to(law.dtype))
            return law_of_sum(law).clamp_min(LEAST).log()


def law_of_sum(laws: Tensor) -> Tensor:
    """Convolve the laws (B, S, K) of S independent numbers below K: the law (B, S · (K - 1) + 1) of their sum."""
    length = laws.shape[1] * (laws.shape[2] - 1) + 1
    while laws.shape[1] > 1:
        if laws.shape[1] % 2:
            laws = torch.cat([laws, F.pad(laws.new_ones(len(laws), 1, 1), (0, laws.shape[2] - 1))], dim=1)
        one, other = laws[:, ::2], laws[:, 1::2]  # (B, S/2, K) each
        size = one.shape[-1]
        windows = F.pad(one, (size - 1, size - 1)).unfold(-1, size, 1)  # (B, S/2, 2K - 1, K)
        laws = (windows @ other.flip(-1)[..., None]).squeeze(-1)  # (B, S/2, 2K - 1)
    return laws[:, 0, :length]
