"""Training runs as processes, each with its own run directory and its share of the threads."""

import csv
import math
import os
import signal
import subprocess
import time
from pathlib import Path

from patchwork.core.cpus import available_cpus
from patchwork.core.lock import is_locked
from patchwork.core.overrides import format_override
from patchwork.core.subprocesses import start
from patchwork.runs.hydra_keys import PLAIN_RUN
from patchwork.runs.run_dir import LOCK_FILE

POLL_SECONDS = 0.2


def threads_per_job(n_jobs: int) -> int:
    """Return the number of threads for each of `n_jobs` parallel processes, of those that this process may use."""
    cores = available_cpus()
    return max(1, min(cores, int(os.environ.get("OMP_NUM_THREADS") or cores)) // n_jobs)


class Job:
    """One training run in a process, started at the first `poll`, or resumed if its directory holds a run.

    Its output goes to `<run_dir>.log`.

    Args:
        overrides: of `patchwork train`.
        run_dir: of the run.
        threads: that it computes with.
        group: of the run with W&B, if the environment has none.
    """

    def __init__(self, overrides: list[str], run_dir: Path, threads: int, group: str = "") -> None:
        self.overrides, self.run_dir, self.threads, self.group = overrides, run_dir, threads, group
        self.log = run_dir.with_name(f"{run_dir.name}.log")
        self.process: subprocess.Popen | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; start it if it has not been started."""
        if self.process is None:
            if is_locked(self.run_dir, LOCK_FILE):  # by a process of a sweep that was killed, which will exit, too
                return None
            self.process = self.start()
        return self.process.poll()

    def start(self) -> subprocess.Popen:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        overrides = [*self.overrides, format_override("run_dir", str(self.run_dir)), "resume=auto", *PLAIN_RUN]
        env = {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        if self.group:
            env["WANDB_RUN_GROUP"] = os.environ.get("WANDB_RUN_GROUP") or self.group
        with self.log.open("ab") as log:
            return start("train", overrides, env, log)

    def stop(self) -> None:
        """Send SIGTERM, at which a run saves its state and exits."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        if self.process is not None:
            self.process.wait()

    def read_validations(self, metric: str) -> list[float]:
        """Return the finite values of a validation metric so far, in order."""
        path = self.run_dir / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            values = [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
        return [value for value in values if math.isfinite(value)]

    def error(self) -> str:
        """Return in one line why it failed: its signal, or the last line of its log."""
        exit_code = self.process.returncode if self.process else 0
        if exit_code < 0:
            return f"killed by {signal.Signals(-exit_code).name}"
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return last.removeprefix("patchwork train: ")


def run_all(jobs: list[Job], n_jobs: int) -> None:
    """Run jobs, at most `n_jobs` in parallel, and wait for all of them."""
    waiting = list(jobs)
    running: list[Job] = []
    try:
        while waiting or running:
            free = n_jobs - len(running)
            running += waiting[:free]
            del waiting[:free]
            running = [job for job in running if job.poll() is None]
            time.sleep(POLL_SECONDS)
    except BaseException:
        stop_all(running)
        raise


def stop_all(jobs: list[Job]) -> None:
    """Stop jobs and wait until they have saved their state."""
    for job in jobs:
        job.stop()
    for job in jobs:
        job.wait()
