"""The networks: pure torch, each in its own file, each usable without Lightning or Hydra."""

from patchwork.models.anchor_detector import AnchorDetector
from patchwork.models.cnn import CNN
from patchwork.models.encoder_decoder import EncoderDecoder
from patchwork.models.fully_connected import FullyConnected
from patchwork.models.pixel_decoder import PixelDecoder
from patchwork.models.quadrant import Quadrant
from patchwork.models.sequence_regressor import SequenceRegressor
from patchwork.models.sum_distribution import SumDistribution
from patchwork.models.vit import ViT

__all__ = [
    "CNN",
    "AnchorDetector",
    "EncoderDecoder",
    "FullyConnected",
    "PixelDecoder",
    "Quadrant",
    "SequenceRegressor",
    "SumDistribution",
    "ViT",
]
