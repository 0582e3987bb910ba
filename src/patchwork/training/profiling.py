"""The report of Lightning's profiler, printed after the fit and kept in the run directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler

from patchwork.core.atomic import write_bytes
from patchwork.core.rank import is_rank_zero

PROFILE_FILE = "profile.txt"  # in the run directory
MAX_LINES = 25  # of the report that are printed, those that take the longest


@contextmanager
def profiled(trainer: pl.Trainer, run_dir: Path) -> Iterator[None]:
    """Print the head of what the profiler of a Trainer, if it has one, reports of a fit; keep all as `profile.txt`.

    PyTorch's profiler also writes a trace beside it, `fit-profile-….pt.trace.json`.
    """
    profiler = getattr(trainer, "profiler", None)
    if profiler is None or isinstance(profiler, PassThroughProfiler):
        yield
        return
    profiler.dirpath, profiler.filename = run_dir, "profile"
    try:
        yield
        trainer.strategy.barrier("profile")  # each process has written its part
        if is_rank_zero():
            print_profile(run_dir)
    finally:
        profiler.dirpath = profiler.filename = None  # nothing is reported of the test
        if is_rank_zero():
            for path in profile_parts(run_dir):
                path.unlink()


def profile_parts(run_dir: Path) -> list[Path]:
    """Return the files in which Lightning's profiler reports of a fit, one of each process."""
    return sorted(run_dir.glob("fit-profile*.txt"))


def print_profile(run_dir: Path) -> None:
    """Join the reports of all processes in `profile.txt`, and print the head."""
    report = "\n".join(path.read_text().strip() for path in profile_parts(run_dir)) + "\n"
    write_bytes(run_dir / PROFILE_FILE, report.encode())
    lines = report.splitlines()
    print("\n".join(lines[:MAX_LINES]))
    print(f"{len(lines)} lines of the profile are in {run_dir / PROFILE_FILE}")
