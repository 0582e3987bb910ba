"""Effects of exchanged activations as a table, shaded on one scale from 0 to 1."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.analysis.patching import MAX_POSITIONS, NUM_PATCH_PAIRS
from patchwork.figures.rendered import Claim, Rendered, html_table, interval_text
from patchwork.figures.thumbnails import thumbnail

if TYPE_CHECKING:
    from patchwork.analysis.patching import Patching

HEAT_ROW = 14  # CSS pixels of a row of effects by position
TOKENS = {"others": "other"}  # the groups whose names are not as they are said of tokens
MAX_SHADE = 40  # percent of the color behind an effect of 1


def render(result: Patching) -> Rendered:
    """Render the effects of all points, in the order of the network."""
    if has_others(result):
        pairs, where = "differ in one digit", "at the tokens of the digit that differs or at others"
        others = " The last columns are the share of the other answers that change."
    else:
        pairs, where, others = "are answered differently", "of all tokens", ""
    caption = (
        f"Pairs of {result.unit} that {pairs}: {result.n}, and {result.left_out} left out whose answers do not differ. "
        f"An activation is exchanged, {where}; the effect is the change of the logit difference as a share of that "
        "between both samples, the median with its 95 % interval (of 6 pairs or more, unless narrower than the "
        f"digits): 1 carries all of the answer, 0 nothing.{others}"
    )
    if result.streams:
        caption += (
            " Beneath, the same for the tokens at one position alone, from B into A: a row is "
            f"{'a position, a column the answer that differs' if has_others(result) else 'a layer, a column a token'}; "
            "the darker, the more of the answer they carry, the median."
        )
        if not has_others(result) and result.n > NUM_PATCH_PAIRS:
            caption += f" That is of the first {NUM_PATCH_PAIRS} pairs."
    elif not has_others(result):
        caption += f" Layers of more than {MAX_POSITIONS} tokens, as here, are not taken apart by position."
    return Rendered(table(result) + maps(result), caption, position_table(result), claims(result))


def has_others(result: Patching) -> bool:
    return bool(np.isfinite(result.others_changed).any())


def claims(result: Patching) -> tuple[Claim, ...]:
    """Return the sentence about the last activation before the decoder's output that carries the whole answer."""
    best = None
    for index, point in enumerate(result.points):
        value, low, high = result.effect[index, 0, 0]
        if point.endswith(".context") and np.isfinite(value):
            best = (point, value, low, high, result.others_changed[index, 0])
    if best is None:
        return ()
    point, value, low, high, changed = best
    interval = f" ({interval_text(low, high, '.2f')})" if np.isfinite(low) else ""
    text = (
        f"Exchanging only the memory of the cell that differs ({point}) carries {value:.2f}{interval} of the change of "
        f"its digit, and changes {changed:.1%} of the others (pairs of {result.unit}: {result.n})."
    )
    return (Claim(text, (f"{point}, {result.tokens[0]}",), rank=45),)


def table(result: Patching) -> str:
    """Return a row for each point and a column for each group of tokens and direction."""
    directions = ("B into A", "A into B")
    header = "".join(
        f'<th scope="col">{escape(TOKENS.get(token, token))} tokens<br>{direction}</th>'
        for token in result.tokens
        for direction in directions
    )
    if has_others(result):
        header += "".join(
            f'<th scope="col">others change<br>{escape(TOKENS.get(token, token))} tokens</th>'
            for token in result.tokens
        )
    rows = []
    for index, point in enumerate(result.points):
        cells = "".join(
            effect_cell(*result.effect[index, group, way]) for group in range(len(result.tokens)) for way in range(2)
        )
        if has_others(result):
            cells += "".join(f"<td>{percent(value)}</td>" for value in result.others_changed[index])
        rows.append(f'<tr><th scope="row">{escape(point)}</th>{cells}</tr>')
    return f"<table><thead><tr><td></td>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def maps(result: Patching) -> str:
    """Return the effects by position: a matrix for each layer, or of single images one with a row for each layer."""
    if not result.streams:
        return ""
    if not has_others(result):
        return heat(result.by_position[:, :, 0], f"Effect by layer and token: {', '.join(result.streams)}")
    matrices = "".join(
        f"<div><p>{escape(point)}</p>{heat(values, f'{point}: effect by position and answer')}</div>"
        for point, values in zip(result.streams, result.by_position, strict=True)
    )
    return f'<div class="columns">{matrices}</div>'


def heat(values: np.ndarray, description: str) -> str:
    """Return effects (rows, cols) as an image, white for 0 and nothing, and black for 1."""
    shades = ((1 - values.clip(0, 1)) * 255).round()
    return thumbnail(np.nan_to_num(shades, nan=255).astype(np.uint8), description, height=HEAT_ROW * len(values))


def position_table(result: Patching) -> str:
    """Return the effects by position as a table."""
    answers = [f"answer {answer + 1}" for answer in range(result.by_position.shape[2])]
    rows = [
        [f"{point}, position {at + 1}", *(number(value) if np.isfinite(value) else "–" for value in row)]
        for point, values in zip(result.streams, result.by_position, strict=True)
        for at, row in enumerate(values)
        if np.isfinite(row).any()
    ]
    return html_table(["tokens exchanged", *answers], rows) if rows else ""


def effect_cell(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return '<td class="muted">–</td>'
    shade = MAX_SHADE * min(max(value, 0), 1)
    color = f"background:color-mix(in srgb,var(--c0) {shade:.0f}%,transparent)"
    is_visible = np.isfinite(low) and number(low) != number(high)
    interval = f' <span class="muted">({number(low)} – {number(high)})</span>' if is_visible else ""
    return f'<td style="{color}">{number(value)}{interval}</td>'


def number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def percent(value: float) -> str:
    return f"{value:.1%}" if np.isfinite(value) else ""
