"""A saved run: load it, predict with it, measure it again."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from omegaconf import DictConfig
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor, nn

from patchwork.core.errors import DataError, one_line, warn
from patchwork.core.lock import is_locked
from patchwork.core.overrides import shell_command
from patchwork.data import BaseDataModule
from patchwork.runs.build import build, preserve_rng
from patchwork.runs.manifest import check_dataset, read_manifest
from patchwork.runs.predictions import (
    EvalSplit,
    predict,
    predict_images,
    predictions_path,
    read_table,
    write_table,
)
from patchwork.runs.run_dir import (
    LOCK_FILE,
    choice_names,
    locate_run,
    read_config,
    test_result,
    warn_of_other_path,
)
from patchwork.runs.weights import (
    WEIGHTS_FILE,
    check_weights_dir,
    locate_weights_dir,
    outputs_dir,
    read_weights_file,
)
from patchwork.tasks import Task
from patchwork.tasks.predictions import Predictions
from patchwork.training.checkpoint_io import BEST, LAST, backup_path, read_latest, weights_sha256
from patchwork.training.precision import make_precision
from patchwork.training.progress import EvalProgress
from patchwork.training.step_counts import num_steps
from patchwork.training.trainer import Trainer, available_accelerators, make_trainer


@dataclass(repr=False)
class Run:
    """A run with its best weights, in evaluation mode."""

    run_dir: Path
    config: DictConfig
    manifest: dict[str, Any]
    task: Task
    data: BaseDataModule

    def __repr__(self) -> str:
        task, model = choice_names(self.config)
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        result = test_result(self.manifest)
        measured = "" if result is None else f", {result[0]}={result[1]:.4f}"
        return f"Run(task={task}, model={model}, parameters={parameters:,}{measured}, run_dir={str(self.run_dir)!r})"

    @property
    def model(self) -> nn.Module:
        return self.task.model

    @property
    def precision(self) -> Precision:
        """Return the precision that the run was trained in, on the device that it is on now."""
        return make_precision(self.config.trainer.precision, self.task.device)

    @classmethod
    def load(cls, run_dir: str | Path) -> "Run":
        """Build the run in `run_dir` again; its data is read when it is first used.

        The caller's random states and environment variables stay as they are.

        Args:
            run_dir: Directory of the run, or a path within it, such as that of a checkpoint; or a weights folder, or
                the name of weights that come with the package, as seq2seq.

        Raises:
            DataError: if the directory holds no run, or a damaged one.
            ConfigError: if its configuration is not one of this package, as when it names a foreign target.
        """
        if (folder := locate_weights_dir(run_dir)) is not None:
            return cls.from_weights(folder)
        path, run_dir = run_dir, locate_run(run_dir)
        config = read_config(run_dir)
        warn_of_other_path(path, run_dir, BEST)
        data, task = build_isolated(config)
        checkpoint = load_best(task, run_dir)
        manifest = read_manifest(run_dir)
        warn_unfinished(run_dir, config, manifest, data, checkpoint)
        return cls(run_dir, config, manifest, task.eval(), data)

    @classmethod
    def from_weights(cls, folder: Path) -> "Run":
        """Build the run of a weights folder; what commands make of it goes to `outputs_dir(folder)`.

        Raises:
            DataError: if a file is damaged or missing.
        """
        check_weights_dir(folder)
        config = read_config(folder)
        data, task = build_isolated(config)
        path = folder / WEIGHTS_FILE
        load_weights(task, {"state_dict": read_weights_file(path)}, path)
        return cls(outputs_dir(folder), config, read_manifest(folder), task.eval(), data)

    def predictions(self, split: EvalSplit) -> Predictions:
        """Return the predictions of a split: the saved table if it was made with these weights, else a new one.

        A saved table is returned as it is, without the data set. A new one is saved.

        Raises:
            DataError: if the table is damaged, or a new one is needed and the data set on this machine is not that of
                the run.
            ResourceError: if the table cannot be written.
        """
        path, digest = predictions_path(self.run_dir, split), weights_sha256(self.task.state_dict())
        if path.exists():
            predictions, saved_digest = read_table(path)
            if saved_digest == digest:
                return predictions
        self.data.prepare_data()
        check_dataset(self.manifest, self.data)
        predictions = predict(self.task, self.data, split, precision=self.precision)
        write_table(path, predictions, digest)
        return predictions

    def predict(self, images: Any, *, anchor: Any = None) -> Predictions:
        """Predict images of one's own; the data set of the run is not read.

        Args:
            images: An array, a tensor, PIL images or a list of them, light on dark, not normalized: whole numbers from
                0 to 255, or fractions or truth values up to 1. (N, H, W), (N, 1, H, W), (N, H, W, 1) or one (H, W); for
                sequences (N, T, H, W), one (T, H, W), or a list of sequences of any lengths. Color becomes gray, and
                ink on a transparent ground light on dark.
                The paths of image files, and PIL images of another size, are made square, light on dark and of the
                size that the model takes; a warning says how.
            anchor: The anchors of `task=anchor`, (N, H, W), or one (H, W) for all sequences.

        Returns:
            A row for each image or sequence, without targets. `prediction` holds numbers: of a class, of a sum, or with
            `task=seq2seq` of the tokens (T,) of each image, where `run.model.eos_id` ends the sequence.
            `run.task.format_answers(predictions.prediction)` returns them as text, the end as `$`.

        Raises:
            ConfigError: if the task does not take single images, or they are of another size or range.
            DataError: if an image file cannot be read.
        """
        return predict_images(self.task, self.data, images, anchor=anchor, precision=self.precision)

    def evaluate(self) -> dict[str, float]:
        """Measure the test split again, and return its metrics by name.

        Raises:
            DataError: if the data set on this machine is not that of the run.
        """
        self.data.prepare_data()
        check_dataset(self.manifest, self.data)
        config = self.config.copy()
        config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 1, 1, "auto"
        if not available_accelerators().get(config.trainer.accelerator):
            config.trainer.accelerator = "auto"
        with preserve_rng(), patch.dict(os.environ), warnings.catch_warnings():
            return run_test(make_trainer(config, [EvalProgress()]), self.task, self.data)


def build_isolated(config: DictConfig) -> tuple[BaseDataModule, Task]:
    """Build data module and task in the run's precision; random states and environment variables stay as they are."""
    with preserve_rng(), patch.dict(os.environ):
        data, task = build(config)
    make_precision(config.trainer.precision, task.device).convert_module(task)
    return data, task


def warn_unfinished(
    run_dir: Path, config: DictConfig, manifest: dict[str, Any], data: BaseDataModule, used: dict[str, Any]
) -> None:
    """Warn if a run has not come to its end, so that the weights that are used are only the best so far."""
    if manifest.get("status") in (None, "finished", "evaluated"):  # the latter lacks no more than figures
        return
    last = run_dir / "checkpoints" / LAST
    latest = read_latest(last) if last.exists() or backup_path(last).exists() else used
    step, total = latest.get("global_step", 0), num_steps(config.trainer, data.num_batches("train"))
    position = f"step {step:,} of {total:,}" if total else f"step {step:,}"
    if is_locked(run_dir, LOCK_FILE):
        state = f"is still being trained, by now beyond {position}"
    else:
        state = f"stopped at {position}; {shell_command('train', resume=str(run_dir))} finishes it"
    if best_checkpoint(run_dir).name == BEST:
        weights = f"Its best weights so far are used, of epoch {used.get('epoch', 0) + 1}"
    else:
        weights = "Its latest weights are used, as it was never validated"
    warn(f"run={run_dir} is not finished: it {state}. {weights}")


def missing_weights(run_dir: Path) -> DataError:
    """Return the error of a run without weights, with the command that goes on with it."""
    if is_locked(run_dir, LOCK_FILE):
        return DataError(f"{run_dir} has no weights yet: it is still being trained, and its first epoch is not over")
    if read_manifest(run_dir).get("status") == "finished":
        return DataError(
            f"{run_dir} is a finished run, but its weights are gone: {best_checkpoint(run_dir)} is missing"
        )
    command = shell_command("train", resume=str(run_dir))
    return DataError(f"{run_dir} is not finished and has no weights, as it ended before any were saved: {command}")


def load_best(task: Task, run_dir: Path) -> dict[str, Any]:
    """Load the best weights of a run, or the latest if it never validated, and return their checkpoint.

    Raises:
        DataError: if there are none, or they belong to another model.
    """
    path = best_checkpoint(run_dir)
    if not path.exists() and not backup_path(path).exists():
        raise missing_weights(run_dir)
    checkpoint = read_latest(path)
    load_weights(task, checkpoint, path)
    return checkpoint


def best_checkpoint(run_dir: Path) -> Path:
    """Return the path of the best checkpoint of a run, or of the latest if it never validated."""
    best, last = run_dir / "checkpoints" / BEST, run_dir / "checkpoints" / LAST
    return best if best.exists() or backup_path(best).exists() else last


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights in a checkpoint, or in the file of a weights folder.

    Raises:
        DataError: if it is damaged, or holds none.
    """
    if path.name == WEIGHTS_FILE:
        check_weights_dir(path.parent)
        return read_weights_file(path)
    return weights_of(read_latest(path), path)


def weights_of(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the weights that were read from the checkpoint at `path`.

    Raises:
        DataError: if it holds none.
    """
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise DataError(f"checkpoint {path} is damaged or foreign: it has no state_dict")
    return weights


def load_weights(task: Task, checkpoint: dict[str, Any], path: Path) -> None:
    """Load the weights that were read from the checkpoint at `path`.

    Raises:
        DataError: if there are none, or they belong to another model.
    """
    try:
        task.load_state_dict(weights_of(checkpoint, path))
    except RuntimeError as error:
        raise DataError(f"checkpoint {path} is of another model: {one_line(error)[:200]}") from error


def run_test(
    trainer: Trainer, task: Task, data: BaseDataModule, predictions: list[Predictions] | None = None
) -> dict[str, float]:
    """Measure the test split once, and return its metrics by name.

    Args:
        trainer: Trainer that tests.
        task: Task to measure.
        data: Data module of the test samples.
        predictions: List that the predictions of this process's test batches are appended to.
    """
    task.test_predictions = predictions
    try:
        metrics = trainer.test(task, data, verbose=False) or [{}]  # none if trainer.limit_test_batches=0
    finally:
        task.test_predictions = None
    return {name: round(value, 6) for name, value in metrics[0].items() if name.startswith("test/")}
