"""Images of one's own in memory: arrays, tensors, PIL images or lists of them, as pixels from 0 to 255.

1. Values: integers are 0 to 255, fractions and truth values 0 to 1 (`to_tensor`, `to_8_bits`).
2. Axes: with or without channels, first or last, one sample or several (`arrange`).
3. Channels: color becomes gray where the model takes gray (`match_channels`).
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchwork.core.errors import ConfigError, PatchworkWarning

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as PIL has it
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
        raise ConfigError(f"images of shape {tuple(pixels.shape)} are not allowed: {takes} takes {expected}")
    if not arranged.numel():
        raise ConfigError(f"there are no images: {takes} takes {expected}")
    if pixels.max() == 1:
        warn("the brightest pixel is 1 of 255: pass fractions or truth values if 1 is white")
    return match_channels(arranged, shape[0])


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
        tensors = [to_tensor(image, channels=channels, expected=expected) for image in images]
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


def first_leaf(values: Any) -> Any:
    """Return the first value in nested lists; None if there is none."""
    while isinstance(values, list | tuple):
        values = values[0] if len(values) else None
    return values


def is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.generic)


def picture_to_tensor(picture: Any, channels: int) -> Tensor:
    """Return a PIL image of any mode as pixels: (height, width), or (height, width, 3) if the model takes color."""
    from patchwork.data.image_files import to_gray

    if channels == 3:
        return torch.from_numpy(np.array(picture.convert("RGB"), np.float32))
    return torch.from_numpy(np.array(to_gray(picture, ground=None), np.float32)).round()


def to_8_bits(values: Tensor) -> Tensor:
    """Return pixels from 0 to 255, rounded, of integers from 0 to 255 or of fractions or truth values up to 1.

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
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # nor if one is NaN
        raise ConfigError(
            f"fractions from {low:.3g} to {high:.3g} are not allowed in images: use 0 to 1, not normalized, or "
            "integers from 0 to 255, as of images.astype('uint8')"
        )
    return (values.double() * 255).round().clamp(0, 255).float()


def arrange(pixels: Tensor, shape: tuple[int, int, int], leading: int) -> Tensor | None:
    """Return pixels with all axes, (N, C, H, W) if `leading` is 1; None if their shape is not one of an image.

    Channels may come first, last or not at all, in any number that `match_channels` takes, and the first axis may be
    missing. Where an axis could be either, it is one of samples if the model takes gray, else one of channels.
    """
    channels, height, width = shape
    sizes = tuple(pixels.shape)
    forms = {
        "gray": sizes[-2:] == (height, width) and pixels[..., None, :, :],
        "first": sizes[-2:] == (height, width) and len(sizes) > 2 and sizes[-3] in (1, 3) and pixels,
        "last": sizes[-3:-1] == (height, width) and sizes[-1] in (1, 3) and pixels.movedim(-1, -3),
        "flat": sizes[-1:] == (height * width,) and len(sizes) > 1 and pixels.unflatten(-1, (1, height, width)),
    }
    order = ("gray", "first", "last", "flat") if channels == 1 else ("first", "last", "gray", "flat")
    for name in order:
        form = forms[name]
        if isinstance(form, Tensor) and form.ndim in (leading + 3, leading + 2):
            return form if form.ndim == leading + 3 else form[None]
    return None


def match_channels(pixels: Tensor, channels: int) -> Tensor:
    """Return pixels (…, 1 or 3, H, W) with the given number of channels: gray ones are repeated, color becomes gray."""
    if pixels.shape[-3] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])
    red, green, blue = (pixels.select(-3, index).double() for index in range(3))
    gray = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return gray.round().float()[..., None, :, :]


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
    """Warn if most images (…, H, W) are dark on light: light on dark is what digits and garments are here."""
    border = torch.cat([pixels[..., 0, :], pixels[..., -1, :], pixels[..., :, 0], pixels[..., :, -1]], dim=-1)
    if (border.median(dim=-1).values > 127).double().mean() > 0.5:
        warn("images are mostly white: the model has learned light on dark, so pass 255 - images")


def warn(message: str) -> None:
    warnings.warn(message, PatchworkWarning, stacklevel=2)
