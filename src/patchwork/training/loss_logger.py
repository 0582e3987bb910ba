"""The training loss and the learning rates, logged without `LightningModule.log`."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from patchwork.tasks import Task
from patchwork.training.optimizers import learning_rates


class LossLogger(pl.Callback):
    """Log the loss and the learning rates every `every_n_steps` optimizer steps, straight to the loggers.

    The loss is the mean over the step's batches and processes, and the learning rates are those that the step used.
    `LightningModule.log` does its bookkeeping at each step, logged or not: for both values that takes 1.0 ms per step,
    this callback 0.07 ms (one CPU core, medians of five interleaved fits of 1,500 steps), where a training step takes a
    few milliseconds.

    Args:
        every_n_steps: optimizer steps between two logged values.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.losses: list[Tensor] = []  # of the batches since the last optimizer step
        self.rates: dict[str, float] = {}  # of the last optimizer step
        self.step_losses: list[Tensor] = []  # of the batches of the last optimizer step
        self.first_loss: float | None = None  # of the first optimizer step
        self.last_loss: float | None = None  # of the last one in the last epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if getattr(trainer, "fast_dev_run", False):
            self.every_n_steps = 1

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self.rates = learning_rates(optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # the loss in `outputs` is already divided by the number of batches in a step
        self.losses.append(cast(Task, pl_module).loss)
        step = trainer.global_step
        num_batches = batch_idx + 1
        if num_batches % trainer.accumulate_grad_batches and num_batches < trainer.num_training_batches:
            return
        self.step_losses, self.losses = self.losses, []
        if self.first_loss is None:
            self.first_loss = self.step_loss(trainer)
        if step % self.every_n_steps:
            return
        metrics = {"epoch": trainer.current_epoch, "train/loss": self.step_loss(trainer), **self.rates}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last_loss = self.step_loss(trainer)

    def step_loss(self, trainer: pl.Trainer) -> float:
        """Return the mean loss of the last optimizer step, over its batches and all processes."""
        return float(trainer.strategy.reduce(torch.stack(self.step_losses).mean(), reduce_op="mean"))

    def state_dict(self) -> dict[str, Any]:
        return {"first_loss": self.first_loss, "last_loss": self.last_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first_loss = state_dict["first_loss"]
        self.last_loss = state_dict["last_loss"]
