"""Images with the surprise at each patch, and for the hardest ones what was expected, and where it looked."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.thumbnails import thumbnail
from patchwork.stats.intervals import mean_interval, wilson

if TYPE_CHECKING:
    from patchwork.analysis.generation import Generation

LARGE, SMALL = 140, 56  # CSS pixels


def render(result: Generation) -> Rendered:
    """Render a panel for each image, with all patches' mean surprise as a table."""
    total = result.bits.sum(axis=1)
    low, high = mean_interval(total)
    caption = (
        f"How many bits each patch of the first {len(result.images)} test images takes, given the patches before it: "
        f"black is 0, white {brightest(result):.1f}, on one scale. {len(total)} {result.unit} take {total.mean():.1f} "
        f"bits each (95 % interval {low:.1f} to {high:.1f}). Of the {result.hard.shape[1]} patches that surprise most: "
        f"the {result.considered.shape[2]} likeliest patches that a beam search finds there, and the attention of "
        "every head, from black (0) to white (1) on a square-root scale; that on the class or prompt is the pixel at "
        "the top left."
    )
    panels = "".join(
        f'<div data-panel="image {index + 1}">{image_panel(result, index)}</div>' for index in range(len(result.images))
    )
    html = f'<div class="stepper panels" data-stepper="Image">{panels}</div>'
    return Rendered(html, caption, patch_table(result), claims(result))


def claims(result: Generation) -> tuple[Claim, ...]:
    """Return the sentences about the surprise, and about classification by likelihood."""
    total = result.bits.sum(axis=1)
    place = int(result.bits.mean(axis=0).argmax())
    row, col = divmod(place, result.grid_size)
    text = (
        f"A test image takes {total.mean():.1f} bits, mean over {len(total)}; the patch that takes most on average is "
        f"that in row {row + 1}, column {col + 1}, with {result.bits.mean(axis=0)[place]:.1f} bits."
    )
    found = [Claim(text, ("bits of an image",), rank=30)]
    if result.class_bits.size:
        right, n = int(result.classified.sum()), len(result.labels)
        low, high = wilson(right, n)
        text = (
            f"Asked which class makes an image least surprising, it names the right one in {right / n:.1%} of cases "
            f"(95 % interval {low:.1%} to {high:.1%}); knowing the class saves {result.saved.sum():.1f} bits an image "
            "against no class or, if it was trained with classes alone, against the mean of the others."
        )
        found.append(Claim(text, ("classified by likelihood", "bits that the class saves"), rank=35))
    return tuple(found)


def brightest(result: Generation) -> float:
    return float(result.bits[: len(result.images)].max())


def image_panel(result: Generation, index: int) -> str:
    """Return an image, its surprise, and a row for each of its hardest patches."""
    size = result.grid_size
    bits = result.bits[index].reshape(size, size)
    heat = (bits / max(brightest(result), 1e-12) * 255).round().astype(np.uint8)
    images = thumbnail(result.images[index], f"test image {index + 1}", height=LARGE)
    images += thumbnail(heat, f"bits of each patch of test image {index + 1}, {bits.max():.1f} at most", height=LARGE)
    rows = "".join(
        map(patch_row, [result] * result.hard.shape[1], [index] * result.hard.shape[1], range(result.hard.shape[1]))
    )
    header = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("patch", "bits", "true", "expected", "where each head of each block looked")
    )
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<p>{images}</p><p>{bits.sum():.1f} bits</p>{table}"


def patch_row(result: Generation, index: int, which: int) -> str:
    """Return what was expected at a patch, and where each head looked."""
    place = int(result.hard[index, which])
    row, col = divmod(place, result.grid_size)
    expected = "".join(
        f'<span class="captioned">{thumbnail(patch, f"likely patch {rank + 1}", height=24)}{prob:.0%}</span>'
        for rank, (patch, prob) in enumerate(
            zip(result.considered[index, which], result.considered_probs[index, which], strict=True)
        )
    )
    looked = "".join(
        f'<span class="captioned">{thumbnail(attention_map(result, weights), name, height=SMALL)}'
        f"{escape(name.replace('blocks.', '').replace('.attn head', ' head'))}</span>"
        for name, weights in zip(result.heads, result.weights[index, which], strict=True)
    )
    cells = [
        f"row {row + 1}, col {col + 1}",
        f"{result.bits[index, place]:.1f}",
        thumbnail(result.actual[index, which], "the true patch", height=24),
        expected,
        f'<div style="text-align:left">{looked}</div>',
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def attention_map(result: Generation, weights: np.ndarray) -> np.ndarray:
    """Return the weights (N,) on the patches as an image, with that on the condition in the row above them."""
    size = result.grid_size
    grid = np.zeros((size + 1, size))
    grid[0, 0] = weights[0]  # of the condition; the key after it is the first patch
    grid[1:].flat[: len(weights) - 1] = weights[1:]
    return (np.sqrt(grid.clip(0, 1)) * 255).round().astype(np.uint8)


def patch_table(result: Generation) -> str:
    """Return the mean bits of each patch, and what the class saves there."""
    size = result.grid_size
    mean = result.bits.mean(axis=0).reshape(size, size)
    header = ["bits", *(f"col {col + 1}" for col in range(size))]
    table = html_table(header, [[f"row {row + 1}", *(f"{each:.2f}" for each in mean[row])] for row in range(size)])
    if not result.saved.size:
        return table
    saved = result.saved.reshape(size, size)
    header = ["saved by the class", *header[1:]]
    rows = [[f"row {row + 1}", *(f"{each + 0.0:.2f}" for each in saved[row])] for row in range(size)]
    return table + html_table(header, rows)
