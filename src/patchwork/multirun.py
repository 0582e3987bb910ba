"""Several jobs with one command, `-m`: each is a process of its own, whatever launches it.

So a job has its threads, memory and signals to itself, and one that exits or is killed is the end of no other. Jobs may
run on other machines; what is known of them stands in the multirun's folder:

- `<number>.json`: a job's settings, how it ended, its run's folder, and the line that told what was wrong;
- `<number>.log`: what it printed, if jobs run side by side;
- `stop`: the number of the signal that ends them all.
"""

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from patchwork.children import start
from patchwork.errors import Interrupted, ResourceError
from patchwork.files import write_bytes

JOB = "PATCHWORK_JOB"  # tells a job the file that it is noted in
STOP = "stop"

folder: Path | None = None  # of the multirun that this process leads


# --- the process that leads ------------------------------------------------------------------------------------------


class Lead(Callback):
    """Note where a multirun is kept, and let a signal stop it: its jobs save and end. A second one does not wait."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global folder
        folder = Path(config.hydra.sweep.dir)
        for note in (*folder.glob("[0-9]*.json"), folder / STOP):  # of an earlier multirun there
            note.unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        if config.hydra.runtime.choices["hydra/launcher"] == "joblib":
            with open_dict(config.hydra.launcher):
                config.hydra.launcher.initializer = {
                    "_target_": "hydra.utils.get_method",
                    "path": f"{__name__}.leave_signals",
                }


def stop(number: int, frame: FrameType | None) -> None:
    assert folder is not None
    if (folder / STOP).exists():
        raise Interrupted(number)
    print(f"{signal.Signals(number).name}: the jobs save and end; once more does not wait", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).write_text(str(number))


def conclude(folder: Path) -> int:
    """Print what became of the jobs of a multirun, and return its exit code."""
    jobs = sorted((read(path) for path in folder.glob("*.json")), key=lambda job: job["job"])
    print(f"\n{summary(jobs)}\n")
    finished = sum(job["status"] == "finished" for job in jobs)
    advice = "" if finished == len(jobs) else "; the same command with resume=auto runs what is missing"
    print(f"{finished} of {len(jobs)} jobs finished; kept in {folder}{advice}")
    if (folder / STOP).exists():
        return 128 + int((folder / STOP).read_text())
    return next((job.get("exit_code", 1) for job in jobs if job["status"] != "finished"), 0)


# --- the process that waits for a job --------------------------------------------------------------------------------


def run_job(script: Path, config_name: str) -> None:
    """Run the job that Hydra has composed as a process of its own, and note how it ends."""
    settings = HydraConfig.get()
    place, number = Path(settings.sweep.dir), settings.job.num
    words = [str(word) for word in settings.overrides.task]
    path, log = place / f"{number}.json", place / f"{number}.log"
    job = {"job": number, "settings": words}
    if (place / STOP).exists():
        put(path, {**job, "status": "not run"})
        return
    put(path, {**job, "status": "running"})
    alone = settings.runtime.choices["hydra/launcher"] == "basic"
    if not alone:
        leave_signals()
    print(f"job {number}: {shlex.join(words)}{'' if alone else f' · {log}'}", flush=True)
    environment = {JOB: str(path.resolve())}
    if (threads := settings.launcher.get("cpus_per_task")) and "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(threads)
    started = time.monotonic()
    with nullcontext() if alone else log.open("wb") as output:
        child = start([script, *places(script, config_name), *words], environment, output)
        code = wait(child, place / STOP, None if alone else os.getppid())
    seconds = round(time.monotonic() - started, 3)
    put(path, {**read(path), **verdict(code, read(path)), "seconds": seconds})


def leave_signals() -> None:
    """Let the leading process decide what Ctrl-C, which a terminal sends to all, means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def places(script: Path, config_name: str) -> list[str]:
    """Return the words that tell Hydra where the configuration is, if it is not where the command has it."""
    settings = HydraConfig.get()
    found = {source.provider: source.path for source in settings.runtime.config_sources}
    words = [] if settings.job.config_name == config_name else [f"--config-name={settings.job.config_name}"]
    if found["main"] != str(script.parent / "conf"):
        words.append(f"--config-path={found['main']}")
    return words + ([f"--config-dir={found['command-line']}"] if "command-line" in found else [])


def wait(child: subprocess.Popen, stop: Path, parent: int | None) -> int:
    """Wait for a job's end and return its exit code; pass on that all are to stop, or that this one's parent is gone.

    Where this process leads, its parent is a shell, which may go: None.
    """
    told = False
    try:
        while True:
            try:
                return child.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                orphan = parent not in (None, os.getppid())
                if not told and (stop.exists() or orphan):
                    child.send_signal(int(stop.read_text() or signal.SIGTERM) if stop.exists() else signal.SIGTERM)
                    told = True
    except BaseException as reason:  # the launcher has no more time for it, or a signal came again
        child.terminate()
        code = child.wait()
        if not isinstance(reason, Exception):
            raise
        return code


def verdict(code: int, job: dict[str, Any]) -> dict[str, Any]:
    """Say how a job ended, by the exit code of its process and by what it noted itself."""
    if code == 0:
        return {"status": "finished", "exit_code": 0} if job.get("done") else {"status": "ended early", "exit_code": 1}
    code = 128 - code if code < 0 else code
    known = {128 + number: number.name for number in signal.Signals}
    return {"status": f"ended by {known[code]}" if code in known else f"failed ({code})", "exit_code": code}


# --- the process that is the job -------------------------------------------------------------------------------------


def note(**facts: Any) -> None:
    """Put down facts about this job, if this process is one; what it does is worth more than that."""
    if JOB in os.environ:
        path = Path(os.environ[JOB])
        with suppress(ResourceError):
            put(path, {**read(path), **facts})


def read(path: Path) -> dict[str, Any]:
    """Read what is noted of a job, or a run's manifest; nothing if it is not there or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def put(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


# --- the table -------------------------------------------------------------------------------------------------------


def summary(jobs: list[dict[str, Any]]) -> str:
    """Lay out jobs: what was changed from one to the other, how each ended and what its run measured.

    Of settings that were run with several seeds, the means and their spread (the standard deviation) follow.
    """
    settings = [dict(word.partition("=")[::2] for word in job["settings"]) for job in jobs]
    keys = dict.fromkeys(key for given in settings for key in given)
    changed = [key for key in keys if len({given.get(key) for given in settings}) > 1]
    rows, faults = [], []
    seeds: dict[tuple[tuple[str, str], ...], list[tuple[str, dict[str, float]]]] = {}
    for job, given in zip(jobs, settings, strict=True):
        choice = {key: given.get(key, "") for key in changed}
        manifest = read(Path(job["folder"], "manifest.json")) if "folder" in job else {}
        figures = metrics(manifest) if job["status"] == "finished" else {}
        seconds = manifest.get("wall_clock_seconds", job.get("seconds"))
        rows.append(
            {
                "job": str(job["job"]),
                **choice,
                "status": job["status"],
                **{name: f"{value:.4f}" for name, value in figures.items()},
                "seconds": "" if seconds is None else f"{seconds:.1f}",
                "folder": job.get("folder", ""),
            }
        )
        if "error" in job:
            faults.append(f"job {job['job']}: {job['error']}")
        if figures and "seed" in choice:
            seed = choice.pop("seed")
            seeds.setdefault(tuple(choice.items()), []).append((seed, figures))
    means = [mean(dict(choice), runs) for choice, runs in seeds.items() if len(runs) > 1]
    return "\n".join([table(rows), *faults, *(["", "mean ± spread over seeds", table(means)] if means else [])])


def metrics(manifest: dict[str, Any]) -> dict[str, float]:
    """Return the monitored metric of a run and its test metrics, but for those of parts: of a cell, of a class."""
    found = manifest.get("metrics", {})
    tested = [name for name in found if name.startswith("test/") and name.count("/") == 1]
    return {name: found[name] for name in [manifest.get("monitor"), *tested] if name in found}


def mean(choice: dict[str, str], runs: list[tuple[str, dict[str, float]]]) -> dict[str, str]:
    """Put the figures of runs that differ in their seed alone into one row."""
    row = {**choice, "seeds": ",".join(seed for seed, _ in runs)}
    for name in runs[0][1]:
        values = [figures[name] for _, figures in runs]
        row[name] = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
    return row


def table(rows: list[dict[str, str]]) -> str:
    """Align rows under the names of their columns."""
    names = sorted(dict.fromkeys(name for row in rows for name in row), key=("seconds", "folder").__contains__)
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in aligned)
