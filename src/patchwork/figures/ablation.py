"""What every part is worth: a table of effects with intervals, and the pairs of heads that stand in for each other."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered, interval_text

if TYPE_CHECKING:
    from patchwork.analysis.ablation import Ablation

MAX_PAIRS = 8
BAR = 9  # em of the longest bar


def render(result: Ablation) -> Rendered:
    """Render the effects, the most needed part first."""
    caption = (
        "Points of accuracy (the share of single answers that are right) lost and loss gained when a part is replaced "
        f"by its mean, over {result.n} {result.unit}, with 95 % intervals; what another sample's activation or zero "
        f"would cost is beside it. Parts are ordered by the loss. {describe_pairs(result)}An effect is a lower bound, "
        "as other parts may step in; one of 0 without an interval changed no answer."
    )
    html = f'<div class="columns"><div>{effects_table(result)}</div><div>{pairs_table(result)}</div></div>'
    return Rendered(html, caption, claims=claims(result))


def describe_pairs(result: Ablation) -> str:
    """Return the sentence about which pairs of heads are in the table."""
    count, heads = len(result.heads), sum(" head " in part for part in result.parts)
    num_pairs = count * (count - 1) // 2
    if not num_pairs:
        return ""
    tried = f"{num_pairs:,} pairs of {'the first ' if count < heads else ''}{count} heads"
    return f"Of {tried}, those are shown whose loss differs most from the sum of both, at most {MAX_PAIRS}. "


def claims(result: Ablation) -> tuple[Claim, ...]:
    """Return the sentence about the part that costs most accuracy; none if no part costs any."""
    index = int(result.accuracy_drop[:, 0, 0].argmax())
    if result.accuracy_drop[index, 0, 0] <= 0:
        return ()
    value, low, high = 100 * result.accuracy_drop[index, 0]
    text = (
        f"Without {result.parts[index]}, replaced by its mean over samples, the share of right answers about "
        f"{result.n} {result.unit} falls by {value:.1f} points ({interval_text(low, high, '.1f')}): no other part "
        "costs more."
    )
    return (Claim(text, (f"accuracy lost without {result.parts[index]}",), rank=60),)


def effects_table(result: Ablation) -> str:
    """Return a row for each part, with a bar of the accuracy that it costs."""
    longest = max(float(result.accuracy_drop[:, 0, 0].max()), 1e-9)
    rows = []
    for index in result.order:
        drop, (loss, *_) = 100 * result.accuracy_drop[index], result.loss_rise[index, 0]
        value, low, high = drop[0]
        width = BAR * max(value, 0) / (100 * longest)
        bar = f'<span style="display:inline-block;background:var(--c0);height:.7em;width:{width:.2f}em"></span>'
        rows.append(
            f'<tr><th scope="row">{escape(result.parts[index])}</th><td style="text-align:left">{bar}</td>'
            f'<td>{value:.2f} <span class="muted">{between(low, high)}</span></td><td>{round(loss, 3) + 0.0:.3f}</td>'
            f"<td>{drop[1, 0]:.2f}</td><td>{drop[2, 0]:.2f}</td></tr>"
        )
    header = "<th scope='col'>left out</th><td></td><th scope='col'>points lost</th><th scope='col'>loss</th>"
    header += "<th scope='col'>resampled</th><th scope='col'>zero</th>"
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def between(low: float, high: float) -> str:
    """Return an interval in brackets; nothing if its ends look the same, as of effects that are all the same."""
    ends = f"{low:.2f}", f"{high:.2f}"
    return "" if ends[0] == ends[1] else f"({ends[0]} – {ends[1]})"


def pairs_table(result: Ablation) -> str:
    """Return the pairs of heads that cost most beyond the sum of both alone."""
    upper = np.triu(result.pairs, 1)
    order = np.argsort(-np.abs(upper).flatten(), kind="stable")[:MAX_PAIRS]
    rows = []
    for one, other in zip(*np.unravel_index(order, upper.shape), strict=True):
        if round(upper[one, other], 3) != 0:
            names = f"{escape(result.heads[one])}<br>{escape(result.heads[other])}"
            rows.append(f'<tr><th scope="row">{names}</th><td>{upper[one, other]:+.3f}</td></tr>')
    if not rows:
        return ""
    return (
        "<table><caption>Loss of two heads together, beyond the sum of both</caption><thead><tr>"
        f'<th scope="col">pair</th><th scope="col">nats</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
