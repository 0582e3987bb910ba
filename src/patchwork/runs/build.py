"""From a configuration to objects."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities.seed import isolate_rng

from patchwork.core.errors import ConfigError, PatchworkError, one_line
from patchwork.core.schema import choice_name
from patchwork.data import BaseDataModule
from patchwork.runs.run_dir import choice_names
from patchwork.tasks import Task
from patchwork.training.announce import Announcement
from patchwork.training.checkpointing import Checkpointer
from patchwork.training.loss_logger import LossLogger
from patchwork.training.seeding import SeedEveryStep
from patchwork.training.timing import RunTimer
from patchwork.training.watch import Watch


def build(config: DictConfig) -> tuple[BaseDataModule, Task]:
    """Return the data module, which reads nothing yet, and the task with its model, initialized by the seed.

    It seeds the global random generators.

    Raises:
        ConfigError: if values cannot be combined.
    """
    pl.seed_everything(config.seed, verbose=False)
    try:
        data, task = instantiate(config.data, _convert_="all"), instantiate(config.task, _convert_="all")
        task.class_names = data.class_names
        task.optimizer(task.model)  # so that its errors are found now and not at the first step
        missing = [key for key in task.required_keys if key not in data.batch_keys]
        if missing:
            raise ConfigError(
                f"data={choice_name(type(data))} does not fit task={choice_name(type(task))}: its batches lack "
                f"{', '.join(missing)}"
            )
        return data, task
    except ValueError as error:
        raise ConfigError(f"optimizer: {one_line(error)}") from error
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError) and not isinstance(cause, PatchworkError):
            key = re.search(r"full_key: (\S+)", str(error))
            name = key[1].removeprefix("task.") if key else "configuration"
            raise ConfigError(f"{name}: {one_line(cause)}") from error
        raise cause or error from None


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore the states of the global random generators at the end, which Lightning's does not after an error."""
    isolation = isolate_rng()
    isolation.__enter__()
    try:
        yield
    finally:
        isolation.__exit__(None, None, None)


def instantiate_group(config: DictConfig, group: str) -> list[Any]:
    """Return the objects that a group lists by name, without those set to null."""
    nodes = config[group] or {}
    return [instantiate(nodes[name], _convert_="all") for name in nodes if nodes[name] is not None]


def build_callbacks(config: DictConfig, timer: RunTimer, checkpointer: Checkpointer) -> list[pl.Callback]:
    """Return all callbacks of a training, in their order."""
    return [
        Announcement(*choice_names(config), config.trainer),  # before the bar is drawn
        SeedEveryStep(config.seed),
        timer,
        LossLogger(config.trainer.log_every_n_steps),
        *instantiate_group(config, "callbacks"),
        *([Watch(checkpointer)] if config.get("watch") else []),
        checkpointer,  # last, so that it saves what the others made of the batch
    ]


def check_loggers(loggers: list[Any]) -> None:
    """Raise a `ConfigError` if a logger needs a package that is not installed."""
    for make_logger in loggers:
        package = getattr(make_logger.func, "package", None)
        if package and find_spec(package) is None:
            raise ConfigError(f"logger={package} needs the package {package}, which is not installed")
