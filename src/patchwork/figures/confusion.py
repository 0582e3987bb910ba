"""The confusion matrix as an HTML table, and the largest confusions with examples."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from patchwork.figures.rendered import Claim, Rendered
from patchwork.figures.thumbnails import thumbnail

if TYPE_CHECKING:
    from patchwork.analysis.confusion import Confusion, Matrix, Pair

MAX_SHADE = 70  # percent of the error color behind the most frequent error


def render(result: Confusion) -> Rendered:
    """Render the first matrix and the largest confusions; further matrices can be opened."""
    first, *others = result.matrices()
    total, errors = int(first.counts.sum()), int(first.counts.sum() - first.counts.trace())
    more = "".join(
        f"<details><summary>{escape(matrix.name)}: {describe_errors(matrix)}</summary>{matrix_table(matrix)}</details>"
        for matrix in others
    )
    html = f'<div class="columns"><div>{matrix_table(first)}{more}</div>{pairs_list(result.largest())}</div>'
    caption = (
        f"Rows are targets, columns predictions, of {total:,} {result.unit}; {errors:,} are wrong. Errors are shaded "
        f"on their own scale, by the share of their row. {describe_pairs(result.largest())}"
    )
    return Rendered(html, caption, claims=claims(result))


def describe_pairs(pairs: list[Pair]) -> str:
    """Return the sentence about the list of confusions."""
    if not pairs:
        return ""
    examples = max(len(pair.examples) for pair in pairs)
    return (
        f"In the list: the largest {len(pairs)} confusions, each with up to {examples} examples, the first; brackets "
        "are 95 % intervals of the share of the row, over images."
    )


def claims(result: Confusion) -> tuple[Claim, ...]:
    """Return the sentence about the largest confusion; none if nothing is confused."""
    largest = result.largest()
    if not largest:
        return ()
    pair = largest[0]
    low, high = pair.interval
    text = (
        f"It most often takes {pair.target} for {pair.prediction}: in {pair.errors} of {pair.total:,} {result.unit} "
        f"of {pair.target} ({pair.errors / pair.total:.2%}, 95 % interval {low:.2%} to {high:.2%})."
    )
    return (Claim(text, (f"{pair.target} taken for {pair.prediction}",), rank=30),)


def describe_errors(matrix: Matrix) -> str:
    errors, total = int(matrix.counts.sum() - matrix.counts.trace()), int(matrix.counts.sum())
    return f"{errors:,} of {total:,} wrong"


def matrix_table(matrix: Matrix) -> str:
    """Return a matrix as an HTML table; a class that does not occur has an empty row.

    Predictions that are no class, as the end of a sequence, have a column if they occur.
    """
    totals = matrix.counts.sum(axis=1)
    shares = matrix.counts / totals.clip(min=1)[:, None]
    off_diagonal = [
        shares[row, col] for row in range(len(matrix.rows)) for col in range(len(matrix.cols)) if row != col
    ]
    largest = max(off_diagonal, default=0.0)
    shown = [col for col in range(len(matrix.cols)) if col < len(matrix.rows) or matrix.counts[:, col].any()]
    head = "".join(f'<th scope="col">{escape(matrix.cols[col])}</th>' for col in shown)
    rows = []
    for row, label in enumerate(matrix.rows):
        cells = [
            cell_html(int(matrix.counts[row, col]), shares[row, col], largest, is_error=row != col) for col in shown
        ]
        note = "" if totals[row] else "none"
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}<td class="muted">{note}</td></tr>')
    return (
        f'<table class="matrix"><caption>{escape(matrix.name)}</caption><thead><tr><th scope="col">target ↓ '
        f"prediction →</th>{head}<td></td></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def cell_html(count: int, share: float, largest: float, *, is_error: bool) -> str:
    if not is_error:
        return f"<td><b>{count}</b></td>"
    if not count:
        return '<td class="muted">·</td>'
    shade = MAX_SHADE * math.sqrt(share / largest)
    return f'<td style="background:color-mix(in srgb,var(--error) {shade:.0f}%,transparent)">{count}</td>'


def pairs_list(pairs: list[Pair]) -> str:
    """Return the largest confusions as a list, each with examples."""
    if not pairs:
        return "<p>Nothing is confused.</p>"
    items = []
    for pair in pairs:
        low, high = pair.interval
        images = "".join(
            thumbnail(image, f"{pair.target} taken for {pair.prediction}, example {index + 1}")
            for index, image in enumerate(pair.examples)
        )
        items.append(
            f"<li><b>{escape(pair.target)}</b> taken for <b>{escape(pair.prediction)}</b>: {pair.errors} of "
            f'{pair.total:,} <span class="muted">({low:.2%}–{high:.2%})</span><br>{images}</li>'
        )
    return f'<ol class="pairs">{"".join(items)}</ol>'
