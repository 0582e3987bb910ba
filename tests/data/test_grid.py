"""Grids of digits are found in pictures, whatever their scale, place, polarity and lattice."""

from collections.abc import Callable

import numpy as np
import pytest
from drawing_helpers import drawings

from patchwork.core.errors import DataError
from patchwork.data.drawing import strokes_to_image
from patchwork.data.grid import describe_rows, find_grid

DIGITS = [strokes_to_image(strokes, 280).image for _, strokes in drawings(60)]


def compose(images: list[np.ndarray], rows: int, cols: int, cell: int, factor: int, seed: int = 0) -> np.ndarray:
    """Draw images, enlarged, at random places of their cells."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((rows * cell, cols * cell), np.uint8)
    for index, image in enumerate(images[: rows * cols]):
        ink = np.kron(image[np.ix_(image.any(axis=1), image.any(axis=0))], np.ones((factor, factor), np.uint8))
        top, left = (rng.integers(4, cell - size - 4) for size in ink.shape)
        top, left = top + index // cols * cell, left + index % cols * cell
        canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return canvas


def with_lattice(canvas: np.ndarray, rows: int, cols: int) -> np.ndarray:
    drawn = canvas.copy()
    for row in range(1, rows):
        drawn[row * len(canvas) // rows - 1 : row * len(canvas) // rows + 1] = 128
    for col in range(1, cols):
        drawn[:, col * canvas.shape[1] // cols - 1 : col * canvas.shape[1] // cols + 1] = 128
    return drawn


def assert_same_images(gray: np.ndarray, rows: int, cols: int, given: bool) -> None:
    grid = find_grid(gray, rows, cols) if given else find_grid(gray)
    assert (grid.rows, grid.cols) == (rows, cols)
    for cell, expected in zip(grid.cells, DIGITS, strict=False):
        assert np.abs(cell.image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 4), (3, 2)])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("change", [np.array, lambda gray: 255 - gray], ids=["light", "dark"])
def test_grids_are_found(shape: tuple[int, int], given: bool, change: Callable[..., np.ndarray]) -> None:
    assert_same_images(change(compose(DIGITS, *shape, cell=110, factor=4)), *shape, given)


@pytest.mark.parametrize("given", [False, True])
def test_a_lattice_is_no_ink(given: bool) -> None:
    assert_same_images(with_lattice(compose(DIGITS, 2, 2, 120, 4), 2, 2), 2, 2, given)


def test_cells_of_mnist_are_left_alone() -> None:
    cells = np.stack(DIGITS[:6])
    gray = cells.reshape(2, 3, 28, 28).swapaxes(1, 2).reshape(56, 84)
    grid = find_grid(gray)
    assert (grid.rows, grid.cols) == (2, 3)
    np.testing.assert_array_equal([cell.image for cell in grid.cells], cells)
    assert grid.boxes[4] == (28, 28, 28, 28)


def test_a_digit_that_reaches_over_a_border_is_not_cut() -> None:
    gray = np.zeros((200, 200), np.uint8)
    gray[10:190, 20:30] = 255
    gray[50:60, 20:110] = 255  # beyond the middle
    gray[10:190, 150:160] = 255
    grid = find_grid(gray, 1, 2)
    assert grid.boxes == ((20, 10, 90, 180), (150, 10, 10, 180))


def test_uneven_rows_are_named() -> None:
    gray = compose(DIGITS[:5], 3, 2, 110, 4)
    with pytest.raises(DataError, match="found 3 rows with 2, 2 and 1 digits: say rows= and cols="):
        find_grid(gray)
    assert [cell.problem for cell in find_grid(gray, 3, 2).cells] == [None] * 5 + ["empty"]
    assert describe_rows([1]) == "1 row with 1 digit"


@pytest.mark.parametrize("value", [0, 255])
def test_a_blank_picture_has_no_digits(value: int) -> None:
    with pytest.raises(DataError, match="shows nothing"):
        find_grid(np.full((100, 90), value, np.uint8), 2, 2)
