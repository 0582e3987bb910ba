"""Optuna's study of a sweep, in a journal that survives any kill, or in a database."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from patchwork.core.errors import ConfigError, DataError, ResourceError, one_line
from patchwork.data.rng import derive_seed
from patchwork.sweep.compose import SweepConfig
from patchwork.sweep.space import Hyperband

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

JOURNAL = "journal.log"
DATABASE_ATTEMPTS, DATABASE_RETRY_SECONDS = 4, 0.5
STATES = {"COMPLETE": "finished", "RUNNING": "running", "PRUNED": "pruned", "FAIL": "failed", "WAITING": "waiting"}


class JournalLock:
    """A lock that the system releases when its process is killed; Optuna's own lock files stay behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[bytes] | None = None

    def acquire(self) -> bool:
        self.file = self.path.open("ab")
        fcntl.lockf(self.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self.file is not None:
            self.file.close()


class PerTrialSeededSampler(BaseSampler):
    """A sampler that is seeded for each trial by its number, so that processes that share a study sample differently.

    Floats are rounded to four significant digits: what is printed, trained and saved is the same number.
    """

    def __init__(self, sampler_type: Callable[..., BaseSampler], seed: int) -> None:
        self.sampler_type, self.seed = sampler_type, seed
        self.sampler = sampler_type()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.sampler = self.sampler_type(seed=derive_seed("sweep", self.seed, trial.number) % 2**32)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        params = self.sampler.sample_relative(study, trial, search_space)
        return {name: round_param(value, search_space[name]) for name, value in params.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        value = self.sampler.sample_independent(study, trial, param_name, param_distribution)
        return round_param(value, param_distribution)


def round_param(value: Any, distribution: BaseDistribution) -> Any:
    """Round a continuous value to four significant digits, within its range; return others as they are."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return value
    return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)


def study_settings(sweep: SweepConfig) -> dict[str, Any]:
    """Return the arguments of `optuna.create_study`, except for its storage."""
    sampler_type = TPESampler if sweep.space.method == "bayes" else RandomSampler
    return {
        "study_name": sweep.study_name,
        "load_if_exists": True,
        "direction": sweep.space.metric.goal,
        "sampler": PerTrialSeededSampler(sampler_type, sweep.base_config.seed),
        "pruner": make_pruner(sweep.space.early_terminate, sweep.num_validations),
    }


def make_pruner(hyperband: Hyperband | None, num_validations: int) -> optuna.pruners.BasePruner:
    if hyperband is None or num_validations <= hyperband.min_iter:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=hyperband.min_iter, max_resource=num_validations, reduction_factor=hyperband.eta
    )


def open_journal_study(sweep_dir: Path, settings: dict[str, Any]) -> Study:
    """Create the study of a directory, or load it.

    Raises:
        ConfigError: if the directory holds another sweep.
        DataError: if the journal is damaged.
    """
    lock = JournalLock(sweep_dir / ".journal.lock") if fcntl is not None else None
    if lock is not None:
        lock.acquire()
        repair_journal(sweep_dir / JOURNAL)
        lock.release()
    try:
        storage = JournalStorage(JournalFileBackend(str(sweep_dir / JOURNAL), lock))  # type: ignore[arg-type]
        if not set(optuna.get_all_study_names(storage)) - {settings["study_name"]}:
            return optuna.create_study(storage=storage, **settings)
    except (ValueError, KeyError) as error:
        raise DataError(f"{sweep_dir / JOURNAL} is damaged: {one_line(error)[:200]}") from error
    raise ConfigError(f"sweep_dir={sweep_dir} holds another sweep: use its file and overrides, or another directory")


def open_database_study(storage: str, settings: dict[str, Any], attempts: int = DATABASE_ATTEMPTS) -> Study:
    """Create a study in a database, or load it; other processes may be creating it at the same moment.

    Raises:
        ResourceError: if the database cannot be opened.
    """
    try:
        return optuna.create_study(storage=storage, **settings)
    except Exception as error:  # of whatever library connects to the database
        if attempts == 1:
            raise ResourceError(f"storage={storage} cannot be opened: {one_line(error)[:200]}") from error
        time.sleep(DATABASE_RETRY_SECONDS)
        return open_database_study(storage, settings, attempts - 1)


def repair_journal(journal: Path) -> None:
    """Cut off an incomplete last line, as it is left when a machine loses power."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with journal.open("r+b") as file:
            file.truncate(complete)


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Return the value that a trial has for a parameter, sampled if it has none yet."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def started_trials(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that were started: not those that wait, were infeasible or duplicates."""
    rejected = {"infeasible", "duplicate_of"}
    return [
        trial for trial in trials if trial.state is not TrialState.WAITING and not rejected & trial.user_attrs.keys()
    ]
