"""Train selected parameters again with new seeds."""

import math
from pathlib import Path

from patchwork.core.errors import PatchworkError
from patchwork.core.overrides import override_key
from patchwork.core.table import format_table
from patchwork.evaluation.compare.output import compare_finished
from patchwork.runs.manifest import read_manifest
from patchwork.stats.paired import mean_and_std
from patchwork.sweep.compose import SweepConfig
from patchwork.sweep.jobs import Job, run_all, threads_per_job
from patchwork.sweep.results import ParamsResult


def retrain(sweep: SweepConfig, selected: ParamsResult, sweep_dir: Path, *, count: int, n_jobs: int) -> None:
    """Train selected parameters with `count` seeds that no trial had, and print the mean of each metric."""
    first = 1 + max([sweep.base_config.seed, *(trial.params.get("seed", 0) for trial in selected.trials)])
    overrides = [each for each in sweep.trial_overrides(selected.params) if override_key(each) != "seed"]
    threads = threads_per_job(min(n_jobs, count))
    number = selected.trials[0].number
    jobs = [
        Job([*overrides, f"seed={seed}"], sweep_dir / "retrained" / f"{number:03}-seed-{seed}", threads)
        for seed in range(first, first + count)
    ]
    seeds = f"seed {first}" if count == 1 else f"seeds {first} to {first + count - 1}"
    print(f"\nretraining with {seeds}")
    run_all(jobs, n_jobs)
    rows = mean_metrics(jobs)
    if rows:
        print("\n".join([format_table(rows, right=("mean",)), *compare_finished([job.run_dir for job in jobs])]))
    failed = [job for job in jobs if read_manifest(job.run_dir).get("status") != "finished"]
    if failed:
        raise PatchworkError(f"{len(failed)} of {count} retrained runs failed: see {failed[0].run_dir}.log")


def mean_metrics(jobs: list[Job]) -> list[dict[str, str]]:
    """Return the mean and standard deviation of each metric over jobs, and print which jobs failed."""
    values: dict[str, list[float]] = {}
    for job in jobs:
        manifest = read_manifest(job.run_dir)
        if manifest.get("status") != "finished":
            print(f"{job.run_dir} failed: {job.error()}")
            continue
        for name, value in manifest["metrics"].items():
            if name.count("/") == 1:  # not those of a single class or cell
                values.setdefault(name, []).append(value)
    rows = []
    for name, samples in values.items():
        mean, std = mean_and_std(samples)
        rows.append({"metric": name, "mean": f"{mean:.6f}", "± seeds": "" if math.isnan(std) else f"{std:.4f}"})
    return rows
