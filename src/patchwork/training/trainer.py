"""Lightning's Trainer with a schema, its errors in one line, and what is checked before it starts."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from patchwork.core.cpus import available_cpus
from patchwork.core.errors import ConfigError, DataError, NumericError, PatchworkWarning, ResourceError, one_line
from patchwork.core.malloc import tune_malloc
from patchwork.data import BaseDataModule, Split
from patchwork.training.checkpoint_io import SafeCheckpointIO
from patchwork.training.cluster import cluster_environment, count_processes
from patchwork.training.epoch_loop import install_epoch_loop
from patchwork.training.fsdp import FSDP2Strategy
from patchwork.training.step_counts import limited, num_epoch_batches, num_steps, validates
from patchwork.training.trainer_arguments import (
    BatchLimit,
    Devices,
    MaxEpochs,
    MaxTime,
    OptionalBatchLimit,
    PrecisionName,
    ValCheckInterval,
)

SPLIT_NAMES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}
# Under SLURM, Lightning goes on from any hpc_ckpt_* in its directory, whichever run it is of, even when it tests: so it
# has one that does not exist.
NO_DIRECTORY = Path(__file__).with_name("no_directory")


class Trainer(pl.Trainer):
    """Lightning's Trainer with the arguments that a configuration can set.

    Args:
        accelerator: `cpu`, `cuda`, `mps`, `gpu`, or `auto` for the best that this machine has.
        devices: how many devices, a list of their indices, or `auto` or -1 for all GPUs.
        num_nodes: machines with this many devices each.
        strategy: how several devices share the work: `ddp`, `fsdp`, or `auto`.
        precision: of the computation: `32-true`, `bf16-mixed` or `64-true`.
        deterministic: whether to use deterministic kernels only; `warn` uses them where they exist.
        benchmark: whether cuDNN tries which kernel is the fastest; null leaves it to Lightning.
        max_epochs: epochs after which training ends; -1 for as many as `max_steps` takes.
        min_epochs: epochs that are trained even if `max_time` is over.
        max_steps: optimizer steps after which training ends; -1 for no limit.
        min_steps: optimizer steps that are trained even if `max_time` is over.
        max_time: after which training ends, as days:hours:minutes:seconds; the learning rate schedule does not know it.
        gradient_clip_val: the largest norm of the gradient, or its largest value; null or 0 does not clip.
        gradient_clip_algorithm: what is clipped: the `norm` of the whole gradient (also null) or each `value`.
        accumulate_grad_batches: batches whose gradients are averaged for one optimizer step.
        val_check_interval: when to validate: a fraction of an epoch, or an integer N for every N batches.
        check_val_every_n_epoch: epochs between those with validations; null counts the batches of
            `val_check_interval` across epochs. Training also validates where it ends.
        limit_train_batches: training batches in an epoch, or a fraction of them.
        limit_val_batches: validation batches, or a fraction of them; 0 does not validate.
        limit_test_batches: test batches, or a fraction of them; 0 does not test.
        overfit_batches: train on this many batches, or a fraction of them, the same in every epoch, and validate on
            these; 0 trains on new samples.
        fast_dev_run: try training, validation and test on one batch each, or on this many.
        log_every_n_steps: optimizer steps between two logged training losses.
        profiler: measure what training spends its time on: `simple`, `advanced` or `pytorch`.
        detect_anomaly: whether autograd names the operation that makes a gradient NaN; it is slow.
    """

    def __init__(
        self,
        *,
        accelerator: str,
        devices: Devices,
        num_nodes: PositiveInt = 1,
        strategy: Literal["auto", "ddp", "fsdp"],
        precision: PrecisionName,
        deterministic: bool | Literal["warn"] | None,
        benchmark: bool | None = None,
        max_epochs: MaxEpochs,
        min_epochs: PositiveInt | None = None,
        max_steps: PositiveInt | Literal[-1],
        min_steps: PositiveInt | None = None,
        max_time: MaxTime,
        gradient_clip_val: NonNegativeFloat | None,
        gradient_clip_algorithm: Literal["norm", "value"] | None = None,
        accumulate_grad_batches: PositiveInt,
        val_check_interval: ValCheckInterval,
        check_val_every_n_epoch: PositiveInt | None,
        limit_train_batches: BatchLimit,
        limit_val_batches: OptionalBatchLimit,
        limit_test_batches: OptionalBatchLimit,
        overfit_batches: OptionalBatchLimit = 0,
        fast_dev_run: bool | NonNegativeInt = False,
        log_every_n_steps: PositiveInt,
        profiler: Literal["simple", "advanced", "pytorch"] | None,
        detect_anomaly: bool = False,
    ) -> None:
        if max_epochs == -1 and max_steps == -1 and not fast_dev_run:
            raise ValueError(f"max_epochs={max_epochs} needs trainer.max_steps, which learning rate schedules end at")
        if check_val_every_n_epoch is None and isinstance(val_check_interval, float):
            raise ValueError(
                "check_val_every_n_epoch=null counts batches across epochs, so that trainer.val_check_interval="
                f"{val_check_interval} cannot be a fraction of an epoch: use an integer, such as 500"
            )
        super().__init__(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=FSDP2Strategy() if strategy == "fsdp" else strategy,
            precision=precision,
            deterministic=deterministic,
            benchmark=benchmark,
            max_epochs=max_epochs,
            min_epochs=min_epochs,
            max_steps=max_steps,
            min_steps=min_steps,
            max_time=max_time,
            gradient_clip_val=gradient_clip_val,
            gradient_clip_algorithm=gradient_clip_algorithm,
            accumulate_grad_batches=accumulate_grad_batches,
            val_check_interval=val_check_interval,
            check_val_every_n_epoch=check_val_every_n_epoch,
            limit_train_batches=overfit_batches or limit_train_batches,
            limit_val_batches=overfit_batches or limit_val_batches,
            limit_test_batches=limit_test_batches,
            fast_dev_run=fast_dev_run,
            log_every_n_steps=log_every_n_steps,
            profiler=profiler,
            detect_anomaly=detect_anomaly,
            plugins=[SafeCheckpointIO(), cluster_environment(count_processes(devices, num_nodes))],
            default_root_dir=NO_DIRECTORY,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            inference_mode=strategy != "fsdp",  # sharded parameters that are gathered in it cannot be trained further
        )
        self.repeats_batches = bool(overfit_batches)  # Lightning's own `overfit_batches` would replace our sampler
        install_epoch_loop(self)


def make_trainer(config: DictConfig, callbacks: list[pl.Callback]) -> Trainer:
    """Build the Trainer of a configuration, without loggers.

    Raises:
        ConfigError: if Lightning rejects its arguments.
    """
    tune_malloc()
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # below are advertisements and hints
    warnings.filterwarnings("ignore", module="pytorch_lightning|torchmetrics|torch")
    with translate_lightning_errors():
        trainer = instantiate(config.trainer, _convert_="all")
    trainer.callbacks = [*trainer.callbacks, *callbacks]
    return trainer


@contextmanager
def translate_lightning_errors() -> Iterator[None]:
    """Turn Lightning's errors about its arguments or a checkpoint into this package's.

    Raises:
        ConfigError: if Lightning rejects an argument of the Trainer.
        DataError: if the checkpoint to resume from is another model's.
        NumericError: if `detect_anomaly` has found a gradient that is NaN.
    """
    try:
        yield
    except RuntimeError as error:
        if "returned nan values" in str(error):
            raise NumericError(
                f"{one_line(error).rstrip('.')}; trainer.detect_anomaly=true stopped before this step"
            ) from error
        if "loading state_dict" not in str(error):
            raise
        raise DataError(f"the checkpoint to resume from is another model's: {one_line(error)[:200]}") from error
    except (MisconfigurationException, InstantiationException) as error:
        cause = error.__cause__ or error
        if isinstance(cause, MisconfigurationException | ValueError | TypeError):
            raise ConfigError(f"trainer: {one_line(cause)}") from error
        raise


def check_accelerator(name: str, devices: Any) -> None:
    """Check that an accelerator is available, and that this machine has the devices.

    Args:
        name: of the accelerator, as in `trainer.accelerator`.
        devices: as in `trainer.devices`.

    Raises:
        ConfigError: if there is no accelerator of this name, or the devices are not of its kind.
        ResourceError: if this machine does not have it, or not so many of them.
    """
    accelerators = available_accelerators()
    choices = ", ".join(choice for choice, available in accelerators.items() if available)
    if name not in accelerators:
        raise ConfigError(f"trainer.accelerator={name} does not exist: use one of {choices}")
    if not accelerators[name]:
        raise ResourceError(f"trainer.accelerator={name} is not available on this machine: use one of {choices}")
    if name == "cpu" or not accelerators["gpu"]:
        check_cpu_devices(devices)
    elif name != "mps" and accelerators["cuda"]:
        check_cuda_devices(devices)


def check_cpu_devices(devices: Any) -> None:
    """Check that the devices of a CPU are a number of processes, and that there is a core for each."""
    limit = max(2, available_cpus())
    if devices == -1 or not isinstance(devices, int | str):
        raise ConfigError(
            f"trainer.devices={devices} selects GPUs, and this training is on the CPU: use 1, or up to {limit}"
        )
    if isinstance(devices, int) and devices > limit:
        raise ResourceError(f"trainer.devices={devices} is more than this machine has: use up to {limit}")


def check_cuda_devices(devices: Any) -> None:
    """Check that there are so many GPUs, or those of the given indices."""
    count = torch.cuda.device_count()
    if isinstance(devices, int) and devices > count:
        raise ResourceError(f"trainer.devices={devices} is more than this machine has: use up to {count}")
    if not isinstance(devices, int | str) and max(devices, default=0) >= count:
        raise ResourceError(f"trainer.devices={devices} is not on this machine: its GPUs are {[*range(count)]}")


def available_accelerators() -> dict[str, bool]:
    """Return for each accelerator, by name, whether this machine has it."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    return {"auto": True, "cpu": True, "cuda": cuda, "mps": mps, "gpu": cuda or mps}


def check_limits(trainer_config: DictConfig, data: BaseDataModule) -> None:
    """Check that no fraction of an epoch's batches rounds to zero, and that training holds what is counted in it.

    Warns:
        PatchworkWarning: if training ends by `max_epochs` before it has taken `max_steps`.

    Raises:
        ConfigError: if a fraction rounds to zero, an epoch has fewer batches than `val_check_interval`, or training
            ends before `min_epochs` or `min_steps`.
    """
    if trainer_config.get("fast_dev_run"):
        return
    overfits = trainer_config.get("overfit_batches")  # validates on the training batches
    for split in SPLIT_NAMES:
        key = "overfit_batches" if overfits and split == "train" else f"limit_{split}_batches"
        if trainer_config[key] and not (overfits and split == "val"):
            check_fraction(key, trainer_config[key], data.num_batches(split), split)
    check_epoch(trainer_config, data.num_batches("train"))
    check_minimums(trainer_config, data.num_batches("train"))


def check_fraction(key: str, limit: int | float, num_batches: int, split: Split) -> None:
    """Raise a `ConfigError` if an argument of the Trainer leaves none of the batches of a split."""
    if not limited(limit, num_batches):
        batches = f"{num_batches} {SPLIT_NAMES[split]} batch{'es' if num_batches != 1 else ''}"
        raise ConfigError(f"trainer.{key}={limit} of {batches} rounds to 0: use a larger fraction, or 1.0")


def check_epoch(trainer_config: DictConfig, num_batches: int) -> None:
    """Check what is counted in the batches of an epoch, of which there are `num_batches` before any limit."""
    interval, max_epochs = trainer_config.val_check_interval, trainer_config.max_epochs
    num_batches = num_epoch_batches(trainer_config, num_batches)
    if isinstance(interval, float):
        check_fraction("val_check_interval", interval, num_batches, "train")
    elif interval > num_batches and trainer_config.check_val_every_n_epoch and validates(trainer_config):
        raise ConfigError(
            f"trainer.val_check_interval={interval} is more than the {num_batches} batches of an epoch: use fewer, or "
            "trainer.check_val_every_n_epoch=null to count batches across epochs"
        )
    steps = math.ceil(num_batches / trainer_config.accumulate_grad_batches) * max_epochs
    if 0 < steps < trainer_config.max_steps:
        warnings.warn(
            f"trainer.max_epochs={max_epochs} ends training after {steps:,} steps, before "
            f"trainer.max_steps={trainer_config.max_steps}; trainer.max_epochs=-1 takes all steps",
            PatchworkWarning,
            stacklevel=2,
        )


def check_minimums(trainer_config: DictConfig, num_batches: int) -> None:
    """Raise a `ConfigError` if training ends before `min_epochs` or `min_steps`, which bound `max_time` alone."""
    steps = num_steps(trainer_config, num_batches)
    epoch_steps = math.ceil(num_epoch_batches(trainer_config, num_batches) / trainer_config.accumulate_grad_batches)
    end = "max_steps" if steps == trainer_config.max_steps else "max_epochs"
    for key, steps_each in (("min_steps", 1), ("min_epochs", epoch_steps)):
        minimum = trainer_config.get(key)
        if minimum and minimum * steps_each > steps:
            raise ConfigError(
                f"trainer.{key}={minimum} is never reached: trainer.{end}={trainer_config[end]} ends training after "
                f"{steps:,} step{'s' if steps > 1 else ''}; raise trainer.{end}, or drop trainer.{key}"
            )
