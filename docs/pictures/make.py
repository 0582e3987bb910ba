"""Make the pictures of the tasks in the documentation, each an input and its answer: `python docs/pictures/make.py`.

It needs MNIST, see `conf/dataset/mnist.yaml`. The pictures of a run are copied from its directory instead:

    python train.py experiment=seq2seq dataset=mnist run_dir=outputs/pictures
    cp outputs/pictures/figures/{curves,samples}.png docs/pictures/
"""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from patchwork import compose
from patchwork.data import Batch
from patchwork.data.sources.icons import PERSONS, TENSES, VERBS
from patchwork.figures.samples import Sheet, show_image
from patchwork.figures.style import DPI, TEXT, save_figure, text_width
from patchwork.runs.build import build
from patchwork.tasks.base import Sample, to_unit_range

PICTURES = Path(__file__).parent
ZOOM, MARGIN, GAP = 2, 6, 14  # pixels per pixel of an image; pixels
FONT_SIZE = 13.0  # points
ARROW = "→"

Part = Tensor | str  # an image (C, height, width) in [0, 1], or a text


def main() -> None:
    save("seq2seq", seq2seq())
    save("classify", classify())
    save("sum", sequence_sum())
    save("anchor", anchor())
    save("icons", icons())
    save("pixels", pixels())


def first_batch(*overrides: str) -> Batch:
    """Return the first batch of the test split."""
    data, _ = build(compose(["dataset=mnist", *overrides]))
    data.prepare_data()
    data.setup()
    return data.make_batch("test", (0, 0), slice(None))


def seq2seq() -> list[Part]:
    batch = first_batch("task=seq2seq")
    return [to_unit_range(batch["image"][0]), ARROW, " ".join(map(str, batch["digits"][0].tolist()))]


def classify() -> list[Part]:
    batch = first_batch("task=classify")
    return [to_unit_range(batch["image"][0]), ARROW, str(int(batch["label"][0]))]


def sequence_sum() -> list[Part]:
    batch = first_batch("task=sum")
    index = first_of_length(batch, 4)
    return [strip(batch["image"][index, :4]), ARROW, str(int(batch["digits"][index].sum()))]


def anchor() -> list[Part]:
    batch = first_batch("task=anchor")
    index = first_of_length(batch, 3, batch["present"])
    anchor = to_unit_range(batch["anchor"][index])
    return [anchor, "in", strip(batch["image"][index, :3]), ARROW, "yes"]


def icons() -> list[Part]:
    batch = first_batch("task=icons")
    tense, person, verb = (int(batch[name][0]) for name in ("tense", "person", "verb"))
    names = [list(TENSES)[tense].replace("_", " "), list(PERSONS)[person], list(VERBS)[verb]]
    return [to_unit_range(batch["image"][0]), ARROW, " · ".join(names)]


def pixels() -> list[Part]:
    """Return generated sevens: the first of those in the last frame of the animation, a contact sheet with zoom 2."""
    animation = Image.open(PICTURES / "drawing.gif")
    animation.seek(animation.n_frames - 1)
    frame = torch.from_numpy(np.array(animation.convert("L")))[::2, ::2]
    cells = [frame[2 + 30 * row : 30 + 30 * row, 2 + 30 * 7 : 30 + 30 * 7] for row in range(4)]
    return ["7", ARROW, torch.cat(cells, dim=1)[None] / 255]


def first_of_length(batch: Batch, length: int, condition: Tensor | None = None) -> int:
    """Return the index of the first sequence of this length for which the condition holds."""
    matches = batch["mask"].sum(dim=1) == length
    return int((matches if condition is None else matches & condition.bool()).nonzero()[0])


def strip(images: Tensor) -> Tensor:
    """Return images (S, C, size, size) side by side in [0, 1]."""
    return rearrange(to_unit_range(images), "s c h w -> c h (s w)")


def save(task: str, parts: list[Part]) -> None:
    """Write images and texts side by side, vertically centered."""
    sizes = [part_size(part) for part in parts]
    width = sum(width for width, _ in sizes) + GAP * (len(parts) - 1) + 2 * MARGIN
    sheet = Sheet(width, max(height for _, height in sizes) + 2 * MARGIN)
    x = MARGIN
    for part, (width, height) in zip(parts, sizes, strict=True):
        if isinstance(part, str):
            sheet.write(part, x, sheet.height / 2, va="center_baseline", fontsize=FONT_SIZE, color=TEXT)
        else:
            axes = sheet.add_axes(x, (sheet.height - height) // 2, width, height)
            show_image(axes, Sample(part, None, [""]), interpolation="nearest")
        x += width + GAP
    save_figure(sheet.figure, PICTURES / f"task_{task}.png")


def part_size(part: Part) -> tuple[int, int]:
    """Return the width and height in pixels."""
    if isinstance(part, str):
        return round(text_width(part, FONT_SIZE) * DPI), 0
    return ZOOM * part.shape[2], ZOOM * part.shape[1]


if __name__ == "__main__":
    main()
