"""The reliability curve on a logarithmic axis of errors, with what a perfectly calibrated model would show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.style import ERROR, FRAME, GRID, MUTED, PALETTE, SMALL, TEXT
from patchwork.figures.svg import figure_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from patchwork.analysis.calibration import Calibration

SHARED = "Samples that show the same image are taken to err together on it. "
LOWEST, HIGHEST = 1e-6, 0.9  # probabilities of an error that the axes show; smaller ones are drawn at the lowest


def render(result: Calibration) -> Rendered:
    """Render the curve, with its numbers in a table."""
    caption = (
        f"How often answers are wrong against how often the model expects them to be, for {result.n:,} {result.unit}; "
        "isotonic regression, no bins. The band holds 95 % of what a perfectly calibrated model would show; the marks "
        f"below are single samples, {min(len(result.rug), result.n):,} of them. Errors expected or observed in more "
        f"than {HIGHEST:.0%} are drawn there. {SHARED if result.shares_images else ''}Calibration error "
        f"{result.error:.2%}, of a perfect model {result.perfect_error:.2%} on average and at most "
        f"{result.perfect_limit:.2%} in 95 % of simulations (p = {result.p_value:.3f}): {result.verdict}."
    )
    svg = figure_svg(plot(result), result.name, caption)
    rows = [
        [f"{expected:.2g}", f"{observed:.2g}", f"{low:.2g} – {high:.2g}"]
        for expected, observed, low, high in zip(
            result.predicted_error[::4],
            result.observed_error[::4],
            result.band_low[::4],
            result.band_high[::4],
            strict=True,
        )
    ]
    table = html_table(["expected error", "observed error", "of a perfect model"], rows)
    return Rendered(svg, caption, table + score_table(result), claims=(claim(result),))


def claim(result: Calibration) -> Claim:
    """Return the sentence about the probabilities."""
    text = (
        f"Its probabilities are {result.verdict}: of {result.n:,} {result.unit}, it expects {result.confidence:.2%} to "
        f"be right, and {result.accuracy:.2%} are (calibration error {result.error:.2%}, of a perfect model "
        f"{result.perfect_error:.2%}, p = {result.p_value:.3f})."
    )
    return Claim(text, ("calibration error", "of a perfect model", "p value"), rank=40)


def score_table(result: Calibration) -> str:
    """Return the Brier score with its parts, and the temperature, as a table."""
    rows = [
        ["Brier score", f"{result.brier:.5f}"],
        ["= miscalibration", f"{result.miscalibration:.5f}"],
        ["− discrimination", f"{result.discrimination:.5f}"],
        ["+ uncertainty", f"{result.uncertainty:.5f}"],
    ]
    if not math.isnan(result.temperature):
        rows.append(
            [f"temperature, fitted on {result.temperature_n:,} validation answers", f"{result.temperature:.3f}"]
        )
    return html_table(["score", "value"], rows)


def plot(result: Calibration) -> Figure:
    """Plot the reliability curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    x, observed, low, high = (
        np.clip(values, LOWEST, HIGHEST)
        for values in (result.predicted_error, result.observed_error, result.band_low, result.band_high)
    )
    axes.plot([LOWEST, HIGHEST], [LOWEST, HIGHEST], color=MUTED, lw=0.8, ls="--")
    axes.fill_between(x, low, high, color=FRAME, alpha=0.5, lw=0, label="95 % of perfect models")
    axes.plot(x, observed, color=PALETTE[0], lw=1.8, label="this model")
    for wrong, color, y in ((False, MUTED, -0.045), (True, ERROR, -0.075)):
        values = np.clip(result.rug[result.rug_wrong == wrong], LOWEST, HIGHEST)
        transform = axes.get_xaxis_transform()
        axes.plot(values, np.full(len(values), y), "|", color=color, ms=5, mew=0.6, transform=transform, clip_on=False)
    style_log_axes(axes)
    axes.legend(loc="upper left", frameon=False, fontsize=SMALL, labelcolor=TEXT)
    return figure


def style_log_axes(axes: Axes) -> None:
    """Show errors from rare to frequent on both axes, to scale."""
    axes.set(xscale="log", yscale="log", xlim=(LOWEST, HIGHEST), ylim=(LOWEST, HIGHEST))
    axes.set_xlabel(
        "expected probability of an error (gray: single samples, red: wrong ones)", fontsize=SMALL, color=TEXT
    )
    axes.xaxis.labelpad = 14
    axes.set_ylabel("observed share of errors", fontsize=SMALL, color=TEXT)
    axes.tick_params(which="both", labelsize=SMALL, labelcolor=MUTED, color=GRID)
    axes.tick_params(axis="x", pad=20)
    axes.minorticks_off()
    ticks = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    labels = ["≤ 0.0001 %", "0.001 %", "0.01 %", "0.1 %", "1 %", "10 %"]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.grid(color=GRID, lw=0.6)
    for spine in axes.spines.values():
        spine.set_color(GRID)
