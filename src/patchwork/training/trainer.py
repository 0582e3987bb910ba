"""Lightning's Trainer with a schema, its errors in one line, and what is checked before it starts."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Gt, Le
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, StringConstraints
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from patchwork.core.cpus import available_cpus
from patchwork.core.errors import ConfigError, DataError, ResourceError, one_line
from patchwork.core.malloc import tune_malloc
from patchwork.data import BaseDataModule, Split
from patchwork.training.checkpoint_io import SafeCheckpointIO
from patchwork.training.fsdp import FSDP2Strategy

SPLITS: tuple[Split, ...] = ("train", "val", "test")

PositiveFraction = Annotated[float, Gt(0), Le(1)]
BatchLimit = PositiveInt | PositiveFraction  # a number of batches, or a fraction of them


class Trainer(pl.Trainer):
    """Lightning's Trainer with the arguments that a configuration can set; Lightning's documentation explains each."""

    def __init__(
        self,
        *,
        accelerator: str,
        devices: PositiveInt | list[NonNegativeInt] | Literal["auto"],
        num_nodes: PositiveInt = 1,
        strategy: Literal["auto", "ddp", "fsdp"],
        precision: Literal["32-true", "bf16-mixed", "64-true"],
        deterministic: bool | Literal["warn"] | None,
        max_epochs: PositiveInt,
        max_steps: PositiveInt | Literal[-1],
        max_time: Annotated[str, StringConstraints(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | None,
        gradient_clip_val: PositiveFloat | None,
        accumulate_grad_batches: PositiveInt,
        val_check_interval: PositiveFraction,
        check_val_every_n_epoch: PositiveInt,
        limit_train_batches: BatchLimit,
        limit_val_batches: BatchLimit,
        limit_test_batches: BatchLimit,
        log_every_n_steps: PositiveInt,
        profiler: Literal["simple", "advanced"] | None,
    ) -> None:
        super().__init__(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=FSDP2Strategy() if strategy == "fsdp" else strategy,
            precision=precision,
            deterministic=deterministic,
            max_epochs=max_epochs,
            max_steps=max_steps,
            max_time=max_time,
            gradient_clip_val=gradient_clip_val,
            accumulate_grad_batches=accumulate_grad_batches,
            val_check_interval=val_check_interval,
            check_val_every_n_epoch=check_val_every_n_epoch,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            log_every_n_steps=log_every_n_steps,
            profiler=profiler,
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            inference_mode=strategy != "fsdp",  # sharded parameters that are gathered in it cannot be trained further
        )


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
    """
    try:
        yield
    except RuntimeError as error:
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
    """Check that no fraction of an epoch's batches rounds to zero batches.

    Raises:
        ConfigError: if one does.
    """
    for split in SPLITS:
        key = f"limit_{split}_batches"
        num_batches = limit_batches(key, trainer_config[key], data.num_batches(split))
        if split == "train":
            limit_batches("val_check_interval", trainer_config.val_check_interval, num_batches)


def limit_batches(key: str, limit: int | float, num_batches: int) -> int:
    """Return how many of `num_batches` a limit of the Trainer leaves.

    Raises:
        ConfigError: if it leaves none.
    """
    limited = min(limit, num_batches) if isinstance(limit, int) else int(limit * num_batches)
    if not limited:
        raise ConfigError(f"trainer.{key}={limit} of {num_batches} batches rounds to 0: use a larger fraction, or 1.0")
    return limited
