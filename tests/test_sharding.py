"""Processes that share out a model train it as one process would, and their checkpoints are those of one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY
from torch import Tensor

from patchwork.checkpoints import LAST, previous, read

# in double precision, so that rounding hardly shows, and clipping every gradient
EXACT = ["optimizer=adamw", "trainer.precision=64-true", "trainer.gradient_clip_val=0.1", "trainer.log_every_n_steps=1"]
SETTINGS = [*(word for word in TINY if not word.startswith("trainer.max_epochs")), *EXACT, "trainer.max_epochs=2"]
FSDP = ["trainer.devices=2", "trainer.strategy=fsdp"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def run(*words: object) -> str:
    """Run a command of Python's and return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *(str(word) for word in words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def halfway(folder: Path, copy: Path) -> Path:
    """Return a copy of a finished run of two epochs as it was after the first."""
    shutil.copytree(folder, copy)
    last = copy / "checkpoints" / LAST
    previous(last).replace(last)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    return copy


def alike(one: Any, other: Any, place: str = "") -> None:
    """Assert that two states have the same keys and types, layouts of tensors, and values but for rounding."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one.keys() - {"Clock"}:
            alike(one[key], other[key], f"{place} {key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for index, pair in enumerate(zip(one, other, strict=True)):
            alike(*pair, f"{place} {index}")
    elif isinstance(one, Tensor):
        assert one.stride() == other.stride(), place
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=place)
    else:
        assert one == (pytest.approx(other, rel=1e-6) if isinstance(one, float) else other), place


def same(one: Path, other: Path) -> None:
    """Assert that two runs have kept the same, but for rounding."""
    names = sorted(os.listdir(one / "checkpoints"))
    assert names == sorted(os.listdir(other / "checkpoints"))
    for name in names:
        alike(*(read(folder / "checkpoints" / name) for folder in (one, other)), name)
    first, second = (json.loads((folder / "manifest.json").read_text()) for folder in (one, other))
    assert second["status"] == "finished"
    alike(first["metrics"], second["metrics"])


def test_one_begins_and_two_that_share_it_go_on(
    command: Callable[..., int], capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    one = tmp_path / "one"
    assert command("train", *SETTINGS, f"folder={one}") == 0
    two = halfway(one, tmp_path / "runs" / "two")
    assert run(*TORCHRUN, ROOT / "train.py", f"resume={two}", *FSDP).count("held-out result") == 1
    same(one, two)
    assert os.listdir(two.parent) == ["two"]
    capfd.readouterr()
    assert command("evaluate", f"run={two}") == 0
    said = capfd.readouterr().out.splitlines()
    assert said
    assert all("as before" in line for line in said)


@pytest.mark.slow
def test_two_that_share_it_begin_and_one_goes_on(command: Callable[..., int], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert command("train", *SETTINGS, f"folder={one}") == 0
    assert run(ROOT / "train.py", *SETTINGS, "accelerator=fsdp", f"folder={two}").count("held-out result") == 1
    same(one, two)
    again = halfway(two, tmp_path / "again")
    assert command("train", f"resume={again}", "trainer.devices=1", "trainer.strategy=auto") == 0
    same(one, again)


@pytest.mark.slow
def test_a_stem_is_shared_out_as_it_is_copied(tmp_path: Path) -> None:
    """Statistics of batches are each process's own, but in validation, and filters have another layout in memory."""
    stem = "model.stem=[{channels: 8, kernel: 5, stride: 2}, {channels: 8, kernel: 3}]"
    ddp = tmp_path / "ddp"
    words = [*SETTINGS, stem, "model.dropout=0.1", "trainer.accumulate_grad_batches=2", "data.train_size=64"]
    run(*TORCHRUN, ROOT / "train.py", *words, "accelerator=ddp", f"folder={ddp}")
    fsdp = halfway(ddp, tmp_path / "fsdp")
    run(*TORCHRUN, ROOT / "train.py", f"resume={fsdp}", *FSDP)
    same(ddp, fsdp)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "icons", "pixels", "seq2seq", "sum"])
def test_every_task_is_shared_out_and_shown(tmp_path: Path, task: str) -> None:
    few = [f"trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]
    size = ["digits=uci", "data.batch_size=4", "data.eval_batch_size=4", "model.embed_dim=32", "trainer.max_epochs=2"]
    shown = ["callbacks.ema=null", "callbacks.progress=null", "+callbacks.samples.always=true"]
    words = [f"task={task}", *few, *size, *shown, "optimizer=adam", "accelerator=fsdp", f"folder={tmp_path / 'run'}"]
    assert run(*TORCHRUN, ROOT / "train.py", *words).count("epoch 2 · val/") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("optimizer=muon", "optimizer._target_=patchwork.optim.Muon cannot take a step with parts of weights"),
        ("optimizer=sgd", "use optimizer=adamw or adam, or trainer.strategy=ddp"),
        ("optimizer=adamw callbacks=default", "callbacks.ema cannot average parts of weights"),
        ("optimizer=adamw task=anchor", "cannot share out match.log_scale of AnchorDetector, a single number"),
    ],
)
def test_what_needs_the_whole_is_refused(
    command: Callable[..., int], capfd: pytest.CaptureFixture, tmp_path: Path, settings: str, said: str
) -> None:
    assert command("train", "digits=uci", "callbacks=none", "accelerator=fsdp", *settings.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert "trainer.strategy=fsdp" in line
    assert list(tmp_path.iterdir()) == []
