"""Tables of predictions: predict a whole split once and save it in the run directory as `predictions/<split>.npz`.

A table holds the SHA-256 of the weights that it was made with, so that it is not used for other weights.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor, nn

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import DataError, one_line
from patchwork.core.progress import Progress
from patchwork.data import BaseDataModule
from patchwork.data.base import Batch
from patchwork.models.protocols import HasFeatures
from patchwork.runs.own_images import make_own_batch
from patchwork.tasks import Predictions, Task
from patchwork.training.checkpoint_io import weights_sha256

EvalSplit = Literal["val", "test"]  # training samples have no fixed order
DIGEST = "weights_sha256"


def predictions_path(run_dir: Path, split: EvalSplit) -> Path:
    return run_dir / "predictions" / f"{split}.npz"


@torch.inference_mode()
def predict(
    task: Task,
    data: BaseDataModule,
    split: EvalSplit,
    *,
    precision: Precision | None = None,
    embeddings: bool = False,
) -> Predictions:
    """Predict all samples of a split, on the device of the task.

    Args:
        task: Task to predict with; it is in evaluation mode meanwhile.
        data: Data module of the samples; it is set up if it was not.
        split: Validation or test.
        precision: Precision of the run, see `make_precision`; by default that of the weights.
        embeddings: Whether to return the model's features, too, where it has them.

    Raises:
        PatchworkError: if the data cannot be loaded.
    """
    data.prepare_data()
    training = task.training
    task.eval()
    try:
        batches = []
        with Progress(f"predicting {split}", data.num_batches(split)) as progress:
            for index in range(data.num_batches(split)):
                batch = to_task(task, data.make_batch(split, (0, index), slice(None)))
                with record_features(task.model) as features:
                    predictions = predict_batch(task, batch, index, precision)
                if embeddings and features:
                    predictions = replace(predictions, embedding=features[-1].cpu())
                batches.append(predictions)
                progress.advance()
    finally:
        task.train(training)
    return Predictions.concat(batches)


def predict_batch(task: Task, batch: Batch, index: int, precision: Precision | None) -> Predictions:
    """Predict a batch in the precision of the run, and return the predictions on the CPU."""
    with (precision or Precision()).forward_context():
        return task.predict_step(batch, index).cpu()


@contextmanager
def record_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Append the features (B, D) of each forward pass to a list, for a model that has them."""
    features: list[Tensor] = []
    if not isinstance(model, HasFeatures):
        yield features
        return
    handle = model.head.register_forward_pre_hook(lambda head, inputs: features.append(inputs[0]))
    try:
        yield features
    finally:
        handle.remove()


@torch.inference_mode()
def predict_images(
    task: Task,
    data: BaseDataModule,
    images: Any,
    *,
    anchor: Any = None,
    precision: Precision | None = None,
) -> Predictions:
    """Predict images of one's own, or sequences of them, that are in no data set; that of the task is not read.

    They are an array, a tensor, a PIL image, or a list of them: whole numbers from 0 to 255, or fractions or truth
    values from 0 to 1. They are normalized here.

    Args:
        task: Task to predict with, in evaluation mode.
        data: Data module of the task, for the size and the normalization of images.
        images: Images (N, H, W) or one (H, W), with channels first or last or none. For a task of sequences, (N, T, H,
            W), or one sequence (T, H, W), or a list of sequences of any lengths.
        anchor: For a task of anchors, those of the sequences, (N, H, W), or one (H, W) for all of them.
        precision: Precision of the run, see `make_precision`; by default that of the weights.

    Returns:
        Predictions without targets; `index` counts the samples.

    Raises:
        ConfigError: if the task does not predict such images, or they are of another size or range.
    """
    batch = make_own_batch(task, data, images, anchor)
    count, size = len(batch["image"]), data.eval_batch_size
    chunks = []
    with Progress("predicting", -(-count // size)) as progress:
        for start in range(0, count, size):
            chunk = {name: values[start : start + size] for name, values in batch.items()}
            chunks.append(predict_batch(task, to_task(task, chunk), 0, precision))
            progress.advance()
    return Predictions.concat(chunks)


def to_task(task: Task, batch: Batch) -> Batch:
    """Move a batch to the device of a task, and its floating-point values to the precision of its model."""
    dtype = next(task.parameters()).dtype
    moved = {name: values.to(task.device) for name, values in batch.items()}
    return {name: values.to(dtype) if values.is_floating_point() else values for name, values in moved.items()}


def save_predictions(
    task: Task,
    data: BaseDataModule,
    run_dir: Path,
    split: EvalSplit,
    *,
    batches: Sequence[Predictions] = (),
    precision: Precision | None = None,
) -> None:
    """Save the predictions of a split as a table in a run directory.

    Nothing is saved where a table would cost more than it is worth: of a task without `saves_predictions`, and of a
    split that the trainer evaluates only in part.

    Args:
        task: Task whose weights the predictions are of.
        data: Data module of the samples.
        run_dir: Directory of the run.
        split: Validation or test.
        batches: Predictions of all batches of the split, in order; without them the split is predicted here.
        precision: Precision of the run, see `make_precision`; by default that of the weights.

    Raises:
        ResourceError: if the table cannot be written.
    """
    limit = getattr(data.trainer, f"limit_{split}_batches", 1.0) if data.trainer else 1.0
    limited = isinstance(limit, int) or limit < 1
    if not task.saves_predictions or limited:
        return
    predictions = Predictions.concat(batches) if batches else predict(task, data, split, precision=precision)
    write_table(predictions_path(run_dir, split), predictions, weights_sha256(task.state_dict()))


def write_table(path: Path, predictions: Predictions, digest: str) -> None:
    """Write predictions and the SHA-256 of their weights atomically.

    Raises:
        ResourceError: if the disk is full or the directory is not writable.
    """
    arrays: dict[str, Any] = {name: to_numpy(values) for name, values in predictions.tensors().items()}
    content = io.BytesIO()
    np.savez(content, **{**arrays, DIGEST: np.array(digest)})
    write_bytes(path, content.getvalue())


def read_table(path: Path) -> tuple[Predictions, str]:
    """Read predictions and the SHA-256 of the weights that made them.

    Raises:
        DataError: if the file is damaged or foreign.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        digest = str(arrays.pop(DIGEST))
        predictions = Predictions.from_tensors({name: torch.from_numpy(values) for name, values in arrays.items()})
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {one_line(error)[:200]}; delete it to predict again") from error
    if len({len(values) for values in predictions.tensors().values()}) > 1:
        raise DataError(f"{path} is damaged: its columns differ in length; delete it to predict again")
    return predictions, digest


def to_numpy(values: Tensor) -> np.ndarray:
    """Return values as an array; bfloat16 becomes float32, as NumPy lacks it."""
    return (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()
