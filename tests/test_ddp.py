"""Two processes train one run: the same batches, shared out; one folder, which one process can read."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, TINY

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def train(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "train.py", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def test_two_processes_train_one_run(tmp_path: Path) -> None:
    settings = [*TINY, "optimizer=sgd", "optimizer.lr=0.01", "trainer.log_every_n_steps=1", "trainer.max_epochs=2"]
    one = train(*settings, f"folder={tmp_path / 'one'}")
    two = train(*settings, "accelerator=ddp", f"folder={tmp_path / 'two'}")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("held-out result") == 1
    ours, theirs = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two"))
    assert (ours["steps"], ours["epochs"]) == (theirs["steps"], theirs["epochs"]) == (4, 2)
    # the ranks' gradients, averaged, are those of the whole batch: the same losses but for rounding
    for name in ("test/loss", "val/loss"):
        assert abs(ours["metrics"][name] - theirs["metrics"][name]) < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    resumed = train(f"resume={tmp_path / 'two'}", "trainer.devices=1", "trainer.strategy=auto")
    assert resumed.returncode == 0, resumed.stderr
    assert "finished" in resumed.stdout
