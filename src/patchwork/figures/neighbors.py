"""The surest mistakes, each beside the training images that the model holds nearest to it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.analysis.neighbors import MAX_MISTAKES, NUM_VOTES
from patchwork.figures.rendered import Claim, Rendered
from patchwork.figures.thumbnails import thumbnail

if TYPE_CHECKING:
    from patchwork.analysis.neighbors import Neighbors


def render(result: Neighbors) -> Rendered:
    """Render a row for each mistake."""
    low, high = result.interval
    votes = int((result.votes[:, 0] > result.votes[:, 1]).sum())
    caption = (
        f"The {len(result.index)} surest of "
        f"{'the first ' if len(result.votes) == MAX_MISTAKES else ''}{len(result.votes):,} mistakes in {result.unit}, "
        f"each image once, and which {result.near.shape[1]} of {result.n_training:,} training images, as they are seen "
        f"in training, are nearest to each by what the model holds {result.layer}. Of all mistakes, {votes} "
        f"({result.misled:.0%}, 95 % interval {low:.0%} to {high:.0%}) are nearer to training images of the class that "
        f"was answered: more of the {NUM_VOTES} nearest are of that class than of the right one."
    )
    header = "".join(
        f'<th scope="col">{cell}</th>' for cell in ("mistake", "right", "answered", "", "nearest training images")
    )
    rows = "".join(map(row, [result] * len(result.index), range(len(result.index))))
    html = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    return Rendered(html, caption, claims=claims(result))


def row(result: Neighbors, index: int) -> str:
    target, answer = result.names[result.target[index]], result.names[result.prediction[index]]
    probability = result.probability[index]
    sure = "" if np.isnan(probability) else f"{probability:.1%}"
    near = "".join(
        f'<span class="captioned">{thumbnail(image, f"training image of class {name}")}{escape(name)}</span>'
        for image, name in zip(
            result.near[index], [result.names[label] for label in result.near_target[index]], strict=True
        )
    )
    image = thumbnail(result.images[index], f"{target} that was read as {answer}")
    cells = [f"{image} sample {result.index[index]}", escape(target), escape(answer), sure, near]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def claims(result: Neighbors) -> tuple[Claim, ...]:
    """Return the sentence about what mistakes are nearest to."""
    low, high = result.interval
    text = (
        f"Of its {len(result.votes):,} mistakes in {result.unit}, {result.misled:.0%} (95 % interval {low:.0%} to "
        f"{high:.0%}) are nearer to training images of the class that it answered than to those of the right one."
    )
    return (Claim(text, tuple(result.numbers()), rank=80),)
