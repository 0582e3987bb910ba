"""Read a picture from a file as MNIST shows digits: light on dark, square, 8 bits, one channel.

Whatever the file's format, depth, palette, transparency, rotation, polarity and size, the same digit gives the same
pixels; what was changed is told in notes.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from patchwork.core.errors import DataError, one_line

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # decoders that run no other program
MAX_PIXELS = 50_000_000
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green and blue, as of Pillow's mode L
FAINT = 32  # a ground up to this brightness, of 255, is taken for black


@dataclass(frozen=True)
class ReadImage:
    """The pixels (size, size) of a picture, uint8, and what was done to it, a sentence's end each."""

    pixels: Tensor
    notes: tuple[str, ...]


def read_image(path: str | Path, *, key: str, size: int, find_polarity: bool = True) -> ReadImage:
    """Read a picture from a file.

    Args:
        path: the file.
        key: the option that names it, for messages.
        size: pixels of a side of the result.
        find_polarity: make the ground black, as of a digit; false for a mask, whose brightness has a meaning.

    Raises:
        DataError: if it cannot be read, is too large, or shows nothing.
    """
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of our own
            with Image.open(path, formats=FORMATS) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise ValueError(f"it has {file.width}×{file.height} pixels, more than {MAX_PIXELS:,}")
                if (frames := getattr(file, "n_frames", 1)) > 1:
                    notes.append(f"the first of {frames} frames was taken")
                file.load()
                gray = to_gray(ImageOps.exif_transpose(file), ground=None if find_polarity else 0)
    except Exception as error:  # decoders raise errors of every type on damaged files
        raise DataError(f"{key}={path} cannot be read as an image: {one_line(error)}") from error
    if find_polarity:
        if np.ptp(gray) < 1:
            raise DataError(f"{key}={path} shows nothing: all of its pixels are the same")
        gray = make_ground_black(gray, notes)
    pixels = np.rint(fit_square(gray, size, notes)).clip(0, 255).astype(np.uint8)
    return ReadImage(torch.from_numpy(pixels), tuple(notes))


def to_gray(image: Image.Image, *, ground: int | None) -> np.ndarray:
    """Return the brightness (height, width) of an image from 0 to 255, in float32, on a ground where it is transparent.

    Args:
        image: of any mode.
        ground: brightness of the ground; None for the one on which the picture can be seen best.
    """
    if image.mode.startswith(("I", "F")):
        return scale_to_8_bits(np.asarray(image))
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if not transparent:
        return np.asarray(image.convert("RGB").convert("L"), np.float32)
    rgba = np.asarray(image.convert("RGBA"), np.float32)
    gray, alpha = rgba[..., :3] @ LUMINANCE, rgba[..., 3] / 255
    if ground is None:
        ground = choose_ground(gray, alpha)
    return gray * alpha + ground * (1 - alpha)


def choose_ground(gray: np.ndarray, alpha: np.ndarray) -> int:
    """Return the brightness of the ground that a picture with transparency was made for.

    Ink of one color needs the opposite. Otherwise what is opaque blends into the ground at its edge.
    """
    opaque = np.pad(alpha >= 0.5, 1)
    if not opaque.any():
        return 0 if gray.mean() >= 128 else 255
    inner = opaque[1:-1, 1:-1] & opaque[:-2, 1:-1] & opaque[2:, 1:-1] & opaque[1:-1, :-2] & opaque[1:-1, 2:]
    edge = opaque[1:-1, 1:-1] & ~inner
    low, high = np.percentile(gray[inner | edge], [5, 95])
    if high - low < 64 or not inner.any():
        return 0 if gray[inner | edge].mean() >= 128 else 255
    return 255 if gray[edge].mean() > gray[inner].mean() else 0


def scale_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale the values of an image with 16 or 32 bits or fractions to 0 to 255, by the smallest depth that has them."""
    values = values.astype(np.float32)
    highest = values.max()
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("it has negative or infinite values")
    depth = next((depth for depth in (255, 65_535) if highest <= depth), highest)
    return values * (255 / (1 if 0 < highest <= 1 and (values % 1).any() else depth))


def make_ground_black(gray: np.ndarray, notes: list[str]) -> np.ndarray:
    """Invert a picture that is dark on light, and darken a ground that is not black; the border tells the ground."""
    border = np.concatenate([gray[0], gray[-1], gray[1:-1, 0], gray[1:-1, -1]])
    if np.median(border) >= 128:
        notes.append("it is dark on light: inverted, as digits here are light on dark")
        gray, border = 255 - gray, 255 - border
    ground = np.median(border)
    if ground > FAINT:
        notes.append(f"its ground of brightness {ground:.0f} was made black")
        gray = (gray - ground).clip(0) * (255 / max(gray.max() - ground, 1))
    return gray


def fit_square(gray: np.ndarray, size: int, notes: list[str]) -> np.ndarray:
    """Return a picture padded with black to a square and resized to (size, size)."""
    height, width = gray.shape
    if height == width == size:
        return gray
    notes.append(f"resized from {width}×{height} to {size}×{size} pixels" + (", padded" if height != width else ""))
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), np.float32)
    square[top : top + height, left : left + width] = gray
    method = Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(square).resize((size, size), method))
