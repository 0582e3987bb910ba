"""Drawings become images of MNIST's form, whatever canvas and brush they were drawn with."""

import numpy as np
import pytest
from drawing_helpers import draw, drawings, run_node

from patchwork.data.drawing import (
    BOX,
    PEN,
    SIDE,
    SPEC_VERSION,
    bitmap_to_image,
    center_by_mass,
    is_mnist_like,
    split_strokes,
    strokes_to_image,
)

DRAWINGS = drawings(120)
IMAGES = [strokes_to_image(strokes, 280).image for _, strokes in DRAWINGS]


def center_of_mass(image: np.ndarray) -> np.ndarray:
    positions = np.arange(len(image)) + 0.5
    return np.array([(image.sum(axis=axis) * positions).sum() / image.sum() for axis in (0, 1)])


def extent(image: np.ndarray) -> int:
    rows, cols = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return max(np.ptp(rows), np.ptp(cols)) + 1


def stroke_width(image: np.ndarray) -> float:
    """Return 2 · area / perimeter of the ink, in pixels."""
    ink = np.pad(np.kron(image, np.ones((4, 4), np.uint8)) > 127, 1)
    perimeter = sum((ink != np.roll(ink, 1, axis)).sum() for axis in (0, 1))
    return 2 * ink.sum() / perimeter / 4


def test_drawings_have_the_form_of_mnist() -> None:
    for image in IMAGES:
        assert is_mnist_like(image)
        assert extent(image) == BOX
        assert image.max() == 255
        assert ((center_of_mass(image) > 14) & (center_of_mass(image) <= 15)).all()


def test_ink_and_stroke_width_are_those_of_mnist() -> None:
    ink = np.median([image.sum() / 255 for image in IMAGES])
    assert ink == pytest.approx(101, rel=0.2)  # of the test images
    assert np.median([stroke_width(image) for image in IMAGES]) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("scale", [0.5, 1, 2, 3.7])
def test_size_place_and_resolution_leave_no_trace(scale: float) -> None:
    for (_, strokes), expected in zip(DRAWINGS[:30], IMAGES, strict=False):
        moved = [points * scale + (31.7, -12.3) for points in strokes]
        image = strokes_to_image(moved, 280 * scale).image
        assert np.abs(image.astype(int) - expected).max() <= 1


def test_points_in_between_change_next_to_nothing() -> None:
    stroke = np.stack([np.linspace(10, 90, 9), np.linspace(20, 200, 9)], axis=1)
    dense = np.stack([np.linspace(10, 90, 400), np.linspace(20, 200, 400)], axis=1)
    np.testing.assert_array_equal(strokes_to_image([stroke], 280).image, strokes_to_image([dense], 280).image)


def test_a_straight_line_is_as_wide_as_the_pen() -> None:
    image = strokes_to_image([[(0.0, 0.0), (0.0, 100.0)]], 280).image
    assert image[SIDE // 2].sum() / 255 == pytest.approx(PEN, abs=0.15)


@pytest.mark.parametrize(
    ("strokes", "problem"),
    [
        ([], "empty"),
        ([[]], "empty"),
        ([[(5, 5)]], "small"),
        ([[(5, 5), (9, 8)]], "small"),
        ([[(5, 5), (45, 80)]], None),
    ],
)
def test_slips_are_no_digits(strokes: list[list[tuple[float, float]]], problem: str | None) -> None:
    drawing = strokes_to_image(strokes, 280)
    assert drawing.problem == problem
    assert drawing.image.any() == (problem is None)


def test_strokes_are_never_cut() -> None:
    across = [(10.0, 10.0), (60.0, 20.0), (120.0, 30.0)]  # a little beyond the first of two cells of 100
    dot = [(150.0, 150.0)]
    outside = [(-5.0, 250.0), (-9.0, 260.0)]
    assert split_strokes([across, dot, outside], 200, 200, 2, 2) == [[across], [], [outside], [dot]]
    assert split_strokes([across], 200, 200, 1, 1) == [[across]]


@pytest.mark.parametrize("factor", [2, 5, 8])
@pytest.mark.parametrize("inverted", [False, True])
def test_enlarged_images_come_back(factor: int, inverted: bool) -> None:
    rng = np.random.default_rng(0)
    for image in IMAGES[:40]:
        canvas = np.zeros((400, 300), np.uint8)
        top, left = rng.integers(0, 400 - 28 * factor), rng.integers(0, 300 - 28 * factor)
        canvas[top : top + 28 * factor, left : left + 28 * factor] = np.kron(image, np.ones((factor, factor), np.uint8))
        drawing = bitmap_to_image(255 - canvas if inverted else canvas)
        assert drawing.problem is None
        assert np.abs(drawing.image.astype(int) - image).max() <= 1


def test_what_mnist_has_is_left_alone() -> None:
    for image in IMAGES[:20]:
        np.testing.assert_array_equal(bitmap_to_image(image).image, image)


def test_uneven_paper_is_no_ink() -> None:
    rng = np.random.default_rng(0)
    ink = np.kron(IMAGES[3], np.ones((6, 6))) / 255
    paper = 200 + np.linspace(0, 25, 168)[None] + rng.normal(0, 3, (168, 168))
    drawing = bitmap_to_image((paper * (1 - 0.8 * ink)).clip(0, 255).astype(np.uint8))
    correlation = np.corrcoef(drawing.image.ravel(), IMAGES[3].ravel())[0, 1]
    assert correlation > 0.9


@pytest.mark.parametrize("value", [0, 255, 90])
def test_a_blank_picture_is_empty(value: int) -> None:
    assert bitmap_to_image(np.full((60, 60), value, np.uint8)).problem == "empty"


def test_a_speck_is_not_enlarged() -> None:
    canvas = np.zeros((200, 200), np.uint8)
    canvas[50:54, 60:63] = 255
    assert bitmap_to_image(canvas).problem == "small"


def test_mass_is_centered_by_whole_pixels() -> None:
    box = np.zeros((BOX, BOX), np.uint8)
    box[:, 3] = 255  # its center of mass is at 3.5 and 10
    image = center_by_mass(box)
    assert np.flatnonzero(image.any(axis=0)).tolist() == [14]
    assert np.flatnonzero(image.any(axis=1)).tolist() == [*range(5, 25)]


# --- its twin in JavaScript ------------------------------------------------------------------------------------------

NODE = """
    const { SPEC_VERSION, bitmapToImage, splitStrokes, strokesToImage } = await import(`${lab}/drawing.js`);
    const start = performance.now();
    const drawn = data.drawings.map((strokes) => strokesToImage(strokes, 280));
    const milliseconds = (performance.now() - start) / data.drawings.length;
    console.log(JSON.stringify({
        version: SPEC_VERSION, milliseconds,
        images: drawn.map(({ image }) => [...image]), problems: drawn.map(({ problem }) => problem),
        cells: data.canvases.map((strokes) => splitStrokes(strokes, 280, 280, 2, 3).map((cell) => cell.length)),
        bitmaps: data.bitmaps.map(({ gray, width, height }) => {
            return [...bitmapToImage(Uint8Array.from(gray), width, height).image];
        }),
    }));
"""


def test_the_page_makes_the_same_images() -> None:
    made = drawings(500, seed=1)
    cases = [[points.tolist() for points in strokes] for _, strokes in made]
    cases += [[], [[]], [[[5, 5]]], [[[5, 5], [9, 8]]], [[[0, 0], [0, 100]]], [[[0, 0], [0, 0], [50, 60]]]]
    rng = np.random.default_rng(0)
    bitmaps = [rng.integers(0, 256, (40, 31)).astype(np.uint8), IMAGES[0], np.full((30, 30), 255, np.uint8)]
    bitmaps += [np.pad(np.kron(image, np.ones((3, 3), np.uint8)), rng.integers(0, 30)) for image in IMAGES[:40]]
    bitmaps += [255 - bitmap // 2 for bitmap in bitmaps[3:12]]
    given = [{"gray": b.ravel().tolist(), "width": b.shape[1], "height": b.shape[0]} for b in bitmaps]
    result = run_node(NODE, {"drawings": cases, "canvases": cases, "bitmaps": given})
    assert result["version"] == SPEC_VERSION
    ours = [strokes_to_image(strokes, 280) for strokes in cases]
    assert result["problems"] == [drawing.problem for drawing in ours]
    theirs = np.array(result["images"]).reshape(-1, SIDE, SIDE)
    assert np.abs(theirs - np.array([drawing.image for drawing in ours], dtype=int)).max() <= 1
    assert result["cells"] == [[len(cell) for cell in split_strokes(s, 280, 280, 2, 3)] for s in cases]
    expected = np.array([bitmap_to_image(bitmap).image for bitmap in bitmaps], dtype=int)
    assert np.abs(np.array(result["bitmaps"]).reshape(expected.shape) - expected).max() <= 1


def test_a_dot_of_a_digit_is_kept() -> None:
    strokes = [*draw(1, 0, np.random.default_rng(0)), np.array([[150.0, 30.0]])]
    assert extent(strokes_to_image(strokes, 280).image) == BOX
