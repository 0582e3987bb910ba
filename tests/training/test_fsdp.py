"""FSDP: sharded training gives the same results and checkpoints as training in one process."""

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
from helpers import ROOT, TINY
from torch import Tensor

from patchwork.training.checkpoint_io import LAST, backup_path, read_checkpoint

# double precision, so that rounding hardly shows, and every gradient is clipped
PRECISE = ["optimizer=adamw", "trainer.precision=64-true", "trainer.gradient_clip_val=0.1"]
OVERRIDES = [*TINY, *PRECISE, "model.dropout=0.0", "trainer.log_every_n_steps=1", "trainer.max_epochs=2"]
REPORT = "test metrics on uci"  # printed once, by the first process
FSDP = ["trainer.devices=2", "trainer.strategy=fsdp"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def run_python(*args: object) -> str:
    """Run Python with these arguments and return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *(str(arg) for arg in args)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def copy_after_first_epoch(run_dir: Path, copy: Path) -> Path:
    """Copy a finished run of two epochs, in the state after its first epoch."""
    shutil.copytree(run_dir, copy)
    last = copy / "checkpoints" / LAST
    backup_path(last).replace(last)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    return copy


def assert_close(actual: Any, expected: Any, path: str = "") -> None:
    """Assert that two states have the same keys, types and tensor layouts, and the same values except for rounding."""
    assert type(actual) is type(expected), path
    if isinstance(actual, dict):
        assert list(actual) == list(expected), path
        for key in actual.keys() - {"RunTimer"}:
            assert_close(actual[key], expected[key], f"{path} {key}")
    elif isinstance(actual, list | tuple):
        assert len(actual) == len(expected), path
        for index, pair in enumerate(zip(actual, expected, strict=True)):
            assert_close(*pair, f"{path} {index}")
    elif isinstance(actual, Tensor):
        assert actual.stride() == expected.stride(), path
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6, msg=path)
    else:
        assert actual == (pytest.approx(expected, rel=1e-6) if isinstance(actual, float) else expected), path


def assert_same_run(actual: Path, expected: Path) -> None:
    """Assert that two runs have the same checkpoints and metrics except for rounding."""
    names = sorted(os.listdir(actual / "checkpoints"))
    assert names == sorted(os.listdir(expected / "checkpoints"))
    for name in names:
        assert_close(*(read_checkpoint(run_dir / "checkpoints" / name) for run_dir in (actual, expected)), name)
    manifests = [json.loads((run_dir / "manifest.json").read_text()) for run_dir in (actual, expected)]
    assert [manifest["status"] for manifest in manifests] == ["finished", "finished"]
    assert_close(manifests[0]["metrics"], manifests[1]["metrics"])


@pytest.mark.slow
def test_fsdp_resumes_a_run_of_one_process(
    command: Callable[..., int], capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    one_process = tmp_path / "one_process"
    assert command("train", *OVERRIDES, f"run_dir={one_process}") == 0
    sharded = copy_after_first_epoch(one_process, tmp_path / "runs" / "sharded")
    assert run_python(*TORCHRUN, ROOT / "train.py", f"resume={sharded}", *FSDP).count(REPORT) == 1
    assert_same_run(sharded, one_process)
    assert os.listdir(sharded.parent) == ["sharded"]
    capfd.readouterr()
    assert command("evaluate", f"run={sharded}") == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("test/")]
    assert lines
    assert all("as before" in line for line in lines)


@pytest.mark.slow
def test_one_process_resumes_an_fsdp_run(command: Callable[..., int], tmp_path: Path) -> None:
    one_process, sharded = tmp_path / "one_process", tmp_path / "sharded"
    assert command("train", *OVERRIDES, f"run_dir={one_process}") == 0
    output = run_python(ROOT / "train.py", *OVERRIDES, "accelerator=fsdp", f"run_dir={sharded}")
    assert output.count(REPORT) == 1
    assert_same_run(sharded, one_process)
    resumed = copy_after_first_epoch(sharded, tmp_path / "resumed")
    assert command("train", f"resume={resumed}", "trainer.devices=1", "trainer.strategy=auto") == 0
    assert_same_run(resumed, one_process)


@pytest.mark.slow
def test_fsdp_resumes_a_ddp_run_with_a_convolutional_stem(tmp_path: Path) -> None:
    """Batch normalization statistics differ between processes, except in validation; filters are channels-last."""
    layers = "model.stem.layers=[{channels: 8, kernel: 5, stride: 2}, {channels: 8, kernel: 3}]"
    ddp = tmp_path / "ddp"
    overrides = [override for override in OVERRIDES if not override.startswith("model.stem")]
    overrides += [
        layers,
        "model.stem.precision=32",
        "model.dropout=0.1",
        "trainer.accumulate_grad_batches=2",
        "data.samples_per_epoch=64",
    ]
    run_python(*TORCHRUN, ROOT / "train.py", *overrides, "accelerator=ddp", f"run_dir={ddp}")
    fsdp = copy_after_first_epoch(ddp, tmp_path / "fsdp")
    run_python(*TORCHRUN, ROOT / "train.py", f"resume={fsdp}", *FSDP)
    assert_same_run(fsdp, ddp)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "icons", "pixels", "seq2seq", "sum"])
def test_fsdp_trains_every_task_and_shows_samples(tmp_path: Path, task: str) -> None:
    limits = [f"trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]
    sizes = ["dataset=uci", "data.batch_size=4", "data.eval_batch_size=4", "model.embed_dim=32", "trainer.max_epochs=2"]
    callbacks = ["callbacks.ema=null", "callbacks.progress=null", "+callbacks.show_samples.always=true"]
    overrides = [f"task={task}", *limits, *sizes, *callbacks, "optimizer=adam", "accelerator=fsdp"]
    output = run_python(*TORCHRUN, ROOT / "train.py", *overrides, f"run_dir={tmp_path / 'run'}")
    assert output.count("epoch 2 · val/") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer=muon", "optimizers.MuonWithAdamW cannot update sharded weights"),
        ("optimizer=sgd", "use optimizer=adamw or adam, or trainer.strategy=ddp"),
        ("optimizer=adamw callbacks=default", "callbacks.ema cannot average sharded weights"),
        ("optimizer=adamw task=anchor", "cannot shard similarity.logit_scale of AnchorDetector, which is a scalar"),
    ],
)
def test_fsdp_rejects_what_needs_full_weights(
    command: Callable[..., int], capfd: pytest.CaptureFixture, tmp_path: Path, overrides: str, message: str
) -> None:
    assert command("train", "dataset=uci", "callbacks=none", "accelerator=fsdp", *overrides.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert "trainer.strategy=fsdp" in line
    assert list(tmp_path.iterdir()) == []
