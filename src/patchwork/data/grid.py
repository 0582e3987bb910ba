"""Find the cells of a picture of several digits, as a table of them, and make each an image of MNIST.

1. A picture of 28×28 cells in MNIST's form is cut, and its cells are left as they are.
2. Otherwise ink is collected from connected components: each goes to the cell that holds its middle, so that a digit
   that reaches over a border is not cut. Lines that cross the whole picture are a lattice, and no ink.
3. Without `rows` and `cols` the cells are those of the lattice, or else gaps between digits divide the ink into rows
   and each row into digits; all rows must have as many.
"""

from dataclasses import dataclass

import numpy as np

from patchwork.core.errors import DataError
from patchwork.data.drawing import SIDE, Drawing, bitmap_to_image, border, is_mnist_like, separate

MAX_CELLS = 25  # along a side
LATTICE = 0.95  # of the picture's side that a line of a lattice has ink in at least; a tall 1 has less
MAX_LINE = 0.1  # of the picture's side: the width of a lattice's line
SPECK = 0.15  # of the tallest component's side: what is smaller is part of a digit, or dirt
ROW_GAP = 0.12  # of the tallest component's height: a smaller gap is within a digit
OVERHANG = 1.5  # cells: a component that is larger is cut at the borders, as it is digits that touch

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of a picture in reading order: an image (28, 28) of each, and the box of its ink in the picture."""

    rows: int
    cols: int
    cells: tuple[Drawing, ...]
    boxes: tuple[Box | None, ...]


def find_grid(gray: np.ndarray, rows: int | None = None, cols: int | None = None) -> Grid:
    """Find the digits of a picture (height, width), uint8, light on dark or dark on light.

    Args:
        gray: the picture.
        rows: rows of digits, if they are known.
        cols: digits of a row, likewise.

    Raises:
        DataError: if it shows nothing, or rows of different lengths.
    """
    if (grid := cut_cells(gray, rows, cols)) is not None:
        return grid
    ink = separate(255 - gray if np.median(border(gray)) > 127 else gray)
    horizontal, vertical = lattice_lines(ink), lattice_lines(ink.T)
    ink[horizontal], ink[:, vertical] = 0, 0
    components, boxes = find_components(ink)
    if not len(boxes):
        raise DataError("it shows nothing")
    edges = [lattice_edges(horizontal), lattice_edges(vertical)]
    if rows is None and cols is None and max(map(len, edges)) > 2:
        rows, cols = len(edges[0]) - 1, len(edges[1]) - 1
    if rows is not None and cols is not None:
        for axis, count in enumerate((rows, cols)):
            if len(edges[axis]) - 1 != count:
                edges[axis] = np.linspace(0, ink.shape[axis], count + 1)
        of, ink, components = assign_to_cells(ink, components, boxes, edges[0], edges[1])
    else:
        of, rows, cols = group_digits(boxes, rows, cols)
    return collect(ink, components, of, rows, cols)


def cut_cells(gray: np.ndarray, rows: int | None, cols: int | None) -> Grid | None:
    """Return the cells of a picture that consists of images of MNIST; None if it does not."""
    height, width = gray.shape
    if height % SIDE or width % SIDE or max(height, width) > MAX_CELLS * SIDE:
        return None
    found = height // SIDE, width // SIDE
    if (rows or found[0], cols or found[1]) != found:
        return None
    cells = gray.reshape(found[0], SIDE, found[1], SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)
    if 2 * sum(map(is_mnist_like, cells)) <= len(cells):  # two of 10,000 of MNIST are not
        return None
    places = [(SIDE * (i % found[1]), SIDE * (i // found[1]), SIDE, SIDE) for i in range(len(cells))]
    return Grid(*found, tuple(Drawing(cell, None if cell.any() else "empty") for cell in cells), tuple(places))


# --- lattices --------------------------------------------------------------------------------------------------------


def lattice_lines(ink: np.ndarray) -> np.ndarray:
    """Return which rows (height,) of a picture belong to lines that cross it; thick ones do not, as they are digits."""
    is_line = (ink > 0).mean(axis=1) >= LATTICE
    for start, end in runs(is_line):
        if end - start > MAX_LINE * len(ink):
            is_line[start:end] = False
    return is_line


def lattice_edges(is_line: np.ndarray) -> np.ndarray:
    """Return the borders (n + 1,) between cells along an axis: its ends, and the middles of lines within."""
    size = len(is_line)
    middles = [(start + end) / 2 for start, end in runs(is_line)]
    return np.array([0, *(middle for middle in middles if MAX_LINE * size < middle < (1 - MAX_LINE) * size), size])


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Return the beginning and the end of each run of true values (n,)."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], values, [False]])))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))


# --- components ------------------------------------------------------------------------------------------------------


def find_components(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the component of each pixel (height, width), from 1 on, and the boxes (n, 4): top, left, bottom, right."""
    from scipy import ndimage

    components, _ = ndimage.label(ink > 0, structure=np.ones((3, 3)))
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(components)]
    return components, np.array(boxes, dtype=int).reshape(-1, 4)


def assign_to_cells(
    ink: np.ndarray, components: np.ndarray, boxes: np.ndarray, down: np.ndarray, across: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cell (n,) of each component: that of its middle. Components of several cells are cut before.

    Args:
        ink: the picture (height, width).
        components: the component of each pixel.
        boxes: of the components, see `find_components`.
        down: borders between rows.
        across: borders between columns.
    """
    sizes = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], axis=1)
    largest = np.array([np.diff(down).max(), np.diff(across).max()])
    if (sizes > OVERHANG * largest).any():
        ink = ink.copy()
        ink[np.floor(down[1:-1]).astype(int)] = 0
        ink[:, np.floor(across[1:-1]).astype(int)] = 0
        components, boxes = find_components(ink)
    row = np.searchsorted(down[1:-1], (boxes[:, 0] + boxes[:, 2]) / 2, side="right")
    col = np.searchsorted(across[1:-1], (boxes[:, 1] + boxes[:, 3]) / 2, side="right")
    return row * (len(across) - 1) + col, ink, components


def group_digits(boxes: np.ndarray, rows: int | None, cols: int | None) -> tuple[np.ndarray, int, int]:
    """Divide components into rows, and each row into digits, by gaps.

    Returns:
        The cell (n,) of each component, -1 of dirt, then rows and columns.

    Raises:
        DataError: if rows differ in length, or there are not as many as are known.
    """
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    tallest = max(heights.max(), widths.max())
    counts = np.maximum(heights, widths) >= SPECK * tallest
    of = np.full(len(boxes), -1)
    row_of = group_by_gaps(boxes[:, 0], boxes[:, 2], ROW_GAP * heights.max(), counts)
    lengths, cells = [], 0
    for row in range(row_of.max() + 1):
        members = np.flatnonzero(row_of == row)
        digit_of = group_by_gaps(boxes[members, 1], boxes[members, 3], 0, counts[members])
        of[members] = np.where(digit_of >= 0, cells + digit_of, -1)
        lengths.append(int(digit_of.max()) + 1)
        cells += lengths[-1]
    if len({*lengths}) > 1 or len(lengths) != (rows or len(lengths)) or lengths[0] != (cols or lengths[0]):
        raise DataError(f"found {describe_rows(lengths)}: say rows= and cols=")
    return of, len(lengths), lengths[0]


def group_by_gaps(start: np.ndarray, end: np.ndarray, gap: float, counts: np.ndarray) -> np.ndarray:
    """Return the group (n,) of intervals, in order; those that overlap or nearly touch are one. -1 is in none.

    Args:
        start: where each interval begins.
        end: where it ends.
        gap: the largest distance within a group.
        counts: which intervals make groups; others only join the one that they lie in.
    """
    groups: list[list[float]] = []
    for index in np.argsort(start, kind="stable"):
        if not counts[index]:
            continue
        if groups and start[index] - groups[-1][1] <= gap:
            groups[-1][1] = max(groups[-1][1], end[index])
        else:
            groups.append([start[index], end[index]])
    middles = (start + end) / 2
    inside = [(middles >= first - gap) & (middles <= last + gap) for first, last in groups]
    return np.where(np.any(inside, axis=0), np.argmax(inside, axis=0), -1)


def describe_rows(lengths: list[int]) -> str:
    """Return in words how many digits there are in each row, as `3 rows with 2, 2 and 1 digits`."""
    if len(lengths) == 1:
        return f"1 row with {lengths[0]} digit{'s' * (lengths[0] > 1)}"
    return f"{len(lengths)} rows with {', '.join(map(str, lengths[:-1]))} and {lengths[-1]} digits"


def collect(ink: np.ndarray, components: np.ndarray, of: np.ndarray, rows: int, cols: int) -> Grid:
    """Make an image of the components of each cell; `of` (n,) is the cell of each."""
    cell_of = np.concatenate([[-1], of])[components]
    cells: list[Drawing] = []
    boxes: list[Box | None] = []
    for cell in range(rows * cols):
        mask = cell_of == cell
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(down):
            cells.append(Drawing(np.zeros((SIDE, SIDE), np.uint8), "empty"))
            boxes.append(None)
            continue
        part = slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1)
        digit = np.where(mask[part], ink[part], 0).astype(np.uint8)
        margin = max(digit.shape)  # so that most of the picture is ground
        cells.append(bitmap_to_image(np.pad(digit, margin)))
        boxes.append((int(across[0]), int(down[0]), digit.shape[1], digit.shape[0]))
    return Grid(rows, cols, tuple(cells), tuple(boxes))
