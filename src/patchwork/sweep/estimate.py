"""Estimate what a sweep costs before it is run: model size, operations, memory and minutes of its configurations.

1. Enumerate all parameters of a small space, or the corners of a large one. Continuous parameters change no shape, so
   the middle of their range stands for all.
2. Drop infeasible configurations, with the reason. Of the others count parameters, operations of a training step (three
   times those of a forward pass) and the bytes that a step needs.
3. Time a few real steps of the cheapest configuration and of the most expensive one: seconds are linear in operations.
4. For a search, sample parameters at random, as it does at its beginning, and estimate the whole from their mean.
"""

import itertools
import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass

import optuna
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer

from patchwork import START_TIME
from patchwork.core.errors import ConfigError
from patchwork.core.progress import format_duration
from patchwork.core.table import format_table
from patchwork.data import BaseDataModule, Batch
from patchwork.evaluation.flops import flops
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.sweep.compose import Params, SweepConfig, count_validations, format_params, infeasible_reason
from patchwork.sweep.jobs import threads_per_job
from patchwork.sweep.priors import Prior
from patchwork.sweep.results import wrap_params
from patchwork.sweep.study import PerTrialSeededSampler
from patchwork.tasks import Task
from patchwork.training.step_counts import num_steps

COUNT_SAMPLES = 4  # that stand for a batch where only shapes matter
MAX_ENUMERATED = 64
RANDOM_SAMPLES = 20  # parameters from which the cost of a search is estimated
TIMED_STEPS, TIMING_TIMEOUT = 4, 20.0  # steps, and the seconds after which no other one is timed
MIN_RATIO = 2.0  # of the operations of two configurations from which a line is fitted


@dataclass(frozen=True)
class CostEstimate:
    """What one configuration costs."""

    num_parameters: int
    memory: int  # bytes
    step_operations: float
    num_steps: int
    eval_operations: float  # of all validations and the test
    max_seconds: float  # of training


@dataclass(frozen=True)
class TimeModel:
    """Seconds as a linear function of operations."""

    startup: float  # seconds of a process until its first step
    intercept: float  # seconds of a step without operations
    slope: float  # seconds per operation

    def step_seconds(self, cost: CostEstimate) -> float:
        return self.intercept + self.slope * cost.step_operations

    def minutes(self, cost: CostEstimate) -> float:
        seconds = cost.num_steps * self.step_seconds(cost) + self.slope * cost.eval_operations
        return (self.startup + min(seconds, cost.max_seconds)) / 60


def print_estimate(sweep: SweepConfig, *, n_trials: int, n_jobs: int) -> None:
    """Print what a sweep costs; no file is written.

    Raises:
        ConfigError: if no configuration can be trained.
    """
    startup = time.time() - START_TIME
    torch.set_num_threads(threads_per_job(n_jobs))
    all_params, complete = enumerate_params(sweep.priors)
    reasons = [infeasible_reason(sweep.trial_overrides(params)) for params in all_params]
    feasible = [params for params, reason in zip(all_params, reasons, strict=True) if reason is None]
    total = count(len(all_params), "configuration") if complete else f"{len(all_params)} corners of the space"
    print(f"{total}, {len(all_params) - len(feasible)} of them infeasible")
    for reason, number in Counter(reason for reason in reasons if reason is not None).items():
        print(f"  {number} × {reason}")
    if not feasible:
        raise ConfigError(f"no setting of {sweep.path} can be trained: {reasons[0]}")
    configs = [compose(sweep.trial_overrides(params)) for params in feasible]
    costs = [estimate_cost(config) for config in configs]
    time_model = fit_time_model(configs, costs, startup)
    print(f"\n{format_costs(feasible, costs, time_model)}")
    if sweep.space.method == "grid" and complete:
        n_trials = min(n_trials, len(feasible))
        sampled = costs
    else:
        sampled = sample_costs(sweep)
    print_total([time_model.minutes(cost) for cost in sampled], n_trials, n_jobs)


def format_costs(all_params: list[Params], costs: list[CostEstimate], time_model: TimeModel) -> str:
    """Format parameters and their costs as a table."""
    rows = [
        {
            "model parameters": f"{cost.num_parameters:,}",
            "MFLOP/step": f"{cost.step_operations / 1e6:,.0f}",
            "MiB": f"{cost.memory / 2**20:,.0f}",
            "s/step": f"{time_model.step_seconds(cost):.3f}",
            "minutes": f"{time_model.minutes(cost):.1f}",
            "hyperparameters": format_params(params),
        }
        for params, cost in zip(all_params, costs, strict=True)
    ]
    return format_table(wrap_params(rows), right=("model parameters", "MFLOP/step", "MiB", "s/step", "minutes"))


def print_total(minutes: list[float], n_trials: int, n_jobs: int) -> None:
    """Print how long `n_trials` trials take, by the minutes of sampled ones."""
    seconds = statistics.fmean(minutes) * n_trials * 60 if minutes else 0.0
    parallel = f", {format_duration(seconds / min(n_jobs, n_trials))} with n_jobs={n_jobs}" if n_jobs > 1 else ""
    verb = "takes" if n_trials == 1 else "take"
    print(f"\n{count(n_trials, 'trial')} {verb} about {format_duration(seconds)}{parallel}, and less with pruning")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- parameters ---


def enumerate_params(priors: dict[str, Prior]) -> tuple[list[Params], bool]:
    """Return all parameters of a space and True, or if they are too many the corners of the space and False."""
    values = [prior.grid() for prior in priors.values()]
    complete = math.prod(map(len, values)) <= MAX_ENUMERATED
    if not complete:
        values = [[choices[0], choices[-1]] if len(choices) > 1 else choices for choices in values]
    combinations = itertools.islice(itertools.product(*values), MAX_ENUMERATED)
    return [dict(zip(priors, combination, strict=True)) for combination in combinations], complete


def sample_costs(sweep: SweepConfig) -> list[CostEstimate]:
    """Return the costs of parameters that are sampled at random, without the infeasible ones."""
    study = optuna.create_study(sampler=PerTrialSeededSampler(optuna.samplers.RandomSampler, 0, sweep.priors))
    sampled = [sweep.trial_overrides(study.ask(sweep.distributions).params) for _ in range(RANDOM_SAMPLES)]
    return [estimate_cost(compose(overrides)) for overrides in sampled if infeasible_reason(overrides) is None]


# --- costs ---


def estimate_cost(config: DictConfig) -> CostEstimate:
    """Count what a configuration costs, by one training step with a few samples."""
    data, task = build(config)
    data.prepare_data()
    data.setup("")
    batch = data.make_batch("train", (0, 0), slice(0, COUNT_SAMPLES))
    num_samples = len(next(iter(batch.values())))
    forward = flops(task.eval(), batch)  # operations per sample
    optimizer = task.optimizer(task.train().model)
    saved_bytes = training_step(task, batch, optimizer)
    weight_bytes = sum(each.numel() * each.element_size() for each in task.model.parameters())
    ema_bytes = weight_bytes if (config.callbacks or {}).get("ema") else 0
    activation_bytes = saved_bytes * data.batch_size // num_samples
    return CostEstimate(
        num_parameters=sum(each.numel() for each in task.model.parameters()),
        memory=2 * weight_bytes + optimizer_bytes(optimizer) + ema_bytes + activation_bytes,  # 2: with gradients
        step_operations=3 * forward * data.batch_size * config.trainer.accumulate_grad_batches,
        num_steps=count_steps(config, data),
        eval_operations=forward * (data.num_samples["val"] * count_validations(config) + data.num_samples["test"]),
        max_seconds=parse_max_time(config.trainer.max_time),
    )


def training_step(task: Task, batch: Batch, optimizer: Optimizer) -> int:
    """Do a training step and return the bytes that its forward pass saves for the backward pass."""
    saved: dict[int, int] = {}  # bytes of a storage by its address

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        loss = task.step(batch, "train")
    loss.backward()
    optimizer.step()
    for parameter in task.model.parameters():
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(saved.values())


def optimizer_bytes(optimizer: Optimizer) -> int:
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() * value.element_size() for value in states if isinstance(value, Tensor))


def count_steps(config: DictConfig, data: BaseDataModule) -> int:
    """Return the optimizer steps of a run."""
    return num_steps(config.trainer, data.num_batches("train"))


def parse_max_time(max_time: str | None) -> float:
    """Return the seconds of a time limit `days:hours:minutes:seconds`."""
    if max_time is None:
        return math.inf
    days, hours, minutes, seconds = map(int, max_time.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


# --- time ---


def fit_time_model(configs: list[DictConfig], costs: list[CostEstimate], startup: float) -> TimeModel:
    """Time the cheapest configuration and the most expensive one, and fit a line.

    If the two are much alike, only the latter is timed, and the line goes through zero.
    """
    operations = [cost.step_operations for cost in costs]
    low, high = operations.index(min(operations)), operations.index(max(operations))
    high_seconds = time_step(configs[high])
    if operations[high] < MIN_RATIO * operations[low]:
        return TimeModel(startup, 0.0, high_seconds / operations[high])
    low_seconds = time_step(configs[low])
    slope = max(0.0, (high_seconds - low_seconds) / (operations[high] - operations[low]))
    return TimeModel(startup, max(0.0, low_seconds - slope * operations[low]), slope)


def time_step(config: DictConfig) -> float:
    """Return the median seconds of a training step; the first one is left out if there is time for more."""
    data, task = build(config)
    data.prepare_data()
    data.setup("")
    optimizer = task.optimizer(task.train().model)
    num_batches = config.trainer.accumulate_grad_batches
    seconds: list[float] = []
    start = time.perf_counter()
    for step in range(TIMED_STEPS):
        step_start = time.perf_counter()
        for batch_idx in range(num_batches):
            task.step(data.make_batch("train", (0, step + batch_idx), slice(None)), "train").backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - step_start)
        if time.perf_counter() - start > TIMING_TIMEOUT:
            break
    return statistics.median(seconds[1:] or seconds)
