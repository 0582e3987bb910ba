"""Finished runs, read from their files alone, and grouped into settings that differ in more than the seed."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchwork.core.errors import ConfigError, DataError
from patchwork.core.job import read_json
from patchwork.core.mappings import flatten, read_yaml
from patchwork.core.overrides import override_key
from patchwork.core.paths import expand_home
from patchwork.core.schema import format_value
from patchwork.runs.differences import LAUNCH_KEYS, LINKS, run_overrides
from patchwork.runs.listing import find_run_dirs
from patchwork.runs.predictions import predictions_path, read_table
from patchwork.runs.resume import RESUMABLE_KEYS
from patchwork.runs.run_dir import CONFIG_FILE, MANIFEST_FILE, test_result

REPLICATE_KEYS = ("seed", "data.seed", "dataset.fold", "data.dataset.fold")  # in which the runs of a setting differ
MAX_KEYS = 3  # in which settings of the same overrides are told apart
PASSED_OVER = (*REPLICATE_KEYS, *LAUNCH_KEYS, *LINKS, *RESUMABLE_KEYS, "task_name", "model_name", "init_from")


class Answers(NamedTuple):
    """What a run answered on its test split, in the order of samples.

    Attributes:
        right: (N, T) whether each part of an answer is right.
        units: (N, T) the image that each part is about; (N, S) the images of a sample with one answer about several,
            −1 where there is none; or the sample where no images are known.
        key: what must be equal for two runs to be compared.
    """

    right: np.ndarray
    units: np.ndarray
    key: bytes


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run.

    Attributes:
        run_dir: its directory.
        seed: its seed.
        fold: its fold of a cross-validation, if it is one.
        value: its test metric.
        manifest: content of its manifest.
        config: its configuration by dotted keys.
    """

    run_dir: Path
    seed: int
    fold: int | None
    value: float
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def replicate(self) -> tuple[int | None, int, int]:
        """Return fold, seed and data seed, which pair the run with those of other settings."""
        return self.fold, self.seed, int(self.config.get("data.seed", self.seed))

    def answers(self) -> Answers | None:
        """Return the saved answers on the test split; None if they are not saved or cannot be right or wrong."""
        path = predictions_path(self.run_dir, "test")
        if not path.exists():
            return None
        predictions, _ = read_table(path)
        if predictions.correct is None or predictions.target is None:
            return None
        order = predictions.index.argsort(stable=True)
        if self.config.get("data.test_lengths"):  # longer sequences have metrics of their own
            length = (predictions.image_ids[order] >= 0).sum(dim=1)
            order = order[length <= int(self.config["data.max_length"])]
        prediction, target = (
            values[order].reshape(len(order), -1).numpy() for values in (predictions.prediction, predictions.target)
        )
        ids = predictions.image_ids[order].numpy()
        known = (ids >= 0).all() if ids.shape == prediction.shape else prediction.shape[1] == 1 and (ids >= 0).any()
        if not known:
            ids = predictions.index[order].numpy()[:, None].repeat(prediction.shape[1], axis=1)
        return Answers(prediction == target, ids, ids.tobytes() + target.tobytes())


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that differ in their seed or fold alone.

    Attributes:
        label: in what it differs from the other settings, as overrides.
        runs: one of each replicate, sorted by fold and seed.
        repeated: number of older runs of the same replicates, which are left out.
        shared: the overrides that all settings have, which no label names.
    """

    label: str
    runs: Sequence[FinishedRun]
    repeated: int = 0
    shared: str = ""

    @property
    def values(self) -> np.ndarray:
        """The metric of each run (k,)."""
        return np.array([run.value for run in self.runs])

    @property
    def seed_means(self) -> np.ndarray:
        """The metric of each seed (s,), the mean over its folds: folds of one seed are not independent."""
        return mean_over_folds([(run.replicate, run.value) for run in self.runs])


def mean_over_folds(values: Sequence[tuple[tuple[int | None, int, int], float]]) -> np.ndarray:
    """Return the mean (s,) of values for each seed and data seed, given those of replicates."""
    by_seed: dict[tuple[int, int], list[float]] = {}
    for (_, *seeds), value in values:
        by_seed.setdefault((seeds[0], seeds[1]), []).append(value)
    return np.array([np.mean(each) for each in by_seed.values()])


def find_runs(patterns: Sequence[str]) -> list[Path]:
    """Return the run directories that paths and glob patterns name, that are below them, or of their multiruns' jobs.

    Raises:
        DataError: if one names none.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = str(expand_home(pattern))
        matches = sorted(glob(path, recursive=True)) if has_magic(path) else [path]
        directories = [Path(match) for match in matches if Path(match).is_dir()]
        run_dirs = [each for path in directories for each in (*sorted(find_run_dirs(path)), *job_run_dirs(path))]
        if not run_dirs:
            raise DataError(f"runs={pattern}: there is no run; pass run directories, directories of runs, or patterns")
        found |= dict.fromkeys(run_dirs)
    return [*found]


def job_run_dirs(directory: Path) -> Iterator[Path]:
    """Yield the run directories of the jobs of a multirun, whose own directory says where they are.

    They are relative to the directory that it was started in: this one, or one above its own.
    """
    for path in sorted(directory.glob("[0-9]*.json")):
        run_dir = read_json(path).get("run_dir")
        if isinstance(run_dir, str):
            places = [parent / run_dir for parent in (Path(), *directory.resolve().parents)]
            yield from [place for place in places if place.is_dir()][:1]


def read_run(run_dir: Path) -> FinishedRun | None:
    """Read a run; None if it is not finished or has no test metric."""
    manifest = read_json(run_dir / MANIFEST_FILE)
    result = test_result(manifest)
    if manifest.get("status") not in ("finished", "evaluated") or result is None:
        return None
    config = flatten(read_yaml(run_dir / CONFIG_FILE))
    return FinishedRun(run_dir, int(config["seed"]), config.get("dataset.fold"), result[1], manifest, config)


class Metric(NamedTuple):
    """What runs are compared by.

    Attributes:
        name: without the split.
        mode: whether more of it is better (`max`) or less (`min`).
        is_accuracy: whether it is the share of right answers among those that are saved, which can be tested.
        monitor: the metric that epochs were selected by, without the split.
    """

    name: str
    mode: str
    is_accuracy: bool
    monitor: str

    @property
    def heading(self) -> str:
        """The name, and which way is better where that is not plain."""
        return self.name if self.mode == "max" else f"{self.name} (lower is better)"


def choose_metric(runs: Sequence[FinishedRun]) -> tuple[Metric, list[FinishedRun]]:
    """Return what runs are compared by, and the runs with its values.

    It is the metric that epochs were selected by, or where that is another one, as a loss, the share of right answers,
    so that the order of settings and the tests between them are about the same.

    Raises:
        ConfigError: if runs differ in their task, metric or test data, so that they cannot be compared.
    """
    monitor, mode = monitor_of(runs)
    shares = [None if (found := run.answers()) is None else float(found.right.all(axis=1).mean()) for run in runs]
    known = [(run, share) for run, share in zip(runs, shares, strict=True) if share is not None]
    if known and all(is_equal(run.value, share) for run, share in known):
        return Metric(monitor, mode, True, monitor), [*runs]
    if len(known) < len(runs):
        return Metric(monitor, mode, False, monitor), [*runs]
    name = next((name for name in common_metrics(runs) if all(is_equal(tested(run)[name], s) for run, s in known)), "")
    replaced = [replace(run, value=share) for run, share in known]
    return Metric(name.removeprefix("test/") or "accuracy", "max", True, monitor), replaced


def is_equal(one: float, other: float) -> bool:
    return abs(one - other) < 1e-5  # metrics are computed in single precision


def tested(run: FinishedRun) -> Mapping[str, float]:
    """Return the test metrics of a run."""
    return {name: value for name, value in run.manifest.get("metrics", {}).items() if name.startswith("test/")}


def common_metrics(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the names of the test metrics that all runs have."""
    return [name for name in tested(runs[0]) if all(name in tested(run) for run in runs)]


def monitor_of(runs: Sequence[FinishedRun]) -> tuple[str, str]:
    """Return the name of the metric that all runs were selected by, and whether more of it is better (`max`, `min`).

    Raises:
        ConfigError: if runs differ in their task, metric or test data, so that they cannot be compared.
    """
    for key, what in (("task", "task"), ("monitor", "metric"), ("dataset_sha256", "data set")):
        values = {run.manifest.get(key) for run in runs}
        if len(values) > 1:
            shown = ", ".join(sorted(str(value)[:12] for value in values))
            raise ConfigError(f"these runs cannot be compared: they differ in their {what} ({shown})")
    return str(runs[0].manifest["monitor"]).removeprefix("val/"), str(runs[0].config.get("task.mode", "max"))


def group_settings(runs: Sequence[FinishedRun]) -> list[Setting]:
    """Return the settings of runs, named by the overrides in which they differ."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        computed = {key: value for key, value in run.config.items() if not is_passed_over(key)}
        groups.setdefault(text(computed), []).append(run)
    settings = [newest(members) for members in groups.values()]
    repeated = [len(members) - len(kept) for members, kept in zip(groups.values(), settings, strict=True)]
    labels, shared = make_labels(settings)
    return [Setting(*each, shared) for each in zip(labels, settings, repeated, strict=True)]


def newest(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Return the newest run of each replicate, sorted by fold and seed: others are no seeds of their own."""
    found = {run.replicate: run for run in sorted(runs, key=lambda run: str(run.manifest.get("started", "")))}
    return sorted(found.values(), key=lambda run: (run.fold or 0, *run.replicate[1:]))


def make_labels(settings: Sequence[Sequence[FinishedRun]]) -> tuple[list[str], str]:
    """Return a different name for each setting, the overrides that not all share, and those that they do.

    The overrides that the fewest settings have come first, so that names that are cut short differ. Settings of the
    same overrides are told apart by keys.
    """
    typed = [typed_overrides(members[0]) for members in settings]
    shared = set.intersection(*map(set, typed)) if len(typed) > 1 else set()
    counts = Counter(word for words in typed for word in words)
    labels = [
        " ".join(sorted((word for word in words if word not in shared), key=counts.__getitem__)) or "default"
        for words in typed
    ]
    for index, label in enumerate(labels):
        twins = [other for other, words in enumerate(labels) if words == label]
        if len(twins) > 1:
            for twin in twins:
                labels[twin] = f"{label} ({differing_keys(settings, twin, twins) or index})"
    return labels, " ".join(word for word in typed[0] if word in shared and override_key(word) != "task")


def typed_overrides(run: FinishedRun) -> list[str]:
    """Return the overrides that a run was started with, without those that tell the runs of a setting apart."""
    words = run_overrides(run.run_dir, read_yaml(run.run_dir / CONFIG_FILE))
    return [word for word in words if not is_passed_over(override_key(word))]


def differing_keys(settings: Sequence[Sequence[FinishedRun]], index: int, twins: Sequence[int]) -> str:
    """Return the first values in which a setting differs from others, as overrides."""
    configs = {other: settings[other][0].config for other in twins}
    keys = [key for key in sorted(configs[index]) if not is_passed_over(key)]
    differing = [key for key in keys if len({text(config.get(key)) for config in configs.values()}) > 1]
    return " ".join(f"{key}={format_value(configs[index][key])}" for key in differing[:MAX_KEYS])


def is_passed_over(key: str) -> bool:
    """Return whether a key says nothing of what a run computes, or tells the runs of a setting apart."""
    return any(key == other or key.startswith(f"{other}.") for other in PASSED_OVER)


def text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
