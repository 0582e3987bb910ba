"""From a source of images to a batch."""

from patchwork.data.deform import Deform
from patchwork.data.stitched import Stitched
from patchwork.data.stream import Batch, Stream

__all__ = ["Batch", "Deform", "Stitched", "Stream"]
