"""Pixel levels: sampled by brightness anew in training and once for evaluation; and the prompts beside them."""

import itertools
from typing import Any

import pytest
import torch
from data_helpers import NumberedSource, check_ids, join_shards, make_source, read_epoch, same_batch
from torch import Tensor

from patchwork.data import PixelsDataModule
from patchwork.data.base import Split
from patchwork.data.pixels import randomly_shift
from patchwork.data.prompts import LENGTH, prompts
from patchwork.data.sources.base import DIGIT_NAMES, MNIST_MEAN, MNIST_STD, ImageSource, LabeledImages


class GraySource:
    """Images whose pixels are all 51, a fifth of full brightness."""

    mean, std = MNIST_MEAN, MNIST_STD
    class_names = DIGIT_NAMES

    def load(self) -> ImageSource:
        splits = {}
        for split, count in (("train", 50), ("val", 40), ("test", 30)):
            images, indices = torch.full((count, 1, 28, 28), 51, dtype=torch.uint8), torch.arange(count)
            splits[split] = LabeledImages(images, indices % 10, indices)
        return make_source("gray", splits)


def pixels(**changes: Any) -> PixelsDataModule:
    sizes = {"batch_size": 10, "eval_batch_size": 16, "samples_per_epoch": 50, "val_size": 40, "test_size": 30}
    data = PixelsDataModule(
        **{"dataset": GraySource(), "image_size": 28, "num_levels": 2, "seed": 0, **sizes, **changes}
    )
    data.setup()
    return data


def images(data: PixelsDataModule, split: Split, epoch: int = 0) -> Tensor:
    return torch.cat(
        [data.make_batch(split, (epoch, index), slice(None))["image"] for index in range(data.num_batches(split))]
    )


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_binary_pixels_are_1_with_the_probability_of_their_brightness(split: Split) -> None:
    levels = images(pixels(), split)
    assert set(levels.unique().tolist()) == {0, 1}
    assert levels.mean().item() == pytest.approx(0.2, abs=0.01)


def test_training_images_are_quantized_anew_and_evaluation_images_once() -> None:
    data, other = pixels(), pixels(seed=1)
    assert not torch.equal(images(data, "train", 0), images(data, "train", 1))
    assert torch.equal(images(data, "train", 1), images(pixels(), "train", 1))
    for split in ("val", "test"):
        assert torch.equal(images(data, split, 0), images(data, split, 1))
        assert torch.equal(images(data, split), images(other, split))
        assert torch.equal(images(data, split), data.full_split(split)["image"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_shards_interleave_to_the_batch(split: Split) -> None:
    data = pixels()
    assert same_batch(join_shards(data, split, (0, 0), 2), data.make_batch(split, (0, 0), slice(None)))


@pytest.mark.parametrize("split", ["val", "test"])
def test_image_ids_are_those_of_the_images(split: Split) -> None:
    data = pixels(dataset=NumberedSource(), image_size=6, num_levels=256)
    check_ids(data, split, [batch["image"][:, 0, :1, 0].long() for batch in read_epoch(data, split)])
    assert "index" not in data.make_batch("train", (0, 0), slice(None))


def test_256_levels_are_the_pixels_of_the_source() -> None:
    assert images(pixels(num_levels=256), "train").unique().tolist() == [51]


# --- prompts ---------------------------------------------------------------------------------------------------------


def unshift(prompt: Tensor) -> tuple[int, ...]:
    """Return the tokens of a prompt, which are contiguous wherever they begin, padded at the end."""
    positions = prompt.nonzero()[:, 0]
    assert positions.diff().eq(1).all()
    tokens = prompt[positions].tolist()
    return (*tokens, *[0] * (LENGTH - len(tokens)))


def test_random_shift_keeps_tokens_together_and_begins_at_every_position_that_fits() -> None:
    prompt = torch.tensor([[5, 6, 7, 0, 0, 0], [1, 2, 3, 4, 5, 6]]).repeat_interleave(1000, dim=0)
    shifted = randomly_shift(prompt, torch.Generator().manual_seed(0))
    assert torch.equal(shifted[1000:], prompt[1000:])  # there is no padding
    start = (shifted[:1000] > 0).byte().argmax(dim=1)
    assert start.bincount().tolist() == pytest.approx([250] * 4, abs=60)
    assert torch.equal(shifted[:1000].gather(1, start[:, None] + torch.arange(3)), prompt[:1000, :3])
    assert (shifted[:1000].sum(dim=1) == 18).all()


def test_prompts_ask_for_the_label_and_are_of_the_training_kinds() -> None:
    data, other = pixels(), pixels(seed=1)
    digit_of = {
        tuple(token_ids): digit
        for kind in ("numbers", "sums")
        for token_ids, digit in zip(prompts(kind).token_ids.tolist(), prompts(kind).digits.tolist(), strict=True)
    }
    for split, epoch in itertools.product(("train", "val", "test"), range(2)):
        batch = data.make_batch(split, (epoch, 0), slice(None))
        assert [digit_of[unshift(prompt)] for prompt in batch["prompt"]] == batch["label"].tolist()
    train, other_train = (module.make_batch("train", (0, 1), slice(None))["prompt"] for module in (data, other))
    test, other_test = (
        module.make_batch("test", (epoch, 1), slice(None))["prompt"] for epoch, module in enumerate((data, other))
    )
    assert not torch.equal(train, other_train)
    assert torch.equal(test, other_test)
