"""Images of one's own: in every form they are predicted as those of a split are."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from patchwork.core.errors import ConfigError, DataError, PatchworkWarning
from patchwork.data import BaseDataModule
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.runs.own_images import make_own_batch
from patchwork.runs.predictions import predict_images
from patchwork.tasks import Predictions, Task

SMALL = ["dataset=uci", "model.embed_dim=16", "data.eval_batch_size=8", "data.test_size=20"]


@pytest.fixture(scope="module")
def built() -> dict[str, tuple[BaseDataModule, Task]]:
    """Return the data module, set up, and the task of each kind of sample."""
    overrides = {
        "classify": ["model.stem=null", "model.patch_size=14"],
        "sum": ["data.max_length=3"],
        "anchor": ["data.max_length=3"],
        "pixels": ["model=pixel_transformer_tiny"],
    }
    pairs = {name: build(compose([f"task={name}", *SMALL, *more])) for name, more in overrides.items()}
    for data, task in pairs.values():
        data.prepare_data()
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in task.eval().parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return pairs


def to_pixels(data: Any, image: Tensor) -> np.ndarray:
    return ((image * data.source.std + data.source.mean) * 255).round().byte().numpy()


def assert_same(one: Predictions, other: Predictions) -> None:
    assert torch.equal(one.prediction, other.prediction)
    assert torch.equal(one.log_probs, other.log_probs)


FORMS: list[Callable[[np.ndarray], Any]] = [
    lambda images: torch.from_numpy(images).float() / 255,
    lambda images: images / 255,
    lambda images: images[:, None],
    lambda images: [Image.fromarray(image) for image in images],
    lambda images: images.astype(np.float32),
]


def test_the_same_images_give_the_same_predictions_in_every_form(built: dict[str, tuple[Any, Task]]) -> None:
    data, task = built["classify"]
    images = data.source.test.images[:20, 0].numpy()
    expected = predict_images(task, data, images)
    assert expected.index.tolist() == list(range(20))
    assert expected.target is None
    for form in FORMS:
        assert_same(predict_images(task, data, form(images)), expected)
    black_and_white = np.where(images > 127, 255, 0).astype(np.uint8)
    assert_same(predict_images(task, data, images > 127), predict_images(task, data, black_and_white))


@pytest.mark.parametrize("name", ["sum", "anchor"])
def test_sequences_are_predicted_as_those_of_a_split(built: dict[str, tuple[Any, Task]], name: str) -> None:
    data, task = built[name]
    batch = data.make_batch("test", (0, 0), slice(None))
    with torch.no_grad():
        expected = task.predict_step(batch, 0)
    anchor = to_pixels(data, batch["anchor"][:, 0]) if name == "anchor" else None
    lengths = batch["mask"].sum(dim=1).tolist()
    assert len({*lengths}) > 1
    images = to_pixels(data, batch["image"][:, :, 0])
    sequences = [image[:length] for image, length in zip(images, lengths, strict=True)]
    pictures = [[Image.fromarray(image) for image in sequence] for sequence in sequences]
    for form in (sequences, [sequence / 255 for sequence in sequences], pictures):
        predictions = predict_images(task, data, form, anchor=anchor)
        assert torch.equal(predictions.prediction, expected.prediction)
        torch.testing.assert_close(predictions.log_probs, expected.log_probs)
    one = predict_images(task, data, sequences[0], anchor=None if anchor is None else anchor[0])
    torch.testing.assert_close(one.log_probs, expected.log_probs[:1])


def test_an_anchor_is_for_all_sequences_or_for_one(built: dict[str, tuple[Any, Task]]) -> None:
    data, task = built["anchor"]
    batch = make_own_batch(task, data, np.zeros((5, 2, 28, 28)), np.zeros((28, 28)))
    assert batch["anchor"].shape == (5, 1, 28, 28)
    assert batch["mask"].sum() == 10
    with pytest.raises(ConfigError, match="2 anchors do not fit 5 sequences"):
        make_own_batch(task, data, np.zeros((5, 2, 28, 28)), np.zeros((2, 28, 28)))


@pytest.mark.parametrize(
    ("name", "shape", "anchor", "message"),
    [
        ("classify", (32, 32), None, r"shape \(32, 32\) are not allowed: task=classify takes \(N, 28, 28\)"),
        ("sum", (28, 28), None, r"task=sum takes \(N, T, 28, 28\), or \(T, 28, 28\) for one sequence"),
        ("anchor", (2, 28, 28), None, "task=anchor takes an anchor beside the images"),
        ("anchor", (2, 28, 28), (2, 2), "the anchor of task=anchor takes"),
        ("sum", (2, 28, 28), (28, 28), "task=sum takes no anchor"),
        ("pixels", (28, 28), None, "task=pixels does not predict single images: predict a split instead"),
    ],
)
def test_images_that_a_task_does_not_take_are_refused(
    built: dict[str, tuple[Any, Task]], name: str, shape: tuple[int, ...], anchor: tuple[int, ...] | None, message: str
) -> None:
    data, task = built[name]
    with pytest.raises(ConfigError, match=message):
        predict_images(task, data, np.zeros(shape), anchor=None if anchor is None else np.zeros(anchor))


def test_sequences_longer_than_the_model_takes_are_refused() -> None:
    data, task = build(compose(["task=sum", "model=fully_connected", *SMALL, "data.max_length=3"]))
    assert len(predict_images(task, data, np.zeros((2, 1, 28, 28)))) == 2
    with pytest.raises(ConfigError, match="a sequence of 4 images is too long: task=sum takes up to 3 here"):
        predict_images(task, data, np.zeros((2, 4, 28, 28)))


def test_dark_digits_on_white_are_warned_of(built: dict[str, tuple[Any, Task]]) -> None:
    for name, axes in (("classify", ()), ("sum", (1,))):
        data, task = built[name]
        images = data.source.test.images[:4, 0].reshape(4, *axes, 28, 28)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            predict_images(task, data, images)
        with pytest.warns(PatchworkWarning, match="dark on light"):
            predict_images(task, data, 255 - images)


def make_picture(size: tuple[int, int]) -> Image.Image:
    picture = Image.new("L", size, 255)
    picture.paste(0, (size[0] // 2 - 8, 10, size[0] // 2 + 8, size[1] - 10))  # a dark stroke on white
    return picture


def test_pictures_of_any_size_are_fitted_and_a_warning_says_how(
    built: dict[str, tuple[Any, Task]], tmp_path: Path
) -> None:
    data, task = built["classify"]
    picture, path = make_picture((200, 120)), tmp_path / "one.png"
    picture.save(path)
    digit = data.source.test.images[0, 0].numpy()
    with pytest.warns(PatchworkWarning) as warned:
        predictions = [predict_images(task, data, images) for images in (picture, path, str(path), [path, digit])]
    messages = [str(each.message) for each in warned]
    done = (
        "it is dark on light: inverted, as digits here are light on dark; resized from 200×120 to 28×28 pixels, padded"
    )
    assert messages == [f"images: {done}", *[f"{path}: {done}"] * 3]
    assert {each.filename for each in warned} == {__file__}  # where the package was called
    for other in predictions[1:3]:
        assert_same(other, predictions[0])
    assert predictions[3].prediction[1] == predict_images(task, data, digit).prediction[0]
    with pytest.warns(PatchworkWarning, match=r"images\[0\] and 1 more: it is dark on light"):
        predict_images(task, data, [picture, picture])
    with pytest.raises(DataError, match=r"^images=nowhere\.png does not exist: name an image file"):
        predict_images(task, data, "nowhere.png")
    with pytest.raises(DataError, match="images shows nothing"):
        predict_images(task, data, Image.new("L", (30, 30)))
    with pytest.raises(ConfigError, match="pictures of any size are taken as PIL images or paths"):
        predict_images(task, data, np.zeros((30, 30)))


def test_sequences_and_anchors_may_be_files(built: dict[str, tuple[Any, Task]], tmp_path: Path) -> None:
    data, task = built["anchor"]
    path = tmp_path / "one.png"
    make_picture((40, 40)).save(path)
    with pytest.warns(PatchworkWarning, match="resized from 40×40"):
        batch = make_own_batch(task, data, [path, path], path)
    assert batch["mask"].sum() == 2
    assert torch.equal(batch["image"][0, 0], batch["image"][0, 1])
    assert torch.equal(batch["image"][0, 0], batch["anchor"][0])


def test_models_of_color_take_no_files() -> None:
    data, task = build(compose(["task=classify", *SMALL, "data.in_channels=3", "model.stem=null"]))
    with pytest.raises(ConfigError, match=r"images='a\.png' is not allowed: pass arrays of shape \(3, 28, 28\)"):
        predict_images(task, data, "a.png")
