"""A saved run: load it, predict with it, measure it again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor, nn

from patchwork.core.errors import DataError, one_line
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
from patchwork.runs.run_dir import read_config
from patchwork.tasks import Task
from patchwork.tasks.predictions import Predictions
from patchwork.training.checkpoint_io import BEST, LAST, backup_path, read_latest, weights_sha256
from patchwork.training.precision import make_precision
from patchwork.training.trainer import Trainer, available_accelerators, make_trainer


@dataclass
class Run:
    """A run with its best weights, in evaluation mode."""

    run_dir: Path
    config: DictConfig
    manifest: dict[str, Any]
    task: Task
    data: BaseDataModule

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

        Raises:
            DataError: if the directory holds no run, or a damaged one.
            ConfigError: if its configuration is not one of this package, as when it names a foreign target.
        """
        run_dir = Path(run_dir)
        config = read_config(run_dir)
        with preserve_rng():
            data, task = build(config)
        make_precision(config.trainer.precision, task.device).convert_module(task)
        load_best(task, run_dir)
        return cls(run_dir, config, read_manifest(run_dir), task.eval(), data)

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

    def predict(self, images: np.ndarray | Tensor) -> Predictions:
        """Predict images of one's own; the data set of the run is not read.

        Args:
            images: Images as uint8, (N, height, width) or one (height, width), of the size that the model takes.

        Raises:
            ConfigError: if the task does not take single images, or images of another size.
        """
        return predict_images(self.task, self.data, images, precision=self.precision)

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
        with preserve_rng():
            return run_test(make_trainer(config, []), self.task, self.data)


def load_best(task: Task, run_dir: Path) -> dict[str, Any]:
    """Load the best weights of a run, or the latest if it never validated, and return their checkpoint.

    Raises:
        DataError: if there are none, or they belong to another model.
    """
    best, last = run_dir / "checkpoints" / BEST, run_dir / "checkpoints" / LAST
    validated = best.exists() or backup_path(best).exists()
    path = best if validated else last
    checkpoint = read_latest(path)
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, dict):
        raise DataError(f"checkpoint {path} is damaged or foreign: it has no state_dict")
    try:
        task.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"checkpoint {path} is of another model: {one_line(error)[:200]}") from error
    return checkpoint


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
        (metrics,) = trainer.test(task, data, verbose=False)
    finally:
        task.test_predictions = None
    return {name: round(value, 6) for name, value in metrics.items() if name.startswith("test/")}
