"""Maps of what a layer holds, with thumbnails on hover and focus, and the scores of every layer in the space itself."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from patchwork.analysis.embeddings import SCORES, THUMBNAIL
from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.style import PALETTE
from patchwork.figures.thumbnails import data_uri

if TYPE_CHECKING:
    from patchwork.analysis.embeddings import Embeddings

SIZE, MARGIN = 480, 16  # of a map, in units of its view box
SMALL = 240  # of a map of an earlier layer
SHAPES = ("round", "square")  # of points, for each class beyond the colors
COLUMNS = 40  # thumbnails in a row of the sprite
KNN, SILHOUETTE, ARI, NOISE = 0, 1, 2, 5  # columns of the scores that sentences are about


def render(result: Embeddings) -> Rendered:
    """Render the maps as panels, one more with the clusters, and the scores as a table."""
    caption = (
        f"The first {len(result.label):,} {result.unit}, what the network holds of them {result.layer}, less the mean "
        f"at each position. PCA shows {result.explained.sum():.0%} of the variance. Sizes of clusters and distances "
        f"between them mean nothing in t-SNE. {clusters_text(result)}"
    )
    panels = [panel(name, class_map(result, index)) for index, name in enumerate(result.maps)]
    panels.append(panel("clusters found in the space", cluster_map(result)))
    if result.earlier:
        panels.append(
            panel(f"PCA after each layer before, {result.earlier_points.shape[1]} points", earlier_maps(result))
        )
    texts = " ".join(
        f"{quote(result.classes[label])}|{index}|{cluster}"
        for label, index, cluster in zip(result.label, result.index, result.cluster, strict=True)
    )
    sprite = f'<img hidden data-sprite="{THUMBNAIL} {COLUMNS}" src="{data_uri(sheet(result.thumbnails))}" alt="">'
    stepper = f'<div class="stepper panels" data-stepper="Map">{"".join(panels)}</div>'
    html = f'<div data-scatter="{escape(texts)}">{stepper}{sprite}</div>'
    notes = "".join(f'<p class="muted">{escape(note[:1].upper() + note[1:])}</p>' for note in result.notes)
    return Rendered(html + notes, caption, score_table(result) + quality_table(result), (claim(result),))


def clusters_text(result: Embeddings) -> str:
    noise = float((result.cluster < 0).mean())
    if result.num_clusters == 0:
        return "HDBSCAN finds no clusters in the space itself."
    return (
        f"HDBSCAN finds {result.num_clusters} clusters in the space itself, of {len(np.unique(result.label))} classes, "
        f"and takes {noise:.1%} as noise."
    )


def claim(result: Embeddings) -> Claim:
    """Return the sentence about how well classes are separated, beside pixels."""
    last, pixels = result.spaces.index(result.layer), len(result.spaces) - 2
    text = (
        f"What it holds {result.layer} separates classes: k-means finds them with an adjusted Rand index of "
        f"{result.scores[last, ARI]:.2f}, in raw pixels with {result.scores[pixels, ARI]:.2f}, of "
        f"{len(result.label):,} {result.unit}. {clusters_text(result)}"
    )
    numbers = (f"k-means ARI, {result.layer}", f"k-means ARI, {result.spaces[pixels]}")
    return Claim(text, numbers, rank=75)


# --- maps ------------------------------------------------------------------------------------------------------------


def panel(name: str, svg: str) -> str:
    return f'<div data-panel="{escape(name)}"><p>{escape(name)}</p>{svg}</div>'


def class_map(result: Embeddings, index: int) -> str:
    groups = [(name, result.label == label) for label, name in enumerate(result.classes)]
    return scatter(to_view_box(result.points[index]), groups, f"{result.maps[index]}, by class")


def cluster_map(result: Embeddings) -> str:
    """Return the second map, of t-SNE, by the clusters that were found in the space."""
    groups = [(str(cluster), result.cluster == cluster) for cluster in range(result.num_clusters)]
    points = to_view_box(result.points[min(1, len(result.maps) - 1)])
    return scatter(points, groups, "by cluster", others=result.cluster < 0)


def earlier_maps(result: Embeddings) -> str:
    """Return small maps of the layers before the last one, without names of points."""
    maps = []
    for name, points, shares in zip(result.earlier, result.earlier_points, result.earlier_explained, strict=True):
        label, scaled = result.label[: len(points)], to_view_box(points) / SIZE * SMALL
        paths = "".join(
            f'<path style="stroke:var(--c{index % len(PALETTE)});stroke-linecap:{SHAPES[index // len(PALETTE) % 2]}" '
            f'd="{strokes(scaled[label == index], digits=0)}"/>'
            for index in range(len(result.classes))
            if (label == index).any()
        )
        title = f"{name}, {shares.sum():.0%} of the variance"
        view = f'viewBox="0 0 {SMALL} {SMALL}" style="width:{SMALL}px"'
        svg = f'<svg class="map" role="img" aria-label="PCA, {escape(title)}" {view}>{paths}</svg>'
        maps.append(f"<div><p>{escape(title)}</p>{svg}</div>")
    return f'<div class="columns">{"".join(maps)}</div>'


def scatter(
    points: np.ndarray, groups: list[tuple[str, np.ndarray]], description: str, others: np.ndarray | None = None
) -> str:
    """Return points (n, 2) as an `<svg>`: a color and a shape for each group, whose name is at its median.

    Args:
        points: in units of the view box.
        groups: names, and which points (n,) belong to them.
        description: what the map shows.
        others: points (n,) of no group, which are gray.
    """
    paths, names = [], []
    if others is not None and others.any():
        paths.append(path(points, others, "var(--muted)", "round"))
    for index, (name, members) in enumerate(groups):
        if members.any():
            shape = SHAPES[index // len(PALETTE) % 2]
            paths.append(path(points, members, f"var(--c{index % len(PALETTE)})", shape))
            x, y = np.median(points[members], axis=0)
            names.append(f'<text x="{x:.0f}" y="{y + 5:.0f}">{escape(name)}</text>')
    label = f"Map, {description}. Arrow keys go from point to point."
    view = f'viewBox="0 0 {SIZE} {SIZE}"'
    return (
        f'<svg class="map" tabindex="0" role="application" aria-label="{escape(label)}" {view}>'
        f"{''.join(paths)}{''.join(names)}</svg>"
    )


def path(points: np.ndarray, members: np.ndarray, color: str, shape: str) -> str:
    """Return points as very short strokes, whose caps are their shape."""
    at = " ".join(map(str, np.flatnonzero(members).tolist()))
    return f'<path style="stroke:{color};stroke-linecap:{shape}" data-at="{at}" d="{strokes(points[members])}"/>'


def strokes(points: np.ndarray, *, digits: int = 1) -> str:
    return "".join(f"M{x:.{digits}f} {y:.{digits}f}h.1" for x, y in points.tolist())


def to_view_box(points: np.ndarray) -> np.ndarray:
    """Return points (n, 2) in units of the view box, on one scale; y grows downwards."""
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - (low + high) / 2) * (SIZE - 2 * MARGIN) / max(float((high - low).max()), 1e-12)
    return scaled * (1, -1) + SIZE / 2


def sheet(thumbnails: np.ndarray) -> np.ndarray:
    """Return thumbnails (n, size, size) as one image, row by row."""
    rows = -(-len(thumbnails) // COLUMNS)
    padded = np.zeros((rows * COLUMNS, *thumbnails.shape[1:]), np.uint8)
    padded[: len(thumbnails)] = thumbnails
    tiles = padded.reshape(rows, COLUMNS, *thumbnails.shape[1:])
    return tiles.transpose(0, 2, 1, 3).reshape(rows * thumbnails.shape[1], -1)


# --- scores ----------------------------------------------------------------------------------------------------------


def score_table(result: Embeddings) -> str:
    """Return the scores of each space."""
    rows = [
        [space, str(dimensions), *map(number, range(len(SCORES)), values)]
        for space, dimensions, values in zip(result.spaces, result.dimensions, result.scores.tolist(), strict=True)
    ]
    return html_table(["space", "directions for 95 % of the variance", *SCORES], rows)


def number(column: int, value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if SCORES[column].endswith("clusters") else f"{value:.3f}"


def quality_table(result: Embeddings) -> str:
    """Return how far each map can be trusted."""
    rows = [[name, *(f"{value:.3f}" for value in row)] for name, row in zip(result.maps, result.kept, strict=True)]
    return html_table(["map", "trustworthiness", "share of 15 neighbors kept"], rows)
