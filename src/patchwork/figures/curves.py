"""Training curves: losses, learning rate and validation metrics of a run, from its metrics.csv.

1. Read the wide table: a blank cell means not logged, and values that are not finite are skipped.
2. Left: losses over steps, the training loss smoothed; below them, the learning rate.
3. Right: validation metrics over epochs, with the best epoch of the monitored metric marked.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from patchwork.figures.style import DPI, GRID, LARGE, MUTED, NORMAL, PALETTE, SMALL, TEXT, line_style, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_SIZE = (10.5, 4.0)  # inches
MAX_NAME_LENGTH = 28  # characters of a metric's name
# Panels, as fractions of the figure:
TOP, BOTTOM, RIGHT = 0.88, 0.13, 0.985
LOSS_LEFT, LOSS_RIGHT, LEARNING_RATE_TOP = 0.065, 0.385, 0.30
LOSS_BOTTOM = 0.34  # above the learning rate
METRICS_LEFT, MIN_METRICS_WIDTH = 0.565, 0.15


class Series(NamedTuple):
    """The finite values (n,) of one column, with the steps and epochs at which they were logged."""

    step: np.ndarray
    epoch: np.ndarray
    value: np.ndarray


class Best(NamedTuple):
    """The best value of the monitored metric."""

    name: str
    step: float
    epoch: float
    value: float


class LineLabel(NamedTuple):
    """The label at the right end of a line, whose last value is `y`."""

    y: float
    text: str
    color: str


def plot_curves(csv_path: Path, *, monitor: str | None = None, mode: str | None = None) -> Figure:
    """Plot the metrics that a run has logged.

    Args:
        csv_path: a table with the columns `epoch, step, lr, train/loss, val/loss, val/<metric> …`, blank where nothing
            was logged.
        monitor: the column whose best epoch is marked; by default the first metric, or else the first loss.
        mode: "max" or "min", whichever is better; by default "min" for losses and "max" for others.
    """
    from matplotlib.figure import Figure

    columns = read_metrics(csv_path)
    validation = {name: series for name, series in columns.items() if name.startswith("val/") and name.count("/") == 1}
    losses = {name: series for name, series in validation.items() if is_loss(name)}
    metrics = {name: series for name, series in validation.items() if name not in losses}
    if monitor not in validation:
        monitor = next(iter([*metrics, *losses]), None)
    best = find_best(monitor, validation[monitor], mode) if monitor else None

    figure = Figure(figsize=FIGURE_SIZE, dpi=DPI, facecolor="white")
    plot_losses(figure, columns, losses, best if monitor in losses else None)
    plot_metrics(figure, metrics, best if monitor in metrics else None)
    return figure


def read_metrics(csv_path: Path) -> dict[str, Series]:
    """Read the columns that hold at least one finite number, each sorted by step."""
    with csv_path.open(newline="") as file:
        rows = [{name: parse_float(cell) for name, cell in row.items() if name} for row in csv.DictReader(file)]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        # the table counts epochs from 0, figures count them from 1
        cells = [(row.get("step", math.nan), row.get("epoch", math.nan) + 1, row[name]) for row in rows if name in row]
        values = np.array([cell for cell in cells if math.isfinite(cell[2])], dtype=float).reshape(-1, 3)
        if len(values):
            order = np.arange(len(values))
            values[:, 0] = np.where(np.isfinite(values[:, 0]), values[:, 0], order)
            values[:, 1] = np.where(np.isfinite(values[:, 1]), values[:, 1], order + 1)
            values = values[np.argsort(values[:, 0], kind="stable")]
            columns[name] = Series(*values.T)
    return columns


def parse_float(cell: Any) -> float:
    """Return the number in a cell of the table, or NaN if it holds none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def is_loss(name: str) -> bool:
    return "loss" in name.rsplit("/", 1)[-1]


def find_best(name: str, series: Series, mode: str | None) -> Best:
    minimize = mode == "min" if mode else is_loss(name)
    index = int(series.value.argmin() if minimize else series.value.argmax())
    return Best(name, float(series.step[index]), float(series.epoch[index]), float(series.value[index]))


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the moving average of values (n,) over a window of n/25; fewer than 50 values are returned as they are."""
    half_width = len(values) // 50
    if not half_width:
        return values
    window = np.hanning(2 * half_width + 3)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def spread_labels(positions: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Move positions as little as needed to be at least `gap` apart and between `low` and `high`; keep their order."""
    if not positions:
        return []
    gap = min(gap, (high - low) / max(len(positions) - 1, 1))
    order = sorted(range(len(positions)), key=positions.__getitem__)
    moved = [min(max(positions[i], low), high) for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    moved[-1] = min(moved[-1], high)
    for i in reversed(range(len(moved) - 1)):
        moved[i] = min(moved[i], moved[i + 1] - gap)
    return [moved[order.index(i)] for i in range(len(positions))]


def plot_losses(figure: Figure, columns: dict[str, Series], losses: dict[str, Series], best: Best | None) -> None:
    """Plot the left half: losses above, the learning rate below, over the same steps."""
    train, rate = columns.get("train/loss"), columns.get("lr")
    bottom = LOSS_BOTTOM if rate else BOTTOM
    axes = figure.add_axes((LOSS_LEFT, bottom, LOSS_RIGHT - LOSS_LEFT, TOP - bottom))
    style_axes(axes, "Loss", "loss")
    labels = [plot_training_loss(axes, train)] if train else []
    for index, (name, series) in enumerate(losses.items(), start=1):
        color, dashes = line_style(index)
        axes.plot(series.step, series.value, color=color, ls=dashes, lw=1.2, **markers(series, 40))
        label = "validation" if name == "val/loss" else f"validation {display_name(name)}"
        labels.append(LineLabel(series.value[-1], label, color))
    if best:
        mark_best(axes, best.step, best, f"loss {best.value:.4g}", LOSS_RIGHT + 0.075)
    scale_losses(axes, concatenate(series.value for series in (*losses.values(), train) if series))
    set_x_limits(axes, concatenate(series.step for series in (*losses.values(), train, rate) if series))
    label_lines(figure, axes, labels)
    if rate:
        axes.tick_params(labelbottom=False)
        axes = plot_learning_rate(figure, axes, rate)
    axes.set_xlabel("step", fontsize=NORMAL, color=TEXT)


def plot_training_loss(axes: Axes, train: Series) -> LineLabel:
    """Plot the smoothed training loss, and faintly the loss of every logged step if there are many."""
    positive = bool((train.value > 0).all())  # the axis is logarithmic then, and so is the average
    smoothed = np.exp(smooth(np.log(train.value))) if positive else smooth(train.value)
    if len(train.value) >= 50:
        axes.plot(train.step, train.value, color=PALETTE[0], alpha=0.22, lw=0.8)
    axes.plot(train.step, smoothed, color=PALETTE[0], lw=1.6, **markers(train, 2))
    return LineLabel(smoothed[-1], "training", PALETTE[0])


def scale_losses(axes: Axes, values: np.ndarray) -> None:
    """Use a logarithmic axis unless a loss is negative or all are zero; without losses, say so."""
    if not len(values):
        write_notice(axes, "no loss was measured")
    elif (values > 0).any() and not (values < 0).any():
        axes.set_yscale("log", nonpositive="mask")
        set_log_ticks(axes, values[values > 0])


def plot_learning_rate(figure: Figure, loss_axes: Axes, rate: Series) -> Axes:
    """Plot the learning rate below the losses, and return its axes."""
    axes = figure.add_axes((LOSS_LEFT, BOTTOM, LOSS_RIGHT - LOSS_LEFT, LEARNING_RATE_TOP - BOTTOM), sharex=loss_axes)
    style_axes(axes, "", "")
    axes.plot(rate.step, rate.value, color=MUTED, lw=1.2, **markers(rate, 2))
    peak = float(rate.value.max()) or 1.0
    axes.set_ylim(min(0.0, float(rate.value.min())), peak * 1.12)
    axes.set_yticks([0.0, peak], ["0", f"{peak:.2g}"])
    label_lines(figure, axes, [LineLabel(float(rate.value[-1]), "learning rate", MUTED)])
    return axes


def plot_metrics(figure: Figure, metrics: dict[str, Series], best: Best | None) -> None:
    """Plot the right half: one line per validation metric, in percent if all values are fractions."""
    names = [display_name(name) for name in metrics]
    widest = max((text_width(name, SMALL) for name in names), default=0.0)
    right = max(RIGHT - (widest + 0.12) / figure.get_figwidth(), METRICS_LEFT + MIN_METRICS_WIDTH)
    axes = figure.add_axes((METRICS_LEFT, BOTTOM, right - METRICS_LEFT, TOP - BOTTOM))
    values = concatenate(series.value for series in metrics.values())
    percent = len(values) > 0 and values.min() >= 0 and values.max() <= 1
    style_axes(axes, "Validation", "accuracy (%)" if percent else "value", 100 if percent else 1)

    # Several validations within an epoch would lie on top of each other: plot them over steps.
    by_step = any(len(set(series.epoch)) < len(series.epoch) for series in metrics.values())
    labels, x_values = [], []
    for index, (series, name) in enumerate(zip(metrics.values(), names, strict=True)):
        color, dashes = line_style(index)
        x = series.step if by_step else series.epoch
        axes.plot(x, series.value, color=color, ls=dashes, lw=1.6, **markers(series, 40))
        labels.append(LineLabel(series.value[-1], name, color))
        x_values.append(x)
    if best:
        value = f"{100 * best.value:.2f} %" if percent else f"{best.value:.4g}"
        mark_best(axes, best.step if by_step else best.epoch, best, f"{display_name(best.name)} {value}", RIGHT)
    if not len(values):
        write_notice(axes, "no accuracy was measured")
    if percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1 + 0.04 * (1 - low)))
    set_x_limits(axes, concatenate(x_values))
    label_lines(figure, axes, labels)
    axes.set_xlabel("step" if by_step else "epoch", fontsize=NORMAL, color=TEXT)


def style_axes(axes: Axes, title: str, y_label: str, scale: float = 1) -> None:
    """Set a panel's title, y label, grid and tick labels: plain numbers, multiplied by `scale`."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:.6g}"))
    axes.set_title(title, fontsize=LARGE, color=TEXT, loc="left", pad=8, parse_math=False)
    axes.set_ylabel(y_label, fontsize=NORMAL, color=TEXT)
    axes.tick_params(which="both", labelsize=SMALL, labelcolor=MUTED, color=GRID, length=3)
    axes.grid(True, color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)


def label_lines(figure: Figure, axes: Axes, labels: list[LineLabel]) -> None:
    """Write each line's label to the right of the panel at the height of the line's end, without overlap."""
    height = axes.get_position().height * figure.get_figheight()
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [float(to_axes.transform((axes.get_xlim()[0], label.y))[1]) for label in labels]
    ends = [end if math.isfinite(end) else 0.0 for end in ends]
    for label, y in zip(labels, spread_labels(ends, 1.3 * SMALL / 72 / height, high=0.97), strict=True):
        axes.annotate(
            label.text, (1, y), (6, 0), "axes fraction", "offset points",
            color=label.color, fontsize=SMALL, va="center", parse_math=False, annotation_clip=False,
        )  # fmt: skip


def set_log_ticks(axes: Axes, values: np.ndarray) -> None:
    """Choose the ticks of a logarithmic axis, as plain numbers, whether it spans a tenth or ten decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    decades = math.log10(values.max()) - math.log10(values.min())
    if decades < 0.1:
        middle = math.sqrt(values.max() * values.min())
        axes.set_ylim(middle * 0.8, middle * 1.25)
    if decades < 0.7:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def set_x_limits(axes: Axes, x: np.ndarray) -> None:
    """Fit the x axis to its values, with integer ticks; a single value is centered."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if len(x):
        low, high = float(x.min()), float(x.max())
        margin = 0.02 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        if low == high:
            axes.set_xticks([low], [f"{low:g}"])


def mark_best(axes: Axes, x: float, best: Best, description: str, right: float) -> None:
    """Circle the best value and describe it above the panel, in a line that ends at `right` (figure fraction)."""
    axes.plot([x], [best.value], "o", ms=10, mfc="none", mec=TEXT, mew=1.2, zorder=5, clip_on=False)
    box = axes.get_position()
    axes.annotate(
        f"○ best {description} at epoch {best.epoch:g}",
        ((right - box.x0) / box.width, 1), (0, 9), "axes fraction", "offset points",
        ha="right", fontsize=SMALL, color=MUTED, parse_math=False, annotation_clip=False,
    )  # fmt: skip


def write_notice(axes: Axes, text: str) -> None:
    """Write a text in the middle of a panel that has nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=NORMAL, color=MUTED)
    axes.set_axis_off()


def markers(series: Series, max_points: int) -> dict[str, Any]:
    """Return the marker style of a line: dots up to `max_points` points, as a single point makes no line."""
    return {"marker": "o", "ms": 4, "mew": 0} if len(series.value) <= max_points else {}


def display_name(name: str) -> str:
    """Return a metric's name as a label: without its split, spaces for underscores, not too long."""
    text = name.removeprefix("val/").replace("_", " ")
    return text if len(text) <= MAX_NAME_LENGTH else text[: MAX_NAME_LENGTH - 1] + "…"


def concatenate(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Concatenate any number of arrays (n,), even none."""
    return np.concatenate([np.empty(0), *arrays])
