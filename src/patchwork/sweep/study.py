"""Optuna's study of a sweep, in a journal that survives any kill, or in a database."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from patchwork.core.errors import ConfigError, DataError, one_line
from patchwork.core.lock import wait_for_lock
from patchwork.data.rng import derive_seed, make_rng
from patchwork.sweep.compose import SweepConfig
from patchwork.sweep.priors import Prior
from patchwork.sweep.space import Hyperband
from patchwork.sweep.storage import open_storage

JOURNAL = "journal.log"
STATES = {"COMPLETE": "finished", "RUNNING": "running", "PRUNED": "pruned", "FAIL": "failed", "WAITING": "waiting"}


class JournalLock:
    """A lock that the system releases when its process is killed; Optuna's own lock files stay behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[str] | None = None

    def acquire(self) -> bool:
        self.file = wait_for_lock(self.path)
        return True

    def release(self) -> None:
        if self.file is not None:
            self.file.close()


class PerTrialSeededSampler(BaseSampler):
    """A sampler that is seeded for each trial by its number, so that processes that share a study sample differently.

    Floats are rounded to four significant digits: what is printed, trained and saved is the same number.

    Args:
        sampler_type: samples the distributions that Optuna knows.
        seed: of the sweep.
        priors: of the parameters by key; they sample and round what Optuna does not.
    """

    def __init__(self, sampler_type: Callable[..., BaseSampler], seed: int, priors: Mapping[str, Prior]) -> None:
        self.sampler_type, self.seed, self.priors = sampler_type, seed, priors
        self.sampler = sampler_type()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.sampler = self.sampler_type(seed=derive_seed("sweep", self.seed, trial.number) % 2**32)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        params = self.sampler.sample_relative(study, trial, search_space)
        return {name: self.priors[name].round(value) for name, value in params.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        prior = self.priors[param_name]
        if prior.is_weighted:
            return prior.sample(make_rng("sweep", self.seed, trial.number, param_name))
        return prior.round(self.sampler.sample_independent(study, trial, param_name, param_distribution))


def study_settings(sweep: SweepConfig) -> dict[str, Any]:
    """Return the arguments of `optuna.create_study`, except for its storage."""
    sampler_type = TPESampler if sweep.space.method == "bayes" else RandomSampler
    return {
        "study_name": sweep.study_name,
        "load_if_exists": True,
        "direction": sweep.space.metric.goal,
        "sampler": PerTrialSeededSampler(sampler_type, sweep.base_config.seed, sweep.priors),
        "pruner": make_pruner(sweep.space.early_terminate, sweep.num_validations),
    }


def make_pruner(hyperband: Hyperband | None, num_validations: int) -> optuna.pruners.BasePruner:
    last = num_validations if hyperband is None else min(num_validations, hyperband.max_iter or num_validations)
    if hyperband is None or last <= hyperband.first:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=hyperband.first, max_resource=last, reduction_factor=hyperband.eta
    )


def open_journal_study(sweep_dir: Path, settings: dict[str, Any]) -> Study:
    """Create the study of a directory, or load it.

    Raises:
        ConfigError: if the directory holds another sweep.
        DataError: if the journal is damaged.
    """
    lock = JournalLock(sweep_dir / ".journal.lock")
    lock.acquire()
    repair_journal(sweep_dir / JOURNAL)
    lock.release()
    try:
        storage = JournalStorage(JournalFileBackend(str(sweep_dir / JOURNAL), lock))  # type: ignore[arg-type]
        others = {each.study_name: each for each in optuna.get_all_study_summaries(storage)}
        others.pop(settings["study_name"], None)
        if not others:
            return optuna.create_study(storage=storage, **settings)
    except (ValueError, KeyError) as error:
        raise DataError(f"{sweep_dir / JOURNAL} is damaged: {one_line(error)[:200]}") from error
    name, other = others.popitem()
    overrides = shlex.join(other.user_attrs.get("overrides", []))
    raise ConfigError(
        f"sweep_dir={sweep_dir} holds another sweep: use its file and overrides, or another directory; it is "
        f"{name.rpartition('-')[0]}{f' with {overrides}' if overrides else ''}"
    )


def open_database_study(storage: str, settings: dict[str, Any]) -> Study:
    """Create a study in a database, or load it.

    Raises:
        ConfigError: if `storage` is not a URL.
        ResourceError: if the database cannot be opened.
    """
    return optuna.create_study(storage=open_storage(storage), **settings)  # type: ignore[arg-type]


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
