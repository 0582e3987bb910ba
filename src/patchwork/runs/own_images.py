"""A batch of images of one's own, as a task takes it: nothing of its data set is read."""

from typing import Any

import torch
from torch import Tensor

from patchwork.core.errors import ConfigError
from patchwork.core.schema import choice_name
from patchwork.data import BaseDataModule
from patchwork.data.base import Batch
from patchwork.data.image_arrays import pad_sequences, read_pixels, warn_of_polarity
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.sequences import SequencesDataModule
from patchwork.models.protocols import HasMaxLength
from patchwork.tasks import Task
from patchwork.tasks.image_sequence import ImageSequenceTask

MAX_MEAN = 0.5  # of the pixels of a source whose images are light on dark


def make_own_batch(task: Task, data: BaseDataModule, images: Any, anchor: Any) -> Batch:
    """Return images of one's own as a batch without targets, normalized; see `predict_images`.

    Raises:
        ConfigError: if the task does not predict such images, or they are of another size or range.
    """
    takes = f"task={choice_name(type(task))}"
    is_sequence, has_anchor = isinstance(task, ImageSequenceTask), "anchor" in task.input_names
    if not (task.takes_single_images or is_sequence) or not isinstance(data, ImageSourceDataModule):
        raise ConfigError(f"{takes} does not predict single images: predict a split instead")
    if has_anchor != (anchor is not None):
        raise ConfigError(f"{takes} takes {'an' if has_anchor else 'no'} anchor beside the images")
    if isinstance(data, SequencesDataModule):
        pixels, mask = read_sequences(task, data, images, takes)
        shown = pixels[mask]
        batch = {"mask": mask}
    else:
        pixels = shown = read_pixels(images, data.image_shape, takes=takes)
        batch = {}
    if has_anchor:
        anchors = read_anchors(anchor, data, len(pixels), takes)
        batch["anchor"] = data.normalize(anchors.clone())
        shown = torch.cat([shown, anchors])
    if data.dataset.mean < MAX_MEAN:
        warn_of_polarity(shown)
    batch["image"] = data.normalize(pixels.clone())
    if "mask" in batch:
        batch["image"] *= batch["mask"][:, :, None, None, None]  # padding is zero after normalization
    return {**batch, "index": torch.arange(len(pixels))}


def read_sequences(task: Task, data: SequencesDataModule, images: Any, takes: str) -> tuple[Tensor, Tensor]:
    """Return sequences of one's own (N, S, C, H, W), padded as in batches, and their mask (N, S).

    Raises:
        ConfigError: if they are of another size or range, or longer than the model takes.
    """
    parts = images if is_ragged(images) else [images]
    read = [read_pixels(part, data.image_shape, takes=takes, sequences=True) for part in parts]
    sequences = [sequence for pixels in read for sequence in pixels]
    longest = max(map(len, sequences))
    if isinstance(task.model, HasMaxLength) and longest > data.max_length:
        raise ConfigError(f"a sequence of {longest} images is too long: {takes} takes up to {data.max_length} here")
    return pad_sequences(sequences, data.max_length)


def is_ragged(images: Any) -> bool:
    """Return whether a list holds sequences of different lengths."""
    if not isinstance(images, list | tuple) or not all(hasattr(sequence, "__len__") for sequence in images):
        return False
    return len({len(sequence) for sequence in images}) > 1


def read_anchors(anchor: Any, data: ImageSourceDataModule, count: int, takes: str) -> Tensor:
    """Return an anchor for each of `count` sequences (count, C, H, W).

    Raises:
        ConfigError: if there is neither one for all nor one for each.
    """
    anchors = read_pixels(anchor, data.image_shape, takes=f"the anchor of {takes}")
    if len(anchors) not in (1, count):
        raise ConfigError(f"{len(anchors)} anchors do not fit {count} sequences: use one for all, or one for each")
    return anchors.expand(count, *data.image_shape)
