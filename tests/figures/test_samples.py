"""The sheet of predictions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from patchwork.figures.samples import MARGIN, MARK_COLORS, plot_samples
from patchwork.figures.style import ERROR, save_figure
from patchwork.tasks.base import Sample

GRID = Sample(torch.rand(1, 56, 56), list("4071"), list("4079"), 2, 2)
UNUSUAL_SAMPLES = {
    "one digit": [Sample(torch.rand(1, 28, 28), ["3"], ["3"])],
    "grids": [GRID] * 10,
    "color": [Sample(torch.rand(3, 32, 32), ["past participle"], ["present simple"])] * 7,
    "a long strip": [Sample(torch.rand(1, 28, 2800), ["47"], ["31"])] * 2,
    "a large image": [Sample(torch.rand(1, 500, 400), ["x"], [""])],
    "a line one pixel high": [Sample(torch.rand(1, 1, 9000), ["x"], ["y"])],
    "one pixel": [Sample(torch.zeros(1, 1, 1), [""], [""])],
    "two channels, not finite": [Sample(torch.full((2, 9, 5), torch.nan), ["a"], ["b"])],
    "mixed sizes": [GRID, Sample(torch.rand(1, 7, 90), ["$x^$"], ["a long label, far longer than its cell, " * 3])],
    "fewer labels than cells": [Sample(torch.rand(1, 28, 84), ["1"], [], 1, 3)],
    "cells of one pixel": [Sample(torch.rand(1, 4, 4), list("0" * 16), list("1" * 16), 4, 4)],
}
LONG_TITLE = "seq2seq · $epoch 7, and a title that is much wider than the image of one digit"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "title"), [*((name, LONG_TITLE) for name in UNUSUAL_SAMPLES), ("one digit", None), ("grids", None)]
)
def test_sheet_has_a_reasonable_size_and_contains_all_texts(name: str, title: str | None) -> None:
    figure = plot_samples(UNUSUAL_SAMPLES[name], title)
    width, height = figure.bbox.size
    assert 50 <= width <= 1400
    assert 50 <= height <= 4000
    figure.draw_without_rendering()
    for text in figure.texts:
        box = text.get_window_extent()
        if not box.width <= width - MARGIN:  # a label that is longer than its cell even in the smallest font
            assert name == "mixed sizes"
            continue
        assert 0 <= box.x0 <= box.x1 <= width
        assert 0 <= box.y0 <= box.y1 <= height


def texts_top_down(figure: Figure) -> list[Any]:
    return sorted(figure.texts, key=lambda text: (-text.get_position()[1], text.get_position()[0]))


def test_each_cell_is_labeled_below_in_raster_order() -> None:
    figure = plot_samples([GRID, Sample(torch.rand(1, 28, 28), ["5"], ["5"])], "a title")
    texts = texts_top_down(figure)
    assert [text.get_text() for text in texts][:6] == ["a title", "5", "4", "0", "7", "9 (1)"]
    assert [text.get_text() for text in texts if text.get_color() == ERROR] == ["9 (1)"]


def contains_error_color(path: Path) -> bool:
    rgb = np.array([int(ERROR[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return bool((np.abs(imread(path)[..., :3] - rgb).max(-1) < 0.01).any())


def test_only_wrong_predictions_are_red(tmp_path: Path) -> None:
    save_figure(plot_samples([GRID]), tmp_path / "wrong.png")
    save_figure(plot_samples([Sample(GRID.image, GRID.target, GRID.target, 2, 2)]), tmp_path / "correct.png")
    assert contains_error_color(tmp_path / "wrong.png")
    assert not contains_error_color(tmp_path / "correct.png")


@pytest.mark.parametrize(("size", "count"), [((28, 28), 1), ((28, 28), 10), ((32, 32), 24), ((13, 70), 3)])
def test_images_are_shown_pixel_exact(tmp_path: Path, size: tuple[int, int], count: int) -> None:
    images = (torch.rand(count, 1, *size) * 255).round() / 255
    figure = plot_samples([Sample(image, ["1"], ["1"]) for image in images])
    save_figure(figure, tmp_path / "sheet.png")
    sheet = imread(tmp_path / "sheet.png")[..., 0]
    for image, axes in zip(images, figure.axes, strict=True):
        box = axes.get_window_extent()
        zoom = round(box.width) / size[1]
        assert zoom == math.floor(zoom) == round(box.height) / size[0]
        zoom, top, left = int(zoom), len(sheet) - round(box.y1), round(box.x0)
        centers = sheet[top + zoom // 2 :: zoom, left + zoom // 2 :: zoom][: size[0], : size[1]]
        assert np.abs(centers - image[0].numpy()).max() < 2 / 255


@pytest.mark.parametrize("count", [4, 8, 10, 16, 24])
@pytest.mark.parametrize("length", [1, 2, 6, 10, 11])
def test_digits_are_enlarged(count: int, length: int) -> None:
    sample = Sample(torch.rand(1, 28, 28 * length), ["1"], ["1"], 1, length)
    box = plot_samples([sample] * count).axes[0].get_window_extent()
    assert round(box.height) >= 56
    assert round(box.height) % 28 == 0


def test_an_empty_list_of_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        plot_samples([])


def test_marked_cells_are_outlined_and_explained() -> None:
    images = torch.rand(1, 28, 84)
    marked = [Sample(images, ["yes"], ["no"], 1, 3, marks={0: "anchor", peak: "looked at"}) for peak in (1, 2)]
    figure = plot_samples(marked)
    assert "blue: anchor · green: looked at" in figure.texts[0].get_text()
    for axes, peak in zip(figure.axes, (1, 2), strict=True):
        boxes = {round(patch.get_x()): to_hex(patch.get_edgecolor()) for patch in axes.patches}
        assert boxes == {0: MARK_COLORS["blue"], peak: MARK_COLORS["green"]}


def test_one_answer_for_several_cells_is_centered_below_them() -> None:
    figure = plot_samples([Sample(torch.rand(1, 28, 140), ["there"], ["not there"], 1, 5)])
    figure.draw_without_rendering()
    (caption,) = [text for text in figure.texts if text.get_text() == "not there (there)"]
    box = figure.axes[0].get_window_extent()
    assert caption.get_window_extent().x0 == pytest.approx((box.x0 + box.x1) / 2, abs=caption.get_window_extent().width)


def test_notes_are_below_the_captions() -> None:
    samples = [Sample(torch.rand(1, 28, 28), ["3"], ["5"], note=f"{number}%") for number in (90, 80)]
    figure = plot_samples(samples, "a title")
    texts = [text.get_text() for text in texts_top_down(figure)]
    assert texts[:5] == ["a title", "5 (3)", "5 (3)", "90%", "80%"]
