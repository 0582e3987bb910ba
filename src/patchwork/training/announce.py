"""What a training says before the wait: what is trained, on what, and about how long it takes."""

import os
import shutil
import time
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import nn

from patchwork.core.progress import format_duration
from patchwork.data import BaseDataModule
from patchwork.models.patch_embed import PatchEmbed, resolve_precision
from patchwork.tasks import Task
from patchwork.training.show_samples import print_above_bar

WARMUP_STEPS, TIMED_STEPS = 3, 20  # steps that are not timed, as they are slower, and steps that are
MAX_TIMED_SECONDS = 15.0  # after which fewer steps are enough
EVAL_COST = 1 / 3  # of evaluating a sample, relative to training on it: there is no backward pass
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class Announcement(pl.Callback):
    """Print what is trained when training starts, and about how long it takes once a few steps have been timed.

    Args:
        task: name of the task, as in `task=…`.
        model: name of the model, as in `model=…`.
    """

    def __init__(self, task: str, model: str) -> None:
        self.task, self.model = task, model
        self.first_step = 0  # of this process
        self.timed_since: tuple[int, float] | None = None  # step and time, until the estimate is made

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.first_step, self.timed_since = trainer.global_step, None
        self.estimated = not trainer.is_global_zero
        if trainer.is_global_zero:
            print_above_bar(trainer, self.describe(trainer, cast(Task, pl_module)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.estimated:
            return
        now, step = time.perf_counter(), trainer.global_step
        if self.timed_since is None:
            if step >= self.first_step + WARMUP_STEPS:
                self.timed_since = (step, now)
            return
        first, since = self.timed_since
        if step > first and (step >= first + TIMED_STEPS or now - since > MAX_TIMED_SECONDS):
            self.print_estimate(trainer, (now - since) / (step - first))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.timed_since = None  # time steps without a validation in between

    def describe(self, trainer: pl.Trainer, task: Task) -> str:
        """Return the lines that are printed first."""
        data = cast(BaseDataModule, cast(Any, trainer).datamodule)
        parameters = sum(parameter.numel() for parameter in task.model.parameters())
        sizes = data.num_samples
        lines = [
            f"task={self.task} model={self.model}, {parameters:,} parameters, on dataset={data.source.name}: "
            f"{sizes['train']:,} {task.samples_name} an epoch, {sizes['val']:,} to validate, {sizes['test']:,} to test",
            f"{num_steps(trainer)} on {describe_device(trainer)}{describe_stem(task.model, trainer)}",
        ]
        if trainer.global_step:
            lines.append(
                f"going on from epoch {trainer.current_epoch + 1}, after step {trainer.global_step:,}"
                f"{of_total(trainer)}"
            )
        return "\n".join(lines)

    def print_estimate(self, trainer: pl.Trainer, seconds_per_step: float) -> None:
        """Print how long the rest of the training takes, if its end is known."""
        self.estimated = True
        remaining = total_steps(trainer) - trainer.global_step
        if remaining in (0, float("inf")):
            return
        seconds = remaining * seconds_per_step + evaluation_seconds(trainer, seconds_per_step)
        milliseconds = 1000 * seconds_per_step
        print_above_bar(trainer, f"this takes about {format_duration(seconds)} ({milliseconds:.0f} ms a step)")


def total_steps(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of the whole training; infinite if only a time limit ends it."""
    return float(trainer.estimated_stepping_batches)


def num_steps(trainer: pl.Trainer) -> str:
    """Return how many steps and epochs a training has, and what else may end it."""
    steps, epochs = total_steps(trainer), trainer.max_epochs
    text = "training" if steps == float("inf") else f"{steps:,.0f} steps"
    if epochs is not None and epochs > 0:
        text += f" in {epochs} epoch{'s' if epochs > 1 else ''}"
    return text


def of_total(trainer: pl.Trainer) -> str:
    steps = total_steps(trainer)
    return "" if steps == float("inf") else f" of {steps:,.0f}"


def evaluation_seconds(trainer: pl.Trainer, seconds_per_step: float) -> float:
    """Estimate how long the validations that are left take, and the test."""
    data = cast(BaseDataModule, cast(Any, trainer).datamodule)
    per_sample = EVAL_COST * seconds_per_step / (data.batch_size * trainer.accumulate_grad_batches)
    batches_per_step = trainer.accumulate_grad_batches
    steps_left = total_steps(trainer) - trainer.global_step
    validations = steps_left * batches_per_step / max(trainer.val_check_batch or trainer.num_training_batches, 1)
    samples = validations / max(trainer.check_val_every_n_epoch or 1, 1) * data.num_samples["val"]
    return (samples + data.num_samples["test"]) * per_sample


def describe_stem(model: nn.Module, trainer: pl.Trainer) -> str:
    """Return the precision of a model's stem where it is not the trainer's own."""
    device = trainer.strategy.root_device.type
    embeddings = [module for module in model.modules() if isinstance(module, PatchEmbed)]
    low = any(resolve_precision(module.precision, device) == "bf16" for module in embeddings)
    return ", stem in bfloat16" if low and "bf16" not in str(trainer.precision) else ""


def describe_device(trainer: pl.Trainer) -> str:
    """Return the device that a training runs on, its precision, and why not a GPU where there might be one."""
    device = trainer.strategy.root_device
    count = trainer.num_devices * trainer.num_nodes
    times = f"{count} × " if count > 1 else ""
    if device.type == "cuda":
        text = f"{times}{torch.cuda.get_device_name(device)} (cuda)"
    elif device.type == "mps":
        text = f"{times}the Apple GPU (mps)"
    else:
        threads = torch.get_num_threads()
        reason = why_no_gpu()
        text = f"{times}the CPU with {threads} thread{'s' if threads > 1 else ''}{f' ({reason})' if reason else ''}"
    return text if trainer.precision == "32-true" else f"{text}, {trainer.precision}"


def why_no_gpu() -> str:
    """Return why a training on the CPU does not use a GPU; empty if nothing suggests that there is one."""
    if torch.backends.mps.is_available():
        return "there is an Apple GPU: accelerator=mps uses it"
    if torch.cuda.is_available():
        return "there is a GPU: accelerator=cuda uses it"
    if not has_gpu_driver():
        return "no GPU: this torch is built for CUDA, but there is no NVIDIA driver" if torch.version.cuda else ""
    if not torch.backends.cuda.is_built():
        return "no GPU: there is an NVIDIA driver, but this torch is built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return f"no GPU: CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} hides it"
    return f"no GPU: {cuda_error()}"


def has_gpu_driver() -> bool:
    """Return whether this machine has a driver of NVIDIA's, whatever torch can do with it."""
    return NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi") is not None


def cuda_error() -> str:
    """Return the first sentence of what torch says when it cannot use CUDA, as that the driver is too old."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        sentence = " ".join(str(error).split()).split(". ")[0]
        return sentence.rstrip(".")[:160]
    return "torch finds no device"
