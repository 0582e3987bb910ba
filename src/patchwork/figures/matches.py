"""The attention of anchors on matches, on other images and on nothing, with the look-alikes that fool them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.style import ERROR, GRID, MUTED, PALETTE, SMALL, TEXT
from patchwork.figures.svg import figure_svg
from patchwork.figures.thumbnails import thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchwork.analysis.matches import Matches


def render(result: Matches) -> Rendered:
    """Render the histogram and the images at its ends."""
    caption = (
        f"The attention weight of single images of {result.counts.sum():,} {result.unit}: those that match the anchor, "
        f"and all others. {located(result)}Beneath: anchors with the images that got most "
        "without matching, and with the matches that got least, each with its weight."
    )
    svg = figure_svg(plot(result), result.name, caption)
    pairs = images("Look-alikes", result.fooled, result.fooled_images)
    pairs += images("Overlooked", result.missed, result.missed_images)
    return Rendered(f'{svg}<div class="columns">{pairs}</div>', caption, share_table(result), claims(result))


def located(result: Matches) -> str:
    """Return how often the greatest weight is on a match; nothing if no sequence has one."""
    value, low, high = result.located
    if not np.isfinite(value):
        return ""
    return (
        f"The greatest is on a match in {value:.1%} of the {result.counts[0]:,} sequences that have one (95 % interval "
        f"{low:.1%} to {high:.1%}). "
    )


def claims(result: Matches) -> tuple[Claim, ...]:
    """Return the sentence about where it finds its anchor; none if no sequence has one."""
    value, low, high = result.located
    if not np.isfinite(value):
        return ()
    text = (
        f"Where there is a match, its greatest attention is on one in {value:.1%} of cases (95 % interval "
        f"{low:.1%} to {high:.1%})"
    )
    nothing = result.shares[1, 2, 0]
    if np.isfinite(nothing) and nothing > 0:
        text += f"; where there is none, {nothing:.1%} of the attention is on nothing"
    return (Claim(f"{text}.", ("located",), rank=60),)


def plot(result: Matches) -> Figure:
    """Plot both histograms over a logarithmic axis of weights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for counts, color, style, name in (
        (result.matching, PALETTE[0], "-", "images that match"),
        (result.others, ERROR, "--", "other images"),
    ):
        axes.stairs(counts / max(int(counts.sum()), 1), result.edges, color=color, ls=style, lw=1.6, label=name)
    axes.set(xscale="log", xlim=(result.edges[0], 1))
    axes.set_xlabel("attention weight (the smallest ones are drawn at the left end)", fontsize=SMALL, color=TEXT)
    axes.set_ylabel("share of the images", fontsize=SMALL, color=TEXT)
    axes.tick_params(which="both", labelsize=SMALL, labelcolor=MUTED, color=GRID)
    axes.set_xticks([1e-6, 1e-4, 1e-2, 1], ["0.0001 %", "0.01 %", "1 %", "100 %"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=SMALL, labelcolor=TEXT)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    return figure


def images(title: str, weights: np.ndarray, pairs: np.ndarray) -> str:
    """Return anchors beside images, with the weight under each."""
    cells = "".join(
        f'<span class="captioned"><span style="display:flex">{thumbnail(anchor, f"anchor {rank}")}'
        f"{thumbnail(image, f'{title.lower()} {rank}, weight {weight:.2%}')}</span>{weight:.2%}</span>"
        for rank, (weight, (anchor, image)) in enumerate(zip(weights, pairs, strict=True), start=1)
    )
    return f"<div><p>{title}</p>{cells}</div>" if cells else ""


def share_table(result: Matches) -> str:
    """Return where the attention is, of sequences with and without a match."""
    rows = [
        [
            f"{name} ({count:,})",
            *("–" if np.isnan(v) else f"{v:.1%} ({low:.1%} – {high:.1%})" for v, low, high in shares),
        ]
        for name, count, shares in zip(("with a match", "without one"), result.counts, result.shares, strict=True)
    ]
    return html_table(["sequences", "on matches", "on other images", "on nothing"], rows)
