"""Generate images with a trained model: by class, by a text prompt, or by inpainting a part of an image."""

from typing import Annotated, Any

from annotated_types import Ge, Interval, MinLen
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from patchwork.commands.app import call_command
from patchwork.commands.options import check_defaults
from patchwork.core.errors import ConfigError
from patchwork.core.types import PathStr


def command(args: list[str]) -> int:
    return call_command("generate", generate, args)


def generate(
    *,
    run: PathStr,
    classes: Annotated[list[NonNegativeInt], MinLen(1)] | None = None,
    prompt: str | int | None = None,
    inpaint: NonNegativeInt | PathStr | None = None,
    mask: PathStr | None = None,
    num_images: PositiveInt | None = None,
    temperature: PositiveFloat = 1.0,
    top_k: PositiveInt | None = None,
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0,
    guidance: Annotated[float, Ge(0)] = 1.0,
    particles: PositiveInt | None = None,
    seed: NonNegativeInt = 0,
    stream: bool = False,
) -> None:
    """Generate images with a trained model and write them into a new directory RUN_DIR/generated/NUMBER.

    Args:
        run: a run directory of task=pixels.
        classes: classes to generate, in turn; by default all of them.
        prompt: text that asks for a class by its number, or by a sum or difference, as "show me 2 plus four".
        inpaint: index of a test image, or an image file, of which a part is to be generated anew.
        mask: the part to generate: bottom (the default), right, box, or an image file that is white there.
        num_images: number of images to generate; by default 64, and 8 with inpaint.
        temperature: below 1 images are more typical, above 1 more diverse.
        top_k: number of likeliest tokens to sample from; null for all.
        top_p: sample from the fewest likeliest tokens whose total probability reaches this.
        guidance: scale of classifier-free guidance; above 1 images match their class or prompt more clearly.
        particles: particles of the sequential Monte Carlo sampler that inpaints; by default 64.
        seed: seed of the samples.
        stream: show the images in the terminal while they are generated.

    Raises:
        ConfigError: if the run is not a generative model, or options cannot be combined or used with it.
        DataError: if an image file cannot be read.
        ResourceError: if the output cannot be written.
    """
    sampling: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    if prompt is not None and (classes is not None or inpaint is not None):
        raise ConfigError(f"prompt={prompt} already says what to generate: drop classes and inpaint")
    if inpaint is None:
        check_defaults(generate, {"mask": mask, "particles": particles}, "applies only with inpaint=…")
    else:
        check_defaults(generate, {**sampling, "stream": stream}, f"is not available with inpaint={inpaint}")

    import patchwork.core.fast_import  # noqa: F401
    from patchwork.models.generator import SamplingOptions
    from patchwork.runs.generation import ImageRequest, InpaintRequest, generate_images, inpaint_image
    from patchwork.runs.run import Run

    loaded = Run.load(run)
    if inpaint is None:
        text = None if prompt is None else str(prompt)
        image_request = ImageRequest(classes, text, num_images or 64, SamplingOptions(**sampling), seed)
        generate_images(loaded, image_request, stream=stream)
    else:
        request = InpaintRequest(inpaint, mask or "bottom", classes, num_images or 8, particles or 64, seed)
        inpaint_image(loaded, request)
