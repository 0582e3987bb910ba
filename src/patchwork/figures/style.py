"""Style of all figures: colors, font sizes and resolution, and saving a figure as a file.

matplotlib is imported inside functions, when a figure is made: its import takes longer than most commands.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from patchwork.core.atomic import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
TEXT, MUTED, GRID = "#2f3b47", "#6b7680", "#e3e6e9"
ERROR, FRAME = "#c0392b", "#c9ced3"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe & Ito: safe for color blindness
LINE_STYLES = ("-", "--", ":")  # the next one each time the palette is used up
SMALL, NORMAL, LARGE = 8.0, 9.0, 11.0  # font sizes in points


def line_style(index: int) -> tuple[str, str]:
    """Return the color and the dash pattern of the line with this index."""
    return PALETTE[index % len(PALETTE)], LINE_STYLES[index // len(PALETTE) % len(LINE_STYLES)]


def text_width(text: str, size: float) -> float:
    """Return the width in inches of a text set at `size` points."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    width, _, _ = RendererAgg(1, 1, DPI).get_text_width_height_descent(text, FontProperties(size=size), False)
    return float(width) / DPI


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file atomically; missing parent directories are created.

    Raises:
        ResourceError: if the file cannot be written.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_bytes(path, buffer.getvalue())
