"""A batch of images of one's own, as a task takes it: nothing of its data set is read."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from patchwork.core.errors import ConfigError, warn
from patchwork.core.paths import expand_home
from patchwork.core.schema import choice_name
from patchwork.data import BaseDataModule
from patchwork.data.base import Batch
from patchwork.data.image_arrays import pad_sequences, read_pixels, warn_of_polarity
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.sequences import SequencesDataModule
from patchwork.models.protocols import HasMaxLength
from patchwork.tasks import Task
from patchwork.tasks.image_sequence import ImageSequenceTask

if TYPE_CHECKING:
    from patchwork.data.image_files import ReadImage

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
    images, anchor = fit_pictures(images, data), fit_pictures(anchor, data)
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


def fit_pictures(images: Any, data: ImageSourceDataModule) -> Any:
    """Return images with the pixels (H, W) of those given as files, or as PIL images of another size than the model's.

    They become square, and light on dark; a warning says what was done to them.

    Raises:
        ConfigError: if a file is given to a model of color, of images that are not square or not light on dark.
        DataError: if a file cannot be read, or a picture shows nothing.
    """
    channels, height, width = data.image_shape
    fits = channels == 1 and height == width and data.dataset.mean < MAX_MEAN
    names: dict[str, list[str]] = {}  # of the pictures, by what was done to them

    def fit(image: Any, position: str) -> Any:
        if isinstance(image, list | tuple):
            return [fit(each, f"{position}[{index}]") for index, each in enumerate(image)]
        is_path = isinstance(image, str | Path)
        if not is_path and (not hasattr(image, "getbands") or image.size == (width, height)):
            return image
        if fits:
            picture = read_picture(image, position, width)
            if picture.notes:
                names.setdefault("; ".join(picture.notes), []).append(str(image) if is_path else position)
            return picture.pixels
        if is_path:
            raise ConfigError(f"{position}={str(image)!r} is not allowed: pass arrays of shape {data.image_shape}")
        return image  # of the wrong size, as an error will say

    fitted = fit(images, "images")
    for note, (first, *others) in names.items():
        warn(f"{first}{f' and {len(others)} more' if others else ''}: {note}")
    return fitted


def read_picture(image: Any, name: str, size: int) -> "ReadImage":
    """Return a file, or a PIL image, as pixels (size, size)."""
    from patchwork.data.image_files import fit_image, read_image  # imports PIL, which a training does not need

    if isinstance(image, str | Path):
        return read_image(expand_home(image), key=name, size=size)
    return fit_image(image, name=name, size=size)


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
