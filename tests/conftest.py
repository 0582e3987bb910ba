"""One thread for each process, commands in an empty directory, and a finished run that tests share."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import TINY, run_command

import patchwork.core.fast_import
import patchwork.runs.resolvers  # noqa: F401  # registers them

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from more, and wait for each other where cores are few
torch.set_num_threads(1)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # so that the processes that tests start compile the modules only once


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs `patchwork <name> args …` in an empty directory and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    return partial(run_command, cwd=tmp_path)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run of `TINY` with seed 3; read it, and change only copies of it."""
    directory = tmp_path_factory.mktemp("finished")
    assert run_command("train", *TINY, "seed=3", "run_dir=run", cwd=directory) == 0
    return directory / "run"


@pytest.fixture
def run_copy(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a copy of the finished run."""
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("copy") / "run"))
