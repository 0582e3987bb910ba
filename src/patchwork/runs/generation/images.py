"""Generate whole images of classes or of a text prompt."""

import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchwork.core.errors import ConfigError, PatchworkWarning
from patchwork.core.malloc import tune_malloc
from patchwork.core.progress import Progress
from patchwork.core.terminal import is_terminal, terminal_width
from patchwork.data.prompts import parse_prompt
from patchwork.data.rng import make_rng
from patchwork.figures.braille import braille, supports_unicode
from patchwork.figures.sheet import labeled_sheet
from patchwork.models.generator import Generator, SamplingOptions
from patchwork.runs.generation.base import check_classes, load_generator, repeat_to, save_results
from patchwork.runs.run import Run
from patchwork.tasks import Pixels

MAX_FRAMES = 64  # of the animation
FRAME_MS, LAST_FRAME_MS = 60, 2000  # how long the animation shows a frame, and the last one


@dataclass(frozen=True)
class ImageRequest:
    """Whole images to generate.

    Args:
        classes: classes of the images, in turn; None for all.
        prompt: text that asks for one class, instead of classes.
        num_images: number of images.
        options: sampling options.
        seed: seed of the samples.
    """

    classes: list[int] | None
    prompt: str | None
    num_images: int
    options: SamplingOptions
    seed: int


def generate_images(run: Run, request: ImageRequest, *, stream: bool) -> None:
    """Generate images, and save them with their growth as an animation; with `stream`, also print them as they grow.

    Raises:
        ConfigError: if the model was not trained for what is requested.
        ResourceError: if the results cannot be written or printed.
    """
    task, generator = load_generator(run)
    check_request(run, task, generator, request)
    tune_malloc()
    start = time.perf_counter()
    labels = repeat_to(request.classes or [*range(generator.num_classes)], request.num_images)
    target = label = torch.tensor(labels)
    prompt = None
    manifest = {**asdict(request), **asdict(request.options)}
    del manifest["options"]
    if request.prompt is not None:
        words, class_number = read_prompt(request.prompt, generator)
        target = torch.full((request.num_images,), class_number)
        label = torch.full((request.num_images,), generator.null_class)
        prompt = words.expand(request.num_images, -1)
        manifest["class"] = class_number
    rng = make_rng("generate", request.seed)
    images = generator.sample(label, rng, prompt=prompt, options=request.options)
    if stream:
        images = print_stream(images, generator.num_levels)
    with nullcontext() if stream else Progress(f"generating {request.num_images} images"):
        frames = [image.byte() for image in images]
    seconds = time.perf_counter() - start
    manifest["seconds"] = round(seconds, 3)
    names, title = task.format_classes(target), "" if request.prompt is None else f"“{request.prompt}”"
    save = partial(save_images, frames, target, names, title, generator.num_levels)
    path = save_results(run, save, manifest)
    print(f"{request.num_images} images in {seconds:.2f} s, saved in {path}: sheet.png, generation.gif, images.npz")


def check_request(run: Run, task: Pixels, generator: Generator, request: ImageRequest) -> None:
    """Raise a `ConfigError` if the model was not trained for a request."""
    check_classes(request.classes, generator)
    if not task.class_conditional and request.prompt is None:
        raise ConfigError(f"run={run.run_dir} was not trained with classes: use prompt")
    if not task.uncond_prob and request.options.guidance != 1:
        raise ConfigError(
            f"guidance={request.options.guidance}: run={run.run_dir} was not trained unconditionally, "
            "see task.uncond_prob: drop guidance"
        )


def read_prompt(prompt: str, generator: Generator) -> tuple[Tensor, int]:
    """Return the word ids (1, L) of a prompt, and the class that it asks for by its number.

    Raises:
        ConfigError: if the model has no text encoder, or was not trained on that class.
    """
    if not generator.has_text_encoder:
        raise ConfigError(
            f"prompt={prompt!r}: the model of this run has no text encoder (model.text_encoder_depth=0): use classes"
        )
    words, class_number = parse_prompt(prompt)
    if class_number >= generator.num_classes:
        raise ConfigError(
            f"prompt={prompt!r} asks for class {class_number}, which this run was not trained on: "
            f"use 0 to {generator.num_classes - 1}"
        )
    return words, class_number


def print_stream(images: Iterator[Tensor], num_levels: int) -> Iterator[Tensor]:
    """Pass images on, and print as many of them in Braille as fit on a line of the terminal, in place.

    Where stdout cannot encode Braille they are passed on alone.
    """
    if not supports_unicode():
        message = "stream=true shows nothing here, as this terminal has no Braille: set PYTHONIOENCODING=utf-8"
        warnings.warn(message, PatchworkWarning, stacklevel=2)
        yield from images
        return
    on_terminal, start, lines = is_terminal(sys.stdout), time.perf_counter(), []
    for step, image in enumerate(images, start=1):
        yield image
        columns = terminal_width() // (image.shape[-1] // 2 + 1)
        pictures = braille(image[: max(1, columns), 0] / (num_levels - 1))
        lines = [" ".join(parts) for parts in zip(*pictures, strict=True)]
        if on_terminal:
            speed = f"{step / (time.perf_counter() - start):,.0f} steps per second"
            print("\n".join([*lines, speed]), end=f"\x1b[{len(lines)}A\r", flush=True)  # cursor back to the first line
    print("\n" * len(lines) if on_terminal else "\n".join(lines))


def save_images(
    frames: list[Tensor], label: Tensor, names: list[str], title: str, num_levels: int, directory: Path
) -> None:
    """Write the last of the frames (n, 1, height, width) as a labeled sheet and arrays, and some as an animation."""
    step = math.ceil(len(frames) / MAX_FRAMES)
    frames = frames[-1::-step][::-1]  # the last one is kept
    sheets = [labeled_sheet(frame * (255 // (num_levels - 1)), names, title=title) for frame in frames]
    sheets[-1].save(directory / "sheet.png")
    durations = [FRAME_MS] * (len(sheets) - 1) + [LAST_FRAME_MS]
    sheets[0].save(directory / "generation.gif", save_all=True, append_images=sheets[1:], duration=durations, loop=0)
    np.savez_compressed(directory / "images.npz", images=frames[-1].numpy(), labels=label.numpy())
