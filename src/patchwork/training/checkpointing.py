"""When checkpoints are saved: the best, the last, and before training stops on a signal."""

import math
import time
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch

from patchwork.core.errors import Interrupted, NumericError
from patchwork.core.overrides import shell_override
from patchwork.tasks import Task
from patchwork.training.checkpoint_io import BEST, LAST
from patchwork.training.epoch_loop import EpochLoop
from patchwork.training.loggers import RunLogger
from patchwork.training.signals import SignalHandler


class Checkpointer(pl.Callback):
    """Save the best weights by the task's monitor, and the latest state to resume from; save and stop on a signal.

    `best.ckpt` is saved after each validation that improves on the best one. `last.ckpt` is saved at the end of each
    epoch and, within an epoch, when `seconds` have passed or SIGTERM or SIGINT was received: between two optimizer
    steps that have no validation between them, so that no validation is lost or done twice. Lightning's
    `ModelCheckpoint` has no such rule. The loggers' state is part of the checkpoint.

    Args:
        seconds: between saves within an epoch.
    """

    def __init__(self, seconds: float) -> None:
        self.checkpoint_dir = Path()  # set by the run before the fit
        self.seconds = seconds
        self.last_save = time.monotonic()
        self.signals = SignalHandler()
        self.best: float | None = None
        self.best_epoch = -1
        self.best_metrics: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last_save = time.monotonic()
        self.signals.install()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not cast(EpochLoop, trainer.fit_loop.epoch_loop).can_save():
            return
        due = self.signals.received is not None or time.monotonic() - self.last_save > self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.save(trainer, LAST)
            self.stop_on_signal(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        val_metrics = {name: value for name, value in metrics.items() if name.startswith("val/")}
        for name, value in val_metrics.items():
            if not math.isfinite(value):
                raise NumericError(
                    f"{name}={value} after epoch {trainer.current_epoch + 1} and must be finite: try a smaller "
                    "optimizer.lr; earlier checkpoints are unchanged"
                )
        task = cast(Task, pl_module)
        score = metrics[task.monitor]
        if self.best is None or (score > self.best if task.mode == "max" else score < self.best):
            self.best = score
            self.best_epoch = trainer.current_epoch
            self.best_metrics = {name: round(value, 6) for name, value in val_metrics.items()}
            self.save(trainer, BEST)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer, LAST)
        self.stop_on_signal(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.restore()
        self.stop_on_signal(trainer)  # one that was received after the last save

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.signals.restore()

    def save(self, trainer: pl.Trainer, name: str) -> None:
        """Save a checkpoint under this name, and what the loggers have recorded."""
        trainer.save_checkpoint(self.checkpoint_dir / name)
        for logger in trainer.loggers:
            logger.save()
        self.last_save = time.monotonic()

    def stop_on_signal(self, trainer: pl.Trainer) -> None:
        """Raise in all processes if one of them has received a signal.

        Raises:
            Interrupted: with the number of the signal.
        """
        received = torch.tensor(self.signals.received or 0, device=trainer.strategy.root_device)
        signum = int(trainer.strategy.reduce(received, reduce_op="max"))
        if signum:
            resume = shell_override("resume", str(self.checkpoint_dir.parent))
            raise Interrupted(signum, f"; its state is saved: {resume} continues it")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["loggers"] = {
            type(logger).__name__: logger.state_dict() for logger in trainer.loggers if isinstance(logger, RunLogger)
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger) and type(logger).__name__ in checkpoint["loggers"]:
                logger.load_state_dict(checkpoint["loggers"][type(logger).__name__])

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "best_metrics": self.best_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self.best_epoch = state_dict["best_epoch"]
        self.best_metrics = state_dict["best_metrics"]
