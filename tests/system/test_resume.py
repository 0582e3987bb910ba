"""A run that is killed or stopped and then resumed ends as an uninterrupted one: same weights, metrics, checkpoints."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from patchwork.training.checkpoint_io import read_checkpoint

Train = Callable[..., dict[str, Any]]
COMMON = ["dataset=uci", "report=none", "callbacks.show_samples=null", "trainer.log_every_n_steps=3"]
SEQ2SEQ = [
    *COMMON,
    "optimizer=muon",
    "model.stem.layers=[{channels: 8, kernel: 5, stride: 4}]",
    "model.embed_dim=16",
    "model.dropout=0.1",
    "data.batch_size=16",
    "data.samples_per_epoch=480",
    "data.val_size=64",
    "data.test_size=64",
    "data.eval_batch_size=64",
    "trainer.max_epochs=5",
]


@pytest.fixture(scope="module")
def train() -> Iterator[Train]:
    """Return a function that trains in a new process, sends it a signal if there is one, and returns how it ended."""
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("kill_and_resume.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:

        def request(
            *args: str, signum: int | None = None, after: float = 0.0, written: Path | None = None
        ) -> dict[str, Any]:
            content = {"args": args, "signal": signum, "after": after, "written": written}
            server.stdin.write(json.dumps(content, default=str) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield request
        server.stdin.close()


def finish(train: Train, *args: str) -> None:
    """Train to the end."""
    end = train(*args)
    assert end["exit_code"] == 0, end["stderr"]


def kill_and_resume(train: Train, run_dir: Path, seed: int, kills: int, *args: str) -> list[int]:
    """Train, kill the process at random moments as often as that, and train to the end; return all exit codes."""
    rng = random.Random(seed)
    args = (*args, "resume=auto", f"run_dir={run_dir}")
    exit_codes = [
        train(*args, signum=signal.SIGKILL, after=rng.uniform(0.0, 0.2), written=run_dir / "manifest.json")["exit_code"]
        for _ in range(kills)
    ]
    finish(train, *args)
    return exit_codes


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two runs ended the same to the bit."""
    first, second = (json.loads((run_dir / "manifest.json").read_text()) for run_dir in (one, other))
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["metrics"] == second["metrics"]
    assert (first["epochs"], first["steps"]) == (second["epochs"], second["steps"])
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for name in ("best.ckpt", "last.ckpt"):
        states = [read_checkpoint(run_dir / "checkpoints" / name) for run_dir in (one, other)]
        for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step"):
            torch.testing.assert_close(states[0][key], states[1][key], rtol=0, atol=0)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        pytest.param(
            [
                "trainer.accumulate_grad_batches=4",  # the last step of an epoch has two batches
                "trainer.max_steps=37",
                "trainer.val_check_interval=0.5",
                "data.resample_each_epoch=false",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["data.num_workers=1", "optimizer=adamw", "trainer.check_val_every_n_epoch=2", "trainer.precision=64-true"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "accumulated", "workers"],
)
def test_killed_and_resumed_run_is_bit_identical(train: Train, tmp_path: Path, overrides: list[str]) -> None:
    args = [*SEQ2SEQ, *overrides, "checkpoint_every_seconds=0.05"]
    finish(train, *args, f"run_dir={tmp_path / 'uninterrupted'}")
    kills = 3 if overrides else 5
    exit_codes = kill_and_resume(train, tmp_path / "killed", 1, kills, *args)
    assert exit_codes == [-signal.SIGKILL] * kills
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "killed")


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=pytest.mark.slow) for task in ("pixels", "classify", "sum", "anchor", "icons")],
)
def test_every_task_resumes_exactly(train: Train, tmp_path: Path, task: str) -> None:
    args = [
        f"task={task}",
        *COMMON,
        "model.embed_dim=32",
        "data.batch_size=16",
        "data.samples_per_epoch=160",
        "data.eval_batch_size=64",
        "trainer.max_epochs=3",
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
        "checkpoint_every_seconds=0.05",
    ]
    finish(train, *args, f"run_dir={tmp_path / 'uninterrupted'}")
    assert -signal.SIGKILL in kill_and_resume(train, tmp_path / "killed", 2, 3, *args)
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "killed")


SIGNALLED = [*SEQ2SEQ, "data.samples_per_epoch=640"]


@pytest.fixture(scope="module")
def uninterrupted(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(train, *SIGNALLED, f"run_dir={run_dir}")
    return run_dir


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signal_saves_a_checkpoint_that_resumes_exactly(
    train: Train, uninterrupted: Path, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    run_dir = tmp_path / "stopped"
    end = train(*SIGNALLED, f"run_dir={run_dir}", signum=signum, written=run_dir / "metrics.csv")
    assert end["exit_code"] == code, end["stderr"]
    (line,) = end["stderr"].splitlines()
    assert signum.name in line
    assert f"resume={run_dir}" in line
    finish(train, f"resume={run_dir}")
    assert_same_run(uninterrupted, run_dir)
