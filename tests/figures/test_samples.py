import io
import random
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.image import imread
from pytorch_lightning.callbacks import EMAWeightAveraging, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from patchwork.callbacks import Progress
from patchwork.figures.samples import Samples, picture, trim
from patchwork.tasks.base import Sample


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Guess(pl.LightningModule):
    """A task in small, whose samples are as ill-behaved as they can be: they draw numbers and switch modes."""

    monitor = "val/accuracy"

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
        self.seen: list[Tensor] = []
        self.evaluated: list[Tensor] = []
        self.asked: list[int] = []

    def samples(self, batch: dict[str, Any], count: int) -> list[Sample]:
        self.asked.append(len(batch["image"]))
        self.seen.append(self.model[0].weight.detach().clone())
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        self.model[0].eval()
        self.model[1].train()
        return [Sample(image.view(1, 2, 2), ["a"], ["b"]) for image in batch["image"]]

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        return self.model(batch["image"]).square().mean()

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        self.evaluated.append(self.model[0].weight.detach().clone())

    def on_validation_epoch_end(self) -> None:
        self.log(self.monitor, 0.125 * (self.current_epoch + 1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    *callbacks: pl.Callback, stdout: TextIO | None = None, epochs: int = 2, sanity: int = 0, bar: bool = False
) -> Guess:
    pl.seed_everything(0, verbose=False)
    task = Guess()
    batches = DataLoader([{"image": torch.rand(4)} for _ in range(8)], batch_size=4)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=bar,
        enable_model_summary=False,
        num_sanity_val_steps=sanity,
    )
    with redirect_stdout(stdout or sys.stdout):
        trainer.fit(task, batches, batches)
    return task


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


@pytest.mark.parametrize("bar", [None, TQDMProgressBar, Progress])
@pytest.mark.parametrize("bar_first", [False, True])
def test_each_epoch_prints_its_samples_and_metric(
    terminal: Terminal, bar: type[pl.callbacks.ProgressBar] | None, bar_first: bool
) -> None:
    callbacks = [Samples(count=3), *([bar()] if bar else [])]
    callbacks = callbacks[::-1] if bar_first else callbacks
    task = fit(*callbacks, stdout=terminal, sanity=2, bar=bar is not None)
    text = terminal.getvalue()
    assert task.asked == [3, 3]  # the batch is trimmed, and the sanity check is none
    assert text.count("┌") == 2 * 3
    assert "epoch 1 · val/accuracy 0.1250" in text  # of this epoch, though the task logs it at the epoch's very end
    assert "epoch 2 · val/accuracy 0.2500" in text
    assert text.count("expected top left") == 1
    assert "\x1b[1;31mb" in text


@pytest.mark.parametrize("bar", [TQDMProgressBar, Progress])
def test_a_validation_on_its_own_prints_too(terminal: Terminal, bar: type[pl.callbacks.ProgressBar]) -> None:
    batches = DataLoader([{"image": torch.rand(4)}] * 4, batch_size=2)
    with redirect_stdout(terminal):
        pl.Trainer(accelerator="cpu", callbacks=[bar(), Samples()], logger=False).validate(Guess(), batches)
    assert terminal.getvalue().count("┌─┐") == 2


def test_no_colour_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    fit(Samples(), stdout=terminal, epochs=1)
    assert "✗b" in terminal.getvalue()
    assert "\x1b[" not in terminal.getvalue()


def test_every_n_epochs(terminal: Terminal) -> None:
    fit(Samples(every_n_epochs=2), stdout=terminal, epochs=3)
    assert "epoch 2 " in terminal.getvalue()
    assert terminal.getvalue().count("val/accuracy") == 1


def test_a_plain_run_stays_quiet_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    task = fit(Samples(), epochs=1)
    assert capsys.readouterr().out == ""
    assert task.asked == []
    fit(Samples(always=True), epochs=1)
    text = capsys.readouterr().out
    assert "✗b" in text
    assert "\x1b" not in text


def test_a_terminal_that_cannot_show_braille_stays_quiet(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "latin-1")
    assert fit(Samples(always=True), stdout=terminal, epochs=1).asked == []
    assert terminal.getvalue() == ""


def test_a_task_without_samples_prints_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guess, "samples", lambda *_: [])
    fit(Samples(), stdout=terminal, epochs=1)
    assert terminal.getvalue() == ""


def test_a_watched_run_is_the_same_as_an_unwatched_one(terminal: Terminal) -> None:
    states = []
    for callbacks in ([], [Samples()]):
        task = fit(*callbacks, stdout=terminal)
        states.append((task.state_dict(), torch.get_rng_state(), np.random.get_state()[1], random.getstate()))  # noqa: NPY002
    (plain, *rng), (watched, *watched_rng) = states
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert torch.equal(rng[0], watched_rng[0])
    assert np.array_equal(rng[1], watched_rng[1])
    assert rng[2] == watched_rng[2]
    assert terminal.getvalue()


@pytest.mark.parametrize("mode", [True, False])
def test_modes_are_put_back(terminal: Terminal, mode: bool) -> None:
    task = Guess().train(mode)
    task.model[0].train(not mode)
    before = [part.training for part in task.modules()]
    with redirect_stdout(terminal):
        Samples().on_validation_batch_end(pl.Trainer(logger=False), task, None, {"image": torch.rand(2, 4)}, 0)
    assert task.asked == [2]
    assert [part.training for part in task.modules()] == before


@pytest.mark.parametrize("samples_first", [True, False])
def test_samples_come_from_the_weights_that_are_evaluated(terminal: Terminal, samples_first: bool) -> None:
    callbacks = [Samples(), EMAWeightAveraging(decay=0.9)]
    task = fit(*(callbacks if samples_first else reversed(callbacks)), stdout=terminal)
    assert len(task.seen) == 2
    for seen, evaluated in zip(task.seen, task.evaluated[::2], strict=True):
        assert torch.equal(seen, evaluated)
    assert not torch.equal(task.seen[0], task.seen[1])


def test_only_the_first_batch_of_the_first_loader_on_the_first_rank(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, task, batch = pl.Trainer(logger=False), Guess(), {"image": torch.rand(2, 4)}
    with redirect_stdout(terminal):
        Samples().on_validation_batch_end(trainer, task, None, batch, 1)
        Samples().on_validation_batch_end(trainer, task, None, batch, 0, 1)
        monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
        Samples().on_validation_batch_end(trainer, task, None, batch, 0)
    assert task.asked == []


def test_trim_keeps_what_is_not_a_batch() -> None:
    batch = {"image": torch.rand(5, 2), "name": list("abcde"), "scale": torch.tensor(2.0), "kind": "digits"}
    kept = trim(batch, 2)
    assert torch.equal(kept["image"], batch["image"][:2])
    assert kept["name"] == ["a", "b"]
    assert kept["scale"] == 2.0
    assert kept["kind"] == "digits"


GRID = Sample(torch.rand(1, 56, 56), list("4071"), list("4079"), 2, 2)
ODD = {
    "one digit": [Sample(torch.rand(1, 28, 28), ["3"], ["3"])],
    "grids": [GRID] * 10,
    "colour": [Sample(torch.rand(3, 32, 32), ["past participle"], ["present simple"])] * 7,
    "a long strip": [Sample(torch.rand(1, 28, 2800), ["47"], ["31"])] * 2,
    "a large picture": [Sample(torch.rand(1, 500, 400), ["x"], [""])],
    "a thread": [Sample(torch.rand(1, 1, 9000), ["x"], ["y"])],
    "one pixel": [Sample(torch.zeros(1, 1, 1), [""], [""])],
    "two channels, not finite": [Sample(torch.full((2, 9, 5), torch.nan), ["a"], ["b"])],
    "mixed sizes": [GRID, Sample(torch.rand(1, 7, 90), ["$x^$"], ["a long label, long beyond all measure, " * 3])],
    "fewer labels": [Sample(torch.rand(1, 28, 84), ["1"], [], 1, 3)],
    "a cell to a pixel": [Sample(torch.rand(1, 4, 4), list("0" * 16), list("1" * 16), 4, 4)],
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("title", [None, "seq2seq · $epoch 7, and a title that goes on for longer than one digit"])
def test_a_picture_is_a_readable_png(tmp_path: Path, name: str, title: str | None) -> None:
    path = tmp_path / "figures" / "samples.png"
    picture(ODD[name], path, title)
    height, width, _ = imread(path).shape
    assert 50 <= width <= 1400
    assert 50 <= height <= 4000
    assert list(path.parent.iterdir()) == [path]


def test_each_cell_is_labelled_beneath_in_reading_order(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("patchwork.figures.curves.save", lambda figure, path: figures.append(figure))
    picture([GRID, Sample(torch.rand(1, 28, 28), ["5"], ["5"])], Path("unused.png"), "a title")
    texts = sorted(figures[0].texts, key=lambda text: (-text.get_position()[1], text.get_position()[0]))
    assert [text.get_text() for text in texts][:6] == ["a title", "5", "4", "0", "7", "9 (1)"]
    assert [text.get_text() for text in texts if text.get_color() == "#c0392b"] == ["9 (1)"]


def red(path: Path) -> bool:
    return bool((np.abs(imread(path)[..., :3] - [0xC0 / 255, 0x39 / 255, 0x2B / 255]).max(-1) < 0.01).any())


def test_only_a_wrong_cell_is_red(tmp_path: Path) -> None:
    picture([GRID], tmp_path / "wrong.png")
    picture([Sample(GRID.image, GRID.expected, GRID.expected, 2, 2)], tmp_path / "right.png")
    assert red(tmp_path / "wrong.png")
    assert not red(tmp_path / "right.png")


def test_a_picture_shows_its_pixels_exactly(tmp_path: Path) -> None:
    image = (torch.rand(1, 28, 28) * 255).round() / 255
    picture([Sample(image, ["1"], ["1"])], tmp_path / "one.png")
    shown = imread(tmp_path / "one.png")[..., 0]
    zoom = 8
    middle = shown[24 + zoom // 2 :: zoom, 24 + zoom // 2 :: zoom][:28, :28]
    assert np.abs(middle - image[0].numpy()).max() < 2 / 255


def test_no_samples_no_picture(tmp_path: Path) -> None:
    picture([], tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def test_importing_figures_does_not_import_matplotlib() -> None:
    modules = "patchwork.figures, patchwork.figures.braille, patchwork.figures.curves"
    code = f"import sys, {modules}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_callback_is_also_found_by_its_short_name() -> None:
    import patchwork.figures

    assert patchwork.figures.Samples is Samples
    with pytest.raises(AttributeError, match="Sampels"):
        patchwork.figures.Sampels  # noqa: B018
