"""Whether generated images are copies of training images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from patchwork.evaluation.scorecard.base import CHUNK_SIZE, ReferenceImages, Score


@torch.inference_mode()
def memorization_scores(generated: Tensor, real: ReferenceImages) -> Iterator[Score]:
    """Compare generated images (n, 1, height, width), and test images, with the nearest training image of each."""
    train, test = real.train["image"], real.test["image"]
    binary = real.num_levels == 2
    unit = "pixels that differ from" if binary else "squared distance to"
    distance, test_distance = (
        float(nearest_distances(images, train, real.num_levels).mean()) for images in (generated, test)
    )
    yield Score("nn_distance", distance, test_distance, f"{unit} the nearest training image")
    known = {*image_bytes(train)}
    duplicates, test_duplicates = (duplicate_rate(images, known) for images in (generated, test))
    note = " (after a single binarization)" if binary else ""
    yield Score("duplicate_rate", duplicates, test_duplicates, f"are exact copies of a training image{note}")


def duplicate_rate(images: Tensor, known: set[bytes]) -> float:
    return sum(pixels in known for pixels in image_bytes(images)) / len(images)


def image_bytes(images: Tensor) -> list[bytes]:
    """Return the pixels of each image as bytes."""
    return [bytes(pixels) for pixels in images.byte().flatten(1).numpy()]


def nearest_distances(images: Tensor, references: Tensor, num_levels: int) -> Tensor:
    """Return the squared distance (n,) of each image to the nearest reference, with pixels scaled to [0, 1]."""
    images, references = (pixels.flatten(1) / (num_levels - 1) for pixels in (images, references))
    squared_norms = references.square().sum(dim=1)
    # |a - b|² = |b|² - 2 a·b + |a|²
    chunks = [
        (squared_norms - 2 * chunk @ references.mT).amin(dim=1) + chunk.square().sum(dim=1)
        for chunk in images.split(CHUNK_SIZE)
    ]
    return torch.cat(chunks)
