"""Maps of attention over the image: one scale for all, blocks as large as the patches, and what a patch really sees."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered, html_table, interval_text
from patchwork.figures.thumbnails import data_uri, thumbnail

if TYPE_CHECKING:
    from patchwork.analysis.attention import AttentionMaps, Layer

SIDE = 92  # CSS pixels of a map
MAX_QUERIES = 6  # with a map each
MAX_SMALL = 2000  # weights of a head, beyond which one sample is shown
MAX_MATRIX = 16  # queries of self-attention without a class token, beyond which their mean is shown
LEVELS = 51  # of the opacity, so that a map takes few bytes
COLOR = (213, 94, 0)  # of the weights, by their opacity
KINDS = {"weights": "where it looks", "moved": "what it moves"}


def render(result: AttentionMaps) -> Rendered:
    """Render the layers as panels, in each a row of maps for each sample and query."""
    panels = "".join(layer_panel(result, layer) for layer in result.by_layer())
    html = f'{image_definitions(result.images)}{legend()}<div class="stepper" data-stepper="Layer">{panels}</div>'
    caption = (
        f"Attention of all layers and heads for the first {len(result.images)} {result.unit}; numbers are means over "
        f"{result.n}. {describe_maps(result)}The opacity is the square root of the weight, on one scale. Beneath each "
        "head: its effective number of keys, exp of the entropy, of all there are; equal weights would have them all. "
        "Where a head looks is not yet what it takes: what it moves weighs each key by the length of its value after "
        "the output projection."
    )
    return Rendered(html, caption, head_table(result), claims=claims(result))


def describe_maps(result: AttentionMaps) -> str:
    """Return the sentences about what is drawn over images, what as a matrix, and what is left out of them."""
    layers, text = result.by_layer(), ""
    mapped, matrices = ([each for each in layers if is_mapped(each) == maps] for maps in (True, False))
    if mapped:
        text += "Maps are of the query that answers: the class token, the digit that is written, or the mean of all. "
    if any(not each.is_self_attention and each.weights.shape[2] > MAX_QUERIES for each in mapped):
        text += f"Of more queries, the first {MAX_QUERIES} have a map. "
    if any(has_frames(result, each) for each in mapped):
        height, width = (result.fields[:, 1::2] - result.fields[:, ::2]).max(axis=0)
        text += f"The frame is what the key of the largest weight depends on, up to {height}×{width} pixels. "
    if matrices:
        text += "In matrices, rows are queries and columns keys. "
    if any(each.weights[0, 0].size > MAX_SMALL for each in matrices):
        text += f"Those of more than {MAX_SMALL:,} weights are of the first sample alone. "
    return text


def legend() -> str:
    """Return the scale of all maps."""
    steps = "".join(
        f'<span style="background:rgb{COLOR};opacity:{value**0.5:.3f};display:inline-block;width:1.4rem;height:.8rem">'
        f"</span>&nbsp;{value:g} &nbsp;"
        for value in (0.01, 0.05, 0.25, 1)
    )
    return f'<p class="muted">weight: {steps}</p>'


def image_definitions(images: np.ndarray) -> str:
    """Return the images of the samples (n, C, height, width) as an invisible SVG that the maps refer to."""
    height, width = images.shape[-2:]
    definitions = "".join(
        f'<image id="attention-image-{index}" width="{width}" height="{height}" href="{data_uri(image)}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated"/>'
        for index, image in enumerate(images)
    )
    return f'<svg style="position:absolute;width:0;height:0" aria-hidden="true"><defs>{definitions}</defs></svg>'


def layer_panel(result: AttentionMaps, layer: Layer) -> str:
    """Return the maps of a layer."""
    blocks, count = [], layer.weights.shape[-1]
    for kind, title in KINDS.items():
        values = layer.weights if kind == "weights" else layer.moved
        shown = len(result.images) if is_mapped(layer) or values[0, 0].size <= MAX_SMALL else 1
        rows = [sample_row(result, layer, values[index], index) for index in range(shown)]
        heads = "".join(
            f'<th scope="col">head {head + 1}<br><span class="muted">{value:.1f} of {count}</span></th>'
            for head, value in enumerate(layer.entropy[:, 0])
        )
        blocks.append(
            f'<div data-panel="{title}"><table><caption>{escape(layer.name)}: {title}</caption>'
            f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
    return (
        f'<div data-panel="{escape(layer.name)}"><div class="panels" data-stepper="{escape(layer.name)}">'
        f"{''.join(blocks)}</div></div>"
    )


def sample_row(result: AttentionMaps, layer: Layer, values: np.ndarray, index: int) -> str:
    """Return a table row: the map of each head, for a sample's answer."""
    cells = []
    for head, table in enumerate(values):
        description = f"{layer.name}, head {head + 1}, sample {index + 1}, read as {result.answers[index]}"
        cells.append(f"<td>{head_maps(result, layer, table, index, description)}</td>")
    image = thumbnail(result.images[index], f"sample {index + 1}, read as {result.answers[index]}", height=SIDE // 2)
    return f'<tr><th scope="row">{image}<br>{escape(result.answers[index])}</th>{"".join(cells)}</tr>'


def is_mapped(layer: Layer) -> bool:
    """Return whether weights are drawn over the image, and not as a matrix of all queries."""
    if layer.keys.kind == "tokens":
        return False
    return not layer.is_self_attention or bool(layer.keys.prefix) or layer.weights.shape[2] > MAX_MATRIX


def has_frames(result: AttentionMaps, layer: Layer) -> bool:
    """Return whether it is known which pixels each key of a layer depends on."""
    return layer.keys.kind == "patches" and len(result.fields) == layer.keys.rows * layer.keys.cols


def head_maps(result: AttentionMaps, layer: Layer, table: np.ndarray, index: int, description: str) -> str:
    """Return the maps of one head: over the image for the queries that answer, else the matrix of all queries."""
    if is_mapped(layer) and layer.is_self_attention:
        row = table[0] if layer.keys.prefix else table.mean(axis=0)
        source = "from the class token" if layer.keys.prefix else "mean over all queries"
        return spatial_map(result, layer, row, index, f"{description}: {source}")
    if is_mapped(layer):
        return "".join(
            spatial_map(result, layer, row, index, f"{description}: query {query + 1}", side=SIDE // 2)
            for query, row in enumerate(table[:MAX_QUERIES])
        )
    matrix = heat(table)
    zoom = max(SIDE // max(matrix.shape[:2]), 1)
    return (
        f'<img class="pixels" style="height:{zoom * matrix.shape[0]}px" src="{data_uri(np.moveaxis(matrix, -1, 0))}" '
        f'alt="{escape(description)}: rows are queries, columns keys">'
    )


def spatial_map(
    result: AttentionMaps, layer: Layer, row: np.ndarray, index: int, description: str, *, side: int = SIDE
) -> str:
    """Return weights (S,) over the image, as blocks, with the field of the largest."""
    height, width = result.images.shape[-2:]
    grid = row[layer.keys.prefix :].reshape(layer.keys.rows, layer.keys.cols)
    blocks = data_uri(np.moveaxis(heat(grid), -1, 0))
    frame = ""
    if has_frames(result, layer):
        top, bottom, left, right = result.fields[int(grid.argmax())].tolist()
        frame = (
            f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" '
            'stroke="var(--c4)" stroke-width=".5"/>'
        )
    style = f'style="width:{side * width // height}px;display:inline-block" preserveAspectRatio="none"'
    pixels = 'preserveAspectRatio="none" style="image-rendering:pixelated"'
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}" {style}>'
        f'<use href="#attention-image-{index}"/>'
        f'<image width="{width}" height="{height}" href="{blocks}" {pixels}/>{frame}</svg>'
    )


def heat(values: np.ndarray) -> np.ndarray:
    """Return weights (rows, cols) as RGBA (rows, cols, 4), the opacity their square root."""
    alpha = ((np.sqrt(values.clip(0, 1)) * LEVELS).round() * (255 / LEVELS)).round().astype(np.uint8)
    return np.dstack([np.full_like(alpha, channel) for channel in COLOR] + [alpha])


def head_table(result: AttentionMaps) -> str:
    """Return the statistics of all heads as a table."""
    rows = []
    for layer in result.by_layer():
        for head in range(layer.weights.shape[1]):
            value, low, high = layer.entropy[head]
            own, distance = layer.own_cell[head], layer.distance[head]
            rows.append(
                [
                    f"{layer.name}, head {head + 1}",
                    f"{value:.2f} ({low:.2f} – {high:.2f}) of {layer.weights.shape[-1]}",
                    f"{distance:.2f}" if np.isfinite(distance) else "",
                    f"{own[0]:.1%} ({max(own[1], 0):.1%} – {min(own[2], 1):.1%})" if np.isfinite(own[0]) else "",
                ]
            )
    return html_table(["head", "effective keys", "mean distance, patches", "on the cell of the digit"], rows)


def claims(result: AttentionMaps) -> tuple[Claim, ...]:
    """Return the sentence about the head that looks at the cell of each digit most, if there are cells."""
    best: tuple[float, str, np.ndarray] | None = None
    for layer in result.by_layer():
        for head, own in enumerate(layer.own_cell):
            if np.isfinite(own[0]) and (best is None or own[0] > best[0]):
                best = (float(own[0]), f"{layer.name} head {head + 1}", own)
    if best is None:
        return ()
    _, name, (value, low, high) = best
    text = (
        f"When it writes a digit, {name} puts {value:.1%} ({interval_text(max(low, 0), min(high, 1), '.1%')}) of its "
        f"weight on the cell of that digit, mean over {result.n} {result.unit}."
    )
    return (Claim(text, (f"{name}, share on the cell of the digit",), rank=50),)
