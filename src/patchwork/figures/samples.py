"""A sheet of predictions as a PNG: samples in a grid, the predicted label beneath each cell.

All lengths are in pixels of the sheet, and each pixel of an image becomes a whole number of them: images are shown
exactly, not resampled.

1. Choose the grid: how many samples per row, and how far they are enlarged (`choose_grid`).
2. Choose the captions' font size, and whether a target is written next to a wrong prediction or below it
   (`fit_captions`).
3. Plot each sample at its position (`plot_sample`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from patchwork.figures.labels import CellLabel, cell_labels
from patchwork.figures.style import DPI, ERROR, FRAME, LARGE, MUTED, PALETTE, SMALL, TEXT, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from patchwork.tasks.base import Sample

MARGIN, GAP, HEADER_HEIGHT = 24, 30, 44  # pixels: around the sheet, between samples, of the title
LINE_HEIGHT, NOTE_HEIGHT = 24, 36  # pixels: of a caption's line, of the note below the samples
MAX_WIDTH, MAX_CELL_HEIGHT, MAX_COLUMNS = 1300, 240, 12
ASPECT_RATIO = 2.2  # of the sheet: width / height
MIN_CELL_HEIGHT = 56  # pixels, below which a digit is hard to read
FONT_SIZE, MIN_FONT_SIZE, MIN_INLINE_FONT_SIZE = 10.0, 5.0, 8.0  # points, of captions
NO_PREDICTION = "∅"
MARK_COLORS = {"blue": PALETTE[0], "green": PALETTE[2]}  # of marked cells, by their names in the note


class Grid(NamedTuple):
    """Samples per row, sheet pixels per image pixel, and the size (pixels of the sheet) of the largest image."""

    columns: int
    zoom: float
    width: int
    height: int


class Captions(NamedTuple):
    """The lines of text beneath each cell of each sample, their font size (points) and line height (pixels)."""

    lines: list[list[list[str]]]
    stacked: bool
    font_size: float
    line_height: int

    @property
    def height(self) -> int:
        """The height in pixels of the tallest caption."""
        return self.line_height * max(len(lines) for cells in self.lines for lines in cells)


class Sheet:
    """A figure in coordinates of pixels from its top left corner."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.figure import Figure

        self.width = width
        self.height = height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def write(self, text: str, x: float, y: float, **style: Any) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, text, parse_math=False, **style)

    def add_axes(self, x: float, y: float, width: float, height: float) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)


def plot_samples(samples: Sequence[Sample], title: str | None = None) -> Figure:
    """Plot samples on a sheet; wrong predictions are red, with the target next to or below them.

    Args:
        samples: samples, whose images (C, height, width) may differ in size.
        title: text above the samples, if any.

    Raises:
        ValueError: if there are no samples.
    """
    if not samples:
        raise ValueError("there are no samples to plot")
    labels = [cell_labels(sample) for sample in samples]
    grid = choose_grid(samples)
    captions = fit_captions(samples, labels, grid)
    mark_colors = choose_mark_colors(samples)
    note = explain(mark_colors, captions, has_errors=any(not label.is_correct for cells in labels for label in cells))

    header_height = HEADER_HEIGHT if title else 0
    notes_height = LINE_HEIGHT if any(sample.note for sample in samples) else 0
    row_height = grid.height + captions.height * max(sample.rows for sample in samples) + notes_height + GAP
    num_rows = math.ceil(len(samples) / grid.columns)
    images_width = grid.columns * (grid.width + GAP) - GAP
    texts_width = round(max(text_width(title or "", LARGE), text_width(note, SMALL)) * DPI)
    sheet = Sheet(
        width=2 * MARGIN + max(images_width, texts_width),
        height=2 * MARGIN + header_height + num_rows * row_height - GAP + (NOTE_HEIGHT if note else 0),
    )
    if title:
        sheet.write(title, MARGIN, MARGIN, va="top", fontsize=LARGE, color=TEXT)
    if note:
        sheet.write(note, MARGIN, sheet.height - MARGIN, va="bottom", fontsize=SMALL, color=MUTED)
    for index, sample in enumerate(samples):
        row, column = divmod(index, grid.columns)
        x, y = MARGIN + column * (grid.width + GAP), MARGIN + header_height + row * row_height
        plot_sample(sheet, x, y, sample, labels[index], captions, captions.lines[index], grid)
        mark_cells(sheet.figure.axes[-1], sample, mark_colors)
    return sheet.figure


def choose_mark_colors(samples: Sequence[Sample]) -> dict[str, str]:
    """Return the name of a color for each kind of marked cells."""
    kinds = dict.fromkeys(kind for sample in samples for kind in sample.marks.values())
    return dict(zip(kinds, itertools.cycle(MARK_COLORS), strict=False))


def explain(mark_colors: dict[str, str], captions: Captions, *, has_errors: bool) -> str:
    """Return the note below the samples."""
    notes = [f"{color}: {kind}" for kind, color in mark_colors.items()]
    if has_errors:
        notes.append(f"red: wrong; the target is {'below' if captions.stacked else 'in brackets'}")
    return " · ".join(notes)


def mark_cells(axes: Axes, sample: Sample, mark_colors: dict[str, str]) -> None:
    """Outline the marked cells of a sample."""
    for index, kind in sample.marks.items():
        row, column = divmod(index, sample.cols)
        outline_cell(axes, row, column, dx=0.03, dy=0.03, color=MARK_COLORS[mark_colors[kind]], lw=2.0)


def choose_grid(samples: Sequence[Sample]) -> Grid:
    """Choose the grid whose sheet is closest to `ASPECT_RATIO`, with readable cells and a full last row, if possible.

    A sheet may be a little wider than `MAX_WIDTH` where its images are enlarged by a whole number then.
    """
    height, width = (max(sample.image.shape[axis] for sample in samples) for axis in (1, 2))
    rows_per_sample = max(sample.rows for sample in samples)
    candidates = []
    for columns in range(1, min(len(samples), MAX_COLUMNS) + 1):
        available_width = MAX_WIDTH - 2 * MARGIN - (columns - 1) * GAP
        zoom = min(available_width / (columns * width), MAX_CELL_HEIGHT * rows_per_sample / height)
        zoom = float(math.floor(zoom + 0.05)) if zoom >= 1 else zoom
        num_rows = math.ceil(len(samples) / columns)
        sheet_height = num_rows * (height * zoom + LINE_HEIGHT * rows_per_sample + GAP)
        aspect_ratio = columns * (width * zoom + GAP) / sheet_height
        empty = (columns * num_rows - len(samples)) / columns
        tiny = max(math.log2(MIN_CELL_HEIGHT * rows_per_sample / (height * zoom)), 0)
        candidates.append((abs(math.log(aspect_ratio / ASPECT_RATIO)) + empty + tiny, columns, zoom))
    _, columns, zoom = min(candidates)
    return Grid(columns, zoom, to_sheet_pixels(width, zoom), to_sheet_pixels(height, zoom))


def to_sheet_pixels(length: int, zoom: float) -> int:
    return max(round(length * zoom), 1)


def fit_captions(samples: Sequence[Sample], labels: list[list[CellLabel]], grid: Grid) -> Captions:
    """Choose captions as large as the narrowest cell allows, with targets below if they do not fit beside."""
    narrowest = min(
        grid.width / sample.cols if sample.cols > 1 and not has_one_answer(sample) else grid.width + GAP // 2
        for sample in samples
    )
    available = narrowest - 8
    inline = [[caption_lines(label, stacked=False) for label in cells] for cells in labels]
    stacked = widest_line(inline, MIN_INLINE_FONT_SIZE) > available
    lines = [[caption_lines(label, stacked=stacked) for label in cells] for cells in labels]
    scale = min(1.0, available / max(widest_line(lines, FONT_SIZE), 1.0))
    font_size = max(FONT_SIZE * scale, MIN_FONT_SIZE)
    return Captions(lines, stacked, font_size, round(LINE_HEIGHT * font_size / FONT_SIZE))


def caption_lines(label: CellLabel, *, stacked: bool) -> list[str]:
    """Return a cell's caption: its prediction, and for a wrong one the target, on a line of its own if `stacked`."""
    if label.is_correct:
        return [label.prediction]
    lines = [label.prediction or NO_PREDICTION, f"({label.target})"]
    return lines if stacked else [" ".join(lines)]


def widest_line(captions: list[list[list[str]]], font_size: float) -> float:
    """Return the width in pixels of the widest line of all captions."""
    return max(text_width(line, font_size) for cells in captions for lines in cells for line in lines) * DPI


def plot_sample(
    sheet: Sheet,
    x: int,
    y: int,
    sample: Sample,
    labels: list[CellLabel],
    captions: Captions,
    lines: list[list[str]],
    grid: Grid,
) -> None:
    """Plot one sample, centered in its position in the grid, and its captions.

    Args:
        sheet: sheet to plot on.
        x: left edge of the position, in pixels.
        y: top edge of the position, in pixels.
        sample: sample to plot.
        labels: labels of its cells.
        captions: font size and line height of all captions.
        lines: lines of the caption of each of its cells.
        grid: size and zoom of the images.
    """
    height, width = (to_sheet_pixels(length, grid.zoom) for length in sample.image.shape[1:])
    x += (grid.width - width) // 2
    axes = sheet.add_axes(x, y, width, height)
    show_image(axes, sample, interpolation="antialiased" if grid.zoom < 1 else "nearest")
    for index, label in enumerate(labels):
        row, column = divmod(index, sample.cols)
        if not label.is_correct and len(labels) > 1 and not has_one_answer(sample):
            outline_cell(axes, row, column, dx=2 * sample.cols / width, dy=2 * sample.rows / height)
        color = MUTED if sample.target is None else TEXT if label.is_correct else ERROR
        center = x + (width / 2 if has_one_answer(sample) else (column + 0.5) * width / sample.cols)
        top = y + height + 8 + row * captions.height
        for i, line in enumerate(lines[index]):
            line_y = top + i * captions.line_height
            sheet.write(line, center, line_y, ha="center", va="top", fontsize=captions.font_size, color=color)
    if sample.note:
        note_y = y + height + 8 + captions.height * sample.rows
        sheet.write(sample.note, x + width / 2, note_y, ha="center", va="top", fontsize=SMALL, color=MUTED)


def has_one_answer(sample: Sample) -> bool:
    """Return whether a sample of several cells has one answer for all of them."""
    return len(sample.prediction) == 1 and sample.rows == 1 and sample.cols > 1


def show_image(axes: Axes, sample: Sample, *, interpolation: str) -> None:
    """Show a sample's image (C, height, width) in axes whose unit is one cell, with thin lines between the cells."""
    image = sample.image.detach().float().cpu().nan_to_num().clamp(0, 1)
    axes.imshow(
        (image.permute(1, 2, 0) if len(image) == 3 else image.mean(dim=0)).numpy(),
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, sample.cols, sample.rows, 0),
        aspect="auto",
        interpolation=interpolation,
    )
    axes.set(xticks=range(1, sample.cols), yticks=range(1, sample.rows))
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.grid(True, color=FRAME, lw=0.5, alpha=0.5)
    for spine in axes.spines.values():
        spine.set(color=FRAME, lw=0.6)


def outline_cell(
    axes: Axes, row: int, column: int, *, dx: float, dy: float, color: str = ERROR, lw: float = 1.2
) -> None:
    """Outline a cell just inside its border, by default in red."""
    from matplotlib.patches import Rectangle

    box = Rectangle((column + dx, row + dy), 1 - 2 * dx, 1 - 2 * dy, fill=False, ec=color, lw=lw)
    axes.add_patch(box)
