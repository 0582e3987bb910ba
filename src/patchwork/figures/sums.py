"""Sequences with what each image is read as, the distribution of their sum, and all errors by length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.thumbnails import thumbnail

if TYPE_CHECKING:
    from patchwork.analysis.sums import Sums

ERRORS = ("≤ −3", "−2", "−1", "right", "+1", "+2", "≥ 3")
NUM_SUMS = 3  # the likeliest ones that are shown


def render(result: Sums) -> Rendered:
    """Render a row for each sequence, and the errors by length."""
    made = (
        f"The distribution of a sum is the convolution of those of its images, to {result.remainder:.0e}. "
        if np.isfinite(result.remainder)
        else ""
    )
    caption = (
        f"The first {len(result.images)} sequences: what each image is read as alone, and the {NUM_SUMS} likeliest "
        "sums. "
        f"{made}{exchanges(result)}An error beyond ±{len(ERRORS) // 2} is counted as that."
    )
    rows = "".join(f"<tr>{sequence_row(result, index)}</tr>" for index in range(len(result.images)))
    header = "".join(f'<th scope="col">{name}</th>' for name in ("images", "sum", "answer"))
    html = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    return Rendered(html, caption, error_table(result), claims(result))


def exchanges(result: Sums) -> str:
    """Return what an exchange does; nothing if no digits differ."""
    value, low, high = result.slope
    if not np.isfinite(value):
        return ""
    return (
        f"Exchanging an image moves the expected sum by {value:.3f} for each unit of the digit (95 % interval "
        f"{low:.3f} to {high:.3f}, {result.n} exchanges); 1 is arithmetic. "
    )


def claims(result: Sums) -> tuple[Claim, ...]:
    """Return the sentence about exchanges; none if no digits differ."""
    value, low, high = result.slope
    if not np.isfinite(value):
        return ()
    text = (
        f"Exchanging an image for one whose digit is greater by one moves the expected sum by {value:.3f} (95 % "
        f"interval {low:.3f} to {high:.3f}, {result.n} exchanges)."
    )
    return (Claim(text, ("slope of an exchange",), rank=60),)


def sequence_row(result: Sums, index: int) -> str:
    """Return the images with what each is read as, the true sum, and the likeliest sums."""
    images = "".join(
        f'<span class="captioned">{thumbnail(result.images[index, place], described(result, index, place))}'
        f"{reading(result.alone[index, place])}</span>"
        for place in range(int(result.length[index]))
    )
    whole = result.whole[index]
    if len(whole) == 1:
        answer = f"{whole[0]:.2f}"
    else:
        likeliest = np.argsort(-whole, kind="stable")[:NUM_SUMS]
        answer = ", ".join(f"{each} ({whole[each]:.1%})" for each in likeliest if whole[each] >= 0.0005)
    return f'<td style="text-align:left">{images}</td><td>{result.target[index]}</td><td>{answer}</td>'


def described(result: Sums, index: int, place: int) -> str:
    return f"image {place + 1} of sequence {index + 1}, read as {reading(result.alone[index, place])}"


def reading(values: np.ndarray) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{int(values.argmax())} ({values.max():.0%})"


def error_table(result: Sums) -> str:
    """Return how often each error is made, by length."""
    rows = []
    for length, counts, (low, high) in zip(result.lengths.tolist(), result.errors, result.intervals, strict=True):
        total, right = int(counts.sum()), int(counts[len(ERRORS) // 2])
        rows.append([str(length), f"{total:,}", f"{right / total:.1%} ({low:.1%} – {high:.1%})", *map(str, counts)])
    return html_table(["length", "sequences", "share right", *ERRORS], rows)
