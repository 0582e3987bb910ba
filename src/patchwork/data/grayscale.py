"""The brightness of images, and whether they are light on dark, as digits and garments are here, or dark on light."""

import numpy as np

LUMINANCE = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue, as of Pillow's mode L
MAX_SAMPLE = 1000  # of the images that decide for all


def luminance(color: np.ndarray) -> np.ndarray:
    """Return the brightness (…) of pixels (…, 3), or of gray ones (…, 1), in float32."""
    return (color @ LUMINANCE if color.shape[-1] == 3 else color[..., 0]).astype(np.float32)


# --- polarity --------------------------------------------------------------------------------------------------------


def ground_of(gray: np.ndarray) -> np.ndarray:
    """Return the brightness (…) of the ground of images (…, H, W): the median of their borders."""
    sides = (gray[..., 0, :], gray[..., -1, :], gray[..., 1:-1, 0], gray[..., 1:-1, -1])
    return np.median(np.concatenate(sides, axis=-1), axis=-1)


def is_dark_on_light(gray: np.ndarray) -> np.ndarray:
    """Return whether images (…, H, W) are dark on light, as bool (…).

    Ink is on the side of the ground with the larger contrast, whatever the ground's brightness. Cubes of differences
    tell: a few pixels of ink outweigh many of noise or of a shadow.
    """
    gray = gray.astype(np.float32)
    return ((gray - ground_of(gray)[..., None, None]) ** 3).mean(axis=(-2, -1)) < 0


def are_dark_on_light(gray: np.ndarray) -> bool:
    """Return whether most of many images (N, H, W) are dark on light, by a part of them."""
    sample = gray[:: max(len(gray) // MAX_SAMPLE, 1)]
    return bool(is_dark_on_light(sample).mean() > 0.5)


# --- transparency ----------------------------------------------------------------------------------------------------


def blend(color: np.ndarray, alpha: np.ndarray, ground: int | None) -> np.ndarray:
    """Return pixels (H, W, C) from 0 to 255 on a ground where they are transparent.

    Args:
        color: the pixels (H, W, C), gray or of red, green and blue.
        alpha: their opacity (H, W) in [0, 1].
        ground: brightness of the ground; None for the one on which the image can be seen best.
    """
    if ground is None:
        ground = choose_ground(luminance(color), alpha)
    return color * alpha[..., None] + ground * (1 - alpha[..., None])


def choose_ground(gray: np.ndarray, alpha: np.ndarray) -> int:
    """Return the brightness of the ground that an image (H, W) with transparency was made for.

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
