"""The validation metric of all compared runs over their steps: every seed, and the mean of each setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from patchwork.evaluation.compare.comparison import Comparison
from patchwork.evaluation.compare.runs import FinishedRun
from patchwork.figures.metrics import Series, find_best, read_metrics
from patchwork.figures.rendered import Rendered, html_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS_FILE = "metrics.csv"
MAX_SETTINGS = 12  # as many as there are different lines
MAX_LABEL = 90  # characters of a setting in the legend
DASHES = ("-", "--", ":", "-.")  # with six colors, neighbors differ in both


@dataclass(frozen=True, eq=False)
class SettingCurves:
    """The validation metric of the runs of a setting.

    Attributes:
        label: of the setting.
        runs: the curve of each run that has one.
        mean: over those runs, at the steps at which all of them were validated; None without such steps.
        missing: number of runs without a curve.
    """

    label: str
    runs: Sequence[Series]
    mean: Series | None
    missing: int


def setting_curves(comparison: Comparison) -> list[SettingCurves]:
    """Return the curves of all settings, the best first, as their runs logged them."""
    found = []
    for row in comparison.rows:
        curves = [read_curve(run, f"val/{comparison.metric.name}") for run in row.setting.runs]
        known = [curve for curve in curves if curve is not None]
        found.append(SettingCurves(row.setting.label, known, mean_curve(known), len(curves) - len(known)))
    return found


def read_curve(run: FinishedRun, metric: str) -> Series | None:
    """Return what a run logged of a metric; None if its table is missing or does not hold it."""
    path = run.run_dir / METRICS_FILE
    return read_metrics(path).get(metric) if path.exists() else None


def mean_curve(curves: Sequence[Series]) -> Series | None:
    """Return the mean of curves at the steps that they have in common; None if there are none.

    Of a step that was validated twice, as after resuming, the last value counts.
    """
    if not curves:
        return None
    values = [dict(zip(curve.step.tolist(), curve.value.tolist(), strict=True)) for curve in curves]
    steps = reduce(np.intersect1d, [curve.step for curve in curves])
    if not len(steps):
        return None
    epochs = dict(zip(curves[0].step.tolist(), curves[0].epoch.tolist(), strict=True))
    means = [float(np.mean([each[step] for each in values])) for step in steps.tolist()]
    return Series(steps, np.array([epochs[step] for step in steps.tolist()]), np.array(means))


def render_curves(comparison: Comparison) -> Rendered | str:
    """Return the curves as a figure and a table, or one line that says why there are none."""
    from patchwork.figures.svg import figure_svg

    curves = setting_curves(comparison)
    if not any(each.runs for each in curves):
        return f"No run has logged val/{comparison.metric.name} in its {METRICS_FILE}."
    shown = [each for each in curves if each.runs][:MAX_SETTINGS]
    num_runs = sum(len(each.runs) for each in shown)
    caption = (
        f"val/{comparison.metric.name} of {num_runs} runs of {len(shown)} settings, over all steps (left) and the "
        "second half of those of each run (right). A thin line is a run, a thick one the mean of a setting at the "
        "steps at which all of its runs were validated."
    )
    if comparison.metric.name == comparison.metric.monitor:
        caption += (
            " The best epoch is chosen on them, so that they are optimistic: the verdicts rest on the test split."
        )
    hidden, missing = sum(bool(each.runs) for each in curves) - len(shown), sum(each.missing for each in curves)
    caption += f" {hidden} lower settings are left out." if hidden else ""
    caption += f" {missing} runs have no curve." if missing else ""
    figure = plot_curves(shown, comparison.metric.name)
    return Rendered(figure_svg(figure, "curves", caption), caption, curve_table(curves, comparison))


def curve_table(curves: Sequence[SettingCurves], comparison: Comparison) -> str:
    """Return the best and the last value of the mean curve of each setting as an HTML table."""
    header = ["setting", "runs", "best mean", "at step", "last mean", "at step"]
    rows = []
    for each in curves:
        row = [each.label, str(len(each.runs)), "", "", "", ""]
        if each.mean is not None:
            best = find_best(comparison.metric.name, each.mean, comparison.metric.mode)
            row[2:] = [
                f"{best.value:.4f}",
                f"{best.step:.0f}",
                f"{each.mean.value[-1]:.4f}",
                f"{each.mean.step[-1]:.0f}",
            ]
        rows.append(row)
    return html_table(header, rows)


def plot_curves(curves: Sequence[SettingCurves], metric: str) -> "Figure":
    """Plot all curves twice, over all steps and over their second half, with one legend below."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from patchwork.figures.axes import style_axes
    from patchwork.figures.style import NORMAL, PALETTE, SMALL, TEXT

    styles = [(PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]) for i in range(len(curves))]
    figure = Figure(figsize=(8, 3.1 + 0.19 * len(curves)), layout="constrained")
    whole, late = figure.subplots(1, 2)
    for axes, part, title in ((whole, 0.0, "all steps"), (late, 0.5, "second half of each run")):
        style_axes(axes, title, f"val/{metric}" if axes is whole else "")
        axes.set_xlabel("step", fontsize=NORMAL, color=TEXT)
        for each, (color, dashes) in zip(curves, styles, strict=True):
            draw_setting(axes, each, part, color, dashes)
    handles = [Line2D([], [], color=color, ls=dashes, lw=1.8) for color, dashes in styles]
    labels = [each.label if len(each.label) <= MAX_LABEL else f"{each.label[: MAX_LABEL - 1]}…" for each in curves]
    legend = figure.legend(handles, labels, loc="outside lower left", fontsize=SMALL, frameon=False, labelcolor=TEXT)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def draw_setting(axes: "Axes", curves: SettingCurves, part: float, color: str, dashes: str) -> None:
    """Draw the runs of a setting after a part of their steps, and their mean if there are several."""
    from patchwork.figures.axes import markers

    mean = [curves.mean] if curves.mean is not None and len(curves.runs) > 1 else []
    for width, alpha, lines in ((0.7 if mean else 1.6, 0.5 if mean else 1.0, curves.runs), (1.8, 1.0, mean)):
        for line in lines:
            late = line.step >= part * line.step[-1]
            axes.plot(line.step[late], line.value[late], color=color, ls=dashes, lw=width, alpha=alpha,
                      **(markers(line, 1)))  # fmt: skip
