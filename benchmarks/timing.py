"""Paired measurements: interleaved, so that a machine whose speed changes affects both sides alike."""

import statistics
import time
from collections.abc import Callable

from omegaconf import DictConfig

from patchwork.runs.compose import compose

Benchmark = Callable[[], float]  # measures once, in milliseconds or seconds

ROUNDS = 5
NUM_STEPS, NUM_WARMUP_STEPS = 160, 10  # of a training loop; the warmup steps are not measured


def make_config(*overrides: str) -> DictConfig:
    """Return the configuration of the benchmarks' runs: short epochs of the digits that need no download."""
    return compose(["dataset=uci", f"data.samples_per_epoch={64 * NUM_STEPS}", *overrides])


def interleave(*benchmarks: Benchmark, rounds: int = ROUNDS) -> list[tuple[float, ...]]:
    """Run benchmarks in turn for several rounds; return the measurements of each round, after a warmup round."""
    return [tuple(benchmark() for benchmark in benchmarks) for _ in range(rounds + 1)][1:]


def median_ratio(pairs: list[tuple[float, float]]) -> float:
    """Return the median of the ratios of pairs, which is less noisy than the ratio of their medians."""
    return statistics.median(a / b for a, b in pairs)


def milliseconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def milliseconds_per_step(ends: list[float]) -> float:
    """Return the mean duration of training steps, given when each ended, without the warmup."""
    return (ends[-1] - ends[NUM_WARMUP_STEPS - 1]) / (len(ends) - NUM_WARMUP_STEPS) * 1e3
