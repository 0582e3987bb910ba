"""A run that is killed, stopped or resumed ends as one that never was: same weights, same metrics, same checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from patchwork.checkpoints import read

ROOT = Path(__file__).parent.parent
TINY = [
    "digits=uci",
    "callbacks.samples=null",
    "optimizer=muon",
    "model.stem=[{channels: 8, kernel: 5, stride: 4}]",
    "model.embed_dim=16",
    "model.dropout=0.1",
    "data.batch_size=16",
    "data.train_size=480",
    "data.val_size=64",
    "data.test_size=64",
    "data.eval_batch_size=64",
    "trainer.max_epochs=5",
    "trainer.log_every_n_steps=3",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def train(*arguments: str, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def forks(seed: int, kills: int, *arguments: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "forks.py", str(seed), str(kills), *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def same(one: Path, other: Path) -> None:
    """Assert that two runs ended the same to the bit."""
    first, second = (json.loads((folder / "manifest.json").read_text()) for folder in (one, other))
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["metrics"] == second["metrics"]
    assert (first["epochs"], first["steps"]) == (second["epochs"], second["steps"])
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (read(folder / "checkpoints" / name) for folder in (one, other))
        for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step"):
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=0.5", "data.fresh=false"],
        ["data.num_workers=1", "optimizer=adamw", "trainer.check_val_every_n_epoch=2", "trainer.precision=64-true"],
    ],
    ids=["plain", "accumulated", "workers"],
)
def test_killed_and_resumed_is_bit_identical(tmp_path: Path, more: list[str]) -> None:
    settings = [*TINY, *more, "resume=auto", "save_seconds=0.05"]
    forks(0, 0, *settings, f"folder={tmp_path / 'whole'}")
    kills = 4 if more else 10
    ends = forks(1, kills, *settings, f"folder={tmp_path / 'killed'}")
    assert ends.count(-signal.SIGKILL) == kills
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("task", ["classify", "sum", "anchor", "icons", "pixels"])
def test_every_task_resumes_exactly(tmp_path: Path, task: str) -> None:
    few = ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "data.eval_batch_size=64"]
    size = ["data.batch_size=16", "data.train_size=320", "model.embed_dim=32", "trainer.max_epochs=3"]
    rest = ["digits=uci", "callbacks.samples=null", "trainer.log_every_n_steps=3", "resume=auto", "save_seconds=0.05"]
    settings = [f"task={task}", *few, *size, *rest]
    forks(0, 0, *settings, f"folder={tmp_path / 'whole'}")
    assert -signal.SIGKILL in forks(2, 3, *settings, f"folder={tmp_path / 'killed'}")
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_resume_exactly(tmp_path: Path, number: signal.Signals, code: int) -> None:
    settings = [*TINY, "data.train_size=1920"]
    folder = tmp_path / "stopped"
    process = train(*settings, f"folder={folder}")
    while not (folder / "metrics.csv").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code, said
    assert len(said.strip().splitlines()) == 1
    assert number.name in said
    assert f"resume={folder}" in said
    resumed = train(f"resume={folder}")
    _, said = resumed.communicate()
    assert resumed.returncode == 0, said
    forks(0, 0, *settings, f"folder={tmp_path / 'whole'}")
    same(tmp_path / "whole", folder)
