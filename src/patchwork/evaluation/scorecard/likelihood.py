"""The likelihood of the test images."""

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from patchwork.evaluation.scorecard.base import CHUNK_SIZE, ReferenceImages, Score, fraction
from patchwork.models.generator import Generator, LikelihoodGenerator


@torch.inference_mode()
def likelihood_scores(
    generator: Generator, real: ReferenceImages, *, unconditional: bool, class_conditional: bool
) -> Iterator[Score]:
    """Score the likelihood of all test images; nothing if the generator has none.

    Args:
        generator: the generative model.
        real: real images; those of the test split are used.
        unconditional: whether the generator was trained to model p(image).
        class_conditional: whether it was trained to model p(image | class).
    """
    if generator.likelihood is None:
        return
    image, label = real.test["image"], real.test["label"]
    generator = cast(LikelihoodGenerator, generator)
    is_bound = generator.likelihood == "bound"
    bits_per_pixel = 1 / image[0].numel() / math.log(2)  # of a nat per image
    if unconditional:
        nll = -float(log_likelihoods(generator, image, [generator.null_class]).mean())
        yield Score("nll", nll, None, "nats per image, unconditional", is_bound)
        yield Score("bits_per_pixel", nll * bits_per_pixel, None, "the same in bits per pixel", is_bound)
    if class_conditional:
        log_probs = log_likelihoods(generator, image, [*range(generator.num_classes)])  # (n, classes)
        marginal = -float((log_probs.logsumexp(dim=1) - math.log(generator.num_classes)).mean())
        yield Score("marginal_nll", marginal, None, "nats per image, marginalized over classes", is_bound)
        yield Score("marginal_bits_per_pixel", marginal * bits_per_pixel, None, "the same in bits per pixel", is_bound)
        class_nll = -float(log_probs[range(len(label)), label].mean())
        yield Score("class_nll", class_nll, None, "nats per image, given its class", is_bound)
        accuracy = fraction(log_probs.argmax(dim=1) == label)
        yield Score("bayes_classifier_accuracy", accuracy, None, "accuracy of the class with the highest likelihood")


def log_likelihoods(generator: LikelihoodGenerator, image: Tensor, labels: list[int]) -> Tensor:
    """Return log p(image | label) in nats (n, labels), of images (n, 1, height, width)."""
    chunks = []
    for chunk in image.split(CHUNK_SIZE):
        by_label = [generator.log_likelihood(chunk, torch.full((len(chunk),), label)) for label in labels]
        chunks.append(torch.stack(by_label, dim=1))
    return torch.cat(chunks).double()
