"""`patchwork generate`: files, seeds, prompts, inpainting, and invalid options."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_command
from PIL import Image

SMALL = [
    "task=pixels",
    "model=pixel_transformer_tiny",
    "dataset=uci",
    "report=none",
    "callbacks=none",
    "data.batch_size=8",
    "data.eval_batch_size=8",
    "trainer.max_steps=1",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a small trained generator in `run`."""
    directory = tmp_path_factory.mktemp("trained")
    assert run_command("train", *SMALL, "run_dir=run", cwd=directory) == 0
    return directory


@pytest.fixture
def generate(command: Callable[..., int], trained: Path, tmp_path: Path) -> Callable[..., int]:
    """Return a function that runs `patchwork generate run=run args …` on a copy of the trained generator."""
    shutil.copytree(trained / "run", tmp_path / "run")

    def run(*args: str) -> int:
        return command("generate", *([] if any(arg.startswith("run=") for arg in args) else ["run=run"]), *args)

    return run


def arrays(number: int) -> Any:
    return np.load(Path("run/generated") / f"{number:03}" / "images.npz")


def manifest(number: int) -> dict[str, Any]:
    return json.loads((Path("run/generated") / f"{number:03}" / "manifest.json").read_text())


def test_same_seed_generates_the_same_images(generate: Callable[..., int]) -> None:
    for seed in (1, 1, 2):
        assert generate("num_images=5", "classes=[3,7]", f"seed={seed}") == 0
    first, same, other = (arrays(number) for number in range(3))
    assert first["images"].shape == (5, 1, 28, 28)
    assert first["labels"].tolist() == [3, 7, 3, 7, 3]
    assert (first["images"] == same["images"]).all()
    assert (first["images"] != other["images"]).any()
    weights = json.loads(Path("run/manifest.json").read_text())["weights_sha256"]
    assert (manifest(2)["seed"], manifest(2)["classes"], manifest(2)["weights_sha256"]) == (2, [3, 7], weights)


def test_prompt_decides_what_is_generated(generate: Callable[..., int]) -> None:
    assert generate("num_images=3", "prompt=Show me 2 + four") == 0
    assert generate("num_images=3", "prompt=3") == 0
    assert arrays(0)["labels"].tolist() == [6, 6, 6]
    assert arrays(1)["labels"].tolist() == [3, 3, 3]
    assert (arrays(0)["images"] != arrays(1)["images"]).any()
    assert manifest(0)["class"] == 6


def test_sampling_options_reach_the_generator(generate: Callable[..., int]) -> None:
    for options in ("", "guidance=3", "temperature=0.2", "top_k=2", "top_p=0.3"):
        assert generate("num_images=4", "seed=1", *options.split()) == 0
    default, *others = (arrays(number)["images"] for number in range(5))
    assert all((default != other).any() for other in others)
    assert manifest(1)["guidance"] == 3


def test_animation_ends_with_the_contact_sheet(generate: Callable[..., int]) -> None:
    assert generate("num_images=4") == 0
    directory = Path("run/generated/000")
    with Image.open(directory / "generation.gif") as animation, Image.open(directory / "sheet.png") as sheet:
        assert animation.size == sheet.size
        assert animation.n_frames > 1
        animation.seek(animation.n_frames - 1)
        last = np.asarray(animation.convert("L")).astype(int)
        assert abs(last - np.asarray(sheet).astype(int)).max() <= 2  # of the palette
        animation.seek(0)
        assert abs(np.asarray(animation.convert("L")).astype(int) - last).max() > 100


def test_stream_prints_the_images_in_braille(generate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("num_images=2", "stream=true") == 0
    assert any("\u2800" < character <= "\u28ff" for character in capsys.readouterr().out)


def test_conditions_that_were_not_trained_are_refused(
    command: Callable[..., int], generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    class_only = [
        "task.uncond_prob=0",
        "task.prompt_prob=0",
        "model.text_encoder_depth=0",
        "task.monitor=val/class_nll",
    ]
    assert command("train", *SMALL, *class_only, "run_dir=class_only") == 0
    assert command("train", *SMALL, "data.num_classes=5", "run_dir=five") == 0
    for args, message in (
        (["run=class_only", "guidance=2"], "guidance=2"),
        (["run=class_only", "inpaint=0"], "add classes"),
        (["run=class_only", "prompt=draw 3"], "text_encoder_depth=0"),
        (["run=five", "prompt=draw 7"], "asks for class 7"),
        (["run=five", "classes=[7]"], "7 is not a class"),
    ):
        assert generate(*args) == 2
        assert message in capsys.readouterr().err
    assert generate("run=class_only", "inpaint=0", "classes=[3]", "num_images=1", "particles=2") == 0
    assert generate("run=five", "num_images=2", "prompt=7 minus 4") == 0


def test_inpainting_leaves_known_pixels_unchanged(
    generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    stroke = np.zeros((28, 28), dtype=np.uint8)
    stroke[4:24, 12:16] = 255
    Image.fromarray(255 - stroke).resize((112, 112), Image.Resampling.NEAREST).save("stroke.png")
    hole = np.zeros((28, 28), dtype=np.uint8)
    hole[10:20, 3:9] = 255
    Image.fromarray(hole).save("hole.png")
    for number, args in enumerate(
        (
            ["inpaint=0"],
            ["inpaint=1", "mask=right"],
            ["inpaint=stroke.png", "mask=box"],
            ["inpaint=stroke.png", "mask=hole.png"],
        )
    ):
        assert generate("num_images=3", "particles=4", *args) == 0
        results = arrays(number)
        known = results["known"].astype(bool)
        assert results["images"].shape == (3, 1, 28, 28)
        assert (results["images"][..., known] == results["original"][..., known]).all()
        assert (results["images"][..., ~known] != results["original"][..., ~known]).any()
    assert (results["original"][0] == stroke // 255).all()
    notes = capsys.readouterr().out
    assert "inpaint=stroke.png: it is dark on light: inverted" in notes
    assert "inpaint=stroke.png: resized from 112×112" in notes
    assert (~known == hole.astype(bool)).all()


def test_invalid_options_are_reported_in_one_line(
    command: Callable[..., int], generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("not an image")
    Image.new("L", (28, 28)).save("black.png")
    assert command("generate", "num_images=3") == 2
    assert "run is missing" in capsys.readouterr().err
    for args, code, message in (
        (["classes=[12]"], 2, "12 is not a class"),
        (["top_p=2"], 2, "top_p=2"),
        (["prompt=draw a cat"], 2, "'cat'"),
        (["prompt=7 plus 5"], 2, "gives 12"),
        (["prompt=3", "classes=[3]"], 2, "prompt=3"),
        (["prompt=3", "inpaint=0"], 2, "prompt=3"),
        (["inpaint=99999"], 2, "inpaint=99999"),
        (["inpaint=0", "guidance=2"], 2, "drop guidance"),
        (["inpaint=0", "stream=true"], 2, "drop stream"),
        (["inpaint=none.png"], 3, "inpaint=none.png"),
        (["inpaint=text.png"], 3, "inpaint=text.png"),
        (["inpaint=black.png"], 3, "shows nothing"),
        (["inpaint=0", "mask=left"], 2, "mask=left"),
        (["inpaint=0", "mask=black.png"], 2, "nothing to generate"),
        (["mask=box"], 2, "mask=box applies only with inpaint"),
        (["particles=3"], 2, "particles=3 applies only with inpaint"),
        (["prompt="], 2, "prompt=''"),
        (["prompt=draw #3"], 2, "'#'"),
    ):
        assert generate(*args) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not Path("run/generated").exists()


def test_output_that_cannot_be_written_leaves_nothing_behind(
    generate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run/generated").write_text("a file where the directory should be")
    assert generate("num_images=1") == 5
    assert "cannot be written" in capsys.readouterr().err
    assert Path("run/generated").is_file()


def test_generate_help_lists_every_option(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("generate", "--help") == 0
    text = capsys.readouterr().out
    for option in ("run=…", "classes=null", "inpaint=null", "guidance=1.0", "particles=null", "stream=false"):
        (line,) = [line for line in text.splitlines() if line.strip().startswith(option)]
        assert line.strip() != option
