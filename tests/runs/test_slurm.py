"""Training under SLURM's variables: no checkpoint of Lightning's own, and no wait without a line."""

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import TINY, read_manifest

from patchwork.core import signals
from patchwork.runs import rendezvous
from patchwork.training.checkpointing import Checkpointer

BATCH_SCRIPT = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


@pytest.fixture
def batch_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be a batch script that asks for two tasks but does not start them with srun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {**BATCH_SCRIPT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("batch_script")
def test_run_of_one_process_trains_alone_and_leaves_foreign_checkpoints_alone(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], finished_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for directory in (tmp_path, tmp_path / "run"):
        shutil.copy(finished_run / "checkpoints" / "last.ckpt", directory / "hpc_ckpt_1.ckpt")
    assert command("train", *TINY, "seed=4", "run_dir=run") == 0
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    assert "SLURM_NTASKS=2" in warning
    manifest = read_manifest(tmp_path)
    assert (manifest["seed"], manifest["epochs"], manifest["steps"]) == (4, 1, 2)
    assert manifest["weights_sha256"] != read_manifest(finished_run)["weights_sha256"]
    assert os.environ["SLURM_NTASKS"] == "2"
    assert command("evaluate", "run=run") == 0
    assert capfd.readouterr().out.count("as before") >= 2
    assert sorted(path.name for path in tmp_path.glob("**/hpc_ckpt*")) == ["hpc_ckpt_1.ckpt"] * 2


@pytest.mark.usefixtures("batch_script")
def test_missing_task_is_named_and_not_waited_for_forever(
    command: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(rendezvous, "NOTICE_SECONDS", 0.0)
    monkeypatch.setattr(rendezvous, "MEETING_SECONDS", 0.2)
    assert command("train", *TINY, "accelerator=ddp", "run_dir=run") == 5
    notice, error = capfd.readouterr().err.splitlines()
    assert notice == "waiting for 1 other process of SLURM's 2; start with srun, or unset SLURM_NTASKS"
    assert "waited 0 s for 1 other process of SLURM's 2" in error
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("SLURM_PROCID", "1")  # and rank 0 is not there
    assert command("train", *TINY, "accelerator=ddp", "run_dir=run") == 5
    assert "waiting for process 0 at 127.0.0.1:" in capfd.readouterr().err


@pytest.mark.usefixtures("batch_script")
def test_signal_ends_the_wait(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "NOTICE_SECONDS", 0.0)
    sleep = rendezvous.time.sleep
    monkeypatch.setattr(rendezvous.time, "sleep", lambda seconds: (sleep(seconds), signal.raise_signal(signal.SIGINT)))
    assert command("train", *TINY, "accelerator=ddp") == 128 + signal.SIGINT
    assert "stopped by SIGINT" in capfd.readouterr().err


def test_processes_of_mpirun_are_refused(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert command("train", *TINY) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "OMPI_COMM_WORLD_SIZE=2" in line


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGHUP])
def test_signal_saves_names_the_run_and_requeues_the_job(
    command: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    signum: signal.Signals,
) -> None:
    for name, value in {**BATCH_SCRIPT, "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "calls"}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    save = Checkpointer.on_train_batch_end

    def receive(self: Checkpointer, *args: object) -> None:
        signal.raise_signal(signum)
        save(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpointer, "on_train_batch_end", receive)
    assert command("train", *TINY, "run_dir=run 1") == 128 + signum
    lines = capfd.readouterr().err.splitlines()
    assert f"stopped by {signum.name}; its state is saved: 'resume=\"run 1\"' continues it" in lines[0]
    assert read_manifest(tmp_path)["status"].startswith(f"Interrupted: stopped by {signum.name}")
    requeued = signum in signals.REQUEUE_SIGNALS
    assert (tmp_path / "calls").exists() == requeued
    assert [line.endswith("job 7 is requeued") for line in lines] == [False, True][: 1 + requeued]
    assert (tmp_path / "run 1" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("stage", ["patchwork.runs.train.fit", "patchwork.runs.train.test"])
def test_run_is_named_wherever_it_is_stopped(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("patchwork.runs.train.fit", lambda context, run_dir: {})
    monkeypatch.setattr(stage, lambda context, run_dir: signal.raise_signal(signal.SIGTERM))
    assert command("train", *TINY, "run_dir=run") == 128 + signal.SIGTERM
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "stopped" in line]
    assert line == "train.py: stopped by SIGTERM; resume=run continues it"
