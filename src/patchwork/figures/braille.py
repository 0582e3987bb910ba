"""Pictures in the terminal: a Braille character holds 2×4 dots, so that a digit of 28×28 takes 14×7 characters.

1. Threshold the pixels to dots and pack eight of them into each character, for a whole batch at once (`braille`).
2. Frame the cells of a sample; what was expected stands in a cell's top-left corner, what was predicted in its
   bottom-right one (`grid_lines`).
3. Lay the samples side by side, as many as the terminal is wide (`render`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from patchwork.tasks.base import Sample

BLANK = "\u2800"  # the first of the 256 characters: no dots
DOTS = (0, 3, 1, 4, 2, 5, 6, 7)  # the bit of each dot of a character, row by row
GREY, GREEN, RED, RESET = "\x1b[90m", "\x1b[32m", "\x1b[1;31m", "\x1b[0m"
WRONG = "✗"
GAP = 4  # characters between two samples
LABEL = 24  # a label may widen its cell to this many characters


def braille(images: Tensor, threshold: float = 0.5) -> list[list[str]]:
    """Draw images (B, H, W) as B lists of ⌈H/4⌉ strings of ⌈W/2⌉ characters; a dot is a pixel above the threshold."""
    height, width = images.shape[-2:]
    dots = F.pad((images > threshold).to(torch.int32), (0, -width % 2, 0, -height % 4))
    dots = rearrange(dots, "b (h r) (w c) -> b h w (r c)", r=4, c=2)
    codes = (dots << torch.tensor(DOTS, device=dots.device)).sum(-1) + ord(BLANK)  # (B, ⌈H/4⌉, ⌈W/2⌉)
    return [["".join(map(chr, line)) for line in picture] for picture in codes.tolist()]


def speaks_braille() -> bool:
    """Tell whether stdout can encode the pictures; no run shall end for an old terminal."""
    encoding = sys.stdout.encoding or getattr(sys.__stdout__, "encoding", None)  # Rich's stand-in tells none
    try:
        "⠿┌✗".encode(encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def ink(image: Tensor) -> Tensor:
    """Turn a picture (C, H, W) into what is drawn of it (H, W), in [0, 1]: in colour, what is not background."""
    image = image.detach().float().cpu()
    if len(image) == 1:
        return image[0]
    background = image.flatten(1).median(dim=1).values[:, None, None]  # the colour that there is most of
    distance = (image - background).abs().amax(dim=0)
    return distance / distance.max().clamp(min=0.1)  # a faint grain is no picture


def labels(sample: Sample) -> tuple[list[str], list[str]]:
    """Fit a sample's expected and predicted labels to its cells: one printable string for each, in reading order.

    Where there are fewer labels than cells, the last cells have none; surplus ones all go to the last cell.
    """
    count = sample.rows * sample.cols

    def fit(texts: Sequence[str]) -> list[str]:
        texts = ["".join(c if c.isprintable() else "·" for c in text) for text in texts]
        return [*texts[: count - 1], " ".join(texts[count - 1 :]), *[""] * (count - 1 - len(texts))]

    predicted = fit(sample.predicted)
    return predicted if sample.expected is None else fit(sample.expected), predicted


def grid_lines(sample: Sample, *, color: bool, width: int) -> list[str]:
    """Draw one sample as lines of equal width; a picture that is wider than `width` characters is drawn smaller."""
    expected, predicted = labels(sample)
    image = ink(sample.image)
    image = F.pad(image, (0, -image.shape[1] % sample.cols, 0, -image.shape[0] % sample.rows))
    parts = rearrange(image, "(r h) (c w) -> (r c) h w", r=sample.rows, c=sample.cols)
    marked = [_mark(e, p, color) for e, p in zip(expected, predicted, strict=True)]
    room = max((width - (sample.cols - 1)) // sample.cols - 2, 1)  # characters in a cell, without its frame
    threshold = 0.5
    if (shrink := 2 * room / parts.shape[-1]) < 1:
        parts = F.adaptive_avg_pool2d(parts[None], (max(round(shrink * parts.shape[-2]), 1), 2 * room))[0]
        threshold = 0.35  # a thin stroke fades among its neighbours

    pictures = braille(parts, threshold)
    longest = max(map(len, [*expected, *marked]))
    across = min(room, max(len(pictures[0][0]), min(longest, LABEL)))
    down = max(len(pictures[0]), 2)  # the two labels never share a line
    framed = []
    for i, picture in enumerate(pictures):
        body = [line.ljust(across, BLANK) for line in [*picture, *[""] * (down - len(picture))]]
        want, said = _cut(expected[i], across), _cut(marked[i], across)
        verdict = GREEN if predicted[i] == expected[i] else RED
        if sample.expected is None:
            want, verdict = "", GREY
        body[0] = _paint(want, GREY, color) + body[0][len(want) :]
        body[-1] = body[-1][: across - len(said)] + _paint(said, verdict, color)
        framed.append(["┌" + "─" * across + "┐", *(f"│{line}│" for line in body), "└" + "─" * across + "┘"])
    rows = [framed[start : start + sample.cols] for start in range(0, len(framed), sample.cols)]
    return [" ".join(parts) for row in rows for parts in zip(*row, strict=True)]


def render(samples: Sequence[Sample], *, color: bool, width: int) -> str:
    """Draw samples side by side, as many as fit into `width` characters, then the next ones below.

    With `color`, expected labels are grey, right predictions green and wrong ones red (ANSI escapes); without, there
    are no escapes and a wrong prediction carries a cross.
    """
    shelves: list[list[list[str]]] = []
    used = 0
    for sample in samples:
        block = grid_lines(sample, color=color, width=width)
        across = len(block[0])  # the frame's top has no escapes: its length is its width on screen
        if shelves and used + GAP + across <= width:
            shelves[-1].append(block)
            used += GAP + across
        else:
            shelves.append([block])
            used = across
    return "\n\n".join("\n".join(_beside(shelf)) for shelf in shelves)


def legend(*, color: bool) -> str:
    """Explain in one line how to read what `render` draws."""
    right, wrong = _paint("right", GREEN, color), _paint("wrong", RED, color) if color else f"{WRONG} wrong"
    return f"{_paint('expected top left', GREY, color)}, predicted bottom right: {right} or {wrong}"


def _beside(blocks: list[list[str]]) -> list[str]:
    """Join blocks of lines side by side; shorter ones end early."""
    height = max(map(len, blocks))
    padded = [block + [" " * len(block[0])] * (height - len(block)) for block in blocks]
    return [(" " * GAP).join(parts).rstrip(" ") for parts in zip(*padded, strict=True)]


def _mark(expected: str, predicted: str, color: bool) -> str:
    """Give the predicted label as it is shown: a cross where it is wrong and no colour says so, or it is empty."""
    if predicted == expected:
        return predicted
    return predicted if color and predicted else WRONG + predicted


def _cut(label: str, width: int) -> str:
    return label if len(label) <= width else label[: width - 1] + "…"


def _paint(text: str, escape: str, color: bool) -> str:
    return f"{escape}{text}{RESET}" if color and text else text
