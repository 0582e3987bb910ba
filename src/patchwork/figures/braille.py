"""Images in the terminal: a Braille character holds 2×4 dots, so that a 28×28 digit takes 14×7 characters.

1. Threshold the pixels to dots and pack eight of them into each character, for a whole batch (`braille`).
2. Frame the cells of a sample, with the target in a cell's top left corner and the prediction in its bottom right one
   (`render_sample`). Color images are half blocks instead, of two pixels each, where the terminal has their colors.
3. Place samples side by side, as many as fit into the terminal's width (`render`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from patchwork.figures.labels import CellLabel, cell_labels

if TYPE_CHECKING:
    from patchwork.tasks.base import Sample

BLANK = "\u2800"  # the first of the 256 Braille characters: no dots
DOT_BITS = (0, 3, 1, 4, 2, 5, 6, 7)  # the bit of each dot of a character, row by row
GRAY, GREEN, RED, RESET = "\x1b[90m", "\x1b[32m", "\x1b[1;31m", "\x1b[0m"
CROSS = "✗"
HALF_BLOCK = "▀"  # its foreground is the upper pixel, its background the lower one
MAX_COLOR_WIDTH = 20  # characters of a color image, so that several fit side by side
SAMPLE_GAP = 4  # characters between two samples
MAX_LABEL_WIDTH = 24  # a label may widen its cell to this many characters
THRESHOLD, DOWNSCALED_THRESHOLD = 0.5, 0.35  # averaging makes thin strokes fainter


def braille(images: Tensor, threshold: float = THRESHOLD) -> list[list[str]]:
    """Render images (B, H, W) as B lists of ⌈H/4⌉ strings of ⌈W/2⌉ characters; pixels above the threshold are dots."""
    height, width = images.shape[-2:]
    dots = F.pad((images > threshold).to(torch.int32), (0, -width % 2, 0, -height % 4))
    dots = rearrange(dots, "b (h r) (w c) -> b h w (r c)", r=4, c=2)
    codes = (dots << torch.tensor(DOT_BITS, device=dots.device)).sum(-1) + ord(BLANK)  # (B, ⌈H/4⌉, ⌈W/2⌉)
    return [["".join(map(chr, line)) for line in image] for image in codes.tolist()]


def supports_unicode() -> bool:
    """Return whether stdout can encode Braille, so that no run fails because of an old terminal."""
    encodings = (getattr(stream, "encoding", None) for stream in (sys.stdout, sys.__stdout__))  # Rich's has none
    try:
        "⠿┌✗".encode(next(filter(None, encodings), "ascii"))
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def color_depth() -> int:
    """Return how many bits of color the terminal shows, by its environment: 24, 8, or 0 if that is not known."""
    if os.environ.get("COLORTERM") in ("truecolor", "24bit") or "WT_SESSION" in os.environ:
        return 24
    return 8 if "256color" in os.environ.get("TERM", "") else 0


def half_blocks(images: Tensor, depth: int) -> list[list[list[str]]]:
    """Render color images (B, 3, H, W) in [0, 1] as B lists of ⌈H/2⌉ lines of W characters with their escapes."""
    levels = F.pad(images, (0, 0, 0, -images.shape[-2] % 2)).clamp(0, 1).mul(255).round().int()
    pairs = rearrange(levels, "b c (h two) w -> b h w two c", two=2)
    return [[[half_block(upper, lower, depth) for upper, lower in line] for line in image] for image in pairs.tolist()]


def half_block(upper: list[int], lower: list[int], depth: int) -> str:
    """Return a character of two pixels (red, green, blue), in 24 bits or the 6×6×6 colors of 8 bits."""
    if depth == 24:
        codes = [";".join(["2", *map(str, pixel)]) for pixel in (upper, lower)]
    else:
        steps = [[round(value / 51) for value in pixel] for pixel in (upper, lower)]
        codes = [f"5;{16 + 36 * red + 6 * green + blue}" for red, green, blue in steps]
    return f"\x1b[38;{codes[0]};48;{codes[1]}m{HALF_BLOCK}{RESET}"


def to_grayscale(image: Tensor) -> Tensor:
    """Return the intensity (H, W) in [0, 1] of an image (C, H, W): of a color image, its contrast to the background."""
    image = image.detach().float().cpu()
    if len(image) == 1:
        return image[0]
    background = image.flatten(1).median(dim=1).values[:, None, None]
    contrast = (image - background).abs().amax(dim=0)
    return contrast / contrast.max().clamp(min=0.1)  # faint noise on a plain background stays faint


def render(samples: Sequence[Sample], *, color: bool, width: int) -> str:
    """Render samples side by side, as many per row as fit into `width` characters.

    With `color`, targets are gray, correct predictions green and wrong ones red (ANSI escapes); without, there are no
    escapes and a cross marks a wrong prediction.
    """
    rows: list[list[list[str]]] = []
    row_width = 0
    for sample in samples:
        block = render_sample(sample, color=color, width=width)
        block_width = len(block[0])  # a frame's top has no escapes: its length is its width on screen
        if rows and row_width + SAMPLE_GAP + block_width <= width:
            rows[-1].append(block)
            row_width += SAMPLE_GAP + block_width
        else:
            rows.append([block])
            row_width = block_width
    return "\n\n".join("\n".join(join_horizontally(row)) for row in rows)


def render_sample(sample: Sample, *, color: bool, width: int) -> list[str]:
    """Render one sample as lines of equal width; an image wider than `width` characters is downscaled."""
    labels = cell_labels(sample)
    max_width = max((width - (sample.cols - 1)) // sample.cols - 2, 1)  # characters of a cell within its frame
    depth = color_depth() if color and len(sample.image) == 3 else 0
    images = color_cell_images(sample, max_width, depth) if depth else cell_images(sample, max_width)
    longest = max(len(text) for label in labels for text in (label.target, mark_error(label, color)))
    cell_width = min(max_width, max(len(images[0][0]), min(longest, MAX_LABEL_WIDTH)))
    has_target = sample.target is not None
    cells = [
        frame_cell(image, label, cell_width, color=color, has_target=has_target, mark=sample.marks.get(index, ""))
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    rows = [cells[start : start + sample.cols] for start in range(0, len(cells), sample.cols)]
    return [" ".join(lines) for row in rows for lines in zip(*row, strict=True)]


def cell_images(sample: Sample, max_width: int) -> list[list[list[str]]]:
    """Cut a sample's image into its cells and render each in Braille, as lines of at most `max_width` characters."""
    cells = cut_cells(to_grayscale(sample.image)[None], sample)[:, 0]
    scale = 2 * max_width / cells.shape[-1]
    threshold = THRESHOLD
    if scale < 1:
        size = (max(round(scale * cells.shape[-2]), 1), 2 * max_width)
        cells, threshold = F.adaptive_avg_pool2d(cells[None], size)[0], DOWNSCALED_THRESHOLD
    return [[list(line) for line in image] for image in braille(cells, threshold)]


def color_cell_images(sample: Sample, max_width: int, depth: int) -> list[list[list[str]]]:
    """Cut a sample's color image into its cells and render each in half blocks, see `cell_images`."""
    cells = cut_cells(sample.image.detach().float().cpu().nan_to_num(), sample)
    scale = min(max_width, MAX_COLOR_WIDTH) / cells.shape[-1]
    if scale < 1:
        height, width = (max(round(scale * length), 1) for length in cells.shape[-2:])
        cells = F.adaptive_avg_pool2d(cells, (height, width))
    return half_blocks(cells, depth)


def cut_cells(image: Tensor, sample: Sample) -> Tensor:
    """Cut the image (C, H, W) of a sample into its cells (N, C, height, width), row by row."""
    image = F.pad(image, (0, -image.shape[2] % sample.cols, 0, -image.shape[1] % sample.rows))
    return rearrange(image, "k (r h) (c w) -> (r c) k h w", r=sample.rows, c=sample.cols)


def frame_cell(
    image: list[list[str]], label: CellLabel, width: int, *, color: bool, has_target: bool, mark: str = ""
) -> list[str]:
    """Draw a frame around an image, of characters with their escapes, and write the labels into its corners.

    A mark is written into the frame's upper line.
    """
    height = max(len(image), 2)  # the two labels never share a line
    lines = [[*line, *[BLANK] * (width - len(line))] for line in [*image, *[[]] * (height - len(image))]]
    if has_target:
        target = truncate(label.target, width)
        lines[0] = [colorize(target, GRAY, color), *lines[0][len(target) :]]
    prediction = truncate(mark_error(label, color), width)
    prediction_color = GRAY if not has_target else GREEN if label.is_correct else RED
    lines[-1] = [*lines[-1][: width - len(prediction)], colorize(prediction, prediction_color, color)]
    top = truncate(mark, width).center(width, "─")
    return [f"┌{top}┐", *(f"│{''.join(line)}│" for line in lines), "└" + "─" * width + "┘"]


def legend(*, color: bool) -> str:
    """Return one line that explains what `render` shows."""
    correct = colorize("correct", GREEN, color)
    wrong = colorize("wrong", RED, color) if color else f"{CROSS} wrong"
    return f"{colorize('target top left', GRAY, color)}, prediction bottom right: {correct} or {wrong}"


def join_horizontally(blocks: list[list[str]]) -> list[str]:
    """Join blocks of lines side by side, aligned at the top."""
    height = max(map(len, blocks))
    padded = [block + [" " * len(block[0])] * (height - len(block)) for block in blocks]
    return [(" " * SAMPLE_GAP).join(lines).rstrip(" ") for lines in zip(*padded, strict=True)]


def mark_error(label: CellLabel, color: bool) -> str:
    """Return the prediction with a cross if it is wrong and its color does not show it (no colors, or no text)."""
    if label.is_correct or (color and label.prediction):
        return label.prediction
    return CROSS + label.prediction


def truncate(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def colorize(text: str, escape: str, color: bool) -> str:
    return f"{escape}{text}{RESET}" if color and text else text
