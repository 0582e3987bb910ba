"""Small images of a page, as PNG data URIs whose pixels stay square and sharp."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

HEIGHT = 42  # CSS pixels of a thumbnail


def data_uri(image: np.ndarray) -> str:
    """Return an image (C, height, width) or (height, width), uint8, of 1, 3 or 4 channels, as the data URI of a PNG."""
    pixels = image if image.ndim == 2 else image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return png_uri(buffer.getvalue())


def png_uri(content: bytes) -> str:
    """Return the content of a PNG file as a data URI."""
    return f"data:image/png;base64,{b64encode(content).decode()}"


def thumbnail(image: np.ndarray, description: str, *, height: int = HEIGHT) -> str:
    """Return an `<img>` of an image (C, height, width) or (height, width), uint8."""
    return f'<img class="pixels" style="height:{height}px" src="{data_uri(image)}" alt="{escape(description)}">'
