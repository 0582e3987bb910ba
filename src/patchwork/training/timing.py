"""How long a run takes."""

import time
from typing import Any

import pytorch_lightning as pl


class RunTimer(pl.Callback):
    """Accumulate training and wall-clock time across resumes, excluding work repeated after a kill.

    Lightning's `Timer` counts validation as training.

    Args:
        started: the time at which the command began, by `time.time`.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.train_seconds = 0.0  # without validation
        self.previous_seconds = 0.0  # wall-clock time of the earlier processes of this run
        self.startup_seconds: float | None = None  # until the first training step is done
        self.num_samples = 0
        self.train_start: float | None = None  # by time.perf_counter; None outside of training steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.train_start = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.train_start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pause()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.pause()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.startup_seconds is None:
            self.startup_seconds = time.time() - self.started
        self.num_samples += len(next(iter(batch.values()))) * trainer.world_size

    def pause(self) -> None:
        """Stop counting training time."""
        if self.train_start is not None:
            self.train_seconds += time.perf_counter() - self.train_start
            self.train_start = None

    def summary(self) -> dict[str, float]:
        """Return the manifest's entries: seconds, and training samples per second."""
        throughput = self.num_samples / self.train_seconds if self.train_seconds else 0.0
        return {
            "wall_clock_seconds": round(self.previous_seconds + time.time() - self.started, 3),
            "train_seconds": round(self.train_seconds, 3),
            "startup_seconds": round(self.startup_seconds or 0.0, 3),
            "samples_per_second": round(throughput, 1),
        }

    def state_dict(self) -> dict[str, Any]:
        running = time.perf_counter() - self.train_start if self.train_start is not None else 0.0
        return {
            "train_seconds": self.train_seconds + running,
            "wall_clock_seconds": self.previous_seconds + time.time() - self.started,
            "num_samples": self.num_samples,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train_seconds = state_dict["train_seconds"]
        self.previous_seconds = state_dict["wall_clock_seconds"]
        self.num_samples = state_dict["num_samples"]
