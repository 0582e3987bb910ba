"""Generate images with the model of a run, and save them below its run directory."""

from patchwork.runs.generation.images import ImageRequest, generate_images
from patchwork.runs.generation.inpainting import InpaintRequest, inpaint_image

__all__ = ["ImageRequest", "InpaintRequest", "generate_images", "inpaint_image"]
