"""List runs, newest first: what each is, in what it differs from the default, its result, time and status."""

import csv
import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from patchwork.commands.app import call_command
from patchwork.core.errors import ConfigError
from patchwork.core.paths import exists
from patchwork.core.table import format_table, shorten
from patchwork.core.types import PathStr

DEFAULT_ROOT = "outputs"  # which the first training makes
MAX_OVERRIDES = 60  # characters of them in the table
MAX_REASON = 60


def command(args: list[str]) -> int:
    return call_command("runs", runs, args)


def runs(
    *,
    task: str | None = None,
    model: str | None = None,
    status: Literal["finished", "running", "stopped", "killed", "failed", "damaged"] | None = None,
    limit: PositiveInt | None = 20,
    format: Literal["table", "csv", "json"] = "table",  # the key that a user types
    root: PathStr = DEFAULT_ROOT,
) -> None:
    """List runs, newest first: those that were trained, by multiruns and sweeps too.

    The overrides are those in which a run differs from the default configuration of its task and model; the result is
    the test metric that its task monitors.

    Args:
        task: only runs of this task.
        model: only runs of this model.
        status: only runs that are finished, running, stopped (by a signal), killed, failed or damaged.
        limit: the largest number of runs; null for all.
        format: table, csv or json, which have everything in full.
        root: the directory below which runs are looked for.

    Raises:
        ConfigError: if no run has a task or model of this name and there is no such choice.
        DataError: if there is no such directory.
    """
    from patchwork.runs.listing import list_runs

    wanted = {"task": task, "model": model, "status": status}
    found = list_runs(Path(root)) if root != DEFAULT_ROOT or exists(root) else []
    check_choice("task", task, {run.task for run in found})
    check_choice("model", model, {run.model for run in found})
    selected = [run for run in found if all(value in (None, getattr(run, key)) for key, value in wanted.items())]
    rows = [describe(run) for run in selected[:limit]]
    if format == "json":
        print(json.dumps(rows, indent=2))
    elif format == "csv":
        write_csv(rows)
    elif not rows:
        filters = " ".join(f"{key}={value}" for key, value in wanted.items() if value is not None)
        print(f"no runs below {root}{f' with {filters}' if filters else ''}")
    else:
        shared = set.intersection(*(set(row["overrides"]) for row in rows)) if len(rows) > 1 else set()
        print(format_table([table_row(row, shared) for row in rows], right=("seconds",)))
        if len(selected) > len(rows):
            print(f"{len(rows)} of {len(selected)} runs; limit=null lists all")


def check_choice(group: Literal["task", "model"], name: str | None, found: set[str]) -> None:
    """Raise a `ConfigError` at a name that neither a run nor a choice of `patchwork train` has."""
    if name is None or name in found:
        return
    from patchwork.core.conf_files import group_choices
    from patchwork.core.suggest import closest_choice
    from patchwork.runs.compose import CONF_DIR

    choices = {key: names for key, names in group_choices([CONF_DIR]).items() if key in ("task", "model")}
    choices[group] = sorted({*choices[group], *found - {""}})
    if name not in choices[group]:
        meant = closest_choice(group, name, choices)
        hint = f" (did you mean {'='.join(meant)}?)" if meant else f": use one of {', '.join(choices[group])}"
        raise ConfigError(f"{group}={name} is neither a choice nor of a run{hint}")


def describe(run: Any) -> dict[str, Any]:
    """Return a `RunSummary` as a row of values."""
    return {
        "started": run.started.isoformat(timespec="seconds"),
        "status": run.status,
        "task": run.task,
        "model": run.model,
        "overrides": run.overrides(),
        "metric": run.metric,
        "value": run.value,
        "seconds": run.seconds,
        "reason": run.reason,
        "run_dir": str(run.run_dir),
    }


def write_csv(rows: list[dict[str, Any]]) -> None:
    """Print rows as CSV, with overrides separated by spaces."""
    columns = ("started", "status", "task", "model", "overrides", "metric", "value", "seconds", "reason", "run_dir")
    writer = csv.DictWriter(sys.stdout, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "overrides": " ".join(row["overrides"])} for row in rows)


def table_row(row: dict[str, Any], shared: set[str]) -> dict[str, str]:
    """Return a row as the cells of the table, long ones shortened; overrides that all rows share come last."""
    overrides = sorted(row["overrides"], key=lambda override: override in shared)
    value, seconds, reason = row["value"], row["seconds"], row["reason"]
    return {
        "started": row["started"][:16].replace("T", " "),
        "status": f"{row['status']}: {shorten(reason, MAX_REASON)}" if reason else row["status"],
        "task": row["task"],
        "model": row["model"],
        "overrides": shorten(" ".join(overrides), MAX_OVERRIDES),
        "result": "" if value is None else f"{row['metric'].removeprefix('test/')} {value:.4f}",
        "seconds": "" if seconds is None else f"{seconds:.1f}",
        "run_dir": row["run_dir"],
    }
