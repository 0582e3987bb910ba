"""Compare finished runs: which setting is better, by how much, and whether that is more than luck."""

import csv
import io
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveFloat

from patchwork.commands.app import call_command
from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ConfigError
from patchwork.core.overrides import shell_command
from patchwork.core.types import PathStr

if TYPE_CHECKING:
    from patchwork.evaluation.compare.comparison import Comparison

STAMP = "%Y-%m-%d_%H-%M-%S"


def command(args: list[str]) -> int:
    return call_command("compare", compare, args)


def compare(
    *,
    runs: PathStr | list[PathStr],
    margin: PositiveFloat = 0.001,
    plan: bool = False,
    difference: PositiveFloat | None = None,
    out: PathStr | None = None,
) -> None:
    """Compare finished runs: which setting is better, by how much, and whether that is more than luck.

    Runs that differ in their seed or fold alone are one setting. Trained models are tested over the digits of the test
    split on which they differ, recipes over seeds as well. The verdicts are better, worse, no matter (the difference
    is within the margin) and cannot tell. The results are compare.html, compare.csv and compare.json in a directory.

    Args:
        runs: run directories, directories of runs such as a multirun's, or patterns, as [outputs/seq2seq/*].
        margin: the smallest difference of the metric that counts, as 0.001 for a tenth of a percent.
        plan: say instead how many seeds and test samples would tell a difference.
        difference: the difference to plan for; by default the margin.
        out: the directory to write; by default a new one in outputs/compare.

    Raises:
        PatchworkError: of the kind that says what is wrong.
    """
    from patchwork.evaluation.compare.comparison import compare as compare_settings
    from patchwork.evaluation.compare.output import comparison_page, comparison_text, setting_rows
    from patchwork.evaluation.compare.runs import choose_metric, find_runs, group_settings, read_run

    patterns = [runs] if isinstance(runs, str) else runs
    found = [run for run_dir in find_runs(patterns) if (run := read_run(run_dir)) is not None]
    if not found:
        raise ConfigError(f"runs={patterns}: none of these runs is finished and tested")
    metric, found = choose_metric(found)
    comparison = compare_settings(group_settings(found), metric=metric, margin=margin)
    if plan:
        print("\n".join(plan_sentences(comparison, difference or margin)))
        return
    directory = Path(out) if out is not None else Path("outputs/compare") / datetime.now().strftime(STAMP)
    rows = setting_rows(comparison)
    content = {
        "task": found[0].manifest["task"],
        "metric": metric.name,
        "mode": metric.mode,
        "margin": margin,
        "shared": comparison.rows[0].setting.shared,
        "settings": rows,
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    write_bytes(directory / "compare.json", f"{text}\n".encode())
    write_bytes(directory / "compare.csv", to_csv(rows).encode())
    page = comparison_page(comparison, shell_command("compare", runs=patterns, margin=margin))
    write_bytes(directory / "compare.html", page)
    print(comparison_text(comparison))
    print(f"saved in {directory}")


def plan_sentences(comparison: "Comparison", difference: float) -> list[str]:
    """Return how many seeds and test samples would tell a difference, by the spread of the runs that there are."""
    import math

    from patchwork.stats.paired import samples_needed, seeds_needed

    found = []
    for row in comparison.rows:
        spread = row.std if math.isfinite(row.std) else row.test_std
        if math.isfinite(spread) and spread > 0:
            source = "over its seeds" if math.isfinite(row.std) else "of the test set, as there is one run"
            seeds = seeds_needed(math.sqrt(2) * spread, difference)
            found.append(
                f"{row.setting.label}: spread {spread:.4f} {source}; a difference of {difference:g} is found in 80 % "
                f"of cases with {seeds} seeds of each recipe ({seeds * row.seconds:,.0f} s of training each)"
            )
        if math.isfinite(row.test_std) and row.test_std > 0:
            samples = samples_needed(math.sqrt(2) * row.test_std, comparison.n, difference)
            found.append(
                f"{row.setting.label}: two trained models take {samples:,} test samples, and there are {comparison.n:,}"
            )
    return found or ["nothing is known of the spread: pass several seeds, or runs with saved predictions"]


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Return rows as CSV, lists separated by spaces."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
        )
    return buffer.getvalue()
