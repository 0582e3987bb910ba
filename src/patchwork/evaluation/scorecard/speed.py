"""Speed of generation, without the sampling of the noise.

A generator that samples all noise in advance does so in the call of `sample`; the iteration over what that returns is
timed.
"""

import time
from collections.abc import Iterator

import torch

from patchwork.data.rng import make_rng
from patchwork.evaluation.scorecard.base import Score
from patchwork.models.generator import Generator, SamplingOptions

BATCH_SIZE = 64
REPETITIONS = 3


def speed_scores(generator: Generator, options: SamplingOptions) -> Iterator[Score]:
    """Time the generation of a batch and of a single image."""
    seconds = fastest(generator, BATCH_SIZE, options)
    yield Score("images_per_second", BATCH_SIZE / seconds, None, f"{BATCH_SIZE} images at a time")
    yield Score("seconds_for_one", fastest(generator, 1, options), None, "a single image")


def fastest(generator: Generator, batch_size: int, options: SamplingOptions) -> float:
    """Return the seconds that generating a batch takes, the best of three."""
    label = torch.arange(batch_size) % generator.num_classes
    seconds = []
    for _repetition in range(REPETITIONS):
        images = generator.sample(label, make_rng("speed"), options=options)
        start = time.perf_counter()
        for _ in images:
            pass
        seconds.append(time.perf_counter() - start)
    return min(seconds)
