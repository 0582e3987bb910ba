"""Search for good settings: the file of a W&B sweep, without a server.

    python sweep.py sweeps/seq2seq.yaml count=20 jobs=2 digits=uci trainer.max_epochs=2

What is no argument of `sweep` is a setting of all trials, as `train.py` has it; what is set is not searched.
"""

import hashlib
import inspect
import statistics
from pathlib import Path
from typing import Annotated

import optuna
from annotated_types import Ge, MinLen
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution
from pydantic import PositiveInt

from patchwork.config import check, check_call, signature
from patchwork.errors import ConfigError, Interrupted, PatchworkError
from patchwork.evaluate import evaluate_together
from patchwork.folder import new_folder, read_manifest
from patchwork.run import build
from patchwork.sweep.account import account, in_database, in_folder
from patchwork.sweep.jobs import Job, run_all, share_of_threads
from patchwork.sweep.plan import print_plan
from patchwork.sweep.results import Setting, report, top
from patchwork.sweep.search import Search
from patchwork.sweep.setting import composed, impossible, validations
from patchwork.sweep.space import Space, key_of, read_space, read_words, word_of

COUNT = 20  # trials of a sweep, if not told


def sweep(
    path: str,
    settings: list[str],
    /,
    *,
    count: PositiveInt | None = None,
    jobs: PositiveInt = 1,
    folder: Annotated[str, MinLen(1)] | None = None,
    storage: Annotated[str, MinLen(1)] | None = None,
    plan: bool = False,
    retrain: Annotated[int, Ge(0)] = 0,
    ensemble: Annotated[int, Ge(0)] = 0,
) -> None:
    """Search the space of the file at `path`, and say what was found.

    Args:
        path: of the sweep's file.
        settings: what is the same in all trials.
        count: trials in all, with those of an earlier start; if not told as then, or the file's `run_cap`, or 20.
        jobs: trials at once.
        folder: of the sweep, which goes on if there is one; a new outputs/sweeps/<file>/<time>/ if not told.
        storage: a database's URL, as sqlite:///sweep.db, where machines that share no folder keep their account.
        plan: only say what it would cost.
        retrain: how many new seeds to train the chosen setting with.
        ensemble: how many of the best trials to evaluate as one.

    Raises:
        PatchworkError: its kind says what is at fault. A trial's fault is none of the sweep's.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = read_space(Path(path))
    words = [*(word for word in space.fixed() if key_of(word) not in read_words(settings)), *settings]
    ranges = {key: found for key, found in space.ranges().items() if key not in read_words(settings)}
    config = checked(space, words, ranges)
    if ensemble:
        task = build(config)[1]
        task.together([task.model])  # what makes no sense is refused now, and not after the search
    if plan:
        print_plan(words, ranges, grid=space.method == "grid", count=count or space.run_cap or COUNT, jobs=jobs)
        return
    name = f"{Path(path).stem}-{digest(words, ranges)}"
    settled = account(space, name, validations(config), config.seed)
    elsewhere = in_database(storage, settled) if storage is not None else None
    place = new_folder(folder, Path("outputs", "sweeps", Path(path).stem))
    study = elsewhere or in_folder(place, settled)
    search = Search(
        space=space,
        words=words,
        ranges=ranges,
        study=study,
        folder=place,
        shared=elsewhere is None,
        count=count or study.user_attrs.get("count") or space.run_cap or COUNT,
        jobs=jobs,
        validations=validations(config),
    )
    study.set_user_attr("count", search.count)
    print(f"sweep of {path} in {place}: {search.count} trials, {jobs} at once")
    try:
        search.run()
        chosen = report(study, space.metric.name, words, place, path)
        if chosen is None:
            raise PatchworkError(f"no trial finished, so nothing is chosen; {place / 'trials.csv'} says why")
        if retrain:
            used = [config.seed, *(trial.params.get("seed", 0) for trial in chosen.trials)]
            train_again(chosen, words, place, seeds=range(max(used) + 1, max(used) + 1 + retrain), jobs=jobs)
    except Interrupted as stop:
        raise Interrupted(stop.exit_code - 128, f"; go on with the same command and folder={place}") from stop
    folders = [Path(trial.user_attrs["folder"]) for trial in top(study, ensemble)]
    folders = [found for found in folders if found.exists()]  # and not on another machine
    if folders:
        print(f"\nthe best {len(folders)} as one: python evaluate.py 'run=[{','.join(map(str, folders))}]'")
        evaluate_together(folders)


def checked(space: Space, words: list[str], ranges: dict[str, BaseDistribution]) -> DictConfig:
    """Return the configuration that all trials share.

    Raises:
        ConfigError: if it is wrong, nothing is searched or not by its name, or the metric is not measured.
    """
    if not ranges:
        raise ConfigError("nothing is left to search: every parameter has one value")
    config = composed(words)
    check(config)
    reason = impossible([*words, f"task.monitor={space.metric.name}"])
    if reason is not None:
        raise ConfigError(reason.replace("task.monitor=", "metric.name="))
    if "metrics" not in (config.logger or {}):
        raise ConfigError("logger=none is not allowed: a sweep reads metrics.csv; leave it away")
    for key, found in ranges.items():
        value = found.choices[0] if isinstance(found, CategoricalDistribution) else getattr(found, "low", None)
        composed([*words, word_of(key, value)])
    return config


def digest(words: list[str], ranges: dict[str, BaseDistribution]) -> str:
    """Return what tells a sweep from others: what is searched, and what is the same in all trials."""
    return hashlib.sha256(repr((sorted(words), sorted(ranges.items(), key=str))).encode()).hexdigest()[:8]


def train_again(chosen: Setting, words: list[str], place: Path, *, seeds: range, jobs: int) -> None:
    """Train a setting with other seeds, and print what comes of it."""
    fixed = [word for word in words if key_of(word) != "seed"]
    fixed += [word_of(key, value) for key, value in chosen.params.items()]
    share = share_of_threads(min(jobs, len(seeds)))
    of = place / "retrained" / f"{chosen.trials[0].number:03}"
    again = [Job([*fixed, f"seed={seed}"], of.with_name(f"{of.name}-seed-{seed}"), share) for seed in seeds]
    print(f"\ntraining it again with seeds {seeds.start} to {seeds.stop - 1}")
    run_all(again, jobs)
    measured: dict[str, list[float]] = {}
    for job in again:
        manifest = read_manifest(job.folder)
        if manifest.get("status") != "finished":
            print(f"  {job.folder} failed: {job.fault()}")
            continue
        for metric, value in manifest["metrics"].items():
            measured.setdefault(metric, []).append(value)
    for metric, values in measured.items():
        if metric.count("/") == 1:
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            print(f"  {metric:<28} {statistics.fmean(values):.6f}{spread}")


def command(words: list[str]) -> None:
    """Sweep as the words of a command line say.

    Raises:
        ConfigError: if they name no file, or several; and as `sweep` does.
    """
    if {"-h", "--help"} & {*words}:
        print(f"{__doc__}\n{inspect.cleandoc(sweep.__doc__ or '')}")
        return
    files = [word for word in words if "=" not in word]
    if len(files) != 1:
        raise ConfigError(
            f"{len(files)} files are named: give one, as python sweep.py sweeps/seq2seq.yaml count=20, "
            f"with {', '.join(signature(sweep))} and settings of all trials"
        )
    own = [word for word in words if key_of(word) in signature(sweep)]
    sweep(files[0], [word for word in words if word not in [*files, *own]], **check_call(sweep, own))
