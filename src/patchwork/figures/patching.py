"""Effects of exchanged activations as a table, shaded on one scale from 0 to 1."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered

if TYPE_CHECKING:
    from patchwork.analysis.patching import Patching

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
        "between both samples, the median with its 95 % interval: 1 carries all of the answer, 0 nothing."
        f"{others}"
    )
    return Rendered(table(result), caption, claims=claims(result))


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
    text = (
        f"Exchanging only the memory of the cell that differs ({point}) carries {value:.2f} ({low:.2f} to {high:.2f}) "
        f"of the change of its digit, and changes {changed:.1%} of the others."
    )
    return (Claim(text, (f"{point}, {result.tokens[0]}",), rank=45),)


def table(result: Patching) -> str:
    """Return a row for each point and a column for each group of tokens and direction."""
    directions = ("B into A", "A into B")
    header = "".join(
        f'<th scope="col">{escape(token)} tokens<br>{direction}</th>'
        for token in result.tokens
        for direction in directions
    )
    if has_others(result):
        header += "".join(f'<th scope="col">others change<br>{escape(token)} tokens</th>' for token in result.tokens)
    rows = []
    for index, point in enumerate(result.points):
        cells = "".join(
            effect_cell(*result.effect[index, group, way]) for group in range(len(result.tokens)) for way in range(2)
        )
        if has_others(result):
            cells += "".join(f"<td>{percent(value)}</td>" for value in result.others_changed[index])
        rows.append(f'<tr><th scope="row">{escape(point)}</th>{cells}</tr>')
    return f"<table><thead><tr><td></td>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def effect_cell(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return '<td class="muted">–</td>'
    shade = MAX_SHADE * min(max(value, 0), 1)
    color = f"background:color-mix(in srgb,var(--c0) {shade:.0f}%,transparent)"
    return f'<td style="{color}">{number(value)} <span class="muted">({number(low)} – {number(high)})</span></td>'


def number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def percent(value: float) -> str:
    return f"{value:.1%}" if np.isfinite(value) else ""
