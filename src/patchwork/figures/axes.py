"""Axes of the training curves: ticks, limits, and labels at the ends of lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from patchwork.figures.style import GRID, LARGE, MUTED, NORMAL, SMALL, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from patchwork.figures.metrics import Series


class LineLabel(NamedTuple):
    """The label at the right end of a line, whose last value is `y`."""

    y: float
    text: str
    color: str


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


def write_notice(axes: Axes, text: str) -> None:
    """Write a text in the middle of a panel that has nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=NORMAL, color=MUTED)
    axes.set_axis_off()


def write_remark(axes: Axes, text: str) -> None:
    """Write a text at the lower edge of a panel, of what it does not show."""
    axes.text(0.5, 0.03, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=SMALL, color=MUTED)


def markers(series: Series, max_points: int) -> dict[str, Any]:
    """Return the marker style of a line: dots up to `max_points` points, as a single point makes no line."""
    return {"marker": "o", "ms": 4, "mew": 0} if len(series.value) <= max_points else {}
