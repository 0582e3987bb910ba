"""A matplotlib figure as SVG for a page: real text, the page's colors, and the same bytes every time."""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from patchwork.figures.style import ERROR, FRAME, GRID, MUTED, PALETTE, TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOR_VARIABLES = {  # of `patchwork.figures.style`, by which a page's light and dark colors replace them
    TEXT: "text",
    MUTED: "muted",
    GRID: "grid",
    ERROR: "error",
    FRAME: "frame",
    **{color: f"c{index}" for index, color in enumerate(PALETTE)},
}


def figure_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an `<svg>` element.

    Args:
        figure: drawn with the colors of `patchwork.figures.style`; those become CSS variables, as `var(--text)`.
        name: unique in its page; ids within the SVG begin with it.
        description: what the figure shows, for those who do not see it.
    """
    import matplotlib

    buffer = StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": name, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].rstrip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda match: style_tag(match[0], name), svg)
    width, height = svg_size(svg)
    opening = (
        f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {width:g}pt" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)


def style_tag(tag: str, name: str) -> str:
    """Return a tag with CSS variables for colors, the page's font, and ids that are unique in the page."""
    for color, variable in COLOR_VARIABLES.items():
        tag = re.sub(color, f"var(--{variable})", tag, flags=re.IGNORECASE)
    tag = re.sub(r"font: (\d+\.?\d*)px [^;\"]*", r"font-size: \1px; font-family: inherit", tag)
    return re.sub(r'( id="|"#|url\(#)', rf"\g<1>{name}-", tag)


def svg_size(svg: str) -> tuple[float, float]:
    """Return the width and height of the view box."""
    match = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert match is not None
    return float(match[1]), float(match[2])
