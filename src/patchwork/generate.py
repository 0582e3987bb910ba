"""Draw with a trained generator: digits by class or by a prompt in words, or what is missing of a digit.

1. Say what is to be drawn, and draw the noise that decides everything else from the seed.
2. Draw all images together, patch after patch; or complete one image by sequential Monte Carlo, so that what is known
   on any side of a gap has its say (see `PixelDecoder.complete`).
3. Write pictures, arrays and `manifest.json` into a new folder below the run's `generated/`.
"""

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Interval, MinLen
from einops import rearrange
from PIL import Image
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from patchwork.data import Drawings
from patchwork.data.prompts import understand
from patchwork.data.stream import generator
from patchwork.errors import ConfigError, DataError, ResourceError
from patchwork.figures.braille import braille, speaks_braille
from patchwork.models import PixelDecoder
from patchwork.run import Run, keep_memory, same_digits
from patchwork.tasks import Pixels

ZOOM, MARGIN, GREY = 2, 2, 96  # of a pixel of the sheet; pixels between images, and how bright they are
FRAME, LAST = 60, 2000  # milliseconds that a frame of the animation stays, and the last one
MASKS = ("bottom", "right", "box")
MEMORY = 2**27  # bytes of caches at a time, when an image is completed


def generate(
    *,
    run: str,
    classes: Annotated[list[NonNegativeInt], MinLen(1)] | None = None,
    prompt: str | int | None = None,
    inpaint: NonNegativeInt | str | None = None,
    mask: str | None = None,
    n: PositiveInt | None = None,
    temperature: PositiveFloat = 1.0,
    top_k: PositiveInt | None = None,
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0,
    guidance: Annotated[float, Ge(0)] = 1.0,
    particles: PositiveInt | None = None,
    seed: NonNegativeInt = 0,
    stream: bool = False,
) -> None:
    """Draw `n` images and write them into the run's folder.

    They are of `classes` in turn, of all if none are named; or what `prompt` asks for; or completions of `inpaint`, the
    number of a test digit or a picture's file, where `mask` (bottom if not told, right, box, or a picture that is white
    there) says what is to be drawn. `temperature`, `top_k`, `top_p` and `guidance` are those of `PixelDecoder.draw`,
    `particles` (64 if not told) of `PixelDecoder.complete`; `stream` shows the drawing live.

    Raises:
        ConfigError: if the run is no generator, settings do not go together, or what is asked for cannot be drawn.
        DataError: if a picture cannot be read.
        ResourceError: if the folder cannot be written.
    """
    settings: dict[str, Any] = {name: value for name, value in locals().items() if name != "run"}
    if prompt is not None and (classes is not None or inpaint is not None):
        raise ConfigError(f"prompt={prompt} says what to draw: leave classes and inpaint away")
    if inpaint is not None and (temperature, top_k, top_p, guidance, stream) != (1.0, None, 1.0, 1.0, False):
        raise ConfigError(
            f"inpaint={inpaint} keeps to the model's own law, and is not streamed: leave temperature, top_k, top_p, "
            "guidance and stream away"
        )
    if inpaint is None and (mask, particles) != (None, None):
        raise ConfigError(f"mask={mask}, particles={particles} are for inpaint: name what is to be completed")
    kept = Run.load(Path(run))
    model, task = kept.model.eval(), kept.task
    if not (isinstance(model, PixelDecoder) and isinstance(task, Pixels)):
        raise ConfigError(f"run={run} is of {type(model).__name__}, which draws nothing: name a run of task=pixels")
    for kind in classes or []:
        if kind >= model.none:
            raise ConfigError(f"classes={classes}: {kind} is not a class: use 0 to {model.none - 1}")
    if not task.names_classes and prompt is None and (classes or inpaint is None):
        raise ConfigError(f"run={run} never learned what classes are: use prompt")
    if not task.unlabelled and (guidance != 1 or (inpaint is not None and classes is None)):
        raise ConfigError(f"run={run} never drew without a class: leave guidance away, and name classes with inpaint")
    keep_memory()
    n = n or (64 if inpaint is None else 8)
    begin = time.perf_counter()
    save: Callable[[Path], None]
    if inpaint is None:
        label, words = torch.tensor((classes or [*range(model.none)]) * n)[:n], None
        if prompt is not None:
            words, digit = ask(str(prompt), model)
            label, words = torch.full((n,), model.none), words.expand(n, -1)
            settings["digit"] = digit
        noise = model.noise(n, generator("generate", seed))
        drawing = model.draw(
            label, noise, prompt=words, temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance
        )
        frames = [image.byte() for image in (show(drawing, model) if stream else drawing)]
        asked = label if prompt is None else torch.full((n,), settings["digit"])
        save = partial(save_drawing, frames, asked, model.levels)
    else:
        settings |= {"mask": mask or "bottom", "particles": particles or 64}
        image, known = subject(inpaint, kept, model), ~masked(settings["mask"], model.rows * model.side)
        label = torch.tensor((classes or [model.none]) * n)[:n]
        chance = generator("complete", seed)
        together = max(1, MEMORY // (settings["particles"] * cache_bytes(model)))
        drawn = [model.complete(image, known, some, chance, settings["particles"]) for some in label.split(together)]
        save = partial(save_completions, image, known, torch.cat(drawn), model.levels)
    seconds = time.perf_counter() - begin
    settings |= {"n": n, "weights_sha256": kept.manifest.get("weights_sha256"), "seconds": round(seconds, 3)}
    folder = write(Path(run) / "generated", save, settings)
    print(f"{n} {'images' if inpaint is None else 'completions'} in {seconds:.2f} s, in {folder}")


def cache_bytes(model: PixelDecoder) -> int:
    """Return how much one image's keys and values take."""
    return 2 * len(model.blocks) * model.length * model.class_embed.weight[0].nbytes


def ask(prompt: str, model: PixelDecoder) -> tuple[Tensor, int]:
    """Return the words (1, L) of a prompt, and the digit that it asks for."""
    if model.text is None:
        raise ConfigError(f"prompt={prompt!r}: this run's model reads no prompts, model.text_depth is 0: use classes")
    words, digit = understand(prompt)
    if digit >= model.none:
        raise ConfigError(f"prompt={prompt!r} asks for {digit}, which this run never saw: use 0 to {model.none - 1}")
    return words, digit


def subject(inpaint: int | str, kept: Run, model: PixelDecoder) -> Tensor:
    """Return the image (1, height, width) of levels that is to be completed."""
    if isinstance(inpaint, str):
        pixels = picture("inpaint", inpaint, model.rows * model.side)
        return (pixels >= 128).float()[None] if model.levels == 2 else pixels[None].float()
    data = kept.data
    assert isinstance(data, Drawings)
    data.prepare_data()
    same_digits(kept.manifest, data)
    images = data.whole("test")["image"]
    if inpaint >= len(images):
        raise ConfigError(f"inpaint={inpaint} is no test digit: use 0 to {len(images) - 1}, or a picture's file")
    return images[inpaint]


def masked(mask: str, size: int) -> Tensor:
    """Return where an image (size, size) is to be drawn."""
    if mask not in MASKS:
        if not Path(mask).exists():
            raise ConfigError(f"mask={mask} is not known: use {', '.join(MASKS)} or a picture that is white there")
        where = picture("mask", mask, size) >= 128
        if not where.any():
            raise ConfigError(f"mask={mask} is white nowhere: there is nothing to draw")
        return where
    row, col = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    quarter = size // 4
    inside = [(axis >= quarter) & (axis < size - quarter) for axis in (row, col)]
    return {"bottom": row >= size // 2, "right": col >= size // 2, "box": inside[0] & inside[1]}[mask]


def picture(key: str, path: str, size: int) -> Tensor:
    """Read a grey picture (size, size) from 0 to 255."""
    try:
        with Image.open(path) as file:
            pixels = np.array(file.convert("L"))
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{key}={path} cannot be read as a picture: {error}") from error
    if pixels.shape != (size, size):
        raise DataError(f"{key}={path} has {pixels.shape[1]}×{pixels.shape[0]} pixels: {size}×{size} are wanted")
    return torch.from_numpy(pixels)


def show(drawing: Iterator[Tensor], model: PixelDecoder) -> Iterator[Tensor]:
    """Pass a drawing on, and show in Braille as much of it as one line of the terminal holds."""
    live, begin, pixels = sys.stdout.isatty(), time.perf_counter(), 0
    if not speaks_braille():
        raise ResourceError("stream=true needs a terminal that shows Braille: set PYTHONIOENCODING=utf-8")
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


def write(parent: Path, save: Callable[[Path], None], settings: dict[str, Any]) -> Path:
    """Let `save` fill a new folder below `parent`, put the settings beside, and return where it is."""
    part = parent / f".{os.getpid()}.part"
    try:
        part.mkdir(parents=True)
        save(part)
        (part / "manifest.json").write_text(json.dumps(settings, indent=2) + "\n")
        for number in count():
            target = parent / f"{number:03}"
            try:
                part.rename(target)  # never over a folder that holds something
                return target
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        raise AssertionError
    except OSError as error:
        raise ResourceError(f"{parent} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_drawing(frames: list[Tensor], label: Tensor, levels: int, folder: Path) -> None:
    """Write the frames (n, 1, height, width) of a drawing: the last as a sheet, all as an animation."""
    sheets = [sheet(frame * (255 // (levels - 1))) for frame in frames]
    sheets[-1].save(folder / "sheet.png")
    times = [FRAME] * (len(sheets) - 1) + [LAST]
    sheets[0].save(folder / "drawing.gif", save_all=True, append_images=sheets[1:], duration=times, loop=0)
    np.savez_compressed(folder / "images.npz", images=frames[-1].numpy(), labels=label.numpy())


def save_completions(image: Tensor, known: Tensor, drawn: Tensor, levels: int, folder: Path) -> None:
    """Write a sheet of an image (1, height, width), what was known of it, and its completions (n, 1, height, width)."""
    bright = 255 // (levels - 1)
    given = torch.where(known, image * bright, GREY)
    sheet(torch.stack([image * bright, given, *(drawn * bright)]).byte(), columns=10).save(folder / "sheet.png")
    completed, original = drawn.byte().numpy(), image.byte().numpy()
    np.savez_compressed(folder / "images.npz", images=completed, original=original, known=known.numpy())


def sheet(images: Tensor, columns: int | None = None) -> Image.Image:
    """Lay images (n, 1, height, width) from 0 to 255 out side by side, about as many rows as columns if not told."""
    columns = min(len(images), columns or int(np.ceil(len(images) ** 0.5)))
    images = F.pad(images[:, 0], (0, MARGIN, 0, MARGIN), value=GREY)
    rows = -(-len(images) // columns)
    images = F.pad(images, (0, 0, 0, 0, 0, rows * columns - len(images)), value=GREY)
    laid = F.pad(rearrange(images, "(r c) h w -> (r h) (c w)", r=rows), (MARGIN, 0, MARGIN, 0), value=GREY)
    return Image.fromarray(laid.numpy()).resize([ZOOM * side for side in laid.shape[::-1]], Image.Resampling.NEAREST)
