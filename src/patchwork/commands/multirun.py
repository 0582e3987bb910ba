"""Several jobs with one command, `-m`: each is a process of its own, whichever launcher starts it.

So a job has its threads, memory and signals to itself, and one that fails or is killed does not stop the others. Jobs
may run on other machines; what is known of them is in the directory of the multirun:

- `<index>.json`: a job's overrides, status, exit code, run directory and error;
- `<index>.log`: its output, if jobs run in parallel;
- `stop`: the number of the signal that stops them all;
- `stop_now`: there once they must stop without saving.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from patchwork.commands.app import print_error
from patchwork.core.errors import ConfigError, Interrupted, NumericError, ResourceError, one_line
from patchwork.core.hydra_compose import split_jobs
from patchwork.core.hydra_errors import translate_hydra_error
from patchwork.core.job import JOB, read_json, write_json
from patchwork.core.overrides import format_override, override_key
from patchwork.core.schema import check_config, check_scalars
from patchwork.core.signals import install
from patchwork.core.subprocesses import start
from patchwork.core.table import format_table
from patchwork.runs.compose import CONF_DIR, ConfigSource, compose_with_hydra, without_hydra
from patchwork.runs.fitting import check_fit
from patchwork.runs.hydra_keys import DEFAULT_DIR, job_overrides, sweep_dir_of, typed_overrides

STOP, STOP_NOW = "stop", "stop_now"
POLL_SECONDS = 0.2  # between looks for these files
MAY_PASS = (NumericError.exit_code, ResourceError.exit_code)  # the same configuration may run later
END_SECONDS = 0.5  # for a job to end at a second SIGINT; the third is SIGKILL


# --- the parent process ------------------------------------------------------------------------------------------


def plan_jobs(hydra_cfg: HydraConf, overrides: list[str], source: ConfigSource) -> list[list[str]]:
    """Return the overrides of each job of a multirun, after checks of all of them.

    Args:
        hydra_cfg: Hydra's own configuration.
        overrides: with the values of all jobs, as Hydra parses them.
        source: the files of the configuration.

    Raises:
        ConfigError: if the configuration of a job is wrong.
    """
    try:
        planned = split_jobs(overrides, conf_dir=source.conf_dir, config_dir=source.config_dir)
    except HydraException as error:
        raise ConfigError(one_line(error)) from error
    configs = [without_hydra(compose_with_hydra([*job, *job_overrides(hydra_cfg)], source)) for job in planned]
    for config in configs:
        check_fit(config)
        check_scalars(config)
    check_run_dirs(planned)
    check_values(planned, configs)
    return planned


def check_run_dirs(planned: list[list[str]]) -> None:
    """Raise a `ConfigError` if several jobs have one run directory."""
    run_dirs = [each for job in planned for each in job[::-1] if override_key(each) == "run_dir"]
    repeated = next((each for each in run_dirs if run_dirs.count(each) > 1 and each != "run_dir=null"), None)
    if repeated is not None and "${" not in repeated:
        raise ConfigError(
            f"{repeated} is one directory for {run_dirs.count(repeated)} jobs: use hydra.sweep.dir=…, "
            "below which each has its own"
        )


def check_values(planned: list[list[str]], configs: list[DictConfig]) -> None:
    """Check every value of the jobs before the first is trained, except what refers to Hydra's own configuration.

    Raises:
        ConfigError: if a value is not allowed.
    """
    if len(configs) < 2:  # the job itself says it as soon
        return
    import patchwork.core.fast_import  # noqa: F401  # constructors have the annotations; torch takes seconds

    for index, (job, config) in enumerate(zip(planned, configs, strict=True)):
        if "${hydra:" in OmegaConf.to_yaml(config):
            continue
        try:
            check_config(config)
        except ConfigError as error:
            raise ConfigError(f"job {index} ({' '.join(job)}): {error}; no job was started") from error


def run_jobs(
    hydra_cfg: HydraConf, planned: list[list[str]], launch: Callable[[list[str], Callable[[DictConfig], None]], None]
) -> int:
    """Run the jobs of a multirun, print them as a table and return the exit code.

    Args:
        hydra_cfg: Hydra's own configuration.
        planned: overrides of each job.
        launch: lets Hydra's launcher start a job for each configuration; its arguments are overrides to add, and the
            function that runs a job.

    Raises:
        ConfigError: if the launcher cannot start a job.
    """
    sweep_dir = sweep_dir_of(hydra_cfg)
    is_new = not sweep_dir.exists()
    for path in (*status_files(sweep_dir), sweep_dir / STOP, sweep_dir / STOP_NOW):  # of an earlier multirun there
        path.unlink(missing_ok=True)
    install(JobStopper(sweep_dir, is_sequential=is_sequential(hydra_cfg)))
    added = [format_override("hydra.sweep.dir", str(sweep_dir)), "hydra.mode=MULTIRUN"]
    if hydra_cfg.runtime.choices["hydra/launcher"] == "joblib":
        target = {"_target_": "hydra.utils.get_method", "path": f"{__name__}.{ignore_sigint.__name__}"}
        added += [f"+hydra.launcher.initializer.{key}={value}" for key, value in target.items()]
    lost_code = 1
    try:
        with patch.object(BasicSweeper, "validate_batch_is_legal"):  # each job is composed already
            launch(added, lambda config: run_job())
    except Interrupted:  # a second Ctrl-C; the table says how the jobs have ended
        pass
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if status_files(sweep_dir):
            raise
        if is_new and sweep_dir.exists():
            remove_unused(sweep_dir)
        raise translate_hydra_error(error, CONF_DIR, "train", []) from error  # no override is wrong
    except RuntimeError as error:
        lost_code = print_error("train", ResourceError(f"the launcher lost a job: {one_line(error)[:200]}"))
    return print_summary(sweep_dir, planned, lost_code)


def is_sequential(hydra_cfg: HydraConf) -> bool:
    """Return whether the jobs of a multirun run one after the other, and their output is that of the multirun."""
    return hydra_cfg.runtime.choices["hydra/launcher"] == "basic"


class JobStopper:
    """A handler that lets all jobs stop by the first signal, and ends them at once at a second Ctrl-C.

    Other signals after the first are ignored, as by `Interrupter`.
    """

    def __init__(self, sweep_dir: Path, *, is_sequential: bool) -> None:
        self.sweep_dir, self.is_sequential = sweep_dir, is_sequential

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        stop, stop_now = self.sweep_dir / STOP, self.sweep_dir / STOP_NOW
        if not stop.exists():
            self.sweep_dir.mkdir(parents=True, exist_ok=True)
            stop.write_text(str(signum))
            name = signal.Signals(signum).name
            print(f"{name}: stopping; jobs save and exit. Press Ctrl-C again to stop immediately.", file=sys.stderr)
        elif signum == signal.SIGINT and not stop_now.exists():
            stop_now.touch()
            if not self.is_sequential:  # the launcher may wait for jobs that have not even started
                self.wait_for_jobs()
                raise Interrupted(signum)

    def wait_for_jobs(self) -> None:
        """Wait until the jobs that run have ended, as they do in the processes that wait for them; not for ever."""
        deadline = time.monotonic() + 4 * END_SECONDS
        while time.monotonic() < deadline:
            if all(read_json(path).get("status") != "running" for path in status_files(self.sweep_dir)):
                return
            time.sleep(POLL_SECONDS / 2)


def remove_unused(sweep_dir: Path) -> None:
    """Remove the directory of a multirun that has started no job, and those above it that are empty then."""
    (sweep_dir / "multirun.yaml").unlink(missing_ok=True)
    with suppress(OSError):
        os.removedirs(sweep_dir)


def status_files(sweep_dir: Path) -> list[Path]:
    """Return the status files of the jobs of a multirun, in the order of the jobs."""
    return sorted((path for path in sweep_dir.glob("*.json") if path.stem.isdecimal()), key=lambda path: int(path.stem))


def print_summary(sweep_dir: Path, planned: list[list[str]], lost_code: int = 1) -> int:
    """Print the jobs of a multirun as a table, and return its exit code: that of the first job that failed.

    Args:
        sweep_dir: directory of the multirun.
        planned: overrides of each job that should have run; one without a status file has failed.
        lost_code: exit code of a job of which nothing is known.
    """
    found = {int(path.stem): read_json(path) for path in status_files(sweep_dir)}
    jobs = [
        {"job": index, "overrides": overrides, "status": "lost", **found.get(index, {})}
        for index, overrides in enumerate([*planned, *[[] for _ in range(len(planned), max(found, default=-1) + 1)]])
    ]
    print(f"\n{summary(jobs)}\n")
    finished = sum(job["status"] == "finished" for job in jobs)
    hint = "; the same command with resume=auto runs the missing ones" if any(map(is_resumable, jobs)) else ""
    print(f"{finished} of {len(jobs)} jobs finished; saved in {sweep_dir}{hint}")
    if (sweep_dir / STOP).exists():
        return 128 + int((sweep_dir / STOP).read_text())
    return next((job.get("exit_code", lost_code) for job in jobs if job["status"] != "finished"), 0)


def is_resumable(job: dict[str, Any]) -> bool:
    """Return whether a job did not finish, and the same configuration may."""
    code = job.get("exit_code")  # of a job that is lost or was skipped, there is none
    return job["status"] != "finished" and (code in (None, *MAY_PASS) or code > 128)


# --- the process that waits for a job --------------------------------------------------------------------------------


def run_job() -> None:
    """Run the job that Hydra has composed as a process of its own, and write down how it ended."""
    hydra_cfg = HydraConfig.get()
    sweep_dir, index = Path(hydra_cfg.sweep.dir), hydra_cfg.job.num
    overrides = typed_overrides(hydra_cfg, "task")
    path, log = sweep_dir / f"{index}.json", sweep_dir / f"{index}.log"
    job = {"job": index, "overrides": overrides}
    if (sweep_dir / STOP).exists():
        write_json(path, {**job, "status": "skipped"})
        return
    write_json(path, {**job, "status": "running"})
    sequential = is_sequential(hydra_cfg)
    if not sequential:
        ignore_sigint()
    print(f"job {index}: {' '.join(overrides)}{'' if sequential else f' · {log}'}", flush=True)
    env = {JOB: str(path.resolve())}
    if (threads := hydra_cfg.launcher.get("cpus_per_task")) and "OMP_NUM_THREADS" not in os.environ:
        env["OMP_NUM_THREADS"] = str(threads)
    run_dir = job_run_dir(hydra_cfg, overrides)
    start_time = time.monotonic()
    with nullcontext() if sequential else log.open("wb") as output:
        child = start("train", [*config_args(), *overrides, *run_dir, *job_overrides(hydra_cfg)], env, output)
        try:
            wait(child, sweep_dir, None if sequential else os.getppid())
        finally:
            exit_code, job = child.wait(), read_json(path)
            seconds = round(time.monotonic() - start_time, 3)
            write_json(path, {**job, **job_outcome(exit_code, job), "seconds": seconds})


def job_run_dir(hydra_cfg: HydraConf, overrides: list[str]) -> list[str]:
    """Return the override of a job's run directory, if `hydra.sweep.subdir` names one."""
    if hydra_cfg.sweep.subdir == DEFAULT_DIR or any(override_key(override) == "run_dir" for override in overrides):
        return []
    return [format_override("run_dir", str(Path(hydra_cfg.sweep.dir, hydra_cfg.sweep.subdir)))]


def ignore_sigint() -> None:
    """Let the leading process decide what Ctrl-C means, which a terminal sends to all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def config_args() -> list[str]:
    """Return the options that point Hydra to the configuration, if it is not the packaged one."""
    hydra_cfg = HydraConfig.get()
    paths = {source.provider: source.path for source in hydra_cfg.runtime.config_sources}
    args = [] if hydra_cfg.job.config_name == "train" else [f"--config-name={hydra_cfg.job.config_name}"]
    if paths["main"] != str(CONF_DIR):
        args.append(f"--config-path={paths['main']}")
    return args + ([f"--config-dir={paths['command-line']}"] if "command-line" in paths else [])


def wait(child: subprocess.Popen, sweep_dir: Path, parent: int | None) -> int:
    """Wait for a job and return its exit code; send it the signal that stops all jobs, or SIGTERM if it is orphaned.

    Args:
        child: the job.
        sweep_dir: directory of the multirun, where files say that it stops.
        parent: the process whose end orphans the job; None if there is no such process.
    """
    stop, signalled = sweep_dir / STOP, False
    try:
        while True:
            try:
                return child.wait(timeout=POLL_SECONDS)
            except subprocess.TimeoutExpired:
                orphaned = parent not in (None, os.getppid())
                if (sweep_dir / STOP_NOW).exists():
                    return end(child)
                if not signalled and (stop.exists() or orphaned):
                    child.send_signal(int(stop.read_text() or signal.SIGTERM) if stop.exists() else signal.SIGTERM)
                    signalled = True
    except BaseException as reason:  # the launcher's time limit
        child.send_signal(signal.SIGTERM)
        exit_code = child.wait()
        if not isinstance(reason, Exception):
            raise
        return exit_code


def end(child: subprocess.Popen) -> int:
    """End a job without saving, and return its exit code: by a second SIGINT, or by SIGKILL if it does not react."""
    for _ in range(2):  # the first may be the job's first, by which it saves
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=END_SECONDS)
    child.kill()
    return child.wait()


def job_outcome(exit_code: int, job: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a job by the exit code of its process and by what the job recorded."""
    if exit_code == 0:
        return {"status": "finished", "exit_code": 0} if job.get("done") else {"status": "exited early", "exit_code": 1}
    exit_code = 128 - exit_code if exit_code < 0 else exit_code
    names = {128 + signum: signum.name for signum in signal.Signals}
    status = f"stopped by {names[exit_code]}" if exit_code in names else f"failed ({exit_code})"
    return {"status": status, "exit_code": exit_code}


# --- the table -------------------------------------------------------------------------------------------------------


def summary(jobs: list[dict[str, Any]]) -> str:
    """Lay out jobs as a table: the overrides in which they differ, status, metrics, seconds and run directory.

    Errors follow, and the settings of the runs that have finished, compared.
    """
    overrides = [dict(override.split("=", 1) for override in job["overrides"] if "=" in override) for job in jobs]
    keys = dict.fromkeys(key for values in overrides for key in values)
    varied = [key for key in keys if len({values.get(key) for values in overrides}) > 1]
    rows, errors = [], []
    for job, values in zip(jobs, overrides, strict=True):
        varied_values = {key: values.get(key, "") for key in varied}
        manifest = read_json(Path(job["run_dir"], "manifest.json")) if "run_dir" in job else {}
        metrics = main_metrics(manifest) if job["status"] == "finished" else {}
        seconds = manifest.get("wall_clock_seconds", job.get("seconds"))
        rows.append(
            {
                "job": str(job["job"]),
                **varied_values,
                "status": job["status"],
                **{name: f"{value:.4f}" for name, value in metrics.items()},
                "seconds": "" if seconds is None else f"{seconds:.1f}",
                "run_dir": job.get("run_dir", ""),
            }
        )
        if "error" in job:
            errors.append(f"job {job['job']}: {job['error']}")
    last = ("seconds", "run_dir")
    columns = [*dict.fromkeys(name for row in rows for name in row if name not in last), *last]
    finished = [Path(job["run_dir"]) for job in jobs if job["status"] == "finished" and "run_dir" in job]
    return "\n".join([format_table(rows, columns), *errors, *compared(finished)])


def compared(finished: list[Path]) -> list[str]:
    """Return the comparison of finished runs as lines; none for a single run, without the seconds that imports take."""
    if len(finished) < 2:
        return []
    from patchwork.evaluation.compare.output import compare_finished

    return compare_finished(finished)


def main_metrics(manifest: dict[str, Any]) -> dict[str, float]:
    """Return the monitored metric of a run and its test metrics, without those of a single class or cell."""
    metrics = manifest.get("metrics", {})
    tested = [name for name in metrics if name.startswith("test/") and name.count("/") == 1]
    return {name: metrics[name] for name in [manifest.get("monitor"), *tested] if name in metrics}
