"""How a training ended: by which limit, how far its learning rate schedule had come, and whether it is a result."""

from typing import Any, cast

import pytorch_lightning as pl

from patchwork.training.loss_logger import LossLogger

OVERFIT_RATIO = 0.1  # of the last training loss to the first one, at which a batch counts as memorized


def training_outcome(trainer: pl.Trainer, *, overfits: bool) -> dict[str, Any]:
    """Return the manifest's entries about the end of a fit.

    Args:
        trainer: Trainer that has fitted.
        overfits: Whether it has trained on the same batches in every epoch.

    Returns:
        `epochs` begun, `steps` taken, `planned_steps` of the schedule, `stopped_by` (the argument of the Trainer that
        ended it) and `lr_ratio`, the learning rate at the end relative to the highest; if the run is no result, in
        `trial`, what it was for and whether that succeeded.
    """
    planned = int(trainer.estimated_stepping_batches)
    group = trainer.optimizers[0].param_groups[0]
    outcome = {
        "epochs": cast(Any, trainer.fit_loop.epoch_progress.current).processed,
        "steps": trainer.global_step,
        "planned_steps": planned,
        "stopped_by": stopped_by(trainer, planned),
        "lr_ratio": round(group["lr"] / group.get("initial_lr", group["lr"]), 6),
    }
    trial = trial_outcome(trainer, overfits=overfits)
    return outcome | ({"trial": trial} if trial else {})


def stopped_by(trainer: pl.Trainer, planned_steps: int) -> str:
    """Return the argument of the Trainer that ended a fit."""
    if trainer.global_step < planned_steps:
        return "max_time"
    return "max_steps" if trainer.max_steps == planned_steps else "max_epochs"


def trial_outcome(trainer: pl.Trainer, *, overfits: bool) -> str:
    """Return what a run that is no result was for, and whether that succeeded; empty for other runs."""
    if count := int(getattr(trainer, "fast_dev_run", False)):
        batches = "one batch" if count == 1 else f"up to {count} batches"
        return f"training, validation, and test work: tried on {batches} each, so that no metric means anything yet"
    (logger,) = (callback for callback in getattr(trainer, "callbacks", []) if isinstance(callback, LossLogger))
    first, last = logger.first_loss, logger.last_loss
    if not overfits or first is None or last is None:
        return ""
    if last <= OVERFIT_RATIO * first:
        return f"overfitting works: on the same batches the training loss fell from {first:.4g} to {last:.4g}"
    return (
        f"overfitting failed so far: on the same batches the training loss went from {first:.4g} to {last:.4g} and not "
        "near 0; train longer, else look for the fault in the model or the loss"
    )
