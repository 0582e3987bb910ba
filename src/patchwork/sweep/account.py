"""The account of a search: Optuna's study, in a journal that outlives any kill, or in a database."""

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
from optuna.trial import FrozenTrial

from patchwork.data.stream import seed_of
from patchwork.errors import ConfigError, DataError, ResourceError, one_line
from patchwork.folder import fcntl
from patchwork.sweep.space import Hyperband, Space

JOURNAL = "journal.log"


class JournalLock:
    """A lock that the system takes back from a process that is killed; other kinds stay behind."""

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


class BySeed(BaseSampler):
    """A sampler that is made anew for each trial, by its number: processes that share a search draw differently."""

    def __init__(self, make: Callable[..., BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.sampler = make()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.sampler = self.make(seed=seed_of("sweep", self.seed, trial.number) % 2**32)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)


def account(space: Space, name: str, validations: int, seed: int) -> dict[str, Any]:
    """Return how the study of a search is made, wherever it is kept."""
    return {
        "study_name": name,
        "load_if_exists": True,
        "direction": space.metric.goal,
        "sampler": BySeed(TPESampler if space.method == "bayes" else RandomSampler, seed),
        "pruner": pruner(space.early_terminate, validations),
    }


def in_folder(folder: Path, settings: dict[str, Any]) -> Study:
    """Make an account in a folder, or open it.

    Raises:
        ConfigError: if the folder holds another search.
        DataError: if the journal is damaged.
    """
    own = JournalLock(folder / ".journal.lock") if fcntl is not None else None
    if own is not None:
        own.acquire()
        mend(folder / JOURNAL)
        own.release()
    try:
        journal = JournalStorage(JournalFileBackend(str(folder / JOURNAL), own))  # type: ignore[arg-type]
        if not set(optuna.get_all_study_names(journal)) - {settings["study_name"]}:
            return optuna.create_study(storage=journal, **settings)
    except (ValueError, KeyError) as error:
        raise DataError(f"{folder / JOURNAL} is damaged: {one_line(error)[:200]}") from error
    raise ConfigError(f"folder={folder} holds another sweep: use its file and settings, or name another folder")


def in_database(storage: str, settings: dict[str, Any], tries: int = 4) -> Study:
    """Make an account in a database, or open it; others may be making it at the same moment.

    Raises:
        ResourceError: if the database cannot be opened.
    """
    try:
        return optuna.create_study(storage=storage, **settings)
    except Exception as error:  # of whatever library speaks to the database
        if tries == 1:
            raise ResourceError(f"storage={storage} cannot be opened: {one_line(error)[:200]}") from error
        time.sleep(0.5)
        return in_database(storage, settings, tries - 1)


def mend(journal: Path) -> None:
    """Cut off a line that was not written to its end, as of a machine that lost its power."""
    if journal.exists():
        whole = journal.read_bytes().rpartition(b"\n")
        if whole[2]:
            with journal.open("r+b") as file:
                file.truncate(len(whole[0]) + len(whole[1]))


def pruner(hyperband: Hyperband | None, validations: int) -> optuna.pruners.BasePruner:
    if hyperband is None or validations <= hyperband.min_iter:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=hyperband.min_iter, max_resource=validations, reduction_factor=hyperband.eta
    )


def suggest(trial: optuna.Trial, name: str, found: BaseDistribution) -> Any:
    if isinstance(found, CategoricalDistribution):
        return trial.suggest_categorical(name, found.choices)
    if isinstance(found, IntDistribution):
        return trial.suggest_int(name, found.low, found.high)
    assert isinstance(found, FloatDistribution)
    return trial.suggest_float(name, found.low, found.high, step=found.step, log=found.log)
