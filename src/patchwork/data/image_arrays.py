"""Images of one's own in memory: arrays, tensors, PIL images or lists of them, as pixels from 0 to 255.

1. Values: whole numbers are 0 to 255, fractions and truth values 0 to 1 (`to_tensor`, `to_8_bits`).
2. Axes: with or without channels, first or last, one sample or several (`arrange`).
3. Channels: transparency is put on a ground (`drop_alpha`), and color becomes gray where the model takes gray
   (`match_channels`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchwork.core.errors import ConfigError, warn
from patchwork.data.grayscale import are_dark_on_light, blend, is_dark_on_light, luminance

DTYPES = {"b": np.bool_, "u": np.int64, "i": np.int64, "f": np.float64}  # of torch, by NumPy's kind of numbers
ROUNDING = 1e-3  # beyond [0, 1], as resizing leaves it


def read_pixels(images: Any, shape: tuple[int, int, int], *, takes: str, sequences: bool = False) -> Tensor:
    """Return images of one's own as pixels from 0 to 255.

    Args:
        images: A NumPy array, a torch tensor, a PIL image, or a list of them or of numbers.
        shape: Shape (C, H, W) of an image, as the model takes it.
        takes: What takes them, for messages, as `task=classify`.
        sequences: Whether a sample is a sequence of images.

    Returns:
        Pixels (N, C, H, W), or (N, T, C, H, W) of sequences, in float32 with integer values.

    Raises:
        ConfigError: if there are none, they are of another size, or values are out of range.
    """
    expected = describe_shape(shape, sequences=sequences)
    pixels = to_tensor(images, channels=shape[0], expected=expected)
    arranged = arrange(pixels, shape, leading=2 if sequences else 1)
    if arranged is None:
        advice = "; pictures of any size are taken as PIL images or paths" if shape[0] == 1 else ""
        raise ConfigError(f"images of shape {tuple(pixels.shape)} are not allowed: {takes} takes {expected}{advice}")
    if not arranged.numel():
        raise ConfigError(f"there are no images: {takes} takes {expected}")
    if pixels.max() == 1:
        warn("the brightest pixel is 1 of 255: pass fractions or truth values if 1 is white")
    return match_channels(drop_alpha(arranged, shape[0]), shape[0])


def describe_shape(shape: tuple[int, int, int], *, sequences: bool) -> str:
    """Return in words what shape images must have."""
    channels, height, width = shape
    sizes = ["N", *(["T"] if sequences else []), *([str(channels)] if channels > 1 else []), str(height), str(width)]
    one = sizes[1:]
    return f"({', '.join(sizes)}), or ({', '.join(one)}) for one {'sequence' if sequences else 'image'}"


def to_tensor(images: Any, *, channels: int, expected: str) -> Tensor:
    """Return images as float32 pixels from 0 to 255, in the shape that they have.

    Raises:
        ConfigError: if they are no numbers, out of range, or of different sizes in one list.
    """
    if hasattr(images, "getbands"):  # a PIL image, without importing PIL
        return picture_to_tensor(images, channels)
    if isinstance(images, list | tuple) and not is_number(first_leaf(images)):
        tensors = convert_items(images, channels=channels, expected=expected)
        if len({tensor.shape for tensor in tensors}) > 1:
            sizes = " and ".join(str(tuple(size)) for size in list(dict.fromkeys(t.shape for t in tensors))[:2])
            raise ConfigError(f"images of one list differ in shape, as {sizes}: expected {expected}")
        return torch.stack(tensors) if tensors else torch.empty(0)
    if isinstance(images, Tensor) and not images.is_complex():
        return to_8_bits(images.detach().cpu())
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise ConfigError(f"images of one list differ in length: expected {expected}") from error
    dtype = DTYPES.get(array.dtype.kind)
    if dtype is None:
        found = f"{type(images).__name__} ({array.dtype})" if array.ndim else type(images).__name__
        raise ConfigError(f"images of {found} are not allowed: pass an array, a tensor or PIL images, {expected}")
    return to_8_bits(torch.from_numpy(np.array(array, dtype)))


def convert_items(images: Sequence[Any], *, channels: int, expected: str) -> list[Tensor]:
    """Return each item of a list of images as pixels; those in floating point have one range, which all of them tell.

    Raises:
        ConfigError: see `to_tensor`.
    """
    shapes = {getattr(image, "shape", None) for image in images}
    if len(shapes) == 1 and all(is_floating(image) for image in images):
        return list(to_8_bits(torch.stack([to_floats(image) for image in images])))
    return [to_tensor(image, channels=channels, expected=expected) for image in images]


def is_floating(image: Any) -> bool:
    """Return whether an image is an array or a tensor in floating point."""
    if isinstance(image, Tensor):
        return image.is_floating_point()
    return isinstance(image, np.ndarray) and image.dtype.kind == "f"


def to_floats(image: Tensor | np.ndarray) -> Tensor:
    return image.detach().cpu().double() if isinstance(image, Tensor) else torch.from_numpy(np.array(image, np.float64))


def first_leaf(values: Any) -> Any:
    """Return the first value in nested lists; None if there is none."""
    while isinstance(values, list | tuple):
        values = values[0] if len(values) else None
    return values


def is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.generic)


def picture_to_tensor(picture: Any, channels: int) -> Tensor:
    """Return a PIL image of any mode as pixels: (height, width), or (height, width, 3) if the model takes color."""
    from patchwork.data.image_files import flatten, is_transparent, to_gray

    if is_transparent(picture):
        color = flatten(picture, None)
        return torch.from_numpy(color if channels == 3 else make_light_on_dark(luminance(color))).round()
    if channels == 3:
        return torch.from_numpy(np.array(picture.convert("RGB"), np.float32))
    return torch.from_numpy(np.array(to_gray(picture, ground=None), np.float32)).round()


def make_light_on_dark(gray: np.ndarray) -> np.ndarray:
    """Return an image (H, W) that had no ground of its own as light on dark."""
    if not is_dark_on_light(gray):
        return gray
    warn("images with transparency are dark: inverted, as the model has learned light on dark")
    return 255 - gray


def to_8_bits(values: Tensor) -> Tensor:
    """Return pixels from 0 to 255, rounded, of whole numbers up to 255 or of fractions or truth values up to 1.

    Raises:
        ConfigError: if values are out of range.
    """
    if not values.numel() or values.dtype == torch.bool:
        return values.float() * 255
    low, high = float(values.min()), float(values.max())
    if not values.is_floating_point():
        if low < 0 or high > 255:
            raise ConfigError(f"integers from {low:.0f} to {high:.0f} are not allowed in images: use 0 to 255")
        return values.float()
    if low >= 0 and 1 + ROUNDING < high <= 255 and bool((values == values.round()).all()):
        return values.float()  # as of images.astype('float32')
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # nor if one is NaN
        raise ConfigError(
            f"fractions from {low:.3g} to {high:.3g} are not allowed in images: use 0 to 1, not normalized, or whole "
            "numbers from 0 to 255, as of images.round()"
        )
    return (values.double() * 255).round().clamp(0, 255).float()


def arrange(pixels: Tensor, shape: tuple[int, int, int], leading: int) -> Tensor | None:
    """Return pixels with all axes, (N, C, H, W) if `leading` is 1; None if their shape is not one of an image.

    Channels may come first, last or not at all, in any number that `match_channels` takes, with one of opacity if they
    come last, and the first axis may be missing. Where an axis could be either, it is one of samples if the model takes
    gray, else one of channels.
    """
    channels, height, width = shape
    sizes = tuple(pixels.shape)
    forms = {
        "gray": sizes[-2:] == (height, width) and pixels[..., None, :, :],
        "first": sizes[-2:] == (height, width) and len(sizes) > 2 and sizes[-3] in (1, 3) and pixels,
        "last": sizes[-3:-1] == (height, width) and sizes[-1] in (1, 2, 3, 4) and pixels.movedim(-1, -3),
        "flat": sizes[-1:] == (height * width,) and len(sizes) > 1 and pixels.unflatten(-1, (1, height, width)),
    }
    order = ("gray", "first", "last", "flat") if channels == 1 else ("first", "last", "gray", "flat")
    for name in order:
        form = forms[name]
        if isinstance(form, Tensor) and form.ndim in (leading + 3, leading + 2):
            return form if form.ndim == leading + 3 else form[None]
    return None


def drop_alpha(pixels: Tensor, channels: int) -> Tensor:
    """Return pixels (…, 1 or 3, H, W) of those that may have a channel of opacity, the last of two or four."""
    if pixels.shape[-3] not in (2, 4):
        return pixels
    color, alpha = pixels[..., :-1, :, :], pixels[..., -1, :, :] / 255
    if bool((alpha == 1).all()):
        return color
    images = []
    for image, opacity in zip(color.flatten(0, -4), alpha.flatten(0, -3), strict=True):
        blended = blend(image.movedim(0, -1).numpy(), opacity.numpy(), None)
        images.append(make_light_on_dark(luminance(blended))[..., None] if channels == 1 else blended)
    return torch.from_numpy(np.stack(images)).float().round().movedim(-1, 1).unflatten(0, pixels.shape[:-3])


def match_channels(pixels: Tensor, channels: int) -> Tensor:
    """Return pixels (…, 1 or 3, H, W) with the given number of channels: gray ones are repeated, color becomes gray."""
    if pixels.shape[-3] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])
    gray = luminance(pixels.movedim(-3, -1).double().numpy())
    return torch.from_numpy(gray).round()[..., None, :, :]


def pad_sequences(sequences: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Return sequences of pixels (T, C, H, W) as one tensor (N, S, C, H, W) with zeros, and its mask (N, S).

    Args:
        sequences: the sequences, of any lengths T.
        length: S, at least; more if a sequence is longer.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    length = max(length, int(lengths.max()))
    padded = torch.zeros(len(sequences), length, *sequences[0].shape[1:])
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded, torch.arange(length) < lengths[:, None]


def warn_of_polarity(pixels: Tensor) -> None:
    """Warn if most images (…, 1, H, W) are dark on light: light on dark is what digits and garments are here."""
    if are_dark_on_light(pixels.flatten(0, -3).numpy()):
        warn(
            "images are dark on light, but the model has learned light on dark: pass 255 - images, or of PIL images "
            "PIL.ImageOps.invert(image)"
        )
