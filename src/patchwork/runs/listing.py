"""Find the runs below a directory, and say of each what it is, how it ended and what it measured.

It reads `manifest.json` and `config.yaml` alone and imports no torch, so that a thousand runs are listed in a second.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from patchwork.core.errors import DataError
from patchwork.core.job import read_json
from patchwork.core.lock import is_locked
from patchwork.core.mappings import read_yaml
from patchwork.core.overrides import override_key
from patchwork.core.paths import exists
from patchwork.runs.differences import run_overrides
from patchwork.runs.run_dir import CONFIG_FILE, LOCK_FILE, MANIFEST_FILE, STAMP, choice_names, test_result

Status = Literal["finished", "running", "stopped", "killed", "failed", "damaged"]
COLUMN_KEYS = ("task", "model", "experiment", "init_from")
SWEEP_DIRS = ("multirun", "sweeps")  # below which directories that are named by the time hold runs, and are none


@dataclass(frozen=True)
class RunSummary:
    """A run in a list, or a directory that should hold one."""

    run_dir: Path
    started: datetime
    task: str
    model: str
    status: Status
    reason: str  # of a failure or damage
    metric: str
    value: float | None  # of the metric
    seconds: float | None

    def overrides(self) -> list[str]:
        """Return in which overrides the run differs from the default configuration of its task and model."""
        try:
            overrides = run_overrides(self.run_dir, read_yaml(self.run_dir / CONFIG_FILE))
        except DataError:
            return []
        return [each for each in overrides if override_key(each) not in ("task", "model") and not each.startswith("-")]


def list_runs(root: Path) -> list[RunSummary]:
    """Return the runs below a directory, newest first, with damaged ones.

    Raises:
        DataError: if there is no such directory.
    """
    if not root.is_dir():
        raise DataError(f"{root} {'is a file' if root.exists() else 'does not exist'}: pass a directory of runs")
    summaries = [summarize(run_dir) for run_dir in find_run_dirs(root)]
    return sorted(summaries, key=lambda run: (run.started, str(run.run_dir)), reverse=True)


def find_run_dirs(root: Path) -> Iterator[Path]:
    """Yield the directories of runs below a directory, and those of which no more than traces of a run are left."""
    for path, names, files in os.walk(root):
        directory = Path(path)
        traces = {"checkpoints"} & {*names} | {CONFIG_FILE, MANIFEST_FILE, LOCK_FILE} & {*files}
        is_empty = not names and not files
        if len(traces) > 1 or (is_named_by_time(directory) and (traces or is_empty)):
            names.clear()  # a run holds no other
            yield directory


def is_named_by_time(directory: Path) -> bool:
    """Return whether a directory has the name of a run without run_dir."""
    try:
        parse_stamp(directory.name)
    except ValueError:
        return False
    return not {*directory.absolute().parts[-3:-1]} & {*SWEEP_DIRS}


def summarize(run_dir: Path) -> RunSummary:
    """Return what the files of a run say of it."""
    manifest = read_json(run_dir / MANIFEST_FILE)
    status, reason = read_status(run_dir, manifest)
    metrics = manifest.get("metrics", {})
    result = test_result(manifest) if isinstance(metrics, dict) else None
    seconds = manifest.get("wall_clock_seconds")
    return RunSummary(
        run_dir=run_dir,
        started=start_time(run_dir, manifest),
        **read_names(run_dir, manifest),
        status=status,
        reason=reason,
        metric="" if result is None else result[0],
        value=None if result is None else result[1],
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
    )


def read_names(run_dir: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of a run's task and model: from its manifest, its configuration or its path."""
    names = [manifest.get("task"), manifest.get("model")]
    if not all(isinstance(name, str) for name in names):
        try:
            names = [*choice_names(read_yaml(run_dir / CONFIG_FILE))]
        except (DataError, AttributeError, KeyError, TypeError, ValueError):
            names = ["", ""]
    return dict(zip(("task", "model"), map(str, names), strict=True))


def read_status(run_dir: Path, manifest: Mapping[str, Any]) -> tuple[Status, str]:
    """Return the status of a run, and the reason why it failed or is damaged."""
    if is_locked(run_dir, LOCK_FILE):
        return "running", ""
    status = manifest.get("status")
    if isinstance(status, str) and exists(run_dir / CONFIG_FILE):
        name, separator, reason = status.partition(": ")
        if status == "finished":
            return "finished", ""
        if not separator:  # "running" or "evaluated", and no process is
            return "killed", ""
        return ("stopped", "") if name == "Interrupted" else ("failed", " ".join(reason.split()) or name)
    for name in (CONFIG_FILE, MANIFEST_FILE):
        if not exists(run_dir / name):
            return "damaged", f"it has no {name}"
    return "damaged", f"its {MANIFEST_FILE} cannot be read"


def start_time(run_dir: Path, manifest: Mapping[str, Any]) -> datetime:
    """Return when a run started: by its manifest, its name, or the time of its files."""
    candidates = ((datetime.fromisoformat, manifest.get("started")), (parse_stamp, run_dir.name))
    for parse, text in candidates:
        try:
            return parse(str(text)).astimezone()
        except ValueError:
            continue
    path = next((run_dir / name for name in (CONFIG_FILE, MANIFEST_FILE) if exists(run_dir / name)), run_dir)
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone()


def parse_stamp(name: str) -> datetime:
    """Return the time that names the directory of a run; ValueError if it is not named by a time."""
    return datetime.strptime("-".join(name.split("-")[:5]), STAMP)  # the local time
