"""Predictions to look at: in the terminal after each validation, and as a sheet of pictures.

1. Keep what the task says of the first validation batch, while the evaluated weights are in place.
2. Print it once the epoch's metrics are known, around the progress bar.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm

from patchwork.figures.braille import labels, legend, render, speaks_braille

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from patchwork.tasks.base import Sample, Task

MARGIN, GAP, HEAD, LINE = 24, 30, 44, 24  # pixels: around the sheet, between samples, of its title, of a label
SHEET, LARGEST = 1300, 240  # pixels: the sheet's width, and the height of a cell, at most
SIZE, SMALLEST = 10.0, 5.0  # points, of labels
RIGHT, WRONG, FRAME = "#2f3b47", "#c0392b", "#c9ced3"


class Samples(pl.Callback):
    """Print a few predictions in Braille after each validation, if somebody is there to see them.

    Plain runs, whose output goes to a file, stay quiet. Random states and the modes of all modules are left as they
    were: a run is the same whether it is watched or not.

    Args:
        count: how many samples, from the start of the first validation batch.
        every_n_epochs: after every so many epochs.
        always: print also where stdout is no terminal.
    """

    def __init__(self, *, count: PositiveInt = 5, every_n_epochs: PositiveInt = 1, always: bool = False) -> None:
        self.count = count
        self.every_n_epochs = every_n_epochs
        self.always = always
        self.samples: list[Sample] = []
        self.explained = False

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        first = batch_idx == 0 and dataloader_idx == 0 and not trainer.sanity_checking
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if first and due and self.watched(trainer, pl_module):
            with _untouched(pl_module), trainer.precision_plugin.val_step_context(), torch.no_grad():
                samples = cast("Task", pl_module).samples(trim(batch, self.count), self.count)
            self.samples = samples if trainer.is_global_zero else []

    def watched(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Return whether this process is to predict: the first, for somebody to see it; the others if they share it."""
        seen = trainer.is_global_zero and (self.always or sys.stdout.isatty()) and speaks_braille()
        return trainer.strategy.broadcast(seen) if isinstance(pl_module, FSDPModule) else seen

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not at the epoch's end: what the task logs there is only now among the metrics.
        if not self.samples:
            return
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        head = f"epoch {trainer.current_epoch + 1}"
        monitor = cast("Task", pl_module).monitor
        if (value := trainer.callback_metrics.get(monitor)) is not None:
            head += f" · {monitor} {float(value):.4f}"
        if not self.explained:
            head += f"\n{legend(color=color)}"
            self.explained = True
        picture = render(self.samples, color=color, width=shutil.get_terminal_size().columns)
        self.samples = []
        _say(trainer, f"\n{head}\n{picture}\n")


def trim(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """Keep the first `count` samples of a batch: of its tensors and lists, whose first axis is the batch."""
    return {
        name: value[:count] if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim) else value
        for name, value in batch.items()
    }


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Put the random states of all devices and the mode of each part of a module back to what they were."""
    modes = [(part, part.training) for part in module.modules()]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with pl.utilities.seed.isolate_rng():
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training
            if mps is not None:
                torch.mps.set_rng_state(mps)


def _say(trainer: pl.Trainer, text: str) -> None:
    bar = trainer.progress_bar_callback
    if bar is None or isinstance(bar, pl.callbacks.TQDMProgressBar):
        tqdm.write(text)  # around all live bars; the callback's own print is silent once its bar is closed
    else:
        bar.print(text)


def picture(samples: Sequence[Sample], path: Path, title: str | None = None) -> None:
    """Draw samples to a PNG sheet, each cell's predicted label beneath it; a wrong one is red and names the expected.

    Where there are no samples, nothing is written.
    """
    if not samples:
        return
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from patchwork.figures.curves import DPI, INK, LARGE, QUIET, SMALL, save, text_width

    # Everything is measured in pixels, so that a pixel of an image becomes a whole number of pixels of the sheet.
    high, wide = (max(sample.image.shape[axis] for sample in samples) for axis in (1, 2))
    columns, zoom = _arrange(len(samples), high, wide, max(sample.rows for sample in samples))
    across, down = max(round(wide * zoom), 1), max(round(high * zoom), 1)

    # Labels as large as the narrowest cell allows; what was expected goes below where there is no room beside.
    room = min(across / sample.cols if sample.cols > 1 else across + GAP // 2 for sample in samples) - 8
    pairs = [list(zip(*labels(sample), strict=True)) for sample in samples]
    inline = [_caption(expected, said)[0] for cells in pairs for expected, said in cells]
    stacked = max(text_width(text, 0.8 * SIZE) for text in inline) * DPI > room
    captions = [[_caption(expected, said, stacked) for expected, said in cells] for cells in pairs]
    widest = max(text_width(text, SIZE) for cells in captions for lines in cells for text in lines) * DPI
    size = max(SIZE * min(1.0, room / max(widest, 1.0)), SMALLEST)
    line = round(LINE * size / SIZE)
    deep = line * max(len(lines) for cells in captions for lines in cells)

    rows = -(-len(samples) // columns)
    wrong = any(expected != said for cells in pairs for expected, said in cells)
    note = f"red: wrong; {'below it' if stacked else 'in brackets'}, what was expected" if wrong else ""
    head, foot = (HEAD if title else 0), (LINE + 12 if note else 0)
    pitch = down + deep * max(sample.rows for sample in samples) + GAP
    content = columns * (across + GAP) - GAP
    texts = max(text_width(title or "", LARGE), text_width(note, SMALL)) * DPI
    width, height = 2 * MARGIN + max(content, round(texts)), 2 * MARGIN + head + rows * pitch - GAP + foot
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def write(text: str, x: float, y: float, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, parse_math=False, **style)

    if title:
        write(title, MARGIN, MARGIN, va="top", fontsize=LARGE, color=INK)
    if note:
        write(note, MARGIN, height - MARGIN, va="bottom", fontsize=SMALL, color=QUIET)
    for i, sample in enumerate(samples):
        tall, broad = (max(round(length * zoom), 1) for length in sample.image.shape[1:])
        x = MARGIN + i % columns * (across + GAP) + (across - broad) // 2
        y = MARGIN + head + i // columns * pitch
        axes = figure.add_axes((x / width, 1 - (y + tall) / height, broad / width, tall / height))
        _show(axes, sample, smoothly=zoom < 1)
        for j, (expected, said) in enumerate(pairs[i]):
            row, column = divmod(j, sample.cols)
            right = said == expected
            if not right and len(pairs[i]) > 1:
                dx, dy = 2 * sample.cols / broad, 2 * sample.rows / tall  # just inside the cell
                edge = Rectangle((column + dx, row + dy), 1 - 2 * dx, 1 - 2 * dy, fill=False, ec=WRONG, lw=1.2)
                axes.add_patch(edge)
            middle, top = x + (column + 0.5) * broad / sample.cols, y + tall + 8 + row * deep
            color = QUIET if sample.expected is None else RIGHT if right else WRONG
            style = {"ha": "center", "va": "top", "fontsize": size, "color": color}
            for k, text in enumerate(captions[i][j]):
                write(text, middle, top + k * line, **style)
    save(figure, path)


def _show(axes: Axes, sample: Sample, *, smoothly: bool) -> None:
    """Fill a panel with a sample's image, one unit to a cell, with fine lines between the cells."""
    image = sample.image.detach().float().cpu().nan_to_num().clamp(0, 1)
    axes.imshow(
        (image.permute(1, 2, 0) if len(image) == 3 else image.mean(dim=0)).numpy(),
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, sample.cols, sample.rows, 0),
        aspect="auto",
        interpolation="antialiased" if smoothly else "nearest",
    )
    axes.set(xticks=range(1, sample.cols), yticks=range(1, sample.rows))
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.grid(True, color=FRAME, lw=0.5, alpha=0.5)
    for spine in axes.spines.values():
        spine.set(color=FRAME, lw=0.6)


def _arrange(count: int, high: int, wide: int, rows: int) -> tuple[int, float]:
    """Choose the columns of a sheet and the zoom of its images: a sheet about twice as wide as high, few gaps."""
    best = (math.inf, 1, 1.0)
    for columns in range(1, min(count, 12) + 1):
        zoom = min((SHEET - 2 * MARGIN - (columns - 1) * GAP) / (columns * wide), LARGEST * rows / high)
        zoom = float(math.floor(zoom)) if zoom >= 1 else zoom
        lines = -(-count // columns)
        shape = columns * (wide * zoom + GAP) / (lines * (high * zoom + LINE * rows + GAP))
        gaps = (columns * lines - count) / columns
        best = min(best, (abs(math.log(shape / 2.2)) + gaps, columns, zoom))
    return best[1], best[2]


def _caption(expected: str, said: str, stacked: bool = False) -> list[str]:
    """Word the label of a cell: one line, or for a wrong one two if `stacked`."""
    if said == expected:
        return [said]
    lines = [said or "∅", f"({expected})"]
    return lines if stacked else [" ".join(lines)]
