"""A progress bar of the whole training, and the progress of its validations and its test."""

from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning import callbacks
from torch import Tensor
from tqdm import tqdm

from patchwork.core.progress import Progress, has_terminal
from patchwork.tasks import Task

LOSS_SMOOTHING = 0.05  # weight of a batch's loss in the bar
POSTFIX_BATCHES = 20  # batches between two losses in the bar: reading one waits for the device


class EvalProgress(pl.Callback):
    """Show how far a validation or a test has come, if it takes more than a moment."""

    progress: Progress | None = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_progress(trainer, "validation", trainer.num_val_batches)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_progress(trainer, "test", trainer.num_test_batches)

    def start_progress(self, trainer: pl.Trainer, label: str, num_batches: list[int | float]) -> None:
        if trainer.is_global_zero:
            self.progress = Progress(label, int(sum(num_batches)))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.advance()

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self.advance()

    def advance(self) -> None:
        if self.progress is not None:
            self.progress.advance()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close_progress()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close_progress()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close_progress()

    def close_progress(self) -> None:
        if self.progress is not None:
            self.progress.close()
            self.progress = None


class ProgressBar(EvalProgress, callbacks.ProgressBar):
    """One bar for all epochs, with the rate, the remaining time, the training loss and the monitored metric.

    Each validation prints a line above it, also where stderr is no terminal and there is no bar. The loss in such a
    line is the mean over the steps since the validation before, that in the bar a running mean. Lightning's own bars
    start again at each epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm | None = None
        self.enabled = has_terminal()
        self.metric = ""  # of the last validation
        self.loss_sum: Tensor | None = None  # of the steps since then
        self.num_losses = 0
        self.num_batches = 0  # of this process
        self.smooth_loss: Tensor | None = None

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = has_terminal()

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
                total=bar_total(trainer),
                initial=trainer.global_step,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.25,
                smoothing=0.1,
                bar_format="{percentage:3.0f}% {bar} {n_fmt}/{total_fmt} · {rate_fmt} · {remaining} left{postfix}",
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = cast(Task, pl_module).loss.detach().float()
        self.loss_sum = loss if self.loss_sum is None else self.loss_sum + loss
        self.num_losses += 1
        if self.bar is not None:
            self.smooth_loss = loss if self.smooth_loss is None else self.smooth_loss.lerp(loss, LOSS_SMOOTHING)
            if self.num_batches % POSTFIX_BATCHES == 0:
                self.update_postfix()
            self.bar.update(trainer.global_step - self.bar.n)
        self.num_batches += 1

    def update_postfix(self) -> None:
        """Write the training loss and the last validation's metric at the end of the bar, without drawing it."""
        assert self.bar is not None
        loss = [] if self.smooth_loss is None else [f"loss {float(self.smooth_loss):.4f}"]
        self.bar.set_postfix_str(" · ".join([*loss, *([self.metric] if self.metric else [])]), refresh=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close_progress()
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        monitor = cast(Task, pl_module).monitor
        value = trainer.callback_metrics.get(monitor)
        self.metric = "" if value is None else f"{monitor} {float(value):.4f}"
        self.print_position(trainer, self.metric)
        if self.bar is not None:
            self.update_postfix()
            self.bar.refresh()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.loss_sum is not None and trainer.is_global_zero:  # there was no validation at the end of this epoch
            self.print_position(trainer, "")

    def print_position(self, trainer: pl.Trainer, metric: str) -> None:
        """Print where the training is, its loss since the last such line, and the metric of a validation, if any."""
        loss = "" if self.loss_sum is None else f"train/loss {float(self.loss_sum) / self.num_losses:.4f}"
        self.loss_sum, self.num_losses = None, 0
        self.print(" · ".join(filter(None, [position(trainer), loss, metric])))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close_progress()
        self.close()

    def close(self) -> None:
        """Close the bar, if there is one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def bar_total(trainer: pl.Trainer) -> int | None:
    """Return the number of optimizer steps, or None if only a time limit ends the training."""
    steps = trainer.estimated_stepping_batches
    return None if steps == float("inf") else int(steps)


def position(trainer: pl.Trainer) -> str:
    """Return where a training is, as `epoch 3 of 9`, and `epoch 2.5 of 9` in the middle of the third."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    epoch = trainer.current_epoch + min(batches / trainer.num_training_batches, 1)
    total = f" of {trainer.max_epochs}" if trainer.max_epochs is not None and trainer.max_epochs > 0 else ""
    return f"epoch {round(epoch, 2):g}{total}"
