"""Contact sheets: many images of one size side by side in one picture."""

import math

from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

GRAY = 96  # brightness of the margins, of 255


def contact_sheet(
    images: Tensor, columns: int | None = None, *, zoom: int = 2, margin: int = 2, background: int = GRAY
) -> Image.Image:
    """Arrange images in rows of equal length.

    Args:
        images: (n, C, height, width) as uint8, grayscale or RGB.
        columns: images in a row; by default about as many as there are rows.
        zoom: side of a pixel of an image in pixels of the sheet.
        margin: pixels between images and around them, before zooming.
        background: brightness of the margins and of what is left over of the last row.
    """
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    padding = (0, margin, 0, margin, 0, 0, 0, rows * columns - len(images))  # right, below, after the last image
    cells = F.pad(images, padding, value=background)
    sheet = rearrange(cells, "(rows columns) c h w -> c (rows h) (columns w)", rows=rows)
    sheet = F.pad(sheet, (margin, 0, margin, 0), value=background)  # left, above
    pixels = sheet[0] if len(sheet) == 1 else rearrange(sheet, "c h w -> h w c")
    picture = Image.fromarray(pixels.contiguous().numpy())
    return picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST)
