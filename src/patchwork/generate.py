"""Draw with a trained generator: a sheet of pictures, an animation of how they came about, and the arrays themselves.

1. Choose classes, and draw the noise that decides everything else from the seed.
2. Draw all images together, patch after patch, and keep what was there after each.
3. Write `sheet.png`, `drawing.gif`, `images.npz` and `manifest.json` into a new folder below the run's `generated/`.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Interval, MinLen
from einops import rearrange
from PIL import Image
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from patchwork.data.stream import generator
from patchwork.errors import ConfigError, ResourceError
from patchwork.figures.braille import braille
from patchwork.models.pixel_decoder import PixelDecoder
from patchwork.run import Run

ZOOM, MARGIN = 2, 2  # of a pixel of the sheet, and pixels between images
FRAME, LAST = 60, 2000  # milliseconds that a frame of the animation stays, and the last one


def generate(
    *,
    run: str,
    classes: Annotated[list[NonNegativeInt], MinLen(1)] | None = None,
    n: PositiveInt = 64,
    temperature: PositiveFloat = 1.0,
    top_k: PositiveInt | None = None,
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0,
    guidance: Annotated[float, Ge(0)] = 1.0,
    seed: NonNegativeInt = 0,
    stream: bool = False,
) -> None:
    """Draw `n` images of `classes` in turn, of all if none are named, and write them into the run's folder.

    `temperature`, `top_k`, `top_p` and `guidance` are those of `PixelDecoder.draw`; `stream` shows the drawing live.

    Raises:
        ConfigError: if the run is no generator, or a class is none of its.
        ResourceError: if the folder cannot be written.
    """
    kept = Run.load(Path(run))
    model = kept.model.eval()
    if not isinstance(model, PixelDecoder):
        raise ConfigError(f"run={run} is of {type(model).__name__}, which draws nothing: name a run of task=pixels")
    for kind in classes or []:
        if kind >= model.none:
            raise ConfigError(f"classes={classes}: {kind} is not a class: use 0 to {model.none - 1}")
    label = torch.tensor(classes or range(model.none)).repeat(-(-n // len(classes or range(model.none))))[:n]
    noise = torch.rand(n, model.length, model.symbols, generator=generator("generate", seed))
    drawing = model.draw(label, noise, temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance)
    begin = time.perf_counter()
    frames = [image.byte().clone() for image in (show(drawing, model) if stream else drawing)]
    seconds = time.perf_counter() - begin
    settings = {
        "classes": classes,
        "n": n,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance": guidance,
        "seed": seed,
        "weights_sha256": kept.manifest.get("weights_sha256"),
        "seconds": round(seconds, 3),
    }
    folder = write(Path(run) / "generated", frames, label, model.levels, settings)
    print(f"{n} images in {seconds:.2f} s, {n / seconds:.0f} a second, in {folder}")


def show(drawing: Iterator[Tensor], model: PixelDecoder) -> Iterator[Tensor]:
    """Pass a drawing on, and show in Braille as much of it as one line of the terminal holds."""
    live, begin, pixels = sys.stdout.isatty(), time.perf_counter(), 0
    for image in drawing:
        yield image
        width = shutil.get_terminal_size().columns
        pictures = braille(image[: max(1, width // (image.shape[-1] // 2 + 1)), 0] / (model.levels - 1))
        lines = [" ".join(parts) for parts in zip(*pictures, strict=True)]
        pixels += len(image) * model.side**2
        if live:
            speed = f"{pixels / (time.perf_counter() - begin):,.0f} pixels a second"
            print("\n".join([*lines, speed]), end=f"\x1b[{len(lines)}A\r", flush=True)
    if live:
        print("\n" * len(lines))
    else:
        print("\n".join(lines))


def write(folder: Path, frames: list[Tensor], label: Tensor, levels: int, settings: dict[str, object]) -> Path:
    """Write the frames (n, 1, height, width) of a drawing into a new folder below `folder`, and return it."""
    part = folder / f".{os.getpid()}.part"
    sheets = [sheet(frame * (255 // (levels - 1))) for frame in frames]
    try:
        part.mkdir(parents=True)
        sheets[-1].save(part / "sheet.png")
        times = [FRAME] * (len(sheets) - 1) + [LAST]
        sheets[0].save(part / "drawing.gif", save_all=True, append_images=sheets[1:], duration=times, loop=0)
        np.savez_compressed(part / "images.npz", images=frames[-1].numpy(), labels=label.numpy())
        (part / "manifest.json").write_text(json.dumps(settings, indent=2) + "\n")
        for number in range(10**6):
            if not (target := folder / f"{number:03}").exists():
                part.rename(target)
                return target
        raise AssertionError
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ResourceError(f"{folder} cannot be written: {error.strerror}") from error


def sheet(images: Tensor) -> Image.Image:
    """Lay images (n, 1, height, width) from 0 to 255 out side by side, about as many rows as columns."""
    columns = int(np.ceil(len(images) ** 0.5))
    images = F.pad(images[:, 0], (0, MARGIN, 0, MARGIN), value=96)
    rows = -(-len(images) // columns)
    images = F.pad(images, (0, 0, 0, 0, 0, rows * columns - len(images)), value=96)
    laid = F.pad(rearrange(images, "(r c) h w -> (r h) (c w)", r=rows), (MARGIN, 0, MARGIN, 0), value=96)
    return Image.fromarray(laid.numpy()).resize([ZOOM * side for side in laid.shape[::-1]], Image.Resampling.NEAREST)
