"""Processes that are started together choose one folder, end together, and train as one process would."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from torch.distributed import HashStore

from patchwork.errors import DataError, PatchworkError
from patchwork.processes import FOLDER, Team

SETTINGS = [word for word in TINY if not word.startswith(("data.train_size", "trainer.max_epochs"))]
SETTINGS += ["data.train_size=3200", "trainer.max_epochs=3", "save_seconds=0.2", "optimizer=sgd", "optimizer.lr=0.001"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TRAIN = [sys.executable, ROOT / "train.py"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "train.py"]


def run(*words: object) -> subprocess.CompletedProcess:
    command = [str(word) for word in words]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def slurm(*arguments: str) -> list[tuple[int, str, str]]:
    """Start a process on each of two machines, as srun does but for their being this one; return how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "2"}
    common |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, ROOT / "train.py", *arguments],
            env={**common, "SLURM_PROCID": number, "SLURM_NODEID": number},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in "01"
    ]
    said = [process.communicate(timeout=300) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run that one process has trained from its beginning to its end."""
    folder = tmp_path_factory.mktemp("one") / "run"
    done = run(*TRAIN, *SETTINGS, f"folder={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def like(one: Path, folder: Path) -> None:
    """Assert that a run has the figures of another but for rounding, and has kept what that has kept."""
    ours, theirs = manifest(one), manifest(folder)
    assert theirs["status"] == "finished"
    assert (ours["steps"], ours["epochs"]) == (theirs["steps"], theirs["epochs"]) == (600, 3)
    # the ranks' gradients, averaged, are those of the whole batch
    for name in ("test/loss", "val/loss"):
        assert theirs["metrics"][name] == pytest.approx(ours["metrics"][name], abs=1e-4)
    assert set(os.listdir(folder / "checkpoints")) == set(os.listdir(one / "checkpoints"))
    assert os.listdir(folder.parent) == ["run"]


def stop(*words: object, folder: Path) -> None:
    """Start a training and end it when it has saved something."""
    process = subprocess.Popen([str(word) for word in words], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("its state is saved") == 1
    assert manifest(folder)["status"].startswith("Interrupted")


def test_lightning_starts_two(one: Path, tmp_path: Path) -> None:
    done = run(*TRAIN, *SETTINGS, "accelerator=ddp", f"folder={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out result") == 1
    like(one, tmp_path / "run")


def test_torchrun_starts_two_and_one_goes_on(one: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stop(*TORCHRUN, *SETTINGS, "accelerator=ddp", f"folder={folder}", folder=folder)
    assert manifest(folder)["hardware"]["devices"] == 2
    done = run(*TRAIN, f"resume={folder}", "trainer.devices=1", "trainer.strategy=auto")
    assert done.returncode == 0, done.stderr
    like(one, folder)


@pytest.mark.slow
def test_one_starts_and_two_go_on(one: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stop(*TRAIN, *SETTINGS, f"folder={folder}", folder=folder)
    done = run(*TORCHRUN, f"resume={folder}", "trainer.devices=2", "trainer.strategy=ddp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out result") == 1
    like(one, folder)
    done = run(*TORCHRUN, f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing to go on with") == 1


@pytest.mark.slow
def test_srun_trains_one_run_on_two_machines(tmp_path: Path) -> None:
    settings = [*TINY, "accelerator=ddp", "trainer.devices=1", "trainer.num_nodes=2", f"folder={tmp_path / 'run'}"]
    ends = slurm(*settings)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert [out.count("held-out result") for _, out, _ in ends] == [1, 0]
    assert manifest(tmp_path / "run")["status"] == "finished"
    assert manifest(tmp_path / "run")["hardware"]["devices"] == 2


def test_what_is_wrong_is_told_once_and_ends_all(tmp_path: Path) -> None:
    settings = [*TINY, "accelerator=ddp", "trainer.devices=1", "trainer.num_nodes=2", f"folder={tmp_path / 'run'}"]
    ends = slurm(*settings, "digits=mnist", "digits.root=nowhere")
    assert [code for code, _, _ in ends] == [3, 3]
    assert ends[0][2].count("digits.root='nowhere'") == 1
    assert ends[1][2] == ""
    assert list(tmp_path.iterdir()) == []


def test_what_one_finds_wrong_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, "")
    store = HashStore()
    lead, other = Team(store, 0, 2), Team(store, 1, 2)
    with pytest.raises(DataError, match="no digits here"), other.starting():
        raise DataError("no digits here")
    lead.share(Path("run"))
    with pytest.raises(DataError, match="process 1: no digits here"), lead.starting():
        lead.agree()
    with pytest.raises(DataError, match="process 0: process 1: no digits here"):
        Team(store, 2, 3).agree()


def test_what_the_first_finds_wrong_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    store = HashStore()
    lead, other = Team(store, 0, 2), Team(store, 1, 2)
    caught: list[Exception] = []

    def follow() -> None:
        try:
            other.follow()
        except PatchworkError as error:
            caught.append(error)

    waiting = threading.Thread(target=follow)
    waiting.start()
    time.sleep(0.05)
    with pytest.raises(ZeroDivisionError), lead.starting():
        raise ZeroDivisionError("a fault of the program")
    waiting.join(timeout=10)
    assert [(error.exit_code, str(error)) for error in caught] == [
        (1, "process 0: ZeroDivisionError: a fault of the program")
    ]
    assert FOLDER not in os.environ


def test_they_train_when_all_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    store = HashStore()
    teams = [Team(store, rank, 3) for rank in range(3)]
    order: list[str] = []

    def start(team: Team) -> None:
        team.follow()
        order.append("begun")
        team.agree()
        order.append("agreed")

    others = [threading.Thread(target=start, args=[team]) for team in teams[1:]]
    for thread in others:
        thread.start()
    time.sleep(0.05)
    assert order == []
    teams[0].share(Path("run"))
    teams[0].agree()
    for thread in others:
        thread.join(timeout=10)
    assert order == ["begun"] * 2 + ["agreed"] * 2
    assert os.environ[FOLDER] == "run"


def test_processes_that_were_not_started_are_missed(command: Callable[..., int], capfd: pytest.CaptureFixture) -> None:
    assert command("train", *TINY, "accelerator=ddp", "trainer.num_nodes=2") == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert "trainer.num_nodes=2" in said
    assert "torchrun or srun" in said
