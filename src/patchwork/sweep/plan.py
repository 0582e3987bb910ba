"""What a sweep would cost, before anything is spent: parameters, operations, memory and minutes of its settings.

1. List every setting of a small space, or the corners of a large one; of a continuous range, which changes no shape,
   the middle stands for all.
2. Leave out what is impossible, with the reason. Of the rest count parameters, operations in a forward pass (backward
   takes twice as many), and the bytes that a step keeps.
3. Time a few real steps of the cheapest setting and of the dearest: seconds are a line over operations.
4. Draw settings at random, as a search does in its beginning, for what the whole will take.
"""

import itertools
import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from patchwork import STARTED
from patchwork.audit import flops
from patchwork.run import build
from patchwork.sweep.jobs import share_of_threads
from patchwork.sweep.search import written
from patchwork.sweep.setting import composed, impossible, validations
from patchwork.sweep.space import word_of

FEW = 4  # samples that stand for a batch where only its size is asked
LISTED = 64  # settings
DRAWN = 20
STEPS, PATIENCE = 4, 20.0  # steps of a probe with the first, and seconds after which it ends
FAR = 2.0  # times the operations, so that two points make a line
Setting = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """What a setting costs."""

    parameters: int
    memory: int  # bytes
    operations: float  # of a training step
    steps: int
    evaluation: float  # operations of all validations and the test
    limit: float  # seconds after which training ends


@dataclass(frozen=True)
class Pace:
    """Seconds as a line over operations, through what was measured."""

    start: float  # of a process, until its first step
    least: float  # of a step
    slope: float

    def step(self, cost: Cost) -> float:
        return self.least + self.slope * cost.operations

    def minutes(self, cost: Cost) -> float:
        return (self.start + min(cost.steps * self.step(cost) + self.slope * cost.evaluation, cost.limit)) / 60


def print_plan(words: list[str], ranges: dict[str, BaseDistribution], *, grid: bool, count: int, jobs: int) -> None:
    """Print what a sweep would cost; nothing is written."""
    start = time.time() - STARTED
    torch.set_num_threads(share_of_threads(jobs))
    settings, what = listed(ranges)
    reasons = {index: impossible(words_of(words, setting)) for index, setting in enumerate(settings)}
    possible = [setting for index, setting in enumerate(settings) if reasons[index] is None]
    print(f"{len(settings)} {what}, {len(settings) - len(possible)} of them impossible")
    for reason, times in Counter(reason for reason in reasons.values() if reason is not None).items():
        print(f"  {times} × {reason}")
    if not possible:
        return
    costs = [cost(composed(words_of(words, setting))) for setting in possible]
    pace = measured(words, possible, costs, start)
    titles = ("parameters", "MFLOP/step", "memory", "s/step", "minutes")
    print("\n{:>12} {:>12} {:>10} {:>8} {:>8}  setting".format(*titles))
    for setting, found in zip(possible, costs, strict=True):
        print(
            f"{found.parameters:>12,} {found.operations / 1e6:>12,.0f} {found.memory / 2**20:>6,.0f} MiB "
            f"{pace.step(found):>8.3f} {pace.minutes(found):>8.1f}  {' '.join(written(setting))}"
        )
    if grid and what == "settings":
        minutes = [pace.minutes(found) for found in costs]
        trials = min(count, len(possible))
    else:
        minutes = [pace.minutes(found) for found in drawn(words, ranges)]
        trials = count
    total = statistics.fmean(minutes) * trials / 60 if minutes else 0.0
    together = f", {total / jobs:.1f} hours with jobs={jobs}" if jobs > 1 else ""
    print(f"\n{trials} trials take about {total:.1f} hours{together}; pruning takes some of it away")


def words_of(words: list[str], setting: Setting) -> list[str]:
    return [*words, *(word_of(key, value) for key, value in setting.items())]


def listed(ranges: dict[str, BaseDistribution]) -> tuple[list[Setting], str]:
    """Return the settings to list, and what they are called."""
    values, what = [choices_of(found) for found in ranges.values()], "settings"
    if math.prod(map(len, values)) > LISTED:
        values, what = [[several[0], several[-1]][: len(several)] for several in values], "corners"
    chosen = itertools.islice(itertools.product(*values), LISTED)
    return [dict(zip(ranges, setting, strict=True)) for setting in chosen], what


def choices_of(found: BaseDistribution) -> list[Any]:
    """Return the values of a parameter that are listed."""
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    if isinstance(found, IntDistribution):
        return list(range(found.low, found.high + 1, found.step))
    assert isinstance(found, FloatDistribution)
    if found.step:
        return [found.low]
    return [math.sqrt(found.low * found.high) if found.log else (found.low + found.high) / 2]


def drawn(words: list[str], ranges: dict[str, BaseDistribution]) -> list[Cost]:
    """Return what settings cost that are drawn at random, but for the impossible ones."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    settings = [words_of(words, study.ask(ranges).params) for _ in range(DRAWN)]
    return [cost(composed(setting)) for setting in settings if impossible(setting) is None]


def cost(config: DictConfig) -> Cost:
    """Count what a setting costs, by a step with a few samples."""
    data, task = build(config)
    data.prepare_data()
    data.setup("")
    batch = data.make("train", (0, 0), slice(0, FEW))
    few, kept = len(next(iter(batch.values()))), dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    forward = flops(task.eval(), batch)  # of a sample
    optimizer = task.optimizer(task.train().model)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.step(batch, "train")
    loss.backward()
    optimizer.step()
    parameters = list(task.model.parameters())
    own = sum(one.numel() * one.element_size() for one in parameters)
    for one in parameters:
        kept.pop(one.untyped_storage().data_ptr(), None)
    state = sum(
        value.numel() * value.element_size()
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    )
    average = own if (config.callbacks or {}).get("ema") else 0
    settings = config.trainer
    batches, limit = data.length("train"), settings.limit_train_batches
    batches = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    steps = settings.max_epochs * -(-batches // settings.accumulate_grad_batches)
    return Cost(
        parameters=sum(one.numel() for one in parameters),
        memory=2 * own + state + average + sum(kept.values()) * data.batch_size // few,
        operations=3 * forward * data.batch_size * settings.accumulate_grad_batches,
        steps=min(steps, settings.max_steps) if settings.max_steps > 0 else steps,
        evaluation=forward * (data.sizes["val"] * validations(config) + data.sizes["test"]),
        limit=seconds_of(settings.max_time),
    )


def seconds_of(time_limit: str | None) -> float:
    """Return the seconds of a limit that is written as days:hours:minutes:seconds."""
    if time_limit is None:
        return math.inf
    days, hours, minutes, seconds = map(int, time_limit.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def measured(words: list[str], settings: list[Setting], costs: list[Cost], start: float) -> Pace:
    """Time the cheapest setting and the dearest, and return the line through them, or one through nothing."""
    order = sorted(range(len(settings)), key=lambda index: costs[index].operations)
    ends = [(costs[index].operations, composed(words_of(words, settings[index]))) for index in (order[0], order[-1])]
    if ends[1][0] < FAR * ends[0][0]:
        return Pace(start, 0.0, probe(ends[1][1]) / ends[1][0])
    low, high = (probe(config) for _, config in ends)
    slope = max(0.0, (high - low) / (ends[1][0] - ends[0][0]))
    return Pace(start, max(0.0, low - slope * ends[0][0]), slope)


def probe(config: DictConfig) -> float:
    """Return how many seconds a training step takes, the first one left out if there is time for more."""
    data, task = build(config)
    data.prepare_data()
    data.setup("")
    optimizer, times, begin = task.optimizer(task.train().model), list[float](), time.perf_counter()
    for index in range(STEPS):
        before = time.perf_counter()
        for part in range(config.trainer.accumulate_grad_batches):
            task.step(data.make("train", (0, index + part), slice(None)), "train").backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - before)
        if time.perf_counter() - begin > PATIENCE:
            break
    return statistics.median(times[1:] or times)
