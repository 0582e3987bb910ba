"""The callback that prints predictions after each validation."""

import io
import random
import sys
from contextlib import redirect_stdout
from typing import Any, ClassVar, TextIO

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from patchwork.tasks.base import Sample
from patchwork.training.progress import ProgressBar
from patchwork.training.show_samples import ShowSamples, trim


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class TinyTask(pl.LightningModule):
    """A tiny task whose `samples` misbehave: they use the global random states and switch modes."""

    monitor = "val/accuracy"
    symbols: ClassVar = {"b": "no letter of the image", "c": "never predicted"}

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
        self.sampled_weights: list[Tensor] = []
        self.evaluated_weights: list[Tensor] = []
        self.batch_sizes: list[int] = []

    def samples(self, batch: dict[str, Any], count: int) -> list[Sample]:
        self.batch_sizes.append(len(batch["image"]))
        self.sampled_weights.append(self.model[0].weight.detach().clone())
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
        self.model[0].eval()
        self.model[1].train()
        return [Sample(image.view(1, 2, 2), ["a"], ["b"]) for image in batch["image"]]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.loss = self.model(batch["image"]).square().mean()
        return self.loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluated_weights.append(self.model[0].weight.detach().clone())

    def on_validation_epoch_end(self) -> None:
        self.log(self.monitor, 0.125 * (self.current_epoch + 1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    *callbacks: pl.Callback, stdout: TextIO | None = None, epochs: int = 2, sanity: int = 0, bar: bool = False
) -> TinyTask:
    pl.seed_everything(0, verbose=False)
    task = TinyTask()
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


@pytest.mark.parametrize("bar", [None, TQDMProgressBar, ProgressBar])
@pytest.mark.parametrize("bar_first", [False, True])
def test_show_samples_prints_samples_and_metric_each_epoch(
    terminal: Terminal, bar: type[pl.callbacks.ProgressBar] | None, bar_first: bool
) -> None:
    callbacks = [ShowSamples(count=3), *([bar()] if bar else [])]
    callbacks = callbacks[::-1] if bar_first else callbacks
    task = fit(*callbacks, stdout=terminal, sanity=2, bar=bar is not None)
    text = terminal.getvalue()
    assert task.batch_sizes == [3, 3]  # trimmed batches, none for the sanity check
    assert text.count("┌") == 2 * 3
    lines = [line for line in text.splitlines() if line.startswith("epoch")]
    assert [line.rpartition(" · ")[2] for line in lines] == ["val/accuracy 0.1250", "val/accuracy 0.2500"]
    assert [line.split()[1] for line in lines] == ["1", "2"]  # this epoch's, although it is logged at its very end
    assert all(("train/loss" in line) is (bar is ProgressBar) for line in lines)
    assert text.count("target top left") == 1
    assert text.count("(b no letter of the image)") == 2
    assert "\x1b[1;31mb" in text


@pytest.mark.parametrize("bar", [TQDMProgressBar, ProgressBar])
def test_validate_without_fit_prints_samples(terminal: Terminal, bar: type[pl.callbacks.ProgressBar]) -> None:
    batches = DataLoader([{"image": torch.rand(4)}] * 4, batch_size=2)
    with redirect_stdout(terminal):
        pl.Trainer(accelerator="cpu", callbacks=[bar(), ShowSamples()], logger=False).validate(TinyTask(), batches)
    assert terminal.getvalue().count("┌─┐") == 2


def test_no_color_environment_variable_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    fit(ShowSamples(), stdout=terminal, epochs=1)
    assert "✗b" in terminal.getvalue()
    assert "\x1b[" not in terminal.getvalue()


def test_every_n_epochs_skips_the_others(terminal: Terminal) -> None:
    fit(ShowSamples(every_n_epochs=2), stdout=terminal, epochs=3)
    assert "epoch 2 " in terminal.getvalue()
    assert terminal.getvalue().count("val/accuracy") == 1


def test_output_that_is_no_terminal_stays_quiet_unless_always(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    task = fit(ShowSamples(), epochs=1)
    assert capsys.readouterr().out == ""
    assert task.batch_sizes == []
    fit(ShowSamples(always=True), epochs=1)
    text = capsys.readouterr().out
    assert "✗b" in text
    assert "\x1b" not in text


def test_terminal_without_unicode_stays_quiet(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "latin-1")
    assert fit(ShowSamples(always=True), stdout=terminal, epochs=1).batch_sizes == []
    assert terminal.getvalue() == ""


def test_task_without_samples_prints_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyTask, "samples", lambda *_: [])
    fit(ShowSamples(), stdout=terminal, epochs=1)
    assert terminal.getvalue() == ""


def test_show_samples_leaves_weights_and_rng_states_unchanged(terminal: Terminal) -> None:
    states = []
    for callbacks in ([], [ShowSamples()]):
        task = fit(*callbacks, stdout=terminal)
        states.append((task.state_dict(), torch.get_rng_state(), np.random.get_state()[1], random.getstate()))  # noqa: NPY002
    (plain, *rng), (observed, *observed_rng) = states
    assert all(torch.equal(plain[name], observed[name]) for name in plain)
    assert torch.equal(rng[0], observed_rng[0])
    assert np.array_equal(rng[1], observed_rng[1])
    assert rng[2] == observed_rng[2]
    assert terminal.getvalue()


@pytest.mark.parametrize("mode", [True, False])
def test_train_and_eval_modes_are_restored(terminal: Terminal, mode: bool) -> None:
    task = TinyTask().train(mode)
    task.model[0].train(not mode)
    before = [module.training for module in task.modules()]
    with redirect_stdout(terminal):
        ShowSamples().on_validation_batch_end(pl.Trainer(logger=False), task, None, {"image": torch.rand(2, 4)}, 0)
    assert task.batch_sizes == [2]
    assert [module.training for module in task.modules()] == before


@pytest.mark.parametrize("samples_first", [True, False])
def test_samples_come_from_the_evaluated_ema_weights(terminal: Terminal, samples_first: bool) -> None:
    callbacks = [ShowSamples(), EMAWeightAveraging(decay=0.9)]
    task = fit(*(callbacks if samples_first else reversed(callbacks)), stdout=terminal)
    assert len(task.sampled_weights) == 2
    for sampled, evaluated in zip(task.sampled_weights, task.evaluated_weights[::2], strict=True):
        assert torch.equal(sampled, evaluated)
    assert not torch.equal(task.sampled_weights[0], task.sampled_weights[1])


def test_only_the_first_batch_of_the_first_dataloader_on_rank_zero_is_shown(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, task, batch = pl.Trainer(logger=False), TinyTask(), {"image": torch.rand(2, 4)}
    with redirect_stdout(terminal):
        ShowSamples().on_validation_batch_end(trainer, task, None, batch, 1)
        ShowSamples().on_validation_batch_end(trainer, task, None, batch, 0, 1)
        monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
        ShowSamples().on_validation_batch_end(trainer, task, None, batch, 0)
    assert task.batch_sizes == []


def test_trim_leaves_values_without_a_batch_axis() -> None:
    batch = {"image": torch.rand(5, 2), "name": list("abcde"), "scale": torch.tensor(2.0), "kind": "digits"}
    trimmed = trim(batch, 2)
    assert torch.equal(trimmed["image"], batch["image"][:2])
    assert trimmed["name"] == ["a", "b"]
    assert trimmed["scale"] == 2.0
    assert trimmed["kind"] == "digits"
