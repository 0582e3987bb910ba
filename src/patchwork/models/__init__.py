"""The networks: pure torch, each in its own file, each usable without Lightning or Hydra."""

from patchwork.models.encoder_decoder import EncoderDecoder
from patchwork.models.quadrant import Quadrant

__all__ = ["EncoderDecoder", "Quadrant"]
