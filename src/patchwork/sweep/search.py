"""Search a space: suggest parameters, train each trial in a process, stop those that lag, and record the results.

1. Results are recorded in Optuna's study, which several processes may share.
2. The tree-structured Parzen estimator (Bergstra et al. 2011, https://papers.nips.cc/paper/4443) suggests parameters
   from the trials before. Infeasible ones are recorded with the reason and never trained.
3. Hyperband (Li et al. 2018, https://jmlr.org/papers/v18/16-558.html) compares trials after each validation, and prunes
   those that are behind others at the same point.
4. A trial belongs to the process that holds its lock. A trial that is running in the study but locked by nobody was
   orphaned by a process that was killed: whoever finds it resumes its run.
"""

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from patchwork.core.errors import DataError, ResourceError
from patchwork.core.lock import lock
from patchwork.runs.manifest import read_manifest
from patchwork.sweep.compose import Params, SweepConfig, format_params, infeasible_reason
from patchwork.sweep.jobs import POLL_SECONDS, Job, stop_all, threads_per_job
from patchwork.sweep.study import STATES, started_trials, suggest

MAX_REJECTED = 100  # suggestions in a row that are duplicates or infeasible, after which a search ends


@dataclass
class ActiveTrial:
    """A trial of this process."""

    record: optuna.Trial
    job: Job
    lock: IO[str]
    num_validations: int  # of its run
    num_reported: int  # validations
    pruned: bool = False


class Search:
    """Run trials of a sweep, beside other processes that share its study.

    Args:
        sweep: what is searched.
        study: where results are recorded.
        sweep_dir: trials are in its directory `trials`.
        shared_dir: whether all processes that share the study also share this directory.
        n_trials: trials in all.
        n_jobs: trials in parallel in this process.
    """

    def __init__(
        self, sweep: SweepConfig, study: Study, sweep_dir: Path, *, shared_dir: bool, n_trials: int, n_jobs: int
    ) -> None:
        self.sweep, self.study = sweep, study
        self.trials_dir, self.shared_dir = sweep_dir / "trials", shared_dir
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.console = Console()
        self.live: Live | None = None
        self.active_trials: list[ActiveTrial] = []
        self.last_rejection = ""  # set once the search has given up

    def run(self) -> None:
        """Search until `n_trials` trials have ended, or nothing new is left to try."""
        self.trials_dir.mkdir(parents=True, exist_ok=True)
        if self.sweep.space.method == "grid":
            self.enqueue_grid()
        with self.live_table():
            try:
                while self.fill() or self.active_trials:
                    self.active_trials = [trial for trial in self.active_trials if not self.poll(trial)]
                    if self.live is not None:
                        self.live.update(self.table(), refresh=True)
                    time.sleep(POLL_SECONDS)
            except BaseException:
                stop_all([trial.job for trial in self.active_trials])
                raise
        if self.last_rejection:
            print(f"{MAX_REJECTED} suggestions in a row were duplicates or infeasible; the last {self.last_rejection}")

    # --- trials start ---

    def enqueue_grid(self) -> None:
        """Add all points of a grid to the study, except for those that are there."""
        for values in itertools.product(*(prior.grid() for prior in self.sweep.priors.values())):
            self.study.enqueue_trial(dict(zip(self.sweep.priors, values, strict=True)), skip_if_exists=True)

    def fill(self) -> bool:
        """Start trials until `n_jobs` are active; return whether any is."""
        while len(self.active_trials) < self.n_jobs and not self.last_rejection and not self.has_reached_target():
            trial = self.next_trial()
            if trial is None:
                break
            self.active_trials.append(trial)
        return bool(self.active_trials)

    def has_reached_target(self) -> bool:
        """Return whether a finished trial is as good as the file's `metric.target`."""
        metric = self.sweep.space.metric
        if metric.target is None:
            return False
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = 1 if metric.goal == "maximize" else -1
        return any(sign * trial.value >= sign * metric.target for trial in finished if trial.value is not None)

    def next_trial(self) -> ActiveTrial | None:
        """Return an orphaned trial, or a new and feasible one; None if there are enough, or too many were rejected."""
        rejection = ""
        for _ in range(MAX_REJECTED):
            claimed = self.claim_orphan() or self.ask_trial()
            if claimed is None:
                return None
            record, trial_lock = claimed
            params = {name: suggest(record, name, each) for name, each in self.sweep.distributions.items()}
            rejection = self.reject_reason(record, params)
            if not rejection:
                return self.start_trial(record, trial_lock, params)
            trial_lock.close()
        self.last_rejection = rejection
        return None

    def start_trial(self, record: optuna.Trial, trial_lock: IO[str], params: Params) -> ActiveTrial:
        """Make the job of a trial; its process starts when it is first polled."""
        run_dir = self.run_dir(record.number)
        self.log_event(record.number, f"{'resumes' if run_dir.exists() else 'starts'}: {format_params(params)}")
        record.set_user_attr("run_dir", str(run_dir))
        overrides = self.sweep.trial_overrides(params)
        num_validations = self.sweep.num_trial_validations(params)
        record.set_user_attr("num_validations", num_validations)
        job = Job(overrides, run_dir, threads_per_job(self.n_jobs), group=self.study.study_name)
        num_reported = max(self.study.trials[record.number].intermediate_values, default=0)
        return ActiveTrial(record, job, trial_lock, num_validations, num_reported)

    def claim_orphan(self) -> tuple[optuna.Trial, IO[str]] | None:
        """Return a trial that a killed process left running, with its lock."""
        active = {trial.record.number for trial in self.active_trials}
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            is_here = self.shared_dir or self.run_dir(frozen.number).exists()
            trial_lock = self.try_lock(frozen.number) if is_here and frozen.number not in active else None
            if trial_lock is not None:
                return optuna.Trial(self.study, frozen._trial_id), trial_lock
        return None

    def ask_trial(self) -> tuple[optuna.Trial, IO[str]] | None:
        """Return a new trial with its lock, unless there are enough."""
        trials = self.study.get_trials(deepcopy=False)
        is_waiting = any(trial.state is TrialState.WAITING for trial in trials)
        if len(started_trials(trials)) >= self.n_trials or (self.sweep.space.method == "grid" and not is_waiting):
            return None
        record = self.study.ask()
        trial_lock = self.try_lock(record.number)
        return (record, trial_lock) if trial_lock is not None else self.ask_trial()

    def try_lock(self, number: int) -> IO[str] | None:
        """Lock a trial for this process; None if another process holds it."""
        try:
            return lock(self.trials_dir, f".{number:03}.lock")
        except ResourceError:
            return None

    def run_dir(self, number: int) -> Path:
        return self.trials_dir / f"{number:03}"

    def reject_reason(self, record: optuna.Trial, params: Params) -> str:
        """Return why a trial is not trained, and record it in the study; an empty string if it is."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        for other in started_trials(self.study.get_trials(deepcopy=False, states=states)):
            if other.number < record.number and other.params == params:
                record.set_user_attr("duplicate_of", other.number)
                self.study.tell(record, state=TrialState.FAIL)
                return f"repeats trial {other.number}"
        reason = infeasible_reason(self.sweep.trial_overrides(params))
        if reason is None:
            return ""
        record.set_user_attr("infeasible", reason)
        self.study.tell(record, state=TrialState.PRUNED)  # so that the sampler avoids it
        self.log_event(record.number, f"is infeasible: {format_params(params)}: {reason}")
        return f"is infeasible: {reason}"

    # --- trials end ---

    def poll(self, trial: ActiveTrial) -> bool:
        """Report what a trial has measured, prune it if it lags, and return whether it has ended."""
        exit_code = trial.job.poll()
        values = trial.job.read_validations(self.sweep.metric)
        new_values = values[trial.num_reported :]
        for value in new_values:
            trial.num_reported += 1
            trial.record.report(value, trial.num_reported)
            progress = f"validation {trial.num_reported} of {trial.num_validations}"
            self.log_event(trial.record.number, f"{progress}: {self.sweep.metric} {value:.6g}")
        if exit_code is not None:
            self.finish(trial, exit_code, values)
            return True
        unfinished = trial.num_reported < trial.num_validations  # after the last one pruning saves nothing
        if new_values and unfinished and not trial.pruned and trial.record.should_prune():
            trial.pruned = True
            trial.job.stop()
        return False

    def finish(self, trial: ActiveTrial, exit_code: int, values: list[float]) -> None:
        """Record how a trial ended."""
        record = trial.record
        try:
            manifest = read_manifest(trial.job.run_dir)
        except DataError as error:
            manifest, exit_code = {"status": str(error)}, exit_code or error.exit_code
        is_finished = exit_code == 0 and manifest.get("status") == "finished"
        value = manifest.get("metrics", {}).get(self.sweep.metric)
        if is_finished and value is not None and math.isfinite(value):
            for name, attribute in result_attributes(manifest, values).items():
                record.set_user_attr(name, attribute)
            self.study.tell(record, value)
            event = f"finished: {self.sweep.metric} {value:.6g} after {manifest['train_seconds']:.0f} s"
        elif trial.pruned:
            self.study.tell(record, state=TrialState.PRUNED)
            event = f"pruned after {trial.num_reported} of {trial.num_validations} validations"
        else:
            measured = "without" if value is None else "with a value that is not finite of"
            reason = f"the run ended {measured} {self.sweep.metric}" if is_finished else trial.job.error()
            record.set_user_attr("error", reason)
            self.study.tell(record, state=TrialState.FAIL)
            event = f"failed: {reason}"
        self.log_event(record.number, event)
        trial.lock.close()

    # --- output ---

    @contextmanager
    def live_table(self) -> Iterator[None]:
        """Keep a table of the trials up to date on a terminal; elsewhere each event is printed as a line."""
        live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        with live or nullcontext():
            self.live = live
            yield
        self.live = None

    def table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("trial", "state", self.sweep.metric, "validations", "hyperparameters"):
            table.add_column(title, overflow="ellipsis", no_wrap=True)
        max_rows = self.console.height - 4
        for trial in started_trials(self.study.get_trials(deepcopy=False))[-max_rows:]:
            values = trial.intermediate_values
            latest = trial.value if trial.value is not None else values[max(values)] if values else None
            table.add_row(
                str(trial.number),
                STATES[trial.state.name],
                "" if latest is None else f"{latest:.6g}",
                f"{len(values)}/{trial.user_attrs.get('num_validations', self.sweep.num_validations)}",
                trial.user_attrs.get("error", format_params(trial.params)),
            )
        return table

    def log_event(self, number: int, event: str) -> None:
        if self.live is None:
            print(f"trial {number} {event}", flush=True)


def result_attributes(manifest: Mapping[str, Any], values: list[float]) -> dict[str, float | None]:
    """Return what trials are compared by besides their metric, from the manifest of a run and its validations."""
    later_half = values[len(values) // 2 :]
    best_fraction = (manifest.get("best_epoch") or manifest["epochs"]) / (manifest["epochs"] or 1)
    return {
        "val_std": statistics.pstdev(later_half) if len(later_half) > 1 else None,
        "seconds": round(manifest["train_seconds"] * best_fraction, 3),
        "num_parameters": manifest["parameters"],
    }
