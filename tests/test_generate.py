"""Drawing with a trained generator: files, seeds, prompts, gaps, and words that are wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def arrays(number: int) -> Any:
    return np.load(Path("run/generated") / f"{number:03}" / "images.npz")


def test_same_seed_draws_the_same(run: str) -> None:
    for seed in (1, 1, 2):
        assert call(generate, [run, "n=5", "classes=[3,7]", f"seed={seed}"]) == 0
    one, same, other = (arrays(number) for number in range(3))
    assert one["images"].shape == (5, 1, 28, 28)
    assert one["labels"].tolist() == [3, 7, 3, 7, 3]
    assert (one["images"] == same["images"]).all()
    assert (one["images"] != other["images"]).any()
    with Image.open("run/generated/000/drawing.gif") as film, Image.open("run/generated/000/sheet.png") as sheet:
        assert film.size == sheet.size
        assert film.n_frames > 1  # type: ignore[attr-defined]


def test_prompts_say_what_is_drawn(run: str) -> None:
    assert call(generate, [run, "n=3", "prompt=Show me 2 + four"]) == 0
    assert call(generate, [run, "n=3", "prompt=Show me 3"]) == 0
    assert arrays(0)["labels"].tolist() == [6, 6, 6]
    assert (arrays(0)["images"] != arrays(1)["images"]).any()
    assert json.loads(Path("run/generated/000/manifest.json").read_text())["digit"] == 6


def test_how_to_choose_reaches_the_model(run: str) -> None:
    choices = ("guidance=3", "temperature=0.2", "top_k=2", "top_p=0.3")
    for words in ("", *choices):
        assert call(generate, [run, "n=4", "seed=1", *words.split()]) == 0
    plain, *others = (arrays(number)["images"] for number in range(5))
    assert all((plain != other).any() for other in others)
    assert json.loads(Path("run/generated/001/manifest.json").read_text())["guidance"] == 3


def test_animation_ends_with_the_sheet(run: str) -> None:
    assert call(generate, [run, "n=4"]) == 0
    with Image.open("run/generated/000/drawing.gif") as film, Image.open("run/generated/000/sheet.png") as sheet:
        film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
        last = np.asarray(film.convert("L")).astype(int)
        assert abs(last - np.asarray(sheet).astype(int)).max() <= 2  # of a palette
        film.seek(0)
        assert abs(np.asarray(film.convert("L")).astype(int) - last).max() > 100


def test_stream_shows_the_digits(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(generate, [run, "n=2", "stream=true"]) == 0
    assert any("\u2800" < mark <= "\u28ff" for mark in capsys.readouterr().out)


def test_what_was_never_learned_is_refused(
    command: Callable[..., int], run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["digits=uci", "callbacks=none", "data.batch_size=8", "trainer.max_steps=1", "trainer.limit_val_batches=1"]
    small = ["model=pixel_decoder_tiny", "trainer.limit_test_batches=1", "data.num_classes=5", "data.eval_batch_size=8"]
    always = ["task.unlabelled=0", "task.prompted=0", "model.text_depth=0", "task.monitor=val/class_nll"]
    assert command("train", "task=pixels", *few, *small, *always, "folder=told") == 0
    assert command("train", "task=pixels", *few, *small, "folder=five") == 0
    for words, said in (
        (["run=told", "guidance=2"], "guidance"),
        (["run=told", "inpaint=0"], "name classes"),
        (["run=told", "prompt=draw 3"], "text_depth is 0"),
        (["run=five", "prompt=draw 7"], "asks for 7"),
        (["run=five", "classes=[7]"], "7 is not a class"),
    ):
        assert call(generate, words) == 2
        assert said in capsys.readouterr().err
    assert call(generate, ["run=told", "inpaint=0", "classes=[3]", "n=1", "particles=2"]) == 0
    assert call(generate, ["run=five", "n=2", "prompt=7 minus 4"]) == 0


def test_gaps_are_filled_and_nothing_else_is_touched(run: str) -> None:
    drawn = np.zeros((28, 28), dtype=np.uint8)
    drawn[4:24, 12:16] = 255
    Image.fromarray(drawn).save("one.png")
    hole = np.zeros((28, 28), dtype=np.uint8)
    hole[10:20, 3:9] = 255
    Image.fromarray(hole).save("hole.png")
    for number, words in enumerate(
        (
            ["inpaint=0"],
            ["inpaint=1", "mask=right"],
            ["inpaint=one.png", "mask=box"],
            ["inpaint=one.png", "mask=hole.png"],
        )
    ):
        assert call(generate, [run, "n=3", "particles=4", *words]) == 0
        found = arrays(number)
        known = found["known"].astype(bool)
        assert found["images"].shape == (3, 1, 28, 28)
        assert (found["images"][..., known] == found["original"][..., known]).all()
        assert (found["images"][..., ~known] != found["original"][..., ~known]).any()
    assert (found["original"][0] == drawn // 255).all()
    assert (~known == hole.astype(bool)).all()


def test_wrong_words(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").write_text("no picture")
    Image.new("L", (5, 6)).save("small.png")
    Image.new("L", (28, 28)).save("black.png")
    for words, code, said in (
        ([run, "classes=[12]"], 2, "12 is not a class"),
        ([run, "top_p=2"], 2, "top_p=2"),
        (["n=3"], 2, "run is"),
        ([run, "prompt=draw a cat"], 2, "'cat'"),
        ([run, "prompt=7 plus 5"], 2, "gives 12"),
        ([run, "prompt=3", "classes=[3]"], 2, "prompt=3"),
        ([run, "inpaint=99999"], 2, "inpaint=99999"),
        ([run, "inpaint=0", "guidance=2"], 2, "guidance"),
        ([run, "inpaint=none.png"], 3, "inpaint=none.png"),
        ([run, "inpaint=text.png"], 3, "inpaint=text.png"),
        ([run, "inpaint=small.png"], 3, "5×6"),
        ([run, "inpaint=0", "mask=left"], 2, "mask=left"),
        ([run, "inpaint=0", "mask=black.png"], 2, "nothing to draw"),
        ([run, "mask=box"], 2, "for inpaint"),
        ([run, "prompt="], 2, "names no digit"),
        ([run, "prompt=draw #3"], 2, "'#'"),
    ):
        assert call(generate, words) == code
        assert said in capsys.readouterr().err
    assert not Path("run/generated").exists()
