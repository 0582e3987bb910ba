"""What a search found: its settings in a table, the one that is chosen, and that one as an experiment.

The choice is that of document 003: by accuracy, then by stability, then by speed, then by size. Each decides only among
settings that those before it cannot tell apart.
"""

import csv
import io
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from patchwork.files import write_bytes
from patchwork.sweep.search import STATES, counted, written
from patchwork.sweep.setting import CONF
from patchwork.sweep.space import read_words, word_of

STEADY, FAST = 1.5, 1.1  # times the least unsteadiness, and the least seconds, that still count as the same
SHOWN = 10


@dataclass(frozen=True)
class Setting:
    """A setting that was trained, with one seed or several."""

    params: dict[str, Any]
    trials: list[FrozenTrial]

    @property
    def values(self) -> list[float]:
        return [trial.value for trial in self.trials if trial.value is not None]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def average(self, name: str) -> float:
        values = [trial.user_attrs.get(name) for trial in self.trials]
        return statistics.fmean(value or 0.0 for value in values)

    @property
    def unsteadiness(self) -> float:
        """The standard deviation over the later half of the validations."""
        return self.average("unsteadiness")

    @property
    def seconds(self) -> float:
        """How long it trained until its best weights."""
        return self.average("seconds")

    @property
    def parameters(self) -> float:
        return self.average("parameters")

    @property
    def numbers(self) -> str:
        return ",".join(str(trial.number) for trial in self.trials)


def settings_of(study: Study) -> list[Setting]:
    """Return the settings that finished, the best first; trials that differ in their seed alone are of one setting."""
    groups: dict[str, Setting] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        params = {key: value for key, value in trial.params.items() if key != "seed"}
        groups.setdefault(repr(params), Setting(params, [])).trials.append(trial)
    sign = -1 if study.direction is StudyDirection.MAXIMIZE else 1
    return sorted(groups.values(), key=lambda setting: sign * setting.mean)


def choose(settings: list[Setting]) -> tuple[Setting, str]:
    """Return the setting to take of those that finished, the best first, and why."""
    best = settings[0]
    noise = best.spread if best.spread is not None else best.unsteadiness
    alike = [setting for setting in settings if abs(setting.mean - best.mean) <= noise]
    steady = [one for one in alike if one.unsteadiness <= STEADY * min(other.unsteadiness for other in alike)]
    fast = [one for one in steady if one.seconds <= FAST * min(other.seconds for other in steady)]
    chosen = min(fast, key=lambda setting: setting.parameters)
    if len(settings) == 1:
        return chosen, "it is the only one"
    if len(alike) == 1:
        return chosen, f"no other is within its spread of {noise:.2g}"
    ways = ("steadiest", len(steady)), ("fastest", len(fast)), ("smallest", 1)
    reason = next(name for name, left in ways if left == 1)
    return chosen, f"{len(alike)} are within the best one's spread of {noise:.2g}; of those it is the {reason}"


def importances(study: Study) -> dict[str, float]:
    """Return which share of the variance among finished trials each parameter explains, by fANOVA.

    Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html. Nothing where there is too little to tell.
    """
    values = {trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    if len(values) < 4:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def report(study: Study, metric: str, words: list[str], folder: Path, source: str) -> Setting | None:
    """Print what was found, keep it in the sweep's folder, and return the setting that is chosen, if any."""
    trials = counted(study.get_trials(deepcopy=False))
    write_bytes(folder / "trials.csv", table_of(trials, metric).encode())
    states = [STATES[state.name] for state in TrialState]
    counts = {state: sum(STATES[trial.state.name] == state for trial in trials) for state in states}
    counts["impossible"] = sum("impossible" in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    print(f"\n{len(trials)} trials: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
    settings = settings_of(study)
    if not settings:
        return None
    titles = ("trial", metric, "± seeds", "± validations", "seconds", "parameters")
    print("\n  {:<10} {:>22} {:>8} {:>13} {:>8} {:>11}  setting".format(*titles))
    for setting in settings[:SHOWN]:
        spread = "" if setting.spread is None else f"{setting.spread:.4f}"
        print(
            f"  {setting.numbers:<10} {setting.mean:>22.6g} {spread:>8} {setting.unsteadiness:>13.4f} "
            f"{setting.seconds:>8.0f} {setting.parameters:>11,.0f}  {' '.join(written(setting.params))}"
        )
    found = importances(study)
    if found:
        print("\nimportance: " + ", ".join(f"{name} {share:.0%}" for name, share in found.items()))
    chosen, why = choose(settings)
    experiment = folder / "experiment" / "best.yaml"
    command = [*words, *(word_of(key, value) for key, value in chosen.params.items())]
    title = f"Found by {source}, {len(trials)} trials: {metric} {chosen.mean:.6g}."
    write_bytes(experiment, experiment_of(command, folder, title).encode())
    print(f"\nchosen: trial {chosen.numbers}, {metric} {chosen.mean:.6g}: {why}")
    print(f"  python train.py {shlex.join(command)}")
    print(f"  python train.py --config-dir={folder} experiment=best   # the same, from {experiment}")
    return chosen


def table_of(trials: list[FrozenTrial], metric: str) -> str:
    """Write all trials as a table, one a row."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    notes = ["seconds", "unsteadiness", "parameters", "error", "folder"]
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(["trial", "state", metric, "validations", *keys, *notes])
    for trial in trials:
        values = [trial.params.get(key) for key in keys] + [trial.user_attrs.get(note) for note in notes]
        rows.writerow([trial.number, STATES[trial.state.name], trial.value, len(trial.intermediate_values), *values])
    return buffer.getvalue()


def experiment_of(words: list[str], folder: Path, title: str) -> str:
    """Write words of the command line as an experiment's file."""
    base, choices, keys = list[Any](), list[Any](), OmegaConf.create()
    for key, value in read_words(words).items():
        if key == "experiment":
            base.insert(0, value)
        elif key == "debug":
            base.append({"/debug@_global_": value})  # beside the choice that is made after the experiment
        elif (CONF / key).is_dir():
            choices.append({f"override /{key}@{key}" if key in ("model", "data") else f"override /{key}": value})
        else:
            OmegaConf.update(keys, key, value, force_add=True)
    content = {"defaults": [*base, *choices, "_self_"], **keys}
    return (
        "# @package _global_\n"
        f"# {title}\n"
        f"# python train.py --config-dir={folder} experiment=best; to keep it, copy it to conf/experiment.\n"
        f"{OmegaConf.to_yaml(OmegaConf.create(content))}"
    )


def top(study: Study, count: int) -> list[FrozenTrial]:
    """Return so many finished trials, the best first."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(finished, key=lambda trial: trial.value or 0.0, reverse=study.direction is StudyDirection.MAXIMIZE)[
        :count
    ]
