"""What a training says before the wait: what is trained, on what, and about how long it takes."""

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import nn

from patchwork.core.progress import format_duration
from patchwork.data import BaseDataModule, Split
from patchwork.models.patch_embed import PatchEmbed, resolve_precision
from patchwork.tasks import Task
from patchwork.training.show_samples import print_above_bar
from patchwork.training.step_counts import limited, num_validations

WARMUP_STEPS, TIMED_STEPS = 3, 20  # steps that are not timed, as they are slower, and steps that are
BLOCK = 4  # steps of which only the sum is timed, as a GPU works on several at once
MAX_TIMED_SECONDS = 15.0  # after which fewer steps are enough
EVAL_COST = 1 / 3  # of evaluating a sample, relative to training on it: there is no backward pass
SPLITS: tuple[Split, ...] = ("train", "val", "test")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class Announcement(pl.Callback):
    """Print what is trained when training starts, and about how long it takes once a few steps have been timed.

    Args:
        task: name of the task, as in `task=…`.
        model: name of the model, as in `model=…`.
        trainer_config: the configuration's `trainer`.
    """

    def __init__(self, task: str, model: str, trainer_config: DictConfig) -> None:
        self.task, self.model, self.trainer_config = task, model, trainer_config
        self.last_step = 0  # that was timed, as several batches may be one step
        self.step_ends: list[float] = []  # until the estimate is made

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last_step, self.step_ends = trainer.global_step, []
        self.estimated = not trainer.is_global_zero
        if trainer.is_global_zero:
            print_above_bar(trainer, self.describe(trainer, cast(Task, pl_module)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.estimated or trainer.global_step == self.last_step:
            return
        self.last_step = trainer.global_step
        self.step_ends.append(time.perf_counter())
        timed = self.step_ends[WARMUP_STEPS - 1 :]
        if len(timed) > TIMED_STEPS or (len(timed) > 1 and timed[-1] - timed[0] > MAX_TIMED_SECONDS):
            self.print_estimate(trainer, typical_seconds(timed))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step_ends = []  # time steps without a validation in between

    def describe(self, trainer: pl.Trainer, task: Task) -> str:
        """Return the lines that are printed first."""
        data = cast(BaseDataModule, cast(Any, trainer).datamodule)
        parameters = sum(parameter.numel() for parameter in task.model.parameters())
        train, val, test = (num_samples(trainer, data, split) for split in SPLITS)
        lines = [
            f"task={self.task} model={self.model}, {parameters:,} parameters, on dataset={data.source.name}: "
            f"{describe_epoch(train, task, data)}, {val:,} to validate, {test:,} to test",
            f"{describe_length(trainer)} on {describe_device(trainer)}{describe_stem(task.model, trainer)}",
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
        total = total_steps(trainer)
        remaining = total - trainer.global_step
        if remaining in (0, float("inf")):
            return
        data = cast(BaseDataModule, cast(Any, trainer).datamodule)
        validations = num_validations(self.trainer_config, data.num_batches("train")) * remaining / total
        samples = validations * num_samples(trainer, data, "val") + num_samples(trainer, data, "test")
        samples_per_step = data.batch_size * trainer.accumulate_grad_batches
        seconds = (remaining + EVAL_COST * samples / samples_per_step) * seconds_per_step
        milliseconds = 1000 * seconds_per_step
        print_above_bar(trainer, f"this takes about {format_duration(seconds)} ({milliseconds:.0f} ms a step)")


def typical_seconds(ends: list[float]) -> float:
    """Return the seconds of a step, given when two or more ended: the median over blocks of steps.

    So what slows some of the first steps, as other programs that are being started, is not taken for the whole.
    """
    starts = range(0, len(ends) - BLOCK, BLOCK)
    blocks = [(ends[start + BLOCK] - ends[start]) / BLOCK for start in starts]
    return statistics.median(blocks or [(ends[-1] - ends[0]) / (len(ends) - 1)])


def describe_epoch(count: int, task: Task, data: BaseDataModule) -> str:
    """Return how many samples an epoch has, and of how many images if it shows images again."""
    splits = getattr(data, "splits", None)  # of data that are read
    if task.samples_name == "images" and splits and count > (images := len(splits["train"].labels)):
        return f"{count:,} samples an epoch of {images:,} images"
    return f"{count:,} {task.samples_name} an epoch"


def total_steps(trainer: pl.Trainer) -> float:
    """Return the optimizer steps of the whole training; infinite if only a time limit ends it."""
    return float(trainer.estimated_stepping_batches)


def describe_length(trainer: pl.Trainer) -> str:
    """Return how many steps and epochs a training has, in words."""
    steps, epochs = total_steps(trainer), trainer.max_epochs
    text = "training" if steps == float("inf") else f"{steps:,.0f} step{'s' if steps > 1 else ''}"
    if epochs is not None and epochs > 0:
        text += f" in {epochs} epoch{'s' if epochs > 1 else ''}"
    return text


def of_total(trainer: pl.Trainer) -> str:
    steps = total_steps(trainer)
    return "" if steps == float("inf") else f" of {steps:,.0f}"


def num_samples(trainer: pl.Trainer, data: BaseDataModule, split: Split) -> int:
    """Return how many samples an epoch, a validation or the test takes within the limits of the trainer."""
    if split == "val" and data.repeats_batches:  # of the training batches, see `BaseDataModule.val_dataloader`
        split = "train"
    limit: int | float = getattr(trainer, f"limit_{split}_batches")
    if limit == 1 and isinstance(limit, float):
        return data.num_samples[split]
    batch_size = data.batch_size if split == "train" else data.eval_batch_size
    return min(limited(limit, data.num_batches(split)) * batch_size, data.num_samples[split])


def describe_stem(model: nn.Module, trainer: pl.Trainer) -> str:
    """Return the precision of a model's stem where it is not the trainer's own; autocast leaves float64 as it is."""
    if trainer.precision != "32-true":
        return ""
    device = trainer.strategy.root_device.type
    embeddings = [module for module in model.modules() if isinstance(module, PatchEmbed)]
    low = any(resolve_precision(module.precision, device) == "bf16" for module in embeddings)
    return ", stem in bfloat16" if low else ""


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
