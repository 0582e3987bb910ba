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
    yield
    profiler.dirpath = profiler.filename = None  # nothing is reported of the test
    if is_rank_zero():
        parts = sorted(run_dir.glob("fit-profile*.txt"))  # one of each process
        report = "\n".join(path.read_text().strip() for path in parts) + "\n"
        write_bytes(run_dir / PROFILE_FILE, report.encode())
        for path in parts:
            path.unlink()
        lines = report.splitlines()
        print("\n".join(lines[:MAX_LINES]))
        print(f"{len(lines)} lines of the profile are in {run_dir / PROFILE_FILE}")
