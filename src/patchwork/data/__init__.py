"""Data modules: from a source of images to batches."""

from patchwork.data.anchor import AnchorDataModule
from patchwork.data.base import BaseDataModule, Batch, Split
from patchwork.data.icons import IconsDataModule
from patchwork.data.images import ImagesDataModule
from patchwork.data.pixels import PixelsDataModule
from patchwork.data.sequences import SequencesDataModule
from patchwork.data.stitched import StitchedDataModule
from patchwork.data.transforms import RandomAffineElastic

__all__ = [
    "AnchorDataModule",
    "BaseDataModule",
    "Batch",
    "IconsDataModule",
    "ImagesDataModule",
    "PixelsDataModule",
    "RandomAffineElastic",
    "SequencesDataModule",
    "Split",
    "StitchedDataModule",
]
