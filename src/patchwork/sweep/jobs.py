"""Trainings in processes of their own, each with its run's folder and its share of the threads."""

import csv
import math
import os
import signal
import subprocess
import time
from pathlib import Path

from patchwork.children import start
from patchwork.errors import ResourceError
from patchwork.folder import lock
from patchwork.sweep.setting import ROOT

LOOK = 0.2  # seconds between looks at processes


def share_of_threads(jobs: int) -> int:
    """Return how many threads each of `jobs` processes has, of those that this one may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(os.environ.get("OMP_NUM_THREADS") or cores)) // jobs)


class Job:
    """One training: it begins, or goes on where it was, and what it says is kept beside its folder.

    Args:
        words: of the command line.
        folder: of the run.
        threads: that it computes with.
    """

    def __init__(self, words: list[str], folder: Path, threads: int) -> None:
        self.words, self.folder, self.threads = words, folder, threads
        self.log = folder.with_name(f"{folder.name}.log")
        self.process: subprocess.Popen | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None as long as it is under way; it is begun if it was not yet."""
        if self.process is None:
            if under_way(self.folder):  # by a process whose sweep was killed, and which is about to end, too
                return None
            self.begin()
        assert self.process is not None
        return self.process.poll()

    def begin(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = start(
                [ROOT / "train.py", *self.words, f"folder={self.folder}", "resume=auto"],
                {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"},
                log,
            )

    def stop(self) -> None:
        """Ask it to save its state and to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        if self.process is not None:
            self.process.wait()

    def validations(self, metric: str) -> list[float]:
        """Return what was measured on validation so far."""
        path = self.folder / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            values = [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
        return [value for value in values if math.isfinite(value)]

    def fault(self) -> str:
        """Return in one line why it failed."""
        code = self.process.returncode if self.process else 0
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")
        return last.removeprefix("train.py: ")


def under_way(folder: Path) -> bool:
    """Return whether a process is training the run in `folder`."""
    if not folder.exists():
        return False
    try:
        lock(folder).close()
    except ResourceError:
        return True
    return False


def run_all(jobs: list[Job], at_once: int) -> None:
    """Run jobs, so many at once, and wait for all."""
    waiting, working = list(jobs), list[Job]()
    try:
        while waiting or working:
            working += [waiting.pop(0) for _ in range(min(at_once - len(working), len(waiting)))]
            working = [job for job in working if job.poll() is None]
            time.sleep(LOOK)
    except BaseException:
        end_all(working)
        raise


def end_all(jobs: list[Job]) -> None:
    """Ask jobs to end, and wait until they have saved their state."""
    for job in jobs:
        job.stop()
    for job in jobs:
        job.wait()
