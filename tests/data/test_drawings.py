"""Drawings: binary pixels drawn by their brightness, anew in training and once for measuring."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from patchwork.config import PROMPTS
from patchwork.data import Drawings
from patchwork.data.digits import Digits, Split
from patchwork.data.drawings import moved
from patchwork.data.prompts import LENGTH, prompts, vocabulary
from patchwork.data.stream import Part


class Grey:
    """Digits whose pixels are all 51, a fifth of full brightness."""

    def load(self) -> Digits:
        parts = [
            Split(torch.full((count, 28, 28), 51, dtype=torch.uint8), torch.arange(count) % 10)
            for count in (50, 40, 30)
        ]
        return Digits("grey", "0" * 64, *parts)


def drawings(**changes: Any) -> Drawings:
    sizes = {"batch_size": 10, "eval_batch_size": 16, "train_size": 50, "val_size": 40, "test_size": 30}
    data = Drawings(**{"digits": Grey(), "image_size": 28, "levels": 2, "seed": 0, **sizes, **changes})
    data.setup()
    return data


def images(data: Drawings, part: Part, epoch: int = 0) -> Tensor:
    return torch.cat([data.make(part, (epoch, index), slice(None))["image"] for index in range(data.length(part))])


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_pixels_are_set_as_often_as_they_are_bright(part: Part) -> None:
    drawn = images(drawings(), part)
    assert set(drawn.unique().tolist()) == {0, 1}
    assert drawn.mean().item() == pytest.approx(0.2, abs=0.01)


def test_training_draws_anew_and_measuring_does_not() -> None:
    data, other = drawings(), drawings(seed=1)
    assert not torch.equal(images(data, "train", 0), images(data, "train", 1))
    assert torch.equal(images(data, "train", 1), images(drawings(), "train", 1))
    for part in ("val", "test"):
        assert torch.equal(images(data, part, 0), images(data, part, 1))
        assert torch.equal(images(data, part), images(other, part))
        assert torch.equal(images(data, part), data.whole(part)["image"])


def test_ranks_share_a_batch() -> None:
    data = drawings()
    together = data.make("train", (0, 0), slice(None))["image"]
    shares = [data.make("train", (0, 0), slice(rank, None, 2))["image"] for rank in range(2)]
    assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), together)


def test_grey_levels_are_those_of_the_source() -> None:
    assert images(drawings(levels=256), "train").unique().tolist() == [51]


def alone(prompt: Tensor) -> tuple[int, ...]:
    """Return the words of a prompt, which stand together wherever they begin, with 0 after them."""
    places = prompt.nonzero()[:, 0]
    assert places.diff().eq(1).all()
    words = prompt[places].tolist()
    return (*words, *[0] * (LENGTH - len(words)))


def test_prompts_begin_anywhere_in_training() -> None:
    words = torch.tensor([[5, 6, 7, 0, 0, 0], [1, 2, 3, 4, 5, 6]]).repeat_interleave(1000, dim=0)
    found = moved(words, torch.Generator().manual_seed(0))
    assert torch.equal(found[1000:], words[1000:])  # there is no room
    begins = (found[:1000] > 0).byte().argmax(dim=1)
    assert begins.bincount().tolist() == pytest.approx([250] * 4, abs=60)
    assert torch.equal(found[:1000].gather(1, begins[:, None] + torch.arange(3)), words[:1000, :3])
    assert (found[:1000].sum(dim=1) == 18).all()


def test_prompts_ask_for_the_label_and_are_known_ones() -> None:
    data = drawings()
    assert {"words": len(vocabulary()) + 1, "length": LENGTH} == PROMPTS
    known = {
        tuple(words): digit
        for kind in ("numbers", "sums")
        for words, digit in zip(prompts(kind).words.tolist(), prompts(kind).digits.tolist(), strict=True)
    }
    for part, epoch in itertools.product(("train", "val", "test"), range(2)):
        batch = data.make(part, (epoch, 0), slice(None))
        asked = [known[words] for words in map(alone, batch["prompt"])]
        assert asked == batch["label"].tolist()
    one, other = (
        [stream.make(part, (epoch, 1), slice(None))["prompt"] for part, epoch in (("train", 0), ("test", number))]
        for number, stream in enumerate((data, drawings(seed=1)))
    )
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
