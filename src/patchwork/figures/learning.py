"""A film strip of what was right when, with the heads and the probes of the same epochs."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.analysis.learning import MAX_VALIDATIONS, NUM_PROBED
from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.thumbnails import data_uri, thumbnail

if TYPE_CHECKING:
    from patchwork.analysis.learning import Learning

RIGHT, WRONG = (0, 114, 178), (213, 94, 0)
ROW = 12  # CSS pixels of an epoch in the strip


def render(result: Learning) -> Rendered:
    """Render the strip, the samples learned last, the attention of the last layer, and a table of all epochs."""
    count, learned = result.right.shape[1], result.learned
    never = int((learned == len(result.epochs)).sum())
    caption = (
        f"The first {count} {result.unit}, one column each, in the order in which they were learned; one row a "
        f"validation, the first on top. Blue is right, orange wrong. {int((result.forgotten > 0).sum())} of them were "
        f"forgotten at least once, {never} are wrong in the end. A sample is learned at the validation from which on "
        f"it is right.{attended_text(result)}{limits_text(result)}"
    )
    parts = [strip(result), samples(result), attention(result)]
    return Rendered("".join(parts), caption, epoch_table(result) + probe_table(result), claims(result))


def attended_text(result: Learning) -> str:
    """Return the sentence about what the attention was measured on."""
    return f" Attention is that of {result.attended_n} {result.attended_unit}." if result.heads else ""


def limits_text(result: Learning) -> str:
    """Return the sentences about the validations that are left out, and about what the probes read."""
    count, frames, text = len(result.epochs), len(result.frames), ""
    if count == MAX_VALIDATIONS:
        text += f" At most {MAX_VALIDATIONS} validations are shown, evenly spread over the training."
    if result.layers:
        text += f" Probes read the class alone, of up to {NUM_PROBED} test answers."
    if frames < count and (result.layers or result.heads):
        text += f" Attention and probes are those of {frames} of the {count} validations."
    return text


def claims(result: Learning) -> tuple[Claim, ...]:
    """Return the sentence about when samples were learned."""
    learned = result.learned
    ever = learned[learned < len(result.epochs)]
    if not len(ever):
        return ()
    half, most = (result.moments[int(np.quantile(ever, share, method="higher"))] for share in (0.5, 0.95))
    text = (
        f"Half of the {result.unit} that it has right in the end were learned by {half}, 95 % by {most}; "
        f"{(result.forgotten > 0).mean():.1%} were forgotten at least once."
    )
    return (Claim(text, ("right in the end", "forgotten at least once"), rank=85),)


def strip(result: Learning) -> str:
    """Return an image (epochs × samples), one pixel each."""
    order = np.lexsort((result.forgotten, result.learned))
    right = result.right[:, order]
    pixels = np.where(right[None], np.array(RIGHT)[:, None, None], np.array(WRONG)[:, None, None]).astype(np.uint8)
    height = ROW * len(result.epochs)
    style = f"width:100%;height:{height}px;border:0"
    return f'<img class="pixels" style="{style}" src="{data_uri(pixels)}" alt="What was right at each validation">'


def samples(result: Learning) -> str:
    """Return the samples that were learned last, forgotten most often, or never learned."""
    cells = []
    for kind in dict.fromkeys(result.shown_as):
        rows = [index for index, name in enumerate(result.shown_as) if name == kind]
        images = "".join(
            f'<span class="captioned">{thumbnail(result.images[row], result.targets[row])}'
            f"{escape(result.targets[row])}</span>"
            for row in rows
        )
        cells.append(f"<div><p>{escape(kind)}</p>{images}</div>")
    return f'<div class="columns">{"".join(cells)}</div>'


def attention(result: Learning) -> str:
    """Return the weights of the last layer of attention at each of some epochs, as panels to step through."""
    panels = []
    for frame, maps in zip(result.frames.tolist(), result.maps, strict=True):
        images = "".join(
            f'<span class="captioned">{thumbnail(gray(weights), f"head {head + 1}", height=96)}head {head + 1}</span>'
            for head, weights in enumerate(maps)
        )
        moment = result.moments[frame]
        panels.append(f'<div data-panel="{moment}"><p>{moment}</p>{images}</div>')
    if not panels:
        return ""
    title = (
        f"<p>Attention of {escape(result.map_layer)} for the first test sample: a row is a query, a column a key; "
        "white is 1, on a square-root scale.</p>"
    )
    return f'{title}<div class="stepper panels" data-stepper="Epoch">{"".join(panels)}</div>'


def gray(weights: np.ndarray) -> np.ndarray:
    return (np.sqrt(weights.clip(0, 1)) * 255).round().astype(np.uint8)


def epoch_table(result: Learning) -> str:
    """Return what was right, learned and forgotten at each validation."""
    before = np.zeros_like(result.right[0])
    rows = []
    for index, (moment, right) in enumerate(zip(result.moments, result.right, strict=True)):
        learned = int((result.learned == index).sum())
        rows.append([moment, f"{right.mean():.1%}", str(learned), str(int((before & ~right).sum()))])
        before = right
    return html_table(["after", "right", "learned for good", "forgotten"], rows)


def probe_table(result: Learning) -> str:
    """Return the probes' accuracy and the heads' effective keys at some epochs."""
    header = ["", *(result.moments[frame] for frame in result.frames.tolist())]
    rows = [
        [f"probe: {layer}", *(f"{value:.1%}" for value in result.probed[:, index, 0])]
        for index, layer in enumerate(result.layers)
    ]
    for index, head in enumerate(result.heads):
        rows.append([f"effective keys: {head}", *(f"{value:.2f}" for value in result.effective_keys[:, index])])
        if np.isfinite(result.own_cell[:, index]).any():
            rows.append([f"on the cell of the digit: {head}", *(f"{each:.1%}" for each in result.own_cell[:, index])])
    return html_table(header, rows) if rows else ""
