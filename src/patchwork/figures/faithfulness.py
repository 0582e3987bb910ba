"""Maps of explanations over the image, each with its grade: what is no better than the ink is drawn gray."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchwork.analysis.faithfulness import REPLACEMENTS
from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.style import GRID, MUTED, PALETTE, SMALL, TEXT
from patchwork.figures.svg import figure_svg
from patchwork.figures.thumbnails import data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchwork.analysis.faithfulness import Faithfulness

SIDE = 92  # CSS pixels of a map
LEVELS = 25  # of the opacity, so that a map takes few bytes
FOR, AGAINST, GRAY = (213, 94, 0), (0, 114, 178), (128, 128, 128)  # colors of the maps, by their opacity


def render(result: Faithfulness) -> Rendered:
    """Render the maps of all methods, and how fast an answer is lost when what they point to is deleted."""
    caption = (
        "What each answer comes from, according to several methods: orange speaks for it, blue against it, each method "
        f"on its own scale. Beneath: how fast the answer is lost when 4×4 pixels are deleted in that order, for "
        f"{result.n} {result.unit}, with 95 % intervals. A method whose maps are no better than the ink, which never "
        "saw the model, has them in gray; controls have gray curves. In the table: the normalized area, 0 for a "
        f"random order and 1 for a greedy search that sees what each deletion does, of {result.n_searched} of them; "
        "and the area if parts are replaced by those of the mean image or of another sample."
    )
    svg = figure_svg(plot(result), result.name, caption)
    refused = "".join(f'<p class="muted">{escape(text)}</p>' for text in result.refused)
    return Rendered(f"{maps_table(result)}{refused}{svg}", caption, scores_table(result), claims(result))


def claims(result: Faithfulness) -> tuple[Claim, ...]:
    """Return the sentence about the methods that are better than the ink."""
    better = [
        name for index, name in enumerate(result.methods[: result.num_methods]) if result.is_better_than_ink(index)
    ]
    worse = [name for name in result.methods[: result.num_methods] if name not in better]
    text = f"Of the explanations, {', '.join(better) or 'none'} {'point' if len(better) > 1 else 'points'} to what "
    text += "matters more surely than the ink does"
    if worse and better:
        text += f"; {', '.join(worse)} {'do' if len(worse) > 1 else 'does'} not"
    text += f" ({result.n} {result.unit})."
    return (Claim(text, tuple(f"area of deletion, {name}" for name in result.methods[: result.num_methods]), rank=70),)


def maps_table(result: Faithfulness) -> str:
    """Return the maps of each method over the samples."""
    height, width = result.images.shape[-2:]
    definitions = "".join(
        f'<image id="faithfulness-image-{index}" width="{width}" height="{height}" href="{data_uri(image)}" '
        'style="image-rendering:pixelated"/>'
        for index, image in enumerate(result.images)
    )
    hidden = f'<svg style="position:absolute;width:0;height:0" aria-hidden="true"><defs>{definitions}</defs></svg>'
    head = "".join(f'<th scope="col">answer {answer}</th>' for answer in result.answers.tolist())
    rows = []
    for index, name in enumerate(result.methods[: result.num_methods]):
        is_better = result.is_better_than_ink(index)
        scale = float(np.abs(result.maps[index]).max()) or 1.0
        cells = "".join(
            f"<td>{map_svg(values / scale, sample, is_better, describe_map(result, name, sample))}</td>"
            for sample, values in enumerate(result.maps[index])
        )
        grade = "better than ink" if is_better else "no better than ink"
        rows.append(f'<tr><th scope="row">{escape(name)}<br><span class="muted">{grade}</span></th>{cells}</tr>')
    return f"{hidden}<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def describe_map(result: Faithfulness, name: str, sample: int) -> str:
    return f"{name} of sample {sample + 1}, answer {result.answers[sample]}"


def map_svg(values: np.ndarray, sample: int, is_better: bool, description: str) -> str:
    """Return values (height, width) from −1 to 1 over the image of a sample."""
    height, width = values.shape
    alpha = ((np.sqrt(np.abs(values)).clip(0, 1) * LEVELS).round() * (255 / LEVELS)).round().astype(np.uint8)
    positive, negative = (FOR, AGAINST) if is_better else (GRAY, GRAY)
    channels = [np.where(values >= 0, a, b).astype(np.uint8) for a, b in zip(positive, negative, strict=True)]
    blocks = data_uri(np.stack([*channels, alpha]))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}" '
        f'style="width:{SIDE * width // height}px;display:inline-block"><use href="#faithfulness-image-{sample}"/>'
        f'<image width="{width}" height="{height}" href="{blocks}" style="image-rendering:pixelated"/></svg>'
    )


def scores_table(result: Faithfulness) -> str:
    """Return the areas under the curves, how much smaller than that of the ink they are, and how near to a search."""
    rows = []
    for index, name in enumerate(result.methods):
        below_ink = "" if name == "ink" else interval(result.below_ink[index], "+.3f")
        areas = [result.area[index], *result.replaced[index], result.insertion[index]]
        area, *others = (interval(each, ".3f") for each in areas)
        title = name if index < result.num_methods else f"{name} (control)"
        rows.append([title, area, below_ink, interval(result.search[index], ".0%"), *others])
    header = [
        "method",
        "area of deletion (less is better)",
        "less than that of ink by",
        "normalized area (0 % random, 100 % greedy search)",
        *(f"area, parts of {each} (less is better)" for each in REPLACEMENTS),
        "area of insertion (more is better)",
    ]
    return html_table(header, rows)


def interval(values: np.ndarray, spec: str) -> str:
    """Return a value with the ends of its interval, (3,); nothing if it is NaN."""
    value, low, high = (format(each, spec) for each in values.tolist())
    return f"{value} ({low} – {high})" if np.isfinite(values[0]) else ""


def plot(result: Faithfulness) -> Figure:
    """Plot how much of the difference of logits is left while more and more is deleted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    x = np.linspace(0, 100, result.curves.shape[1])
    for index, (name, curve) in enumerate(zip(result.methods, result.curves, strict=True)):
        if name.endswith("untrained"):
            continue  # in the table
        is_method = index < result.num_methods
        color = PALETTE[index % len(PALETTE)] if is_method else MUTED
        style = "-" if is_method else (":", "--", "-.", (0, (1, 4)))[(index - result.num_methods) % 4]
        axes.plot(x, curve, ls=style, color=color, lw=1.6 if is_method else 1.1, label=name)
    axes.axhline(0, color=GRID, lw=0.8)
    axes.set_xlabel("parts deleted, the most important first (%)", fontsize=SMALL, color=TEXT)
    axes.set_ylabel("left of the logit difference", fontsize=SMALL, color=TEXT)
    axes.tick_params(labelsize=SMALL, labelcolor=MUTED, color=GRID)
    axes.legend(frameon=False, fontsize=SMALL, labelcolor=TEXT, ncols=2)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    return figure
