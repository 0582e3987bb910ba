"""The lines of a training: loss and metric after each validation, and a bar on a terminal; the run stays the same."""

import io
import json
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import TINY, run_command

from patchwork.core import progress as core_progress
from patchwork.core.overrides import parse_value
from patchwork.training import progress
from patchwork.training.progress import EvalProgress, ProgressBar, position

BAR_ONLY = ["callbacks=default", "callbacks.ema=null", "callbacks.show_samples=null"]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the directory of a run with nothing but a progress bar, and what it has printed without a terminal."""
    directory = tmp_path_factory.mktemp("printed")
    overrides = [override for override in TINY if not override.startswith("callbacks")]
    with redirect_stdout(io.StringIO()) as stdout:
        assert run_command("train", *overrides, *BAR_ONLY, "seed=3", "run_dir=a run", cwd=directory) == 0
    return directory / "a run", stdout.getvalue()


def test_an_epoch_has_a_line_with_the_training_loss_and_the_metric(printed: tuple[Path, str]) -> None:
    (line,) = [line for line in printed[1].splitlines() if line.startswith("epoch ")]
    assert re.fullmatch(r"epoch 1 of 1 · train/loss \d\.\d{4} · val/sequence_accuracy 0\.0000", line)


def test_what_is_printed_changes_nothing_in_the_run(printed: tuple[Path, str], finished_run: Path) -> None:
    with_bar, without = (json.loads((run / "manifest.json").read_text()) for run in (printed[0], finished_run))
    assert (printed[0] / "metrics.csv").read_bytes() == (finished_run / "metrics.csv").read_bytes()
    assert with_bar["weights_sha256"] == without["weights_sha256"]


def test_the_run_begins_and_ends_in_plain_words(printed: tuple[Path, str]) -> None:
    _, text = printed
    lines = text.splitlines()
    assert lines[0].startswith(
        "task=seq2seq model=encoder_decoder, 9,516 parameters, on dataset=uci: 32 grids an epoch"
    )
    assert lines[1].startswith("2 steps in 1 epoch on ")
    assert "0 % of 32 test grids are read without an error (chance: 0.01 %)" in lines
    end = lines[lines.index("saved in a run") + 1 :]
    assert end[0].startswith("  look at    a run/figures: samples.png")
    assert [shlex.split(line)[1:3] for line in end[1:]] == [["patchwork", "predict"], ["patchwork", "evaluate"]]
    assert {parse_value("run", shlex.split(line)[3].removeprefix("run="), str) for line in end[1:]} == {"a run"}


# --- the bar ---------------------------------------------------------------------------------------------------------


def make_trainer(**changes: Any) -> Any:
    batches = SimpleNamespace(current=SimpleNamespace(ready=10))
    epoch_loop = SimpleNamespace(batch_progress=batches)
    attributes = {
        "is_global_zero": True,
        "sanity_checking": False,
        "state": SimpleNamespace(fn="fit"),
        "callback_metrics": {"val/accuracy": torch.tensor(0.5)},
        "max_epochs": 2,
        "current_epoch": 0,
        "fit_loop": SimpleNamespace(epoch_loop=epoch_loop),
        "num_training_batches": 10,
        "estimated_stepping_batches": 20,
        "global_step": 0,
        "accumulate_grad_batches": 1,
        "num_val_batches": [3],
        "num_test_batches": [3],
    }
    return SimpleNamespace(**{**attributes, **changes})


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (progress, core_progress):
        monkeypatch.setattr(module, "has_terminal", lambda: True)
    monkeypatch.setattr(core_progress, "DELAY", 0.0)
    monkeypatch.setenv("COLUMNS", "120")


def fit(bar: ProgressBar, trainer: Any, losses: list[float]) -> None:
    task: Any = SimpleNamespace(monitor="val/accuracy")
    bar.on_train_start(trainer, task)
    for index, loss in enumerate(losses):
        task.loss = torch.tensor(loss)
        trainer.global_step += (index + 1) % trainer.accumulate_grad_batches == 0
        bar.on_train_batch_end(trainer, task, None, None, index)
    bar.on_validation_start(trainer, task)
    bar.on_validation_batch_end(trainer, task, None, None, 0)
    bar.on_validation_end(trainer, task)
    bar.on_train_epoch_end(trainer, task)


def test_the_bar_has_loss_and_metric_and_each_validation_a_line(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = ProgressBar()
    fit(bar, make_trainer(), [4.0] * 9 + [3.0])
    bar.close()
    out, err = capsys.readouterr()
    assert out == "epoch 1 of 2 · train/loss 3.9000 · val/accuracy 0.5000\n"
    assert "10/20" in err
    assert "validation: 1 of 3 batches" in err
    assert "left, loss 3.9500 · val/accuracy 0.5000" in err


def test_the_bar_counts_optimizer_steps(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    fit(bar, make_trainer(accumulate_grad_batches=5, global_step=2, estimated_stepping_batches=4), [1.0] * 10)
    bar.close()
    err = capsys.readouterr().err
    assert "50% " in err  # where it was resumed
    assert "100% " in err
    assert "4/4" in err


def test_the_loss_in_the_bar_is_refreshed_however_short_epochs_are(terminal: None) -> None:
    bar, trainer, task = ProgressBar(), make_trainer(), SimpleNamespace(monitor="", loss=torch.tensor(1.0))
    bar.on_train_start(trainer, task)
    for index in range(21):
        task.loss = torch.tensor(float(index))
        bar.on_train_batch_end(trainer, task, None, None, index % 3)
    assert bar.bar is not None
    assert bar.smooth_loss is not None
    assert f"loss {float(bar.smooth_loss):.4f}" in bar.bar.postfix
    bar.close()


def test_an_epoch_without_a_validation_has_a_line_of_its_loss(capsys: pytest.CaptureFixture[str]) -> None:
    bar, task = ProgressBar(), SimpleNamespace(monitor="val/accuracy", loss=torch.tensor(2.0))
    bar.on_train_batch_end(make_trainer(), task, None, None, 0)
    bar.on_train_epoch_end(make_trainer(), task)
    assert capsys.readouterr() == ("epoch 1 of 2 · train/loss 2.0000\n", "")


@pytest.mark.parametrize(
    ("epoch", "batches", "max_epochs", "text"),
    [(2, 10, 9, "epoch 3 of 9"), (2, 5, 9, "epoch 2.5 of 9"), (0, 3, -1, "epoch 0.3"), (11, 11, None, "epoch 12")],
)
def test_a_position_is_exact_within_an_epoch(epoch: int, batches: int, max_epochs: int | None, text: str) -> None:
    trainer = make_trainer(current_epoch=epoch, max_epochs=max_epochs)
    trainer.fit_loop.epoch_loop.batch_progress.current.ready = batches
    assert position(trainer) == text


def test_a_test_shows_its_progress(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    bar, trainer = EvalProgress(), make_trainer(state=SimpleNamespace(fn="test"))
    bar.on_test_start(trainer, None)
    bar.on_test_batch_end(trainer, None, None, None, 0)
    bar.on_test_end(trainer, None)
    assert "test: 1 of 3 batches" in capsys.readouterr().err
    bar.on_test_start(make_trainer(is_global_zero=False), None)
    bar.on_test_batch_end(trainer, None, None, None, 0)
    assert capsys.readouterr().err == ""
