"""A progress bar of the whole training."""

import sys
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning import callbacks
from tqdm import tqdm

from patchwork.tasks import Task


class ProgressBar(callbacks.ProgressBar):
    """One bar for all epochs, with the rate, the remaining time and the monitored metric.

    If stderr is not a terminal, print one line per validation instead. Lightning's own bars start again at each epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm | None = None
        self.enabled = sys.stderr.isatty()

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = sys.stderr.isatty()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self.bar is not None:
            self.bar.clear()
        print(*args, **kwargs, flush=True)
        if self.bar is not None:
            self.bar.refresh()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.enabled:
            self.bar = tqdm(
                total=int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches,
                initial=trainer.fit_loop.epoch_loop.total_batch_idx + 1,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.25,
                smoothing=0.1,
                bar_format="{percentage:3.0f}% {bar} {n_fmt}/{total_fmt} · {rate_fmt} · {remaining} left{postfix}",
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        monitor = cast(Task, pl_module).monitor
        text = f"{monitor} {float(trainer.callback_metrics[monitor]):.4f}"
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        else:
            print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs} · {text}", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Close the bar, if there is one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
