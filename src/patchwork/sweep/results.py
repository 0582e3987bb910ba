"""The results of a sweep: its trials as a table, the parameters to use, and those as an experiment.

Parameters are selected by the criteria of the ViT project (docs/references.md): accuracy, then stability, speed and
size. Each criterion decides only among those that the criteria before it cannot tell apart.
"""

import csv
import io
import math
import shlex
import statistics
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from patchwork.core.atomic import write_bytes
from patchwork.core.overrides import parse_overrides
from patchwork.core.table import format_table
from patchwork.core.terminal import is_terminal, terminal_width
from patchwork.runs.compose import CONF_DIR
from patchwork.stats.paired import luck_of_best, mean_and_std
from patchwork.sweep.compose import Params, SweepConfig, format_params
from patchwork.sweep.study import STATES, started_trials

STD_TOLERANCE, TIME_TOLERANCE = 1.5, 1.1  # times the least val_std and the least seconds, which count as equal
MAX_ROWS = 10
MIN_PARAMS_WIDTH = 24  # characters
MIN_VALUES = 4  # different values of the metric, from which importances are computed


@dataclass(frozen=True)
class ParamsResult:
    """Parameters that were trained to the end, with one seed or several."""

    params: Params
    trials: list[FrozenTrial]

    @property
    def values(self) -> list[float]:
        """The metric of each seed, the mean over the trials that repeat it, as a search may."""
        by_seed: dict[int | None, list[float]] = {}
        for trial in self.trials:
            if trial.value is not None:
                by_seed.setdefault(trial.params.get("seed"), []).append(trial.value)
        return [statistics.fmean(each) for each in by_seed.values()]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def seed_std(self) -> float | None:
        """The standard deviation over seeds; None of a single one."""
        return mean_and_std(self.values)[1] if len(self.values) > 1 else None

    @property
    def std_error(self) -> float | None:
        """The standard error of the mean over seeds; None of a single one."""
        return None if self.seed_std is None else self.seed_std / math.sqrt(len(self.values))

    @property
    def val_std(self) -> float:
        """The standard deviation over the later half of the validations."""
        return self.mean_attr("val_std")

    @property
    def seconds(self) -> float:
        """The seconds of training until the best weights."""
        return self.mean_attr("seconds")

    @property
    def num_parameters(self) -> float:
        return self.mean_attr("num_parameters")

    @property
    def numbers(self) -> str:
        return ",".join(str(trial.number) for trial in self.trials)

    def mean_attr(self, name: str) -> float:
        return statistics.fmean(trial.user_attrs.get(name) or 0.0 for trial in self.trials)


def group_trials(study: Study) -> list[ParamsResult]:
    """Return the results of the finished trials, best first; trials that differ only in their seed are one result."""
    groups: dict[str, ParamsResult] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        params = {key: value for key, value in trial.params.items() if key != "seed"}
        groups.setdefault(repr(params), ParamsResult(params, [])).trials.append(trial)
    maximize = study.direction is StudyDirection.MAXIMIZE
    return sorted(groups.values(), key=lambda result: result.mean, reverse=maximize)


def select(results: list[ParamsResult]) -> tuple[ParamsResult, str]:
    """Select one of the results, which are sorted, best first; return it and the reason."""
    best = results[0]
    noise = best.seed_std if best.seed_std is not None else best.val_std
    similar = [result for result in results if abs(result.mean - best.mean) <= noise]
    least_std = min(result.val_std for result in similar)
    stable = [result for result in similar if result.val_std <= STD_TOLERANCE * least_std]
    least_seconds = min(result.seconds for result in stable)
    fast = [result for result in stable if result.seconds <= TIME_TOLERANCE * least_seconds]
    selected = min(fast, key=lambda result: result.num_parameters)
    if len(results) == 1:
        return selected, "the only result"
    if len(similar) == 1:
        return selected, f"no other is within its standard deviation of {noise:.2g}"
    if len(stable) == 1:
        criterion = "most stable"
    elif len(fast) == 1:
        criterion = "fastest"
    else:
        criterion = "smallest"
    return selected, f"the {criterion} of {len(similar)} within the best one's standard deviation of {noise:.2g}"


def param_importances(study: Study) -> dict[str, float]:
    """Return the fraction of the variance among finished trials that each parameter explains, by fANOVA.

    Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html. Empty if there are too few trials.
    """
    values = {trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    if len(values) < MIN_VALUES:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def report(sweep: SweepConfig, study: Study, sweep_dir: Path) -> ParamsResult | None:
    """Print the results, write `trials.csv` and the experiment `best`, and return the selected result, if any."""
    all_trials = study.get_trials(deepcopy=False)
    trials = started_trials(all_trials)
    write_bytes(sweep_dir / "trials.csv", trials_csv(trials, sweep.metric).encode())
    counts = Counter(STATES[trial.state.name] for trial in trials)
    counts["infeasible"] = sum("infeasible" in trial.user_attrs for trial in all_trials)
    summary = ", ".join(f"{counts[state]} {state}" for state in (*STATES.values(), "infeasible") if counts[state])
    print(f"\n{len(trials)} trials: {summary}")
    results = group_trials(study)
    if not results:
        return None
    print(f"\n{format_results(results[:MAX_ROWS], sweep.metric)}")
    importances = param_importances(study)
    if importances:
        print("\nimportance: " + ", ".join(f"{name} {fraction:.0%}" for name, fraction in importances.items()))
    selected, reason = select(results)
    overrides = sweep.trial_overrides(selected.params)
    title = f"Found by {sweep.path.name}, {len(trials)} trials: {sweep.metric} {selected.mean:.6g}."
    experiment = sweep_dir / "experiment" / "best.yaml"
    write_bytes(experiment, experiment_yaml(overrides, sweep_dir, title).encode())
    print(f"\nselected: trial {selected.numbers}, {sweep.metric} {selected.mean:.6g}: {reason}")
    noise = luck_of_best(len(results), [each.std_error for each in results if each.std_error is not None])
    if noise > 0:
        print(f"  by luck, the best of {len(results)} equally good settings seems {noise:.2g} better than it is")
    if counts["running"]:
        are = "1 trial is" if counts["running"] == 1 else f"{counts['running']} trials are"
        print(f"  {are} still running in another process: the same command selects again among all, once it has ended")
    print(f"  {shlex.join(['patchwork', 'train', *overrides])}")
    print(f"  {experiment_command(sweep_dir)}   # the same, from {experiment}")
    return selected


def format_results(results: list[ParamsResult], metric: str) -> str:
    """Format results as a table."""
    numeric = (metric, "± seeds", "± validations", "seconds", "model parameters")
    rows = [
        {
            "trial": result.numbers,
            metric: f"{result.mean:.6g}",
            "± seeds": "" if result.seed_std is None else f"{result.seed_std:.4f}",
            "± validations": f"{result.val_std:.4f}",
            "seconds": f"{result.seconds:.0f}",
            "model parameters": f"{result.num_parameters:,.0f}",
            "hyperparameters": format_params(result.params),
        }
        for result in results
    ]
    return format_table(wrap_params(rows), right=numeric)


def wrap_params(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Continue long hyperparameters, the last column, in rows of their own where a terminal would break lines."""
    if not is_terminal(sys.stdout):
        return rows
    others = sum(max(len(name), *(len(row[name]) for row in rows)) + 2 for name in rows[0] if name != "hyperparameters")
    width = max(MIN_PARAMS_WIDTH, terminal_width() - others)
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    wrapped = []
    for row in rows:
        first, *rest = wrapper.wrap(row["hyperparameters"]) or [""]
        wrapped += [{**row, "hyperparameters": first}, *({"hyperparameters": line} for line in rest)]
    return wrapped


def trials_csv(trials: list[FrozenTrial], metric: str) -> str:
    """Return all trials as CSV, one a row."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    attrs = ["seconds", "val_std", "num_parameters", "error", "run_dir"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "state", metric, "validations", *keys, *attrs])
    for trial in trials:
        values = [trial.params.get(key) for key in keys] + [trial.user_attrs.get(attr) for attr in attrs]
        writer.writerow([trial.number, STATES[trial.state.name], trial.value, len(trial.intermediate_values), *values])
    return buffer.getvalue()


def experiment_command(sweep_dir: Path) -> str:
    return shlex.join(["patchwork", "train", f"--config-dir={sweep_dir}", "experiment=best"])


def experiment_yaml(overrides: list[str], sweep_dir: Path, title: str) -> str:
    """Return overrides as the file of an experiment, which composes to the same configuration."""
    bases: list[Any] = []
    choices: list[Any] = []
    keys = OmegaConf.create()
    for key, value in parse_overrides(overrides).items():
        if key == "experiment":
            bases.insert(0, value)
        elif key == "debug":
            bases.append({"/debug@_global_": value})
        elif (CONF_DIR / key.partition("@")[0]).is_dir():
            choices.append({f"override /{key}@{key}" if key in ("model", "data") else f"override /{key}": value})
        else:
            OmegaConf.update(keys, key, value, force_add=True)
    content = {"defaults": [*bases, *choices, "_self_"], **keys}
    return (
        "# @package _global_\n"
        f"# {title}\n"
        f"# {experiment_command(sweep_dir)}; copy this file to conf/experiment to keep it.\n"
        f"{OmegaConf.to_yaml(OmegaConf.create(content))}"
    )


def best_trials(study: Study, count: int) -> list[FrozenTrial]:
    """Return up to `count` finished trials, best first."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    maximize = study.direction is StudyDirection.MAXIMIZE
    return sorted(finished, key=lambda trial: trial.value or 0.0, reverse=maximize)[:count]
