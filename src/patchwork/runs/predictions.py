"""Tables of predictions: predict a whole split once and save it in the run directory as `predictions/<split>.npz`.

A table holds the SHA-256 of the weights that it was made with, so that one of other weights is not taken for it.
"""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ConfigError, DataError, one_line
from patchwork.data import BaseDataModule
from patchwork.data.base import Batch
from patchwork.tasks import Predictions, Task
from patchwork.training.checkpoint_io import weights_sha256

EvalSplit = Literal["val", "test"]  # training samples have no fixed order
DIGEST = "weights_sha256"


def predictions_path(run_dir: Path, split: EvalSplit) -> Path:
    return run_dir / "predictions" / f"{split}.npz"


@torch.inference_mode()
def predict(task: Task, data: BaseDataModule, split: EvalSplit, *, embeddings: bool = False) -> Predictions:
    """Predict all samples of a split, on the device of the task.

    Args:
        task: with its model, which is put into evaluation mode for it.
        data: where the samples come from; it is set up if it was not.
        split: validation or test.
        embeddings: whether to return the model's features, too, where it has them.

    Raises:
        PatchworkError: if the data cannot be loaded.
    """
    data.prepare_data()
    training, with_embeddings = task.training, task.with_embeddings
    task.eval()
    task.with_embeddings = embeddings
    try:
        batches = [
            task.predict_step(to_task(task, data.make_batch(split, (0, index), slice(None))), index).cpu()
            for index in range(data.num_batches(split))
        ]
    finally:
        task.train(training)
        task.with_embeddings = with_embeddings
    return Predictions.concat(batches)


@torch.inference_mode()
def predict_images(task: Task, data: BaseDataModule, images: np.ndarray | Tensor) -> Predictions:
    """Predict single images that are in no data set.

    Args:
        task: with its model in evaluation mode.
        data: of the task, for the size and the normalization of images.
        images: uint8, (N, height, width) or (N, C, height, width), or one image (height, width).

    Returns:
        Predictions without targets; `index` counts the images.

    Raises:
        ConfigError: if the task does not take single images, or images of another size or type.
    """
    if not task.takes_single_images:
        raise ConfigError(f"task={type(task).__name__} does not predict single images: predict a split instead")
    data.prepare_data()
    image = torch.as_tensor(images)
    size = data.make_batch("test", (0, 0), slice(0, 1))["image"].shape[1:]  # (C, height, width)
    if image.ndim == 2:
        image = image[None]
    if image.ndim == 3:
        image = image[:, None]
    if image.dtype != torch.uint8 or image.shape[1:] != size:
        found = f"{tuple(image.shape[1:])} of {str(image.dtype).removeprefix('torch.')}"
        raise ConfigError(f"images are {found} each: task={type(task).__name__} takes {tuple(size)} of uint8")
    normalized = data.source.normalize(image.float())
    return task.predict_step(to_task(task, {"image": normalized}), 0).cpu()


def to_task(task: Task, batch: Batch) -> Batch:
    """Move a batch to the device of a task, and its floating-point values to the precision of its model."""
    dtype = next(task.parameters()).dtype
    moved = {name: values.to(task.device) for name, values in batch.items()}
    return {name: values.to(dtype) if values.is_floating_point() else values for name, values in moved.items()}


def save_predictions(task: Task, data: BaseDataModule, run_dir: Path, split: EvalSplit) -> None:
    """Predict a split and save the table in a run directory.

    Nothing is saved where a table would cost more than it is worth: of a task without `saves_predictions`, and of a
    split that the trainer evaluates only in part.

    Raises:
        ResourceError: if the table cannot be written.
    """
    limit = getattr(data.trainer, f"limit_{split}_batches", 1.0) if data.trainer else 1.0
    limited = isinstance(limit, int) or limit < 1
    if task.saves_predictions and not limited:
        write_table(predictions_path(run_dir, split), predict(task, data, split), weights_sha256(task.state_dict()))


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
