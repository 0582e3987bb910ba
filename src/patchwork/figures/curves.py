"""Training curves: losses, learning rate and validation metrics of a run, from its metrics.csv.

Left: losses over steps, the training loss smoothed; below them, the learning rate.
Right: validation metrics over epochs, with the best epoch of the monitored metric marked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.axes import (
    LineLabel,
    label_lines,
    markers,
    set_log_ticks,
    set_x_limits,
    style_axes,
    write_notice,
    write_remark,
)
from patchwork.figures.metrics import Best, Series, find_best, is_loss, read_metrics, smooth
from patchwork.figures.style import DPI, MUTED, NORMAL, PALETTE, SMALL, TEXT, line_style, text_width

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


def plot_curves(csv_path: Path, *, monitor: str | None = None, mode: str | None = None) -> Figure:
    """Plot the metrics that a run has logged.

    Args:
        csv_path: table with the columns `epoch, step, lr (or lr/<group> …), train/loss, val/loss, val/<metric> …`,
            blank where nothing was logged.
        monitor: column whose best epoch is marked; by default the first metric, or else the first loss.
        mode: "max" or "min", whichever is better; by default "min" for losses and "max" for others.

    Raises:
        OSError: if the table cannot be read.
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


def plot_losses(figure: Figure, columns: dict[str, Series], losses: dict[str, Series], best: Best | None) -> None:
    """Plot the left half: losses above, the learning rate below, over the same steps."""
    train = columns.get("train/loss")
    rates = {name: series for name, series in columns.items() if name == "lr" or name.startswith("lr/")}
    bottom = LOSS_BOTTOM if rates else BOTTOM
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
    set_x_limits(axes, concatenate(series.step for series in (*losses.values(), train, *rates.values()) if series))
    label_lines(figure, axes, labels)
    if losses and not train:
        write_remark(axes, "no training loss: fewer steps than log_every_n_steps")
    if rates:
        axes.tick_params(labelbottom=False)
        axes = plot_learning_rates(figure, axes, rates)
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
        write_notice(axes, "no loss was logged:\nfewer steps than log_every_n_steps")
    elif (values > 0).any() and not (values < 0).any():
        axes.set_yscale("log", nonpositive="mask")
        set_log_ticks(axes, values[values > 0])


def plot_learning_rates(figure: Figure, loss_axes: Axes, rates: dict[str, Series]) -> Axes:
    """Plot the learning rates of all parameter groups below the losses, and return their axes."""
    axes = figure.add_axes((LOSS_LEFT, BOTTOM, LOSS_RIGHT - LOSS_LEFT, LEARNING_RATE_TOP - BOTTOM), sharex=loss_axes)
    style_axes(axes, "", "")
    labels = []
    for name, rate in rates.items():
        axes.plot(rate.step, rate.value, color=MUTED, lw=1.2, **markers(rate, 2))
        label = "learning rate" if len(rates) == 1 else f"{name.removeprefix('lr/')} rate"
        labels.append(LineLabel(float(rate.value[-1]), label, MUTED))
    values = concatenate(rate.value for rate in rates.values())
    peak = float(values.max()) or 1.0
    axes.set_ylim(min(0.0, float(values.min())), peak * 1.12)
    axes.set_yticks([0.0, peak], ["0", f"{peak:.2g}"])
    label_lines(figure, axes, labels)
    return axes


def plot_metrics(figure: Figure, metrics: dict[str, Series], best: Best | None) -> None:
    """Plot the right half: one line per validation metric, in percent if all values are fractions."""
    names = [display_name(name) for name in metrics]
    widest = max((text_width(name, SMALL) for name in names), default=0.0)
    right = max(RIGHT - (widest + 0.12) / figure.get_figwidth(), METRICS_LEFT + MIN_METRICS_WIDTH)
    axes = figure.add_axes((METRICS_LEFT, BOTTOM, right - METRICS_LEFT, TOP - BOTTOM))
    values = concatenate(series.value for series in metrics.values())
    percent = len(values) > 0 and values.min() >= 0 and values.max() <= 1
    style_axes(axes, "Validation", axis_name([*metrics], percent=percent), 100 if percent else 1)

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
        write_notice(axes, "no metric was measured")
    if percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1 + 0.04 * (1 - low)))
    set_x_limits(axes, concatenate(x_values))
    label_lines(figure, axes, labels)
    axes.set_xlabel("step" if by_step else "epoch", fontsize=NORMAL, color=TEXT)


def axis_name(names: list[str], *, percent: bool) -> str:
    """Return the label of the axis of metrics: what they all are, or that they are values."""
    what = "accuracy" if names and all(name.endswith("accuracy") for name in names) else "value"
    return f"{what} (%)" if percent else what


def mark_best(axes: Axes, x: float, best: Best, description: str, right: float) -> None:
    """Circle the best value and describe it above the panel, in a line that ends at `right` (figure fraction)."""
    axes.plot([x], [best.value], "o", ms=10, mfc="none", mec=TEXT, mew=1.2, zorder=5, clip_on=False)
    box = axes.get_position()
    axes.annotate(
        f"○ best {description} at epoch {best.epoch:g}",
        ((right - box.x0) / box.width, 1), (0, 9), "axes fraction", "offset points",
        ha="right", fontsize=SMALL, color=MUTED, parse_math=False, annotation_clip=False,
    )  # fmt: skip


def display_name(name: str) -> str:
    """Return a metric's name as a label: without its split, spaces for underscores, not too long."""
    text = name.removeprefix("val/").replace("_", " ")
    return text if len(text) <= MAX_NAME_LENGTH else text[: MAX_NAME_LENGTH - 1] + "…"


def concatenate(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Concatenate any number of arrays (n,), even none."""
    return np.concatenate([np.empty(0), *arrays])
