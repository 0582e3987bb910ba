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
from patchwork.data.grayscale import blend, ground_of, is_dark_on_light, luminance

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # decoders that run no other program
MAX_PIXELS = 50_000_000
BLACK = 32  # a ground up to this brightness, of 255, is taken for black
FAINT = 128  # a contrast below this, of 255, is stretched


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
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{key}={path} does not exist: name an image file") from error
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"{key}={path} cannot be read as an image: {reason}") from error
    return fit_picture(gray, notes, name=f"{key}={path}", size=size, find_polarity=find_polarity)


def fit_image(image: Image.Image, *, name: str, size: int) -> ReadImage:
    """Fit a picture in memory, as `read_image` does one in a file.

    Args:
        image: of any mode and size.
        name: what it is called in messages.
        size: pixels of a side of the result.

    Raises:
        DataError: if it shows nothing, or its values are not those of an image.
    """
    try:
        gray = to_gray(ImageOps.exif_transpose(image), ground=None)
    except ValueError as error:
        raise DataError(f"{name} cannot be read as an image: {one_line(error)}") from error
    return fit_picture(gray, [], name=name, size=size, find_polarity=True)


def fit_picture(gray: np.ndarray, notes: list[str], *, name: str, size: int, find_polarity: bool) -> ReadImage:
    """Make the brightness (height, width) of a picture, from 0 to 255, a square light on dark; see `read_image`."""
    if find_polarity and np.ptp(gray) < 1:
        raise DataError(f"{name} shows nothing: all of its pixels are the same")
    gray = make_ground_black(gray, notes) if find_polarity else stretch_mask(gray, notes)
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
    if not is_transparent(image):
        return np.asarray(image.convert("RGB").convert("L"), np.float32)
    return luminance(flatten(image, ground))


def is_transparent(image: Image.Image) -> bool:
    """Return whether an image has transparent pixels."""
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def flatten(image: Image.Image, ground: int | None) -> np.ndarray:
    """Return the colors (height, width, 3) of an image with transparency on a ground; see `to_gray`."""
    rgba = np.asarray(image.convert("RGBA"), np.float32)
    return blend(rgba[..., :3], rgba[..., 3] / 255, ground)


def scale_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale the values of an image with 16 or 32 bits or fractions to 0 to 255, by the smallest depth that has them."""
    values = values.astype(np.float32)
    highest = values.max()
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("it has negative or infinite values")
    depth = next((depth for depth in (255, 65_535) if highest <= depth), highest)
    return values * (255 / (1 if 0 < highest <= 1 and (values % 1).any() else depth))


def make_ground_black(gray: np.ndarray, notes: list[str]) -> np.ndarray:
    """Invert a picture that is dark on light, darken a ground that is not black, and stretch a faint picture."""
    if is_dark_on_light(gray):
        notes.append("it is dark on light: inverted, as digits here are light on dark")
        gray = 255 - gray
    ground = float(ground_of(gray))
    contrast = float(gray.max()) - ground
    if ground > BLACK:
        notes.append(f"its ground of brightness {ground:.0f} was made black")
    if contrast < FAINT:
        notes.append(f"it shows almost nothing: its contrast of {contrast:.3g} was stretched to 255")
    if ground > BLACK or contrast < FAINT:
        gray = (gray - ground).clip(0) * (255 / max(contrast, 1e-6))
    return gray


def stretch_mask(gray: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return a mask whose brightest pixel is white, as one of zeros and ones is meant."""
    highest = float(gray.max())
    if not 0 < highest < FAINT:
        return gray
    notes.append(f"its brightest pixel of {highest:.3g} was made white")
    return gray * (255 / highest)


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
