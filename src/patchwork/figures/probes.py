"""How well each layer can be read by a linear classifier, beside the untrained network and what chance gives."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.style import GRID, MUTED, PALETTE, SMALL, TEXT
from patchwork.figures.svg import figure_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from patchwork.analysis.probes import Probes


def render(result: Probes) -> Rendered:
    """Render a panel for each variable, with the numbers in a table."""
    caption = (
        f"Test accuracy of a linear classifier of what each layer holds, on {result.n:,} {result.unit} (fitted on "
        f"{result.n_fitted:,} of the validation split, the first of each), with 95 % intervals over images. Dashed: "
        "the same network before its training. Dotted: the most frequent class. What can be read need not be used by "
        "the network."
    )
    return Rendered(figure_svg(plot(result), result.name, caption), caption, table(result), (claim(result),))


def claim(result: Probes) -> Claim:
    """Return the sentence about the layer from which the first variable is read best."""
    inside = result.accuracy[0, :-1, 0]
    best = int(np.nanargmax(inside))
    (value, low, high), pixels = result.accuracy[0, best], result.accuracy[0, -1, 0]
    variable, layer = result.variables[0], result.layers[best]
    text = (
        f"A linear probe reads the {variable} {where(layer)} in {value:.1%} of {result.n:,} {result.unit} (95 % "
        f"interval {low:.1%} to {high:.1%}), from the untrained network in {result.untrained[0, best, 0]:.1%}, from "
        f"raw pixels in {pixels:.1%}."
    )
    return Claim(text, (f"{variable} after {layer}", f"{variable} after {layer}, untrained"), rank=70)


def where(layer: str) -> str:
    return layer if layer.startswith("before") else f"after {layer}" if "." in layer else f"from {layer}"


def plot(result: Probes) -> Figure:
    """Plot accuracy over layers."""
    from matplotlib.figure import Figure

    count = len(result.variables)
    figure = Figure(figsize=(min(3.4 * count + 0.6, 10), 3.6), layout="constrained")
    for index, axes in enumerate(figure.subplots(1, count, sharey=True, squeeze=False)[0]):
        draw_variable(axes, result, index)
    figure.axes[0].set_ylabel("test accuracy", fontsize=SMALL, color=TEXT)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, frameon=False, fontsize=SMALL, labelcolor=TEXT)
    return figure


def draw_variable(axes: Axes, result: Probes, index: int) -> None:
    x = np.arange(len(result.layers))
    value, low, high = result.accuracy[index].T
    axes.errorbar(x, value, (value - low, high - value), fmt="o", ms=4, color=PALETTE[0], capsize=2, lw=1)
    for part in stacks(result.layers):
        axes.plot(x[part], value[part], color=PALETTE[0], lw=1.4)
        axes.plot(x[part], result.untrained[index, part, 0], color=PALETTE[1], lw=1.2, ls="--", marker="s", ms=3.5)
    axes.plot([], [], color=PALETTE[0], marker="o", ms=4, label="trained")
    axes.plot([], [], color=PALETTE[1], ls="--", marker="s", ms=3.5, label="untrained")
    axes.axhline(result.chance[index], color=MUTED, lw=0.8, ls=":", label="most frequent class")
    axes.set_title(result.variables[index], fontsize=SMALL + 1, color=TEXT)
    axes.set_xticks(x, result.layers, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_ylim(0, 1.03)
    axes.tick_params(labelsize=SMALL, labelcolor=MUTED, color=GRID)
    axes.grid(axis="y", color=GRID, lw=0.6)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def stacks(layers: tuple[str, ...]) -> list[slice]:
    """Return the runs of layers that follow each other in a stack of blocks; raw pixels are no layer."""
    starts = [index for index, name in enumerate(layers) if index == 0 or name.endswith((".input", ".context"))]
    starts += [index + 1 for index, name in enumerate(layers) if name.endswith(".context")]
    bounds = sorted({*starts, len(layers) - 1})
    return [slice(*pair) for pair in pairwise(bounds)]


def table(result: Probes) -> str:
    """Return a row for each layer."""
    header = ["read from"]
    for variable in result.variables:
        header += [variable, f"{variable}, untrained"]
    rows = [
        [
            layer,
            *(
                cell
                for variable in range(len(result.variables))
                for cell in (interval(result.accuracy[variable, index]), interval(result.untrained[variable, index]))
            ),
        ]
        for index, layer in enumerate(result.layers)
    ]
    return html_table(header, rows)


def interval(row: np.ndarray) -> str:
    value, low, high = row
    return f"{value:.1%} ({low:.1%} – {high:.1%})" if np.isfinite(value) else "–"
