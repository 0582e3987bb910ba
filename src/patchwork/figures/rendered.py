"""A figure as a part of a page: HTML that needs nothing else, with a sentence under it, a table, and what it claims."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Claim:
    """A sentence that a result supports, for the beginning of a page.

    Attributes:
        text: one sentence of plain text, with its numbers.
        numbers: names of the headline numbers that it states, see `Result.numbers`.
        rank: sentences of smaller rank come first; a page begins with the first five.
    """

    text: str
    numbers: tuple[str, ...]
    rank: int


@dataclass(frozen=True)
class Rendered:
    """A figure for a page.

    Attributes:
        html: the figure: SVG, tables or images as data URIs; it holds no script and refers to nothing outside.
        caption: what is to be seen in it, in one or two sentences of plain text, with count, unit and interval.
        table: the numbers of the figure as an HTML table, its accessible form; empty if `html` is one.
        claims: sentences for the beginning of the page.
    """

    html: str
    caption: str
    table: str = ""
    claims: tuple[Claim, ...] = ()


def interval_text(low: float, high: float, spec: str) -> str:
    """Return a 95 % interval in words, its ends in a format; one whose ends look the same is said to be narrow."""
    ends = format(low, spec), format(high, spec)
    return f"95 % interval {ends[0]} to {ends[1]}" if ends[0] != ends[1] else "95 % interval narrower than these digits"


def html_table(header: list[str], rows: list[list[str]], *, row_headers: bool = True) -> str:
    """Return an HTML table of texts, which are escaped; the first cell of a row heads it if `row_headers`."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = []
    for row in rows:
        cells = [
            f'<th scope="row">{escape(cell)}</th>' if index == 0 and row_headers else f"<td>{escape(cell)}</td>"
            for index, cell in enumerate(row)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
