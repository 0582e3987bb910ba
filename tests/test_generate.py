"""Drawing with a trained generator: files, seeds, and words that are wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchwork.cli import call
from patchwork.generate import generate


@pytest.fixture
def run(command: Callable[..., int]) -> str:
    small = ["data.batch_size=8", "data.eval_batch_size=8", "trainer.max_steps=2", "trainer.limit_val_batches=1"]
    settings = [
        "model=pixel_decoder_tiny",
        "digits=uci",
        "callbacks=none",
        "trainer.limit_test_batches=1",
        "folder=run",
    ]
    assert command("train", "task=pixels", *settings, *small) == 0
    return "run=run"


def test_same_seed_draws_the_same(run: str) -> None:
    for seed in (1, 1, 2):
        assert call(generate, [run, "n=5", "classes=[3,7]", f"seed={seed}"]) == 0
    one, same, other = (np.load(Path("run/generated") / f"00{number}" / "images.npz") for number in range(3))
    assert one["images"].shape == (5, 1, 28, 28)
    assert one["labels"].tolist() == [3, 7, 3, 7, 3]
    assert (one["images"] == same["images"]).all()
    assert (one["images"] != other["images"]).any()
    with Image.open("run/generated/000/drawing.gif") as film, Image.open("run/generated/000/sheet.png") as sheet:
        assert film.size == sheet.size
        assert film.n_frames > 1  # type: ignore[attr-defined]


def test_wrong_words(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        ([run, "classes=[12]"], "12 is not a class"),
        ([run, "top_p=2"], "top_p=2"),
        (["n=3"], "run is"),
    ):
        assert call(generate, words) == 2
        assert said in capsys.readouterr().err
    assert not Path("run/generated").exists()
