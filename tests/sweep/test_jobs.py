"""Jobs: one process at a time trains a run, threads are shared, and failures are described in one line."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from patchwork.core.errors import Interrupted
from patchwork.sweep import jobs
from patchwork.sweep.jobs import Job, run_all, stop_all, threads_per_job

OVERRIDES = ["seed=1", "trainer.max_epochs=2"]
TIMEOUT = 60.0


@pytest.fixture
def endless(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let runs wait until they are stopped, and return the sweep."""
    monkeypatch.setenv("START_TOGETHER", "99")
    return sweep


def wait_for_starts(sweep: Any, count: int, *waiting: Job) -> None:
    deadline = time.monotonic() + TIMEOUT
    while len(sweep.started()) < count:
        for job in waiting:
            job.poll()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def make_job(name: str = "000") -> Job:
    return Job(OVERRIDES, Path("sweep/trials", name), threads=1)


def test_second_job_waits_for_the_lock_of_its_run(endless: Any) -> None:
    first, second = make_job(), make_job()
    assert first.poll() is None
    wait_for_starts(endless, 1)
    assert second.poll() is None
    assert second.process is None
    stop_all([first])
    assert first.poll() == 143
    wait_for_starts(endless, 2, second)
    stop_all([second])


def test_error_of_a_job_names_the_signal_that_killed_it(endless: Any) -> None:
    job = make_job()
    job.poll()
    wait_for_starts(endless, 1)
    job.process.kill()
    job.wait()
    assert job.error() == "killed by SIGKILL"


def test_error_of_a_job_is_the_last_line_of_its_log(sweep: Any) -> None:
    job = Job(["seed=13", "trainer.max_epochs=2"], Path("sweep/trials/000"), threads=1)
    assert job.error() == "no output"
    job.poll()
    job.wait()
    assert job.poll() == 4
    assert job.error() == "seed=13 is unlucky"


def test_interrupt_stops_all_running_jobs(endless: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_when_all_run(seconds: float) -> None:
        if len(endless.started()) == 2:
            raise Interrupted(signal.SIGTERM)
        time.sleep(0.005)

    running = [make_job("000"), make_job("001"), make_job("002")]
    monkeypatch.setattr(jobs, "time", SimpleNamespace(sleep=interrupt_when_all_run))
    with pytest.raises(Interrupted):
        run_all(running, 2)
    assert [job.process is not None and job.process.returncode for job in running] == [143, 143, False]


def test_validations_are_finite_values_in_order(tmp_path: Path) -> None:
    job = Job([], tmp_path, threads=1)
    assert job.read_validations("val/loss") == []
    (tmp_path / "metrics.csv").write_text("epoch,val/loss\n0,2.5\n1,\n2,nan\n3,inf\n4,1.5\n")
    assert job.read_validations("val/loss") == [2.5, 1.5]
    assert job.read_validations("val/other") == []


def test_threads_are_shared_between_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [threads_per_job(n_jobs) for n_jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [threads_per_job(n_jobs) for n_jobs in (1, 2, 5)] == [4, 2, 1]
