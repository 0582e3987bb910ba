"""Lightning's Trainer with a schema, its errors in one line, and what is checked before it starts."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
from patchwork.training.trainer_arguments import (
    BatchLimit,
    MaxEpochs,
    MaxTime,
    OptionalBatchLimit,
    PrecisionName,
    ValCheckInterval,
)

SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Under SLURM, Lightning goes on from any hpc_ckpt_* in its directory, whichever run it is of, even when it tests.
NOWHERE = os.path.join(os.devnull, "nowhere")


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
        overfit_batches: train on this many batches, or a fraction of them, the same in every epoch, and validate on as
            many; 0 trains on new samples.
        fast_dev_run: try training, validation and test on one batch each, or on this many.
        log_every_n_steps: optimizer steps between two logged training losses.
        profiler: measure what training spends its time on: `simple`, `advanced` or `pytorch`.
        detect_anomaly: whether autograd names the operation that makes a gradient NaN; it is slow.
    """

    def __init__(
        self,
        *,
        accelerator: str,
        devices: PositiveInt | list[NonNegativeInt] | Literal["auto", -1],
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
            default_root_dir=NOWHERE,
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
            raise NumericError(f"{one_line(error)}; trainer.detect_anomaly=true stopped before this step") from error
        if "loading state_dict" not in str(error):
            raise
        raise DataError(f"the checkpoint to resume from is another model's: {one_line(error)[:200]}") from error
    except (MisconfigurationException, InstantiationException) as error:
        cause = error.__cause__ or error
        if isinstance(cause, MisconfigurationException | ValueError | TypeError):
            raise ConfigError(f"trainer: {one_line(cause)}") from error
        raise


def check_accelerator(name: str, devices: Any) -> None:
    """Check that an accelerator is available, and that a CPU has a core for each process.

    Args:
        name: of the accelerator, as in `trainer.accelerator`.
        devices: as in `trainer.devices`.

    Raises:
        ConfigError: if there is no accelerator of this name.
        ResourceError: if this machine does not have it, or not so many cores.
    """
    accelerators = available_accelerators()
    has_gpu = accelerators["gpu"]
    max_processes = max(2, available_cpus())
    on_cpu = not has_gpu and name not in ("cuda", "mps", "gpu")
    if on_cpu and isinstance(devices, int) and devices > max_processes:
        raise ResourceError(f"trainer.devices={devices} is more than this machine has: use up to {max_processes}")
    choices = ", ".join(choice for choice, available in accelerators.items() if available)
    if name not in accelerators:
        raise ConfigError(f"trainer.accelerator={name} does not exist: use one of {choices}")
    if not accelerators[name]:
        raise ResourceError(f"trainer.accelerator={name} is not available on this machine: use one of {choices}")


def available_accelerators() -> dict[str, bool]:
    """Return for each accelerator, by name, whether this machine has it."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    return {"auto": True, "cpu": True, "cuda": cuda, "mps": mps, "gpu": cuda or mps}


def check_limits(trainer_config: DictConfig, data: BaseDataModule) -> None:
    """Check that no fraction of an epoch's batches rounds to zero, and that epochs hold what is counted in them.

    Warns:
        PatchworkWarning: if training ends by `max_epochs` before it has taken `max_steps`.

    Raises:
        ConfigError: if a fraction rounds to zero, or an epoch has fewer batches than `val_check_interval`.
    """
    if trainer_config.get("fast_dev_run"):
        return
    for split in SPLITS:
        overfits = split != "test" and trainer_config.get("overfit_batches")
        key = "overfit_batches" if overfits else f"limit_{split}_batches"
        if trainer_config[key]:
            num_batches = limit_batches(key, trainer_config[key], data.num_batches(split))
            if split == "train":
                check_epoch(trainer_config, num_batches)


def check_epoch(trainer_config: DictConfig, num_batches: int) -> None:
    """Check what is counted in the batches of an epoch, see `check_limits`."""
    interval, max_epochs = trainer_config.val_check_interval, trainer_config.max_epochs
    if isinstance(interval, float):
        limit_batches("val_check_interval", interval, num_batches)
    elif interval > num_batches and trainer_config.check_val_every_n_epoch and trainer_config.limit_val_batches:
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


def limit_batches(key: str, limit: int | float, num_batches: int) -> int:
    """Return how many of `num_batches` a limit of the Trainer leaves.

    Raises:
        ConfigError: if it leaves none.
    """
    limited = min(limit, num_batches) if isinstance(limit, int) else int(limit * num_batches)
    if not limited:
        raise ConfigError(f"trainer.{key}={limit} of {num_batches} batches rounds to 0: use a larger fraction, or 1.0")
    return limited
