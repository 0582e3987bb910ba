"""The networks, one file each, in pure torch: all can be used without Lightning or Hydra."""

from patchwork.models.anchor_detector import AnchorDetector
from patchwork.models.cell_pool import CellPoolEncoderDecoder
from patchwork.models.cnn import CNN
from patchwork.models.encoder_decoder import EncoderDecoder
from patchwork.models.fully_connected import FullyConnected
from patchwork.models.patch_embed import ConvStem
from patchwork.models.pixel_transformer import PixelTransformer
from patchwork.models.sequence_regressor import SequenceRegressor
from patchwork.models.sum_distribution import SumDistribution
from patchwork.models.vit import ViT

__all__ = [
    "CNN",
    "AnchorDetector",
    "CellPoolEncoderDecoder",
    "ConvStem",
    "EncoderDecoder",
    "FullyConnected",
    "PixelTransformer",
    "SequenceRegressor",
    "SumDistribution",
    "ViT",
]
