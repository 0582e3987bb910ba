"""Inpainting: generate a part of an image anew, given the rest."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from patchwork.core.errors import ConfigError
from patchwork.core.malloc import tune_malloc
from patchwork.core.progress import Progress
from patchwork.data import PixelsDataModule
from patchwork.data.image_files import read_image
from patchwork.data.rng import make_rng
from patchwork.figures.sheet import GRAY, labeled_sheet
from patchwork.models.generator import Generator, InpaintingGenerator
from patchwork.runs.generation.base import check_classes, load_generator, repeat_to, save_results
from patchwork.runs.manifest import check_dataset
from patchwork.runs.run import Run
from patchwork.tasks import Pixels

MASKS = ("bottom", "right", "box")
THRESHOLD = 128  # brightness of a pixel that is white, in image files


@dataclass(frozen=True)
class InpaintRequest:
    """An image to complete.

    Args:
        inpaint: index of a test image, or path of an image file.
        mask: the part to generate: one of `MASKS`, or path of an image file that is white there.
        classes: classes of the completions, in turn; None for unconditional ones.
        num_images: number of completions.
        particles: particles of the sequential Monte Carlo sampler for each.
        seed: seed of the samples.
    """

    inpaint: int | str
    mask: str
    classes: list[int] | None
    num_images: int
    particles: int
    seed: int


def inpaint_image(run: Run, request: InpaintRequest) -> None:
    """Complete an image several times and save the completions.

    Raises:
        ConfigError: if the model cannot inpaint or was not trained for the request, or image or mask does not exist.
        DataError: if an image file cannot be read.
        ResourceError: if the results cannot be written.
    """
    task, generator = load_generator(run)
    if not isinstance(generator, InpaintingGenerator):
        raise ConfigError(
            f"inpaint={request.inpaint}: the {type(run.model).__name__} of run={run.run_dir} cannot inpaint: "
            "drop inpaint"
        )
    check_request(run, task, generator, request)
    tune_malloc()
    start = time.perf_counter()
    image = load_target_image(request.inpaint, run, generator)
    known = ~load_mask(request.mask, generator.image_size)
    label = torch.tensor(repeat_to(request.classes or [generator.null_class], request.num_images))
    rng = make_rng("complete", request.seed)
    with Progress(f"generating {request.num_images} completions"):
        completions = generator.inpaint(image, known, label, rng, num_particles=request.particles)
    seconds = time.perf_counter() - start
    manifest = {**asdict(request), "seconds": round(seconds, 3)}
    names = ["completed"] * len(label) if request.classes is None else task.format_classes(label)
    save = partial(save_completions, image, known, completions, names, generator.num_levels)
    path = save_results(run, save, manifest)
    print(f"{request.num_images} completions in {seconds:.2f} s, saved in {path}: sheet.png, images.npz")


def check_request(run: Run, task: Pixels, generator: Generator, request: InpaintRequest) -> None:
    """Raise a `ConfigError` if the model was not trained for a request."""
    check_classes(request.classes, generator)
    if request.classes is not None and not task.class_conditional:
        raise ConfigError(f"run={run.run_dir} was not trained with classes: drop classes")
    if request.classes is None and not task.uncond_prob:
        raise ConfigError(f"run={run.run_dir} was not trained unconditionally, see task.uncond_prob: add classes")


def load_target_image(inpaint: int | str, run: Run, generator: Generator) -> Tensor:
    """Return the image (1, height, width) to complete, with values from 0 to `num_levels - 1`."""
    if isinstance(inpaint, str):
        pixels = read_pixels("inpaint", inpaint, generator.image_size, find_polarity=True)
        return (pixels >= THRESHOLD).float()[None] if generator.num_levels == 2 else pixels[None].float()
    data = cast(PixelsDataModule, run.data)
    data.prepare_data()
    check_dataset(run.manifest, data)
    images = data.full_split("test")["image"]
    if inpaint >= len(images):
        raise ConfigError(f"inpaint={inpaint}: there is no such test image: use 0 to {len(images) - 1}, or a file")
    return images[inpaint]


def load_mask(mask: str, size: int) -> Tensor:
    """Return which pixels (size, size) to generate."""
    if mask not in MASKS:
        if not Path(mask).exists():
            raise ConfigError(f"mask={mask} does not exist: use {', '.join(MASKS)} or a file that is white there")
        white = read_pixels("mask", mask, size, find_polarity=False) >= THRESHOLD
        if not white.any():
            raise ConfigError(f"mask={mask} has no white pixel: there is nothing to generate")
        return white
    row, col = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    if mask == "bottom":
        return row >= size // 2
    if mask == "right":
        return col >= size // 2
    margin = size // 4
    return (row >= margin) & (row < size - margin) & (col >= margin) & (col < size - margin)


def read_pixels(key: str, path: str, size: int, *, find_polarity: bool) -> Tensor:
    """Read an image file (size, size) with values from 0 to 255, and print what was done to it."""
    image = read_image(path, key=key, size=size, find_polarity=find_polarity)
    for note in image.notes:
        print(f"{key}={path}: {note}")
    return image.pixels


def save_completions(
    image: Tensor, known: Tensor, completions: Tensor, names: list[str], num_levels: int, directory: Path
) -> None:
    """Write an image (1, height, width), its known part and its completions (n, 1, height, width) of named classes."""
    brightness = 255 // (num_levels - 1)
    masked = torch.where(known, image * brightness, GRAY)
    images = torch.stack([image * brightness, masked, *(completions * brightness)]).byte()
    labeled_sheet(images, ["image, known part"] * 2 + names).save(directory / "sheet.png")
    np.savez_compressed(
        directory / "images.npz",
        images=completions.byte().numpy(),
        original=image.byte().numpy(),
        known=known.numpy(),
    )
