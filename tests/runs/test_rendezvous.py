"""Processes that are started together share one run directory, end together, and train as one process would."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers import ROOT, TINY, read_manifest, run_command
from torch.distributed import HashStore

from patchwork.core.errors import DataError, PatchworkError, ResourceError
from patchwork.core.rank import RUN_DIR
from patchwork.runs import rendezvous
from patchwork.runs.rendezvous import Rendezvous

OVERRIDES = [
    *TINY,
    "data.samples_per_epoch=480",
    "model.dropout=0",  # each process drops units of its own
    "trainer.max_epochs=2",
    "checkpoint_every_seconds=0.05",
    "optimizer=sgd",
    "optimizer.lr=0.001",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TRAIN = [sys.executable, ROOT / "train.py"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "train.py"]
TWO_NODES = [*TINY, "accelerator=ddp", "trainer.devices=1", "trainer.num_nodes=2"]


def run(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, args)), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def stop_while_training(*args: object, run_dir: Path) -> None:
    """Start a training, and stop it once it has saved a checkpoint."""
    process = subprocess.Popen(list(map(str, args)), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not (run_dir / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert stderr.count("its state is saved") == 1
    assert read_manifest(run_dir)["status"].startswith("Interrupted")


def srun(*args: str) -> list[tuple[int, str, str]]:
    """Start a process on each of two machines, as srun does, except that both are this one; return how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "2"}
    common |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0"}
    processes = [
        subprocess.Popen(
            [*TRAIN, *args],
            env={**common, "SLURM_PROCID": rank, "SLURM_NODEID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that one process has trained from start to end."""
    directory = tmp_path_factory.mktemp("single")
    assert run_command("train", *OVERRIDES, "run_dir=run", cwd=directory) == 0
    return directory / "run"


def assert_similar(single: Path, run_dir: Path) -> None:
    """Assert that a run has the metrics of another up to rounding, and has written the same files."""
    expected, actual = read_manifest(single), read_manifest(run_dir)
    assert actual["status"] == "finished"
    assert (expected["steps"], expected["epochs"]) == (actual["steps"], actual["epochs"]) == (60, 2)
    # the ranks' gradients, averaged, are those of the whole batch
    for name in ("test/loss", "val/loss"):
        assert actual["metrics"][name] == pytest.approx(expected["metrics"][name], abs=1e-4)
    assert set(os.listdir(run_dir / "checkpoints")) == set(os.listdir(single / "checkpoints"))
    assert os.listdir(run_dir.parent) == ["run"]


# --- processes of their own ------------------------------------------------------------------------------------------


def test_ddp_started_by_lightning_trains_one_run(single: Path, tmp_path: Path) -> None:
    result = run(*TRAIN, *OVERRIDES, "accelerator=ddp", f"run_dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test metrics on") == 1
    assert_similar(single, tmp_path / "run")


@pytest.mark.slow
def test_ddp_started_by_torchrun_can_be_resumed_by_one_process(single: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    stop_while_training(*TORCHRUN, *OVERRIDES, "accelerator=ddp", f"run_dir={run_dir}", run_dir=run_dir)
    assert read_manifest(run_dir)["hardware"]["devices"] == 2
    args = [f"resume={run_dir}", "trainer.devices=1", "trainer.strategy=auto"]
    assert run_command("train", *args, cwd=tmp_path) == 0
    assert_similar(single, run_dir)


@pytest.mark.slow
def test_run_of_one_process_can_be_resumed_by_torchrun(single: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    stop_while_training(*TRAIN, *OVERRIDES, f"run_dir={run_dir}", run_dir=run_dir)
    result = run(*TORCHRUN, f"resume={run_dir}", "trainer.devices=2", "trainer.strategy=ddp")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test metrics on") == 1
    assert_similar(single, run_dir)
    result = run(*TORCHRUN, f"resume={run_dir}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("nothing to resume") == 1


@pytest.mark.slow
def test_srun_trains_one_run_on_two_machines(tmp_path: Path) -> None:
    ends = srun(*TWO_NODES, f"run_dir={tmp_path / 'run'}")
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert [stdout.count("test metrics on") for _, stdout, _ in ends] == [1, 0]
    assert read_manifest(tmp_path)["status"] == "finished"
    assert read_manifest(tmp_path)["hardware"]["devices"] == 2


@pytest.mark.slow
def test_error_is_printed_once_and_ends_all_processes(tmp_path: Path) -> None:
    ends = srun(*TWO_NODES, f"run_dir={tmp_path / 'run'}", "dataset=mnist", "dataset.root=nowhere")
    assert [code for code, _, _ in ends] == [3, 3]
    assert ends[0][2].count("dataset.root='nowhere'") == 1
    assert ends[1][2] == ""
    assert list(tmp_path.iterdir()) == []


# --- the rendezvous --------------------------------------------------------------------------------------------------


class ObservedStore(HashStore):
    """A store that counts the threads that wait for a key."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: set[int] = set()

    def check(self, keys: list[str]) -> bool:
        present = super().check(keys)
        if not present:
            self.waiting.add(threading.get_ident())
        return present

    def wait_for_threads(self, count: int) -> None:
        """Wait until that many threads have looked for a key that is not there."""
        deadline = time.monotonic() + 60
        while len(self.waiting) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture(autouse=True)
def no_run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the tests begin without a run directory in the environment, and restore it; nobody waits at the end."""
    monkeypatch.setattr(rendezvous, "LEAVE_SECONDS", 0)
    with patch.dict(os.environ):
        os.environ.pop(RUN_DIR, None)
        yield


def test_error_of_another_rank_is_raised_at_the_barrier() -> None:
    store = HashStore()
    lead, other = Rendezvous(store, 0, 2), Rendezvous(store, 1, 2)
    with pytest.raises(DataError, match="no digits here"), other.propagate_errors():
        raise DataError("no digits here")
    lead.broadcast_run_dir(Path("run"))
    with pytest.raises(DataError, match="process 1: no digits here"), lead.propagate_errors():
        lead.barrier()
    with pytest.raises(DataError, match="process 0: process 1: no digits here"):
        Rendezvous(store, 2, 3).barrier()


def test_error_of_rank_zero_ends_those_that_wait() -> None:
    store = ObservedStore()
    lead, other = Rendezvous(store, 0, 2), Rendezvous(store, 1, 2)
    caught: list[PatchworkError] = []

    def wait() -> None:
        try:
            other.receive_run_dir()
        except PatchworkError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    store.wait_for_threads(1)
    with pytest.raises(ZeroDivisionError), lead.propagate_errors():
        raise ZeroDivisionError("a bug")
    thread.join(timeout=60)
    assert [(error.exit_code, str(error)) for error in caught] == [(1, "process 0: ZeroDivisionError: a bug")]
    assert RUN_DIR not in os.environ


def test_ranks_wait_at_the_barrier_until_all_are_ready() -> None:
    store = ObservedStore()
    lead, *others = (Rendezvous(store, rank, 3) for rank in range(3))
    events: list[str] = []

    def follow(rendezvous: Rendezvous) -> None:
        rendezvous.receive_run_dir()
        events.append("received")
        rendezvous.barrier()
        events.append("ready")

    threads = [threading.Thread(target=follow, args=[other]) for other in others]
    for thread in threads:
        thread.start()
    store.wait_for_threads(2)
    assert events == []
    lead.broadcast_run_dir(Path("run"))
    lead.barrier()
    for thread in threads:
        thread.join(timeout=60)
    assert events == ["received"] * 2 + ["ready"] * 2
    assert os.environ[RUN_DIR] == "run"


def test_errors_after_the_barrier_are_not_published() -> None:
    store = HashStore()
    lead = Rendezvous(store, 0, 1)
    lead.barrier()
    with pytest.raises(DataError), lead.propagate_errors():
        raise DataError("while training")
    assert json.loads(store.get("ready 0")) == {}


def test_wait_for_a_rank_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "TIMEOUT", timedelta(0))
    with pytest.raises(ResourceError, match=r"timed out after .* waiting for process 1"):
        Rendezvous(HashStore(), 0, 2).barrier()


# --- processes that were not started ---------------------------------------------------------------------------------


def test_missing_processes_are_an_error(command: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert command("train", *TINY, "accelerator=ddp", "trainer.num_nodes=2") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "trainer.num_nodes=2" in line
    assert "torchrun or srun" in line


def test_processes_of_an_unknown_launcher_are_an_error(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command("train", *TINY) == 2
    assert "neither torchrun nor srun" in capfd.readouterr().err
    assert not list(tmp_path.glob("outputs/seq2seq"))


def test_splits_that_processes_cannot_share_evenly_are_refused_once_their_sizes_are_known(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    overrides = [override for override in TINY if not override.startswith(("data.val_size", "data.eval_batch_size"))]
    options = ["task=classify", "dataset.validation=181", "data.eval_batch_size=180"]
    assert command("train", *overrides, *options, "trainer.devices=2", "trainer.strategy=ddp") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "data.val_size=181 cannot be divided evenly: use a multiple of 2" in line
    assert list(tmp_path.iterdir()) == []
