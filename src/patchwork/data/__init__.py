"""From a source of images to a batch."""

from patchwork.data.affine import Affine
from patchwork.data.stitched import Stitched
from patchwork.data.stream import Batch, Stream

__all__ = ["Affine", "Batch", "Stitched", "Stream"]
