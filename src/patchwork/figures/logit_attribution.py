"""What each part adds to an answer, as bars on one scale, beside what could be read before it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.figures.rendered import Claim, Rendered, html_table, interval_text

if TYPE_CHECKING:
    from patchwork.analysis.logit_attribution import LogitAttribution

BAR = 7  # em of the longest bar


def render(result: LogitAttribution) -> Rendered:
    """Render the parts in the order of the network, and the lens beside them."""
    value, low, high = result.difference
    caption = (
        "What each part adds directly to the logit difference between an answer and the runner-up, mean over "
        f"{result.n} {result.unit}, with 95 % intervals. The parts add up to it, {value:.2f} ({low:.2f} "
        f"to {high:.2f}), but for {result.remainder:.0e}. Beside them is how often an answer is right, and how often "
        "it is the final one, if the stream is read after a part with the final norm and the head; a low share does "
        "not mean that nothing is there."
    )
    html = f'<div class="columns"><div>{parts_table(result)}</div><div>{lens_table(result)}</div></div>'
    answers = result.by_answer.shape[1]
    table = answers_table(result) if answers > 1 else ""
    return Rendered(html, caption, table, claims(result))


def claims(result: LogitAttribution) -> tuple[Claim, ...]:
    """Return the sentence about the part that adds most."""
    index = int(result.contribution[:, 0].argmax())
    value, low, high = result.contribution[index]
    part = result.parts[index]
    text = (
        f"Of the {result.difference[0]:.1f} by which the logit of an answer exceeds that of the runner-up, {part} adds "
        f"{value:.1f} ({interval_text(low, high, '.1f')}) directly, more than any other part, mean over {result.n} "
        f"{result.unit}."
    )
    return (Claim(text, ("logit difference", f"added by {part}"), rank=65),)


def parts_table(result: LogitAttribution) -> str:
    """Return a row for each part, with a bar to the right if it speaks for the answer, to the left if against it."""
    longest = max(float(np.abs(result.contribution[:, 0]).max()), 1e-12)
    zero = max(-float(result.contribution[:, 0].min()), 0) / longest  # as much room as the bars to the left need
    rows = []
    for part, (value, low, high) in zip(result.parts, result.contribution.tolist(), strict=True):
        cells = f'<td style="padding:0">{signed_bar(value / longest, zero)}</td><td>{number(value)}</td>'
        cells += f'<td class="muted">({number(low)} – {number(high)})</td>'
        rows.append(f'<tr><th scope="row">{escape(part)}</th>{cells}</tr>')
    header = '<th scope="col">part</th><td></td><th scope="col">logits</th><td></td>'
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def signed_bar(share: float, zero: float) -> str:
    """Return a bar of a share from −1 to 1 of the longest one, which begins at `zero`."""
    left, width = BAR * (zero + min(share, 0)), BAR * abs(share)
    color = "var(--c0)" if share >= 0 else "var(--c1)"
    place = f"position:absolute;left:{left:.2f}em;width:{width:.2f}em;height:.7em;top:.3em"
    line = f"position:absolute;left:{BAR * zero:.2f}em;height:1.2em;border-left:1px solid var(--frame)"
    bars = f'<span style="{place};background:{color}"></span><span style="{line}"></span>'
    return f'<div style="position:relative;width:{BAR * (1 + zero):.2f}em;height:1.2em">{bars}</div>'


def lens_table(result: LogitAttribution) -> str:
    """Return a row for each place between parts."""
    rows = []
    for place, accuracy, agreement in zip(result.places, result.lens_accuracy, result.lens_agreement, strict=True):
        value, low, high = (f"{each:.1%}" if np.isfinite(each) else "–" for each in accuracy)
        cells = f'<td>{value} <span class="muted">({low} – {high})</span></td><td>{agreement:.1%}</td>'
        rows.append(f'<tr><th scope="row">{escape(place)}</th>{cells}</tr>')
    header = '<th scope="col">read after</th><th scope="col">right</th><th scope="col">final answer</th>'
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def answers_table(result: LogitAttribution) -> str:
    """Return what each part adds to each answer of a sample."""
    header = ["part", *(f"answer {index + 1}" for index in range(result.by_answer.shape[1]))]
    rows = [[part, *map(number, row)] for part, row in zip(result.parts, result.by_answer.tolist(), strict=True)]
    return html_table(header, rows)


def number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00
