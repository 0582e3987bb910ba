"""A training step under the Trainer, in a plain PyTorch loop, and with two implementations of attention."""

import tempfile
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import patchwork.core.fast_import  # noqa: F401  # isort: skip
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from patchwork.core.malloc import tune_malloc
from patchwork.runs.build import build, build_callbacks
from patchwork.training.checkpointing import Checkpointer
from patchwork.training.loggers import CSVMetricsLogger
from patchwork.training.progress import ProgressBar
from patchwork.training.timing import RunTimer
from patchwork.training.trainer import make_trainer

from . import timing
from .timing import Benchmark, milliseconds_per_step

WHOLE_BATCH = slice(None)


class StepTimer(pl.Callback):
    """Record when each training step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.ends.append(time.perf_counter())


def training_benchmarks(*overrides: str) -> tuple[Benchmark, Benchmark, Benchmark]:
    """Return three benchmarks in milliseconds: a step under the Trainer, in a plain loop, and making a batch."""
    config = timing.make_config("trainer.max_epochs=1", "callbacks.show_samples=null", *overrides)
    data, _ = build(config)
    data.setup()

    def make_batches() -> float:
        start = time.perf_counter()
        for index in range(timing.NUM_STEPS):
            data.make_batch("train", (0, index), WHOLE_BATCH)
        return (time.perf_counter() - start) / timing.NUM_STEPS * 1e3

    return lambda: trainer_step(config), lambda: plain_step(config), make_batches


def trainer_step(config: DictConfig) -> float:
    """Return the milliseconds of a step under the Trainer with all that a run has: logs, progress bar, checkpoints."""
    data, task = build(config)
    data.prepare_data()
    checkpointer, timer = Checkpointer(config.checkpoint_every_seconds), StepTimer()
    callbacks = build_callbacks(config, RunTimer(time.time()), checkpointer)
    trainer = make_trainer(config, [*callbacks, timer])
    for callback in trainer.callbacks:
        if isinstance(callback, ProgressBar):
            callback.enabled = True
    with tempfile.TemporaryDirectory() as directory, redirect_stderr(StringIO()):  # the bar is rendered, not shown
        checkpointer.checkpoint_dir = Path(directory)
        trainer.loggers = [CSVMetricsLogger(Path(directory))]
        trainer.fit(task, data)
    return milliseconds_per_step(timer.ends)


def plain_step(config: DictConfig) -> float:
    """Return the milliseconds of the same step, with clipping and EMA, in a plain PyTorch loop."""
    data, task = build(config)
    data.setup()
    model = task.model.train()
    optimizer = task.optimizer(model)
    scheduler = task.scheduler(optimizer, timing.NUM_STEPS)
    ema_config = config.callbacks.get("ema")
    multi_avg_fn = get_ema_multi_avg_fn(ema_config.decay) if ema_config else None
    ema = AveragedModel(model, multi_avg_fn=multi_avg_fn, use_buffers=True) if ema_config else None
    ends = []
    for index in range(timing.NUM_STEPS):
        torch.manual_seed(index)
        batch = data.make_batch("train", (0, index), WHOLE_BATCH)
        optimizer.zero_grad(set_to_none=True)
        task.step(batch, "train").backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.trainer.gradient_clip_val)
        assert norm.isfinite()
        optimizer.step()
        scheduler.step()
        if ema is not None:
            ema.update_parameters(model)
        ends.append(time.perf_counter())
    return milliseconds_per_step(ends)


def attention_benchmarks(*overrides: str) -> tuple[Benchmark, Benchmark]:
    """Return two benchmarks in milliseconds: a generator's forward and backward pass with fused and plain attention.

    Both must give the same loss.
    """
    tune_malloc()
    data, task = build(timing.make_config("task=pixels", *overrides))
    data.setup()
    task.train()

    def loss(backend: SDPBackend, index: int = 0) -> torch.Tensor:
        torch.manual_seed(index)
        with sdpa_kernel(backend):
            return task.step(data.make_batch("train", (0, index), WHOLE_BATCH), "train")

    def step(backend: SDPBackend) -> float:
        start = time.perf_counter()
        for index in range(timing.NUM_WARMUP_STEPS):
            task.zero_grad(set_to_none=True)
            loss(backend, index).backward()
        return (time.perf_counter() - start) / timing.NUM_WARMUP_STEPS * 1e3

    torch.testing.assert_close(loss(SDPBackend.FLASH_ATTENTION).detach(), loss(SDPBackend.MATH).detach())
    return lambda: step(SDPBackend.FLASH_ATTENTION), lambda: step(SDPBackend.MATH)
