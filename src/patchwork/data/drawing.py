"""From a canvas or a picture to an image as MNIST has them: 28×28, size-normalized, centered by mass, light on dark.

What MNIST's makers did is known (LeCun's page; Yadav and Bottou 2019, arXiv 1905.10498): a digit is scaled so that its
longer side is 20 pixels, its gray levels are averages over area, and it is placed in 28×28 so that its center of mass
is in the middle. A model that has learned such images reads others badly.

- *Strokes* are scaled as a path and only then painted, with MNIST's own pen, so that neither the size of the canvas nor
  that of its brush nor its resolution leaves a trace (`strokes_to_image`).
- *Bitmaps*, whose pen is what it is, are cut out, scaled by area and centered (`bitmap_to_image`).
- What is MNIST's form already is left alone (`is_mnist_like`).

`lab/drawing.js` is the same in JavaScript, operation by operation.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

SPEC_VERSION = "1"  # of these rules: images of one version are made of the same strokes in the same way
SIDE, BOX = 28, 20  # of an image and of the digit in it, in pixels
PEN = 2.2  # width of a stroke in pixels of the box
FINE = 8  # points along one side of a pixel at which it is painted or not
CURVE_STEPS = 4  # straight pieces of the curve between two midpoints
SMALL = 0.04  # of the cell: what is smaller is a slip, not a digit
MIN_SOURCE = 10  # pixels: a smaller blot is not enlarged to a digit
MIN_CONTRAST = 24  # gray levels: a picture of less is blank
BLACK_GROUND = 0.3  # of the pixels: where as many are black, black is the ground
FAINT, MAX_FAINT = 16, 0.15  # gray level below which ink may be noise, and how much of it a clean picture has
PAPER = 0.95  # of the darker pixels of a picture on paper are ground
CENTER = 15  # see `center_by_mass`

Problem = Literal["empty", "small"]
Points = Sequence[tuple[float, float]] | np.ndarray


class Drawing(NamedTuple):
    """An image (28, 28), uint8, and why it is empty, if it is."""

    image: np.ndarray
    problem: Problem | None


# --- strokes ---------------------------------------------------------------------------------------------------------


def strokes_to_image(strokes: Sequence[Points], cell_size: float) -> Drawing:
    """Return a drawing as an image of MNIST.

    Args:
        strokes: points (x, y) of each stroke, x to the right and y down, in any unit; a single point is a dot.
        cell_size: side of the digit's cell in the same unit.
    """
    paths = [smooth(np.asarray(stroke, dtype=np.float64)) for stroke in strokes if len(stroke)]
    blank = np.zeros((SIDE, SIDE), np.uint8)
    if not paths:
        return Drawing(blank, "empty")
    points = np.concatenate(paths)
    low, size = points.min(axis=0), np.ptp(points, axis=0)
    longer = float(size.max())
    if longer < SMALL * cell_size:
        return Drawing(blank, "small")
    scale = (BOX - PEN) / longer
    offset = PEN / 2 + (BOX - PEN - size * scale) / 2  # the shorter side is centered
    coverage = paint([(path - low) * scale + offset for path in paths])
    return Drawing(center_by_mass(stretch(coverage)), None)


def smooth(points: np.ndarray) -> np.ndarray:
    """Return a polyline (m, 2) along the curve through the midpoints of points (n, 2), with the points as controls."""
    if len(points) < 3:
        return points
    midpoints = (points[:-1] + points[1:]) / 2
    start, control, end = midpoints[:-1, None], points[1:-1, None], midpoints[1:, None]  # (n - 2, 1, 2)
    t = (np.arange(1, CURVE_STEPS + 1) / CURVE_STEPS)[None, :, None]
    curves = (1 - t) * (1 - t) * start + 2 * (1 - t) * t * control + t * t * end  # (n - 2, steps, 2)
    return np.concatenate([points[:1], midpoints[:1], curves.reshape(-1, 2), points[-1:]])


def paint(paths: Sequence[np.ndarray]) -> np.ndarray:
    """Return how much of each pixel (20, 20) is within half a pen of polylines (m, 2), in pixels of the box."""
    painted = np.zeros((BOX * FINE, BOX * FINE), dtype=bool)
    centers = (np.arange(BOX * FINE) + 0.5) / FINE
    radius = PEN / 2
    for path in paths:
        ends = path[1:] if len(path) > 1 else path
        for (x0, y0), (x1, y1) in zip(path, ends, strict=False):
            left, right = np.searchsorted(centers, [min(x0, x1) - radius, max(x0, x1) + radius])
            top, bottom = np.searchsorted(centers, [min(y0, y1) - radius, max(y0, y1) + radius])
            x, y = centers[left:right], centers[top:bottom, None]
            dx, dy = x1 - x0, y1 - y0
            length = dx * dx + dy * dy
            along = np.clip(((x - x0) * dx + (y - y0) * dy) / length, 0, 1) if length > 0 else 0.0
            away_x, away_y = x - x0 - along * dx, y - y0 - along * dy
            painted[top:bottom, left:right] |= away_x * away_x + away_y * away_y <= radius * radius
    return painted.reshape(BOX, FINE, BOX, FINE).mean(axis=(1, 3))


def split_strokes(strokes: Sequence[Points], width: float, height: float, rows: int, cols: int) -> list[list[Points]]:
    """Return the strokes of each cell of a canvas, in reading order; none is cut.

    A stroke belongs to the cell in which most of its length lies; of a dot, to the one that it is in.
    """
    cells: list[list[Points]] = [[] for _ in range(rows * cols)]
    for stroke in strokes:
        points = np.asarray(stroke, dtype=np.float64)
        if not len(points):
            continue
        middles = (points[:-1] + points[1:]) / 2 if len(points) > 1 else points
        lengths = np.hypot(*np.diff(points, axis=0).T) if len(points) > 1 else np.ones(1)
        col = np.clip(np.floor(middles[:, 0] * cols / width), 0, cols - 1).astype(int)
        row = np.clip(np.floor(middles[:, 1] * rows / height), 0, rows - 1).astype(int)
        share = np.bincount(row * cols + col, weights=lengths if lengths.any() else None, minlength=rows * cols)
        cells[int(share.argmax())].append(stroke)
    return cells


# --- bitmaps ---------------------------------------------------------------------------------------------------------


def bitmap_to_image(gray: np.ndarray) -> Drawing:
    """Return a picture (H, W) of one digit, uint8, as an image of MNIST; light on dark or dark on light."""
    if is_mnist_like(gray):
        return Drawing(gray.copy(), None)
    blank = np.zeros((SIDE, SIDE), np.uint8)
    ink = separate(255 - gray if np.median(border(gray)) > 127 else gray)
    if not ink.any():
        return Drawing(blank, "empty")
    rows, cols = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    if max(box.shape) < MIN_SOURCE and max(gray.shape) > SIDE:
        return Drawing(blank, "small")
    return Drawing(center_by_mass(stretch(scale_to_box(box))), None)


def border(gray: np.ndarray) -> np.ndarray:
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])


def separate(light: np.ndarray) -> np.ndarray:
    """Return a picture (H, W) that is light on dark without its ground: gray levels of ink, 0 elsewhere.

    On black everything is ink, unless much of it is as faint as what JPEG leaves around strokes. On paper the ground
    ends where most of the darker class of Otsu (1979) does, and ink begins halfway between that and his threshold.
    """
    low, high = int(light.min()), int(light.max())
    if high - low < MIN_CONTRAST:
        return np.zeros_like(light)
    counts = np.bincount(light.ravel(), minlength=256)
    if counts[0] >= BLACK_GROUND * light.size:
        is_faint = counts[1:FAINT].sum() > MAX_FAINT * (light.size - counts[0])
        return np.where(light < FAINT, 0, light) if is_faint else light
    threshold = otsu(counts)
    ground = int(np.searchsorted(counts[:threshold].cumsum(), PAPER * counts[:threshold].sum()))
    white = float((counts[threshold:] * np.arange(threshold, 256)).sum() / counts[threshold:].sum())
    ink = np.floor(np.clip((light - float(ground)) / (white - ground), 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.where(2 * light.astype(int) < ground + threshold, 0, ink)


def otsu(counts: np.ndarray) -> int:
    """Return the first gray level of the lighter of two classes, which the variance between them tells apart best."""
    weights, levels = counts.cumsum(), (counts * np.arange(256)).cumsum()
    below, above = weights[:-1].astype(float), (weights[-1] - weights[:-1]).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (levels[:-1] / below - (levels[-1] - levels[:-1]) / above) ** 2
    return int(np.nan_to_num(between).argmax()) + 1


def scale_to_box(box: np.ndarray) -> np.ndarray:
    """Return a cutout (h, w) scaled by area to 20×20, its longer side filling the box; gray levels in [0, 255].

    The shorter side begins at a whole pixel of the box, so that what was scaled by a whole factor comes back unblurred.
    """
    longer = max(box.shape)
    pixel = longer / BOX
    margins = [int((longer - side) / 2 / pixel) * pixel for side in box.shape]
    vertical, horizontal = (area_weights(side, margin, pixel) for side, margin in zip(box.shape, margins, strict=True))
    return vertical @ box.astype(np.float64) @ horizontal.T


def area_weights(side: int, margin: float, pixel: float) -> np.ndarray:
    """Return the share (20, side) of each pixel of the box that each source pixel covers, along one axis."""
    edges = np.arange(BOX + 1)[:, None] * pixel  # of the box, in source pixels
    starts = margin + np.arange(side)[None]
    overlap = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    return np.clip(overlap, 0, None) / pixel


# --- both ------------------------------------------------------------------------------------------------------------


def stretch(values: np.ndarray) -> np.ndarray:
    """Return values of any scale as gray levels whose brightest is 255."""
    return np.floor(values * (255 / values.max()) + 0.5).astype(np.uint8)


def center_by_mass(box: np.ndarray) -> np.ndarray:
    """Place a box (20, 20) in 28×28 so that its center of mass lies in (14, 15] along both axes, as MNIST's do.

    The shift is ⌊15 − b⌋ with the center of mass b, for which pixel i counts as i + ½; what leaves the image is cut.
    """
    mass = box.sum(dtype=np.float64)
    positions = np.arange(BOX) + 0.5
    image = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (
        int(CENTER - float((box.sum(axis=axis, dtype=np.float64) * positions).sum()) / mass) for axis in (1, 0)
    )
    height, width = min(BOX, SIDE - top), min(BOX, SIDE - left)
    image[top : top + height, left : left + width] = box[:height, :width]
    return image


def is_mnist_like(gray: np.ndarray) -> bool:
    """Return whether an image is in MNIST's form: 28×28, the longer side 20, the center of mass where MNIST's are."""
    if gray.shape != (SIDE, SIDE) or not gray.any():
        return False
    rows, cols = np.flatnonzero(gray.any(axis=1)), np.flatnonzero(gray.any(axis=0))
    if max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1 != BOX:
        return False
    mass, positions = gray.sum(dtype=np.float64), np.arange(SIDE) + 0.5
    centers = [float((gray.sum(axis=axis, dtype=np.float64) * positions).sum()) / mass for axis in (1, 0)]
    return all(SIDE / 2 < center <= CENTER for center in centers)
