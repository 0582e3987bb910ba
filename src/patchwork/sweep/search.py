"""Search a space: suggest settings, train each in a process of its own, end what does worse, and keep account.

1. The account is Optuna's, a journal in the sweep's folder or a database; whoever shares it takes part in the search.
2. Tree-structured Parzen estimators (Bergstra et al. 2011, https://papers.nips.cc/paper/4443) suggest a setting from
   those before it. If it is impossible it is recorded with the reason and never run.
3. Hyperband (Li et al. 2018, https://jmlr.org/papers/v18/16-558.html) looks at each validation, and ends a trial that
   is behind others at the same point.
4. A trial belongs to the process that holds its lock. One that is under way and that nobody holds was left by a process
   that was killed: whoever finds it goes on with its run.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from patchwork.errors import DataError, ResourceError
from patchwork.folder import lock, read_manifest
from patchwork.sweep.account import suggest
from patchwork.sweep.jobs import LOOK, Job, end_all, share_of_threads
from patchwork.sweep.setting import impossible
from patchwork.sweep.space import Space, word_of

PATIENCE = 100  # settings in a row that are not new or not possible, before a search gives up
STATES = {"COMPLETE": "finished", "RUNNING": "under way", "PRUNED": "pruned", "FAIL": "failed", "WAITING": "waiting"}


@dataclass
class Trial:
    """A setting at work."""

    record: optuna.Trial
    job: Job
    lock: IO[str]
    reported: int  # validations
    pruned: bool = False


class Search:
    """A search in a sweep's folder, which this process takes part in.

    Args:
        space: what is searched.
        words: what is the same in all trials.
        ranges: what is not, by key.
        study: the account.
        folder: of the sweep; trials are in its folder `trials`.
        shared: whether others that share the account share the folder, too.
        count: trials in all.
        jobs: trials at once in this process.
        validations: of one trial.
    """

    def __init__(
        self,
        *,
        space: Space,
        words: list[str],
        ranges: dict[str, BaseDistribution],
        study: Study,
        folder: Path,
        shared: bool,
        count: int,
        jobs: int,
        validations: int,
    ) -> None:
        self.space, self.words, self.ranges = space, words, ranges
        self.study, self.folder, self.shared = study, folder / "trials", shared
        self.count, self.jobs, self.validations = count, jobs, validations
        self.console = Console()
        self.live: Live | None = None
        self.at_work: list[Trial] = []
        self.given_up = ""

    def run(self) -> None:
        """Search until `count` trials are through, or nothing new is left to try."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.space.method == "grid":
            self.lay_grid()
        with self.watched():
            try:
                while self.fill() or self.at_work:
                    self.at_work = [trial for trial in self.at_work if not self.look(trial)]
                    if self.live is not None:
                        self.live.update(self.table(), refresh=True)
                    time.sleep(LOOK)
            except BaseException:
                end_all([trial.job for trial in self.at_work])
                raise
        if self.given_up:
            print(f"{PATIENCE} settings in a row are not new or not possible; the last one {self.given_up}")

    def fill(self) -> bool:
        """Begin trials until as many are at work as may be; return whether there is any."""
        while len(self.at_work) < self.jobs and not self.given_up:
            trial = self.next()
            if trial is None:
                break
            self.at_work.append(trial)
        return bool(self.at_work)

    def next(self) -> Trial | None:
        """Take up a trial that was left, or the next setting that is new and possible."""
        for _ in range(PATIENCE):
            taken = self.left() or self.new()
            if taken is None:
                return None
            record, held = taken
            setting = {name: suggest(record, name, found) for name, found in self.ranges.items()}
            words = [*self.words, *(word_of(key, value) for key, value in setting.items())]
            refused = self.refused(record, setting, words)
            if refused:
                held.close()
                continue
            folder = self.place(record.number)
            self.tell(record.number, f"{'goes on' if folder.exists() else 'begins'}: {' '.join(written(setting))}")
            record.set_user_attr("folder", str(folder))
            job = Job(words, folder, share_of_threads(self.jobs))
            reported = max(self.study.trials[record.number].intermediate_values, default=0)
            return Trial(record, job, held, reported)
        self.given_up = refused
        return None

    def left(self) -> tuple[optuna.Trial, IO[str]] | None:
        """Return a trial that a killed process left under way, with its lock."""
        own = {trial.record.number for trial in self.at_work}
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            here = self.shared or self.place(frozen.number).exists()
            held = self.hold(frozen.number) if here and frozen.number not in own else None
            if held is not None:
                return optuna.Trial(self.study, frozen._trial_id), held
        return None

    def new(self) -> tuple[optuna.Trial, IO[str]] | None:
        """Return a new trial with its lock, unless there are enough."""
        trials = self.study.get_trials(deepcopy=False)
        waiting = any(trial.state is TrialState.WAITING for trial in trials)
        if len(counted(trials)) >= self.count or (self.space.method == "grid" and not waiting):
            return None
        record = self.study.ask()
        held = self.hold(record.number)
        return (record, held) if held is not None else self.new()

    def hold(self, number: int) -> IO[str] | None:
        """Take a trial for this process, unless another one has it."""
        try:
            return lock(self.folder, f".{number:03}.lock")
        except ResourceError:
            return None

    def place(self, number: int) -> Path:
        return self.folder / f"{number:03}"

    def refused(self, record: optuna.Trial, setting: dict[str, Any], words: list[str]) -> str:
        """Record why a setting is not run, and return it; nothing if it is."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        for other in counted(self.study.get_trials(deepcopy=False, states=states)):
            if other.number < record.number and other.params == setting:
                record.set_user_attr("same_as", other.number)
                self.study.tell(record, state=TrialState.FAIL)
                return f"is that of trial {other.number}"
        reason = impossible(words)
        if reason is not None:
            record.set_user_attr("impossible", reason)
            self.study.tell(record, state=TrialState.PRUNED)  # which tells the sampler that it is no good
            self.tell(record.number, f"is impossible: {' '.join(written(setting))}: {reason}")
        return f"is impossible: {reason}" if reason is not None else ""

    def look(self, trial: Trial) -> bool:
        """Report what a trial has measured, end it if it is behind, and return whether it is over."""
        code = trial.job.poll()
        values = trial.job.validations(self.space.metric.name)
        news = values[trial.reported :]
        for value in news:
            trial.reported += 1
            trial.record.report(value, trial.reported)
            best = f"{self.space.metric.name} {value:.6g}"
            self.tell(trial.record.number, f"validation {trial.reported} of {self.validations}: {best}")
        if code is None:
            left = trial.reported < self.validations  # after the last one there is nothing to save
            if news and left and not trial.pruned and trial.record.should_prune():
                trial.pruned = True
                trial.job.stop()
            return False
        self.close(trial, code, values)
        return True

    def close(self, trial: Trial, code: int, values: list[float]) -> None:
        """Record how a trial ended."""
        record, name = trial.record, self.space.metric.name
        try:
            manifest = read_manifest(trial.job.folder)
        except DataError as error:
            manifest, code = {"status": str(error)}, code or error.exit_code
        if code == 0 and manifest.get("status") == "finished":
            late = values[len(values) // 2 :]
            record.set_user_attr("unsteadiness", statistics.pstdev(late) if len(late) > 1 else None)
            share = manifest["best_epoch"] / manifest["epochs"]
            record.set_user_attr("seconds", round(manifest["train_seconds"] * share, 3))
            record.set_user_attr("parameters", manifest["parameters"])
            value = manifest["metrics"][name]
            self.study.tell(record, value)
            self.tell(record.number, f"finished: {name} {value:.6g} after {manifest['train_seconds']:.0f} s")
        elif trial.pruned:
            self.study.tell(record, state=TrialState.PRUNED)
            self.tell(record.number, f"pruned after {trial.reported} of {self.validations} validations")
        else:
            record.set_user_attr("error", trial.job.fault())
            self.study.tell(record, state=TrialState.FAIL)
            self.tell(record.number, f"failed: {trial.job.fault()}")
        trial.lock.close()

    def lay_grid(self) -> None:
        """Put all settings of a grid into the account, but for those that are there."""
        choices = [found.choices for found in self.ranges.values() if isinstance(found, CategoricalDistribution)]
        for values in itertools.product(*choices):
            self.study.enqueue_trial(dict(zip(self.ranges, values, strict=True)), skip_if_exists=True)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Show a table of the trials that is kept up to date; off a terminal each event is a line."""
        live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        with live or nullcontext():
            self.live = live
            yield
        self.live = None

    def table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("trial", "", self.space.metric.name, "validations", "setting"):
            table.add_column(title, overflow="ellipsis", no_wrap=True)
        for trial in counted(self.study.get_trials(deepcopy=False))[-(self.console.height - 4) :]:
            values = trial.intermediate_values
            best = trial.value if trial.value is not None else values[max(values)] if values else None
            table.add_row(
                str(trial.number),
                STATES[trial.state.name],
                "" if best is None else f"{best:.6g}",
                f"{len(values)}/{self.validations}",
                trial.user_attrs.get("error", " ".join(written(trial.params))),
            )
        return table

    def tell(self, number: int, event: str) -> None:
        self.say(f"trial {number} {event}")

    def say(self, line: str) -> None:
        if self.live is None:
            print(line, flush=True)


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that were begun: without those that were impossible, or the same as another."""
    passed_over = {"impossible", "same_as"}
    return [
        trial for trial in trials if trial.state is not TrialState.WAITING and not passed_over & trial.user_attrs.keys()
    ]


def written(setting: dict[str, Any]) -> list[str]:
    """Write a setting to be read: as words, its numbers rounded."""
    return [f"{key}={value:.4g}" if isinstance(value, float) else word_of(key, value) for key, value in setting.items()]
