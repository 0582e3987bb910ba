"""From a source of images to a batch."""

from patchwork.data.deform import Deform
from patchwork.data.drawings import Drawings
from patchwork.data.icons import Icons
from patchwork.data.sequences import Sequences
from patchwork.data.single import Single
from patchwork.data.stitched import Stitched
from patchwork.data.stream import Batch, Part, Stream

__all__ = ["Batch", "Deform", "Drawings", "Icons", "Part", "Sequences", "Single", "Stitched", "Stream"]
