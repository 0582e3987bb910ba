"""Predictions in the terminal while training."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pydantic import PositiveInt
from pytorch_lightning import callbacks
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm

from patchwork.core.terminal import is_terminal, terminal_width
from patchwork.figures.braille import legend, render, supports_unicode
from patchwork.tasks.base import Sample, Task
from patchwork.tasks.base import legend as symbol_legend
from patchwork.training.progress import ProgressBar


class ShowSamples(pl.Callback):
    """Print a few predictions in Braille after each validation, if stdout is a terminal.

    The random states and the modes of all modules are restored, so that the run is the same with and without it.

    Args:
        count: how many samples, from the start of the first validation batch.
        every_n_epochs: epochs between two prints.
        always: print even if stdout is not a terminal.
    """

    def __init__(self, *, count: PositiveInt = 5, every_n_epochs: PositiveInt = 1, always: bool = False) -> None:
        self.count = count
        self.every_n_epochs = every_n_epochs
        self.always = always
        self.samples: list[Sample] = []  # of this validation
        self.legend_printed = False

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        first = batch_idx == 0 and dataloader_idx == 0 and not trainer.sanity_checking
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if first and due and self.should_predict(trainer, pl_module):
            with preserve_state(pl_module), trainer.precision_plugin.val_step_context(), torch.no_grad():
                samples = cast(Task, pl_module).samples(trim(batch, self.count), self.count)
            self.samples = samples if trainer.is_global_zero else []

    def should_predict(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Return whether this process predicts: the one that prints, and all others too if the model is sharded."""
        prints = trainer.is_global_zero and (self.always or is_terminal(sys.stdout)) and supports_unicode()
        return trainer.strategy.broadcast(prints) if isinstance(pl_module, FSDPModule) else prints

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # not at the end of the epoch, when the task's metrics are not yet in trainer.callback_metrics
        if not self.samples:
            return
        color = is_terminal(sys.stdout) and "NO_COLOR" not in os.environ
        lines = [] if isinstance(trainer.progress_bar_callback, ProgressBar) else [self.title(trainer, pl_module)]
        if not self.legend_printed:
            lines.append(legend(color=color))
            self.legend_printed = True
        lines.append(render(self.samples, color=color, width=terminal_width()))
        if symbols := symbol_legend(self.samples, cast(Task, pl_module).symbols):
            lines.append(f"({symbols})")
        self.samples = []
        print_above_bar(trainer, "\n".join(["", *lines, ""]))

    def title(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
        """Return what a `ProgressBar` prints of its own: the epoch and the monitored metric."""
        monitor = cast(Task, pl_module).monitor
        value = trainer.callback_metrics.get(monitor)
        return f"epoch {trainer.current_epoch + 1}" + ("" if value is None else f" · {monitor} {float(value):.4f}")


def trim(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the first `count` samples of a batch: of its tensors (B, ...) and lists; other values stay as they are."""
    return {
        name: value[:count] if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim) else value
        for name, value in batch.items()
    }


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[None]:
    """Restore the random states of all devices and the training mode of each submodule at the end."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with pl.utilities.seed.isolate_rng():
        try:
            yield
        finally:
            for submodule, training in modes:
                submodule.training = training
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)


def print_above_bar(trainer: pl.Trainer, text: str) -> None:
    """Print without breaking a live progress bar."""
    bar = trainer.progress_bar_callback
    if bar is None:
        print(text, flush=True)
    elif isinstance(bar, callbacks.TQDMProgressBar):
        tqdm.write(text)  # above all live bars; the callback's own print does nothing once its bar is closed
    else:
        bar.print(text)
