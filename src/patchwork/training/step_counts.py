"""How many batches, steps and validations a training has, by the configuration of its Trainer."""

import math

import numpy as np
from omegaconf import DictConfig


def limited(limit: int | float, num_batches: int) -> int:
    """Return how many of `num_batches` a limit of the Trainer leaves: so many, or a fraction of them."""
    return min(limit, num_batches) if isinstance(limit, int) else int(limit * num_batches)


def validates(trainer_config: DictConfig) -> bool:
    """Return whether a training validates at all."""
    return bool(trainer_config.get("overfit_batches") or trainer_config.limit_val_batches)


def num_epoch_batches(trainer_config: DictConfig, num_batches: int) -> int:
    """Return how many of an epoch's training batches a run takes."""
    limit = trainer_config.get("overfit_batches") or trainer_config.limit_train_batches
    if trainer_config.get("fast_dev_run"):
        limit = int(trainer_config.fast_dev_run)
    return limited(limit, num_batches)


def num_steps(trainer_config: DictConfig, num_batches: int) -> int:
    """Return how many optimizer steps a run takes, if it is not ended early; 0 if nothing else ends it.

    Args:
        trainer_config: the configuration's `trainer`.
        num_batches: training batches in an epoch, before any limit.
    """
    config = trainer_config
    steps = math.ceil(num_epoch_batches(config, num_batches) / config.accumulate_grad_batches)
    if config.get("fast_dev_run"):
        return steps
    return min((limit for limit in (steps * config.max_epochs, config.max_steps) if limit > 0), default=0)


def num_validations(trainer_config: DictConfig, num_batches: int) -> int:
    """Return how often a run validates, if it is not ended early; see `patchwork.training.epoch_loop`.

    Args:
        trainer_config: the configuration's `trainer`.
        num_batches: training batches in an epoch, before any limit.
    """
    config = trainer_config
    if config.get("fast_dev_run"):
        return 1
    batches, steps = num_epoch_batches(config, num_batches), num_steps(config, num_batches)
    if not validates(config) or not steps:
        return 0
    accumulated, every, interval = (
        config.accumulate_grad_batches,
        config.check_val_every_n_epoch,
        config.val_check_interval,
    )
    interval = interval if isinstance(interval, int) else max(1, int(interval * batches))
    epoch_steps = math.ceil(batches / accumulated)
    epochs, rest = divmod(steps, epoch_steps)
    if every is None:
        total = epochs * batches + rest * accumulated
        last = accumulated if rest else batches - (epoch_steps - 1) * accumulated  # batches of the last step
        validates_at_end = total // interval > (total - last) // interval
        return min(total // interval, steps) + (not validates_at_end)
    before = np.arange(epoch_steps) * accumulated
    due = np.minimum(before + accumulated, batches) // interval > before // interval  # after each step of an epoch
    count = epochs // every * int(due.sum())
    if rest and (epochs + 1) % every == 0:
        count += int(due[:rest].sum())
    validates_at_end = due[rest - 1] and (epochs + (rest > 0)) % every == 0
    return count + (not validates_at_end)
