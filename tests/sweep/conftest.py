"""Sweeps whose trials take milliseconds."""

import csv
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import IO, Any

import optuna
import pytest
import yaml
from omegaconf import DictConfig

from patchwork.commands.sweep import command
from patchwork.core.subprocesses import setup_child
from patchwork.runs.compose import compose
from patchwork.sweep import compose as sweep_compose
from patchwork.sweep import jobs, search
from patchwork.sweep.search import ActiveTrial, Search
from patchwork.sweep.study import JOURNAL

POLL_SECONDS = 0.01
STAND_IN = Path(__file__).with_name("stand_in_train.py")
OVERRIDES = ["task=classify", "dataset=uci", "trainer.max_epochs=4"]


class TinySweep:
    """Sweeps over seeds in the working directory; trials are runs of the stand-in."""

    def __call__(self, *args: str, sweep_dir: str = "sweep", seeds: Any = None, **content: Any) -> int:
        """Sweep and return the exit code.

        Args:
            args: of the command.
            sweep_dir: the directory of the sweep.
            seeds: the search space of `seed`.
            content: other keys of the sweep's file.
        """
        space = {
            "program": "train.py",
            "method": "random",
            "metric": {"name": "val/loss", "goal": "minimize"},
            "parameters": {"seed": seeds or {"min": 0, "max": 9}},
        }
        temporary = Path(f"space-{os.getpid()}.yaml")
        temporary.write_text(yaml.safe_dump({**space, **content}))
        temporary.replace("space.yaml")  # atomically: another process may be reading it
        return command(["space.yaml", *OVERRIDES, f"sweep_dir={sweep_dir}", *args])

    def fork(self, *args: str, **kwargs: Any) -> int:
        """Sweep in another process and return its id."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os._exit(self(*args, **kwargs))
        return pid

    def trials(self, sweep_dir: str = "sweep") -> list[dict[str, str]]:
        """Return the rows of `trials.csv`."""
        with Path(sweep_dir, "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def started(self) -> list[tuple[str, int]]:
        """Return the name of the run and the process id of each start, in order."""
        path = Path("sweep/trials/started")
        lines = path.read_text().splitlines() if path.exists() else []
        return [(name, int(pid)) for name, pid in map(str.split, lines)]

    def num_starts(self) -> Counter[str]:
        """Return how often each run was started, by its name."""
        return Counter(name for name, _ in self.started())

    def study(self) -> optuna.Study:
        backend = optuna.storages.journal.JournalFileBackend(f"sweep/{JOURNAL}")
        return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


def start_stand_in(
    command: str, args: Iterable[object], env: Mapping[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen:
    assert command == "train"
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(STAND_IN), *map(str, args)],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=setup_child,
    )


@pytest.fixture(scope="session")
def cached_compose() -> Callable[[list[str]], DictConfig]:
    """Return `compose`, which remembers what it has composed; it takes most of the time of a tiny sweep."""
    cached = cache(lambda overrides: compose(list(overrides)))
    return lambda overrides: deepcopy(cached(tuple(overrides)))


@pytest.fixture
def sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached_compose: Callable[[list[str]], DictConfig]
) -> TinySweep:
    """Return a sweep in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_compose, "compose", cached_compose)
    monkeypatch.setattr(jobs, "start", start_stand_in)
    for module in (jobs, search):
        monkeypatch.setattr(module, "POLL_SECONDS", POLL_SECONDS)
    return TinySweep()


@pytest.fixture
def lockstep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each run wait after each epoch until the search has seen it and has decided whether to prune the run."""
    poll = Search.poll

    def poll_and_confirm(self: Search, trial: ActiveTrial) -> bool:
        ended = poll(self, trial)
        if trial.job.run_dir.exists():
            (trial.job.run_dir / "seen").write_text(str(trial.num_reported))
        return ended

    monkeypatch.setattr(Search, "poll", poll_and_confirm)
    monkeypatch.setenv("LOCKSTEP", "1")
