"""The course of a training on one page, from the table of metrics that the run has kept.

1. Read the wide table; a blank cell was not measured, and what is not finite is not drawn.
2. Left: the losses over the steps, the training's smoothed; below them, the learning rate.
3. Right: the validation's accuracies over the epochs, the best epoch of the monitored one marked.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, QUIET, FAINT = "#2f3b47", "#6b7680", "#e3e6e9"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: for every eye
DASHES = ("-", "--", ":")  # once the colours are used up
LONGEST = 28  # characters of a name
SMALL, NORMAL, LARGE = 8.0, 9.0, 11.0  # points


class Series(NamedTuple):
    """The finite values (n,) of one column, with where they were measured."""

    step: np.ndarray
    epoch: np.ndarray
    value: np.ndarray


class Best(NamedTuple):
    """Where the monitored metric was best."""

    name: str
    step: float
    epoch: float
    value: float


class Line(NamedTuple):
    """What is written at a line's end."""

    y: float
    name: str
    color: str


def curves(table: Path, path: Path, *, monitor: str | None = None, mode: str | None = None) -> None:
    """Draw a run's metrics.csv to a PNG.

    Args:
        table: columns `epoch, step, lr, train/loss, val/loss, val/<metric> …`, blank where not measured.
        path: the picture; what was there is replaced at once, never half written.
        monitor: the column whose best epoch is marked; by default the first accuracy, or else the first loss.
        mode: "max" or "min", whichever is best; by default "min" for losses and "max" for others.
    """
    columns = read(table)
    validation = {name: series for name, series in columns.items() if name.startswith("val/") and name.count("/") == 1}
    losses = {name: series for name, series in validation.items() if is_loss(name)}
    metrics = {name: series for name, series in validation.items() if name not in losses}
    monitor = monitor if monitor in validation else next(iter([*metrics, *losses]), None)
    best = _best(monitor, validation[monitor], mode) if monitor else None

    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.0), dpi=DPI, facecolor="white")
    _draw_losses(figure, columns, losses, best if monitor in losses else None)
    _draw_metrics(figure, metrics, best if monitor in metrics else None)
    save(figure, path)


def read(table: Path) -> dict[str, Series]:
    """Read the columns of a table that hold at least one finite number, each in the order of the steps."""
    with table.open(newline="") as file:
        rows = [{name: _number(cell) for name, cell in row.items() if name} for row in csv.DictReader(file)]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        # the table counts epochs from 0, whoever looks at a picture from 1
        kept = [(row.get("step", math.nan), row.get("epoch", math.nan) + 1, row[name]) for row in rows if name in row]
        values = np.array([line for line in kept if math.isfinite(line[2])], dtype=float).reshape(-1, 3)
        if len(values):
            order = np.arange(len(values))
            values[:, 0] = np.where(np.isfinite(values[:, 0]), values[:, 0], order)
            values[:, 1] = np.where(np.isfinite(values[:, 1]), values[:, 1], order + 1)
            values = values[np.argsort(values[:, 0], kind="stable")]
            columns[name] = Series(*values.T)
    return columns


def is_loss(name: str) -> bool:
    return "loss" in name.rsplit("/", 1)[-1]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG under a temporary name beside it, then rename: a reader never meets half a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png", dpi=DPI)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def text_width(text: str, size: float) -> float:
    """Measure a text of this size in points: its width in inches."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    width, _, _ = RendererAgg(1, 1, DPI).get_text_width_height_descent(text, FontProperties(size=size), False)
    return float(width) / DPI


def smooth(values: np.ndarray) -> np.ndarray:
    """Average values (n,) over a window of n/25 around each; fewer than 50 are left as they are."""
    half = len(values) // 50
    if not half:
        return values
    window = np.hanning(2 * half + 3)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def spread(wanted: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Move places as little as needed to stand `gap` apart between `low` and `high`, in the same order."""
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    places = [min(max(wanted[i], low), high) for i in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places[-1] = min(places[-1], high)
    for i in reversed(range(len(places) - 1)):
        places[i] = min(places[i], places[i + 1] - gap)
    return [places[order.index(i)] for i in range(len(wanted))]


def _join(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0), *arrays])


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _best(name: str, series: Series, mode: str | None) -> Best:
    lowest = mode == "min" if mode else is_loss(name)
    at = int(series.value.argmin() if lowest else series.value.argmax())
    return Best(name, float(series.step[at]), float(series.epoch[at]), float(series.value[at]))


def _draw_losses(figure: Figure, columns: dict[str, Series], losses: dict[str, Series], best: Best | None) -> None:
    """Draw the left half: losses above, the learning rate below, over the same steps."""
    train, rate = columns.get("train/loss"), columns.get("lr")
    left, right, bottom, top = 0.065, 0.385, 0.13, 0.88
    middle = 0.34 if rate else bottom
    axes = figure.add_axes((left, middle, right - left, top - middle))
    _dress(axes, "Loss", "loss")
    lines = []
    if train:
        logarithmic = (train.value > 0).all()  # the mean of the logarithms, for that is what the eye sees
        level = np.exp(smooth(np.log(train.value))) if logarithmic else smooth(train.value)
        if len(train.value) >= 50:
            axes.plot(train.step, train.value, color=PALETTE[0], alpha=0.22, lw=0.8)
        axes.plot(train.step, level, color=PALETTE[0], lw=1.6, **_dots(train, 2))
        lines.append(Line(level[-1], "training", PALETTE[0]))
    for i, (name, series) in enumerate(losses.items()):
        color, dash = _style(i + 1)
        label = "validation" if name == "val/loss" else "validation " + _words(name)
        axes.plot(series.step, series.value, color=color, ls=dash, lw=1.2, **_dots(series, 40))
        lines.append(Line(series.value[-1], label, color))
    if best:
        _ring(axes, best.step, best, f"loss {best.value:.4g}", right + 0.075)

    values = _join([series.value for series in (*losses.values(), train) if series])
    if not len(values):
        _nothing(axes, "no loss was measured")
    elif (values > 0).any() and not (values < 0).any():
        axes.set_yscale("log", nonpositive="mask")
        _ticks(axes, values[values > 0])
    _limits(axes, _join([series.step for series in (*losses.values(), train, rate) if series]))
    _name_lines(figure, axes, lines)
    if rate:
        below = figure.add_axes((left, bottom, right - left, middle - bottom - 0.04), sharex=axes)
        _dress(below, "", "")
        below.plot(rate.step, rate.value, color=QUIET, lw=1.2, **_dots(rate, 2))
        peak = float(rate.value.max()) or 1.0
        below.set_ylim(min(0.0, float(rate.value.min())), peak * 1.12)
        below.set_yticks([0.0, peak], ["0", f"{peak:.2g}"])
        _name_lines(figure, below, [Line(float(rate.value[-1]), "learning rate", QUIET)])
        axes.tick_params(labelbottom=False)
        below.set_xlabel("step", fontsize=NORMAL, color=INK)
    else:
        axes.set_xlabel("step", fontsize=NORMAL, color=INK)


def _draw_metrics(figure: Figure, metrics: dict[str, Series], best: Best | None) -> None:
    """Draw the right half: one line for each of the validation's metrics, as percentages where they are fractions."""
    labels = [_words(name) for name in metrics]
    widest = max((text_width(label, SMALL) for label in labels), default=0.0)
    left, bottom, top = 0.565, 0.13, 0.88
    right = max(0.985 - (widest + 0.12) / figure.get_figwidth(), left + 0.15)
    axes = figure.add_axes((left, bottom, right - left, top - bottom))
    values = _join([series.value for series in metrics.values()])
    percent = len(values) > 0 and values.min() >= 0 and values.max() <= 1
    _dress(axes, "Validation", "accuracy (%)" if percent else "value", 100 if percent else 1)

    # Several validations in one epoch would stand on each other: then the steps tell them apart.
    by_step = any(len(set(series.epoch)) < len(series.epoch) for series in metrics.values())
    lines, places = [], []
    for i, (series, label) in enumerate(zip(metrics.values(), labels, strict=True)):
        color, dash = _style(i)
        x = series.step if by_step else series.epoch
        axes.plot(x, series.value, color=color, ls=dash, lw=1.6, **_dots(series, 40))
        lines.append(Line(series.value[-1], label, color))
        places.append(x)
    if best:
        text = f"{100 * best.value:.2f} %" if percent else f"{best.value:.4g}"
        _ring(axes, best.step if by_step else best.epoch, best, f"{_words(best.name)} {text}", 0.985)
    if not len(values):
        _nothing(axes, "no accuracy was measured")
    if percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1 + 0.04 * (1 - low)))
    _limits(axes, _join(places))
    _name_lines(figure, axes, lines)
    axes.set_xlabel("step" if by_step else "epoch", fontsize=NORMAL, color=INK)


def _dress(axes: Axes, title: str, unit: str, scale: float = 1) -> None:
    """Give a panel its title, its unit and plain numbers: values times `scale`."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:.6g}"))
    axes.set_title(title, fontsize=LARGE, color=INK, loc="left", pad=8, parse_math=False)
    axes.set_ylabel(unit, fontsize=NORMAL, color=INK)
    axes.tick_params(which="both", labelsize=SMALL, labelcolor=QUIET, color=FAINT, length=3)
    axes.grid(True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)


def _name_lines(figure: Figure, axes: Axes, lines: list[Line]) -> None:
    """Write each line's name to the right of the panel, at the height of its end, none on another."""
    height = axes.get_position().height * figure.get_figheight()
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_axes.transform((axes.get_xlim()[0], line.y))[1]) for line in lines]
    wanted = [place if math.isfinite(place) else 0.0 for place in wanted]
    for line, place in zip(lines, spread(wanted, 1.3 * SMALL / 72 / height, high=0.97), strict=True):
        axes.annotate(
            line.name, (1, place), (6, 0), "axes fraction", "offset points",
            color=line.color, fontsize=SMALL, va="center", parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _ticks(axes: Axes, values: np.ndarray) -> None:
    """Choose ticks for a logarithmic axis that reads as plain numbers, whether it spans a tenth or ten decades."""
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


def _limits(axes: Axes, x: np.ndarray) -> None:
    """Fit the horizontal axis to whole numbers; one place alone stands in the middle."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if len(x):
        low, high = float(x.min()), float(x.max())
        margin = 0.02 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        if low == high:
            axes.set_xticks([low], [f"{low:g}"])


def _ring(axes: Axes, x: float, best: Best, text: str, right: float) -> None:
    """Ring the best value, and say above the panel what it is, in a line that ends at `right` of the figure."""
    axes.plot([x], [best.value], "o", ms=10, mfc="none", mec=INK, mew=1.2, zorder=5, clip_on=False)
    box = axes.get_position()
    text = f"○ best {text} at epoch {best.epoch:g}"
    axes.annotate(
        text, ((right - box.x0) / box.width, 1), (0, 9), "axes fraction", "offset points",
        ha="right", fontsize=SMALL, color=QUIET, parse_math=False, annotation_clip=False,
    )  # fmt: skip


def _nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=NORMAL, color=QUIET)
    axes.set_axis_off()


def _dots(series: Series, most: int) -> dict[str, Any]:
    """Mark the points of a line that has no more than `most`: a single one makes no line."""
    return {"marker": "o", "ms": 4, "mew": 0} if len(series.value) <= most else {}


def _style(i: int) -> tuple[str, str]:
    return PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)]


def _words(name: str) -> str:
    words = name.removeprefix("val/").replace("_", " ")
    return words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
