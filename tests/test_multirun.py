"""Jobs of one command: none ends another, a table tells what became of each, and what is missing can be run later."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
from conftest import CONF, ROOT, TINY
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from patchwork import multirun
from patchwork.children import settle

Command = Callable[..., int]
LONG = [word for word in TINY if not word.startswith("data.train_size")] + ["data.train_size=4800", "save_seconds=0.1"]
RUNS = "outputs/seq2seq/encoder_decoder"


def jobs(place: Path) -> list[dict]:
    """Return what is noted of the jobs of the latest multirun."""
    folder = max(place.glob("outputs/multirun/*"))
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def manifests(place: Path) -> list[dict]:
    found = [json.loads(path.read_text()) for path in place.glob(f"{RUNS}/*/manifest.json")]
    return sorted(found, key=lambda manifest: manifest["seed"])


def start(*arguments: str, place: Path) -> subprocess.Popen:
    """Start a multirun as a terminal does, in a group of processes that gets its signals together."""
    command = [sys.executable, ROOT / "train.py", "-m", *arguments]
    return subprocess.Popen(command, cwd=place, start_new_session=True, stdout=subprocess.PIPE, text=True)


def wait_until(happened: Callable[[], object], process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def trains(number: int, place: Path) -> bool:
    """Return whether a job has saved something to go on with."""
    found = sorted(place.glob(f"outputs/multirun/*/{number}.json"))
    folder = json.loads(found[-1].read_text()).get("folder") if found else None
    return folder is not None and (place / folder / "checkpoints" / "last.ckpt").exists()


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")


def test_jobs_run_in_order_and_a_failing_one_ends_no_other(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    sweep = ["-m", *TINY, "seed=0,-1,1"]
    assert command("train", *sweep) == 2
    said = capfd.readouterr()
    assert said.err.splitlines() == [line for line in said.err.splitlines() if "seed=-1 is not allowed" in line]
    assert [job["status"] for job in jobs(tmp_path)] == ["finished", "failed (2)", "finished"]
    runs = manifests(tmp_path)
    assert [run["seed"] for run in runs] == [0, 1]
    first, failed, second = (line.split() for line in said.out.splitlines() if line[1:5] == " " * 4)
    for line, run in ((first, runs[0]), (second, runs[1])):
        assert f"{run['metrics']['val/sequence_accuracy']:.4f}" in line
        assert f"{run['metrics']['test/loss']:.4f}" in line
        assert any(word.startswith(RUNS) for word in line)
    assert failed[:4] == ["1", "-1", "failed", "(2)"]
    (means,) = (line for line in said.out.splitlines() if line.startswith("0,1 "))
    losses = [run["metrics"]["test/loss"] for run in runs]
    assert f"{sum(losses) / 2:.4f} ± {abs(losses[0] - losses[1]) / 2**0.5:.4f}" in means
    assert "2 of 3 jobs finished" in said.out

    assert command("train", "-m", *TINY, "seed=1", "resume=auto") == 0
    again = capfd.readouterr().out
    assert "nothing to go on with" in again
    (line,) = (line.split() for line in again.splitlines() if line[:5] == "0    ")
    assert line == ["0", *second[2:]]
    assert manifests(tmp_path) == runs


def test_a_multiruns_folder_serves_again(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / multirun.STOP).write_text("2")
    multirun.put(folder / "7.json", {"job": 7, "settings": [], "status": "not run"})
    assert command("train", "-m", *TINY, "seed=0", f"hydra.sweep.dir={folder}") == 0
    assert "1 of 1 jobs finished" in capfd.readouterr().out
    (tmp_path / "file").write_text("")
    assert command("train", "-m", *TINY, "seed=0", f"hydra.sweep.dir={tmp_path}/file/below") == 5
    (said,) = capfd.readouterr().err.splitlines()
    assert "cannot be written: Not a directory" in said


@needs_proc
def test_killed_and_stopped_jobs_go_on(tmp_path: Path) -> None:
    process = start(*LONG, "seed=0,1,2", "resume=auto", place=tmp_path)
    wait_until(lambda: trains(0, tmp_path), process)
    (job,) = children(process.pid)
    os.kill(job, signal.SIGKILL)
    wait_until(lambda: trains(1, tmp_path), process)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130, said
    assert [job["status"] for job in jobs(tmp_path)] == ["ended by SIGKILL", "ended by SIGINT", "not run"]
    assert "0 of 3 jobs finished" in said
    process = start(*LONG, "seed=0,1", "resume=auto", place=tmp_path)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert ["resumed" in run for run in manifests(tmp_path)] == [True, True]
    assert "2 of 2 jobs finished" in said


@needs_proc
def test_a_job_ends_with_the_process_that_leads_it(tmp_path: Path) -> None:
    process = start(*LONG, "trainer.max_epochs=100", "seed=0,1", place=tmp_path)
    wait_until(lambda: trains(0, tmp_path), process)
    (job,) = children(process.pid)
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while Path(f"/proc/{job}/cmdline").exists() and Path(f"/proc/{job}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.02)
    (run,) = manifests(tmp_path)
    assert run["status"].startswith("Interrupted: ended by SIGTERM; its state is saved")


def test_jobs_side_by_side_share_the_cores(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert command("train", "-m", *TINY, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,-1,1") == 2
    said = capfd.readouterr()
    assert [job["status"] for job in jobs(tmp_path)] == ["finished", "failed (2)", "finished"]
    assert [run["hardware"]["threads"] for run in manifests(tmp_path)] == [max(joblib.cpu_count() // 2, 1)] * 2
    assert "2 of 3 jobs finished" in said.out
    assert "job 1: seed=-1 is not allowed" in said.out
    (log,) = tmp_path.glob("outputs/multirun/*/0.log")
    assert "held-out result" in log.read_text()


def test_a_cluster_is_asked_for_jobs(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    assert command("train", "-m", *TINY, "hydra/launcher=submitit_local", "seed=0,-1") == 2
    assert [job["status"] for job in jobs(tmp_path)] == ["finished", "failed (2)"]
    assert "1 of 2 jobs finished" in capfd.readouterr().out


def test_slurm_can_be_asked() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    GlobalHydra.instance().clear()
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.cpus_per_task=4"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", words, return_hydra_config=True)
    launcher = instantiate(config.hydra.launcher, submitit_folder="jobs", name="train")
    assert launcher._EXECUTOR == "slurm"
    assert (launcher.params["partition"], launcher.params["cpus_per_task"]) == ("gpu", 4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_that_a_job_cannot_lead_are_refused(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setenv(multirun.JOB, str(tmp_path / "0.json"))
    assert command("train", *TINY, "optimizer=adamw", f"accelerator={strategy}") == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert f"trainer.strategy={strategy} cannot be swept with -m" in said
    assert "one command for each run" in said
    assert json.loads((tmp_path / "0.json").read_text()) == {"error": said.removeprefix("train.py: ")}


@pytest.mark.parametrize(
    ("stopped", "parent", "ended"),
    [(signal.SIGINT, None, signal.SIGINT), (None, 0, signal.SIGTERM), (None, os.getppid(), None), (None, None, None)],
)
def test_a_job_is_told_that_all_stop(
    tmp_path: Path, stopped: int | None, parent: int | None, ended: int | None
) -> None:
    """And that the process is gone which started the one that waits for it: 0 is never that."""
    if stopped:
        (tmp_path / "stop").write_text(str(int(stopped)))
    with subprocess.Popen(["sleep", "0.5" if ended is None else "60"], preexec_fn=settle) as job:
        assert multirun.wait(job, tmp_path / "stop", parent) == (0 if ended is None else -ended)


@pytest.mark.parametrize(
    ("code", "noted", "status", "exit_code"),
    [
        (0, {"done": True}, "finished", 0),
        (0, {}, "ended early", 1),
        (3, {}, "failed (3)", 3),
        (-9, {}, "ended by SIGKILL", 137),
        (130, {}, "ended by SIGINT", 130),
    ],
)
def test_verdict(code: int, noted: dict, status: str, exit_code: int) -> None:
    assert multirun.verdict(code, noted) == {"status": status, "exit_code": exit_code}


def test_jobs_are_told_by_what_differs() -> None:
    common = {"status": "finished", "seconds": 1.0}
    lines = multirun.summary(
        [
            {"job": 0, "settings": ["task=sum", "model=a", "seed=0"], **common},
            {"job": 1, "settings": ["task=sum", "model=b", "seed=0"], **common, "error": "why"},
        ]
    ).splitlines()
    assert [line.split() for line in lines] == [
        ["job", "model", "status", "seconds", "folder"],
        ["0", "a", "finished", "1.0"],
        ["1", "b", "finished", "1.0"],
        ["job", "1:", "why"],
    ]
