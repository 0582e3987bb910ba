"""What accompanies a training: its randomness, its checkpoints, its clock, its signals and its progress bar."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import pytorch_lightning as pl
import torch
from annotated_types import Gt, Lt
from pytorch_lightning.callbacks import ProgressBar, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from patchwork.checkpoints import BEST, LAST
from patchwork.data.stream import seed_of
from patchwork.errors import Interrupted, NumericError


class Seeds(pl.Callback):
    """Seed dropout anew for every batch, so that no random state needs saving and a resumed run is the same run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, index: int) -> None:
        torch.manual_seed(seed_of("dropout", self.seed, trainer.current_epoch, index, trainer.global_rank))


class TrainingLog(pl.Callback):
    """Log the loss and the learning rate every `every` optimizer steps; the loss is the mean over the step's batches.

    Straight to the loggers: `LightningModule.log` keeps books at every step, which shows at steps of milliseconds.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.losses: list[Tensor] = []  # since the last step

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        # not `outputs`, whose loss is already divided by how many batches a step has
        self.losses.append(cast(Tensor, task.loss))
        step = trainer.global_step
        if (index + 1) % trainer.accumulate_grad_batches and index + 1 < trainer.num_training_batches:
            return
        losses, self.losses = self.losses, []
        if step % self.every:
            return
        loss = trainer.strategy.reduce(torch.stack(losses).mean(), reduce_op="mean")
        values = {"train/loss": float(loss), "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **values}, step)


class Clock(pl.Callback):
    """Add up what a run took: without what a killed one had to do again, but over all the times it was resumed.

    Args:
        started: when the command began, by `time.time`.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.train_seconds = 0.0  # without validation
        self.before = 0.0  # wall-clock of the earlier processes of this run
        self.startup: float | None = None
        self.samples = 0
        self.since: float | None = None

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.since = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.stop()

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.since = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        self.stop()

    def stop(self) -> None:
        if self.since is not None:
            self.train_seconds += time.perf_counter() - self.since
            self.since = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self.startup is None:
            self.startup = time.time() - self.started
        self.samples += len(next(iter(batch.values()))) * trainer.world_size

    def figures(self) -> dict[str, float]:
        """Return the figures of a manifest: seconds, and samples a second of training."""
        return {
            "wall_clock_seconds": round(self.before + time.time() - self.started, 3),
            "train_seconds": round(self.train_seconds, 3),
            "startup_seconds": round(self.startup or 0.0, 3),
            "samples_per_second": round(self.samples / self.train_seconds, 1) if self.train_seconds else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        running = time.perf_counter() - self.since if self.since is not None else 0.0
        return {
            "train_seconds": self.train_seconds + running,
            "wall_clock_seconds": self.before + time.time() - self.started,
            "samples": self.samples,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train_seconds, self.samples = state_dict["train_seconds"], state_dict["samples"]
        self.before = state_dict["wall_clock_seconds"]


class Checkpoints(pl.Callback):
    """Keep the best weights by the task's monitor and the latest state to resume from; save and end on a signal.

    `best.ckpt` is written at the validation that found it. `last.ckpt` is written at the end of every epoch and,
    within one, whenever `seconds` have passed or SIGTERM or SIGINT has come, between two optimizer steps that have no
    validation between them. What the loggers have recorded is part of the state.
    """

    def __init__(self, seconds: float) -> None:
        self.folder = Path()  # set by the run before the fit
        self.seconds = seconds
        self.saved = time.monotonic()
        self.best: float | None = None
        self.best_epoch = -1
        self.best_metrics: dict[str, float] = {}
        self.signal: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; a second one does not wait for the batch's end."""
        if self.signal is not None:
            raise Interrupted(number)
        self.signal = number

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.saved = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        done = index + 1
        if (
            done == trainer.num_training_batches
            or done % (trainer.val_check_batch or trainer.num_training_batches) == 0
        ):
            return  # what was measured there would be lost, or measured twice
        if done % trainer.accumulate_grad_batches:
            return
        asked = self.signal is not None or time.monotonic() - self.saved > self.seconds
        if trainer.strategy.reduce_boolean_decision(asked, all=False):
            self.save(trainer, LAST)
            self.end_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/") and not value.isfinite():
                raise NumericError(
                    f"{name}={value.item()} after epoch {trainer.current_epoch + 1} and must be finite: try a smaller "
                    "optimizer.lr; the checkpoints from before are kept"
                )
        score = trainer.callback_metrics[str(task.monitor)].item()
        if self.best is None or (score > self.best if task.mode == "max" else score < self.best):
            self.best, self.best_epoch = score, trainer.current_epoch
            measured = {name: value.item() for name, value in trainer.callback_metrics.items()}
            self.best_metrics = {name: round(value, 6) for name, value in measured.items() if name.startswith("val/")}
            self.save(trainer, BEST)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.save(trainer, LAST)
        self.end_if_asked(trainer)

    def save(self, trainer: pl.Trainer, name: str) -> None:
        trainer.save_checkpoint(self.folder / name)
        for logger in trainer.loggers:
            logger.save()
        self.saved = time.monotonic()

    def end_if_asked(self, trainer: pl.Trainer) -> None:
        own = torch.tensor(self.signal or 0, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(own, reduce_op="max"))  # of whichever rank it came to
        if number:
            raise Interrupted(number, f"; its state is saved, go on with: resume={self.folder.parent}")

    def on_save_checkpoint(self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["records"] = {
            type(logger).__name__: logger.state_dict() for logger in trainer.loggers if hasattr(logger, "state_dict")
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, task: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "load_state_dict") and type(logger).__name__ in checkpoint["records"]:
                logger.load_state_dict(checkpoint["records"][type(logger).__name__])

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "best_metrics": self.best_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]
        self.best_metrics = state_dict["best_metrics"]


class MovingAverage(WeightAveraging):
    """Validate, test and keep an exponential moving average of the weights and of batch-norm statistics.

    Its horizon grows with the training, up to a ninth of the steps so far, so that what the weights were in the
    beginning is soon forgotten.

    Args:
        decay: share of the average that stays at each step in the end, when the horizon is 1 / (1 - decay) steps.
    """

    def __init__(self, *, decay: Annotated[float, Gt(0), Lt(1)]) -> None:
        self.decay = decay
        super().__init__(use_buffers=True, multi_avg_fn=self.average)

    def average(self, averages: list[Tensor], weights: list[Tensor], steps: Tensor) -> None:
        """Bring averages nearer to the weights, after `steps` steps."""
        decay = min(self.decay, (int(steps) + 1) / (int(steps) + 10))
        get_ema_multi_avg_fn(decay)(averages, weights, steps)


class Progress(ProgressBar):
    """One bar for the whole training, with rate, remaining time and the monitored metric.

    Off a terminal it is one plain line per validation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm | None = None
        self.shown = sys.stderr.isatty()

    def disable(self) -> None:
        self.shown = False

    def enable(self) -> None:
        self.shown = sys.stderr.isatty()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print without tearing the bar."""
        if self.bar is not None:
            self.bar.clear()
        print(*args, **kwargs, flush=True)
        if self.bar is not None:
            self.bar.refresh()

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.shown:
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
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        text = f"{task.monitor} {float(trainer.callback_metrics[str(task.monitor)]):.4f}"
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        else:
            print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs} · {text}", flush=True)

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, task)
