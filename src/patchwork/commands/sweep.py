"""Search for hyperparameters: the space of a W&B sweep file, searched by Optuna, without a server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, MinLen
from pydantic import PositiveInt

from patchwork.commands.app import HELP, format_help, run_command
from patchwork.core.agent_args import translate_args
from patchwork.core.errors import ConfigError, DataError, Interrupted, PatchworkError, ResourceError
from patchwork.core.overrides import override_key, parse_call, shell_command, shell_override
from patchwork.core.paths import expand_home
from patchwork.core.replacements import SWEEP_REPLACEMENTS
from patchwork.core.schema import SCALAR_KEYS, TARGET_PACKAGES, signature
from patchwork.core.shell_overrides import parse_typed
from patchwork.core.suggest import closest
from patchwork.core.types import PathStr

if TYPE_CHECKING:
    from optuna.study import Study

    from patchwork.sweep.compose import SweepConfig
    from patchwork.sweep.results import ParamsResult

DEFAULT_TRIALS = 20


def command(args: list[str]) -> int:
    if HELP & {*args}:
        print(format_help("patchwork sweep FILE key=value … [overrides of patchwork train]", sweep))
        return 0
    return run_command("sweep", lambda: parse_and_sweep(args))


def parse_and_sweep(args: list[str]) -> None:
    """Split arguments into the file, the keys of `sweep` and overrides of `patchwork train`, and sweep.

    Raises:
        ConfigError: if no file or several are given; and as `sweep` does.
    """
    args = translate_args(args)
    paths = [arg for arg in args if is_path(arg)]
    overrides = [arg for arg in args if not is_path(arg)]
    for arg in overrides:
        check_argument(arg)
    if not paths:
        raise ConfigError(f"no file is given: name one, or a packaged sweep, which are {', '.join(packaged_names())}")
    if len(paths) > 1:
        raise ConfigError(
            f"{len(paths)} files are given, not one: patchwork sweep sweeps/seq2seq.yaml n_trials=20, "
            f"with {', '.join(signature(sweep))} and overrides of all trials"
        )
    keywords = [arg for arg in overrides if override_key(arg) in signature(sweep)]
    shared = [arg for arg in overrides if override_key(arg) not in signature(sweep)]
    sweep(paths[0], parse_typed(shared, sweep=False), **parse_call(sweep, keywords))


def is_path(arg: str) -> bool:
    """Return whether an argument is the path of a file, which may have an equals sign, and not an override."""
    if "=" in arg:
        return arg.endswith((".yaml", ".yml")) and Path(arg).is_file()
    return not arg.startswith("-") and not (arg.startswith("~") and "/" not in arg)


def check_argument(arg: str) -> None:
    """Raise a `ConfigError` at flags, deletions, and keys that are called otherwise here."""
    key, separator, value = arg.lstrip("-").partition("=")
    name = key.removeprefix("hydra.sweeper.").replace("-", "_")
    if name in SWEEP_REPLACEMENTS:
        raise ConfigError(f"{arg} is not allowed: {SWEEP_REPLACEMENTS[name]}")
    if name in signature(sweep) and name != arg.partition("=")[0]:
        raise ConfigError(f"{arg} is not allowed: use {name}={value or '…'}")
    if arg.startswith(("-", "~")) or not separator:
        raise ConfigError(f"{arg} is not allowed: use group=choice and key=value")
    known = {*signature(sweep), *TARGET_PACKAGES, *SCALAR_KEYS}
    if key not in known and (meant := closest(key, signature(sweep), cutoff=0.8)):
        raise ConfigError(f"{arg} is not a key of this command (did you mean {meant}={value}?)")


def sweep(
    path: str,
    overrides: list[str],
    /,
    *,
    n_trials: PositiveInt | None = None,
    n_jobs: PositiveInt = 1,
    sweep_dir: PathStr | None = None,
    storage: Annotated[str, MinLen(1)] | None = None,
    dry_run: bool = False,
    retrain: Annotated[int, Ge(0)] = 0,
    ensemble: Annotated[int, Ge(0)] = 0,
) -> None:
    """Search for hyperparameters in the space of a W&B sweep file, without a server.

    FILE is a path, or the name of a packaged sweep, as `sum` or `sweeps/sum.yaml`. Overrides apply to all trials;
    parameters that they set are not searched.

    Args:
        path: path of the file, or the name of a packaged one.
        overrides: overrides of `patchwork train` that all trials share.
        n_trials: total number of trials, with those before a resume; by default as before, the file's `run_cap`, or 20.
        n_jobs: number of parallel trials.
        sweep_dir: directory of the sweep, which is resumed if there is one; default outputs/sweeps/FILE/TIME.
        storage: URL of a database, as sqlite:///sweep.db, for machines that share no directory.
        dry_run: only print which configurations are infeasible and what the others cost.
        retrain: number of new seeds to train the selected parameters with.
        ensemble: number of the best trials to evaluate as an ensemble.

    Raises:
        ConfigError: if the file, an override or their combination is wrong.
        DataError: if the file or the journal cannot be read.
        ResourceError: if the directory or the database cannot be opened.
        PatchworkError: if no trial finished. A single trial that fails does not end the sweep.
    """
    import optuna

    import patchwork.core.fast_import  # noqa: F401
    from patchwork.sweep.compose import load_sweep
    from patchwork.sweep.estimate import print_estimate
    from patchwork.sweep.retrain import retrain as retrain_selected

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = load_sweep(find_file(path), overrides)
    if ensemble:
        check_ensemble(config)
    if dry_run:
        print_estimate(config, n_trials=n_trials or config.space.run_cap or DEFAULT_TRIALS, n_jobs=n_jobs)
        return
    study, directory = open_study(config, sweep_dir, storage)
    try:
        search(config, study, directory, shared_dir=storage is None, n_trials=n_trials, n_jobs=n_jobs)
        selected = select(config, study, directory)
        if retrain:
            retrain_selected(config, selected, directory, count=retrain, n_jobs=n_jobs)
    except Interrupted as error:
        where = shell_override("sweep_dir", str(directory))
        raise Interrupted(error.exit_code - 128, f"; resume with the same command and {where}") from error
    if ensemble:
        evaluate_best(study, ensemble)


def find_file(name: str) -> Path:
    """Return the file of a path, otherwise the packaged one of that name.

    Raises:
        DataError: if there is neither.
    """
    from patchwork.runs.compose import SWEEPS_DIR

    path = expand_home(name)
    packaged = SWEEPS_DIR / f"{path.stem}.yaml"
    if path.is_file():
        return path
    if packaged.is_file() and path in (Path(path.stem), Path(packaged.name), Path("sweeps", packaged.name)):
        return packaged
    raise DataError(f"{name} is neither a file nor a packaged sweep; available: {', '.join(packaged_names())}")


def packaged_names() -> list[str]:
    from patchwork.runs.compose import SWEEPS_DIR

    return sorted(path.stem for path in SWEEPS_DIR.glob("*.yaml"))


def check_ensemble(config: "SweepConfig") -> None:
    """Raise a `ConfigError` before the search if the task has no ensembles."""
    from patchwork.runs.build import build

    _, task = build(config.base_config)
    task.make_ensemble([task.model])


def open_study(config: "SweepConfig", sweep_dir: str | None, storage: str | None) -> "tuple[Study, Path]":
    """Open the study of a sweep and make its directory.

    Raises:
        ConfigError: if the directory is a file, or holds another sweep.
        DataError: if its journal is damaged.
        ResourceError: if the directory or the database cannot be opened.
    """
    from patchwork.sweep.study import open_database_study, open_journal_study, study_settings

    settings = study_settings(config)
    study = open_database_study(storage, settings) if storage is not None else None
    directory = make_sweep_dir(sweep_dir, config.path.stem)
    return study or open_journal_study(directory, settings), directory


def make_sweep_dir(sweep_dir: str | None, name: str) -> Path:
    """Make the directory of a sweep, by default a new one below outputs/sweeps."""
    from patchwork.runs.run_dir import make_run_dir

    if sweep_dir is not None and Path(sweep_dir).is_file():
        raise ConfigError(f"sweep_dir={sweep_dir} is a file; pass a directory")
    try:
        return make_run_dir(sweep_dir, Path("outputs", "sweeps", name))
    except ResourceError as error:
        raise ResourceError(str(error).replace("run_dir=", "sweep_dir=")) from error


def search(
    config: "SweepConfig", study: "Study", directory: Path, *, shared_dir: bool, n_trials: int | None, n_jobs: int
) -> None:
    """Search until there are `n_trials` trials, which the study remembers."""
    from patchwork.sweep.search import Search

    total = n_trials or study.user_attrs.get("n_trials") or config.space.run_cap or DEFAULT_TRIALS
    study.set_user_attr("n_trials", total)
    study.set_user_attr("overrides", config.overrides)
    print(f"sweep of {config.path} in {directory}: {total} trials, {n_jobs} in parallel")
    Search(config, study, directory, shared_dir=shared_dir, n_trials=total, n_jobs=n_jobs).run()


def select(config: "SweepConfig", study: "Study", directory: Path) -> "ParamsResult":
    """Report the results of a search and return the selected one.

    Raises:
        PatchworkError: if no trial finished.
    """
    from patchwork.sweep.results import report

    selected = report(config, study, directory)
    if selected is None:
        errors = [trial.user_attrs.get("error") or trial.user_attrs.get("infeasible") for trial in study.trials]
        last = next((f", the last one as {error}" for error in reversed(errors) if error), "")
        raise PatchworkError(f"no trial finished{last}; see {directory / 'trials.csv'}")
    return selected


def evaluate_best(study: "Study", count: int) -> None:
    """Evaluate the best trials whose runs are on this machine as an ensemble."""
    from patchwork.evaluation.ensemble import evaluate_ensemble
    from patchwork.sweep.results import best_trials

    run_dirs = [Path(trial.user_attrs["run_dir"]) for trial in best_trials(study, count)]
    run_dirs = [run_dir for run_dir in run_dirs if run_dir.exists()]
    if run_dirs:
        runs = list(map(str, run_dirs))
        print(f"\nensemble of the best {len(run_dirs)}: {shell_command('evaluate', run=runs)}")
        evaluate_ensemble(run_dirs)
