"""Corrections are split by session, beside at least four times as many images of MNIST."""

from pathlib import Path

import numpy as np
import pytest
import torch
from correction_helpers import make_correction
from source_helpers import NUM_TRAIN, write_idx

from patchwork.core.errors import DataError
from patchwork.data.corrections import append_correction
from patchwork.data.sources import MNIST, Corrections
from patchwork.data.sources.corrections import FIRST_INDEX, split_by_session


def test_sessions_are_never_split_and_drawings_are_on_one_side() -> None:
    shared = np.full((28, 28), 7, np.uint8)
    made = [make_correction(i, session=f"s{i % 6}") for i in range(60)]
    made += [make_correction(60 + i, session=f"s{i}", pixels=shared) for i in range(6)]
    training, held_out = split_by_session(made, 0.3)
    assert {c.session for c in training}.isdisjoint({c.session for c in held_out})
    assert {c.image for c in training}.isdisjoint({c.image for c in held_out})
    assert len(held_out) >= 0.3 * 60
    assert training
    assert split_by_session(made[::-1], 0.3)[1] != []


def test_the_last_session_is_left_for_training() -> None:
    made = [make_correction(i, session="big" if i else "small") for i in range(50)]
    training, held_out = split_by_session(made, 0.99)
    assert training
    assert held_out


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "corrections.jsonl"
    for number in range(6):
        append_correction(path, make_correction(number, session=f"s{number % 3}", label=number))
    return path


def test_mnist_is_replayed_and_its_evaluation_untouched(contents: dict[str, bytes], tmp_path: Path, path: Path) -> None:
    write_idx(tmp_path / "mnist", contents)
    mnist = MNIST(root=str(tmp_path / "mnist"), validation=7).load()
    source = Corrections(root=str(tmp_path / "mnist"), validation=7, path=str(path))
    loaded, held_out = source.load(), source.load_held_out()
    added = loaded.train.indices >= FIRST_INDEX
    assert 4 * int(added.sum()) <= NUM_TRAIN - 7
    assert int(added.sum()) % (6 - len(held_out.labels)) == 0
    torch.testing.assert_close(loaded.train.images[~added], mnist.train.images)
    for split in ("val", "test"):
        torch.testing.assert_close(getattr(loaded, split).images, getattr(mnist, split).images)
    assert loaded.sha256 != mnist.sha256
    images = {image.numpy().tobytes() for image in loaded.train.images[added]}
    assert images.isdisjoint({image.numpy().tobytes() for image in held_out.images})


@pytest.mark.parametrize("count", [0, 3])
def test_one_session_cannot_be_judged(tmp_path: Path, count: int) -> None:
    path = tmp_path / "corrections.jsonl"
    for number in range(count):
        append_correction(path, make_correction(number))
    with pytest.raises(DataError, match="two are needed"):
        Corrections(path=str(path)).load_held_out()
