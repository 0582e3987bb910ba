"""Contact sheets: many images of one size side by side in one picture, with a label at each row if wanted."""

import math

import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

GRAY = 96  # brightness of the margins, of 255
MIN_SIDE = 80  # pixels of the sheet that an image's height takes at least
MIN_COLUMNS = 8  # images in a row before it is continued in another
TEXT_SIZE, TEXT_MARGIN, TEXT_BRIGHTNESS = 18, 10, 255  # of labels; sizes in pixels of the sheet


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


def labeled_sheet(images: Tensor, labels: list[str], *, title: str = "", margin: int = 2) -> Image.Image:
    """Arrange images in rows of one label each, which is written at their left; a long row is continued in another.

    Args:
        images: (n, C, height, width) as uint8, grayscale or RGB.
        labels: the label of each image; rows are in the order in which labels occur first.
        title: text above the rows.
        margin: pixels between images and around them, before zooming.
    """
    groups = {label: [i for i, other in enumerate(labels) if other == label] for label in dict.fromkeys(labels)}
    longest = max(map(len, groups.values()))
    columns = min(longest, max(MIN_COLUMNS, math.ceil(math.sqrt(len(images)))))
    blank, cells, names = torch.full_like(images[0], GRAY), [], []
    for label, indices in groups.items():
        num_rows = math.ceil(len(indices) / columns)
        cells += [*images[indices], *[blank] * (num_rows * columns - len(indices))]
        names += [label, *[""] * (num_rows - 1)]
    zoom = math.ceil(MIN_SIDE / images.shape[-2])
    sheet = contact_sheet(torch.stack(cells), columns, zoom=zoom, margin=margin)
    return add_labels(sheet, names, title)


def add_labels(sheet: Image.Image, names: list[str], title: str) -> Image.Image:
    """Return a sheet with a name at the left of each of its rows, and a title above."""
    font = ImageFont.load_default(TEXT_SIZE)
    left = math.ceil(max(map(font.getlength, names))) + 2 * TEXT_MARGIN
    top = 2 * TEXT_SIZE if title else 0
    width = max(left + sheet.width, math.ceil(font.getlength(title)) + 2 * TEXT_MARGIN)
    labeled = Image.new(sheet.mode, (width, top + sheet.height), (GRAY,) * len(sheet.getbands()))
    labeled.paste(sheet, (left, top))
    draw, fill = ImageDraw.Draw(labeled), (TEXT_BRIGHTNESS,) * len(sheet.getbands())
    draw.text((TEXT_MARGIN, top / 2), title, fill, font, anchor="lm")
    for row, name in enumerate(names):
        middle = top + (row + 0.5) * sheet.height / len(names)
        draw.text((left - TEXT_MARGIN, middle), name, fill, font, anchor="rm")
    return labeled
