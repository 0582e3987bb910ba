"""The training loss and the learning rate, logged without `LightningModule.log`."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from patchwork.tasks import Task


class LossLogger(pl.Callback):
    """Log the loss and the learning rate every `every_n_steps` optimizer steps, straight to the loggers.

    The loss is the mean over the step's batches and processes. `LightningModule.log` does its bookkeeping at each step,
    logged or not: for both values that takes 1.0 ms per step, this callback 0.07 ms (one CPU core, medians of five
    interleaved fits of 1,500 steps), where a training step takes a few milliseconds.

    Args:
        every_n_steps: optimizer steps between two logged values.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.losses: list[Tensor] = []  # of the batches since the last optimizer step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # the loss in `outputs` is already divided by the number of batches in a step
        self.losses.append(cast(Task, pl_module).loss)
        step = trainer.global_step
        num_batches = batch_idx + 1
        if num_batches % trainer.accumulate_grad_batches and num_batches < trainer.num_training_batches:
            return
        losses, self.losses = self.losses, []
        if step % self.every_n_steps:
            return
        loss = trainer.strategy.reduce(torch.stack(losses).mean(), reduce_op="mean")
        metrics = {"train/loss": float(loss), "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **metrics}, step)
