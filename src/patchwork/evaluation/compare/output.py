"""A comparison as text, as rows of a table, and as a page."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchwork.core.errors import ConfigError, DataError
from patchwork.core.table import format_table, shorten
from patchwork.evaluation.compare.comparison import (
    MARGIN,
    SIGNIFICANT,
    Comparison,
    SettingComparison,
    SettingRow,
    compare,
)
from patchwork.evaluation.compare.curves import render_curves
from patchwork.evaluation.compare.folds import folds_accuracy, folds_sentence, unsaved_sentence
from patchwork.evaluation.compare.importance import outline_text, render_importance
from patchwork.evaluation.compare.runs import Metric, choose_metric, group_settings, read_run
from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.report.page import NUM_CLAIMS, PageSection, page_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LABEL = 70  # characters of a setting in the table
MAX_DOTS_LABEL = 110  # and above its dots
PLUS_MINUS = (
    "± is the standard deviation over seeds (n − 1); 'test set' is by how much one run would vary with other test "
    "images; p is whether the trained models are as good as the best on new images (Holm), the verdict is on the "
    "recipes, over seeds"
)
NO_BREAK = "\N{NO-BREAK SPACE}"


def setting_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row of plain values for each setting, the best first; unknown ones are None."""
    against = {each.label: each for each in comparison.others}
    rows = []
    for row in comparison.rows:
        other = against.get(row.setting.label)
        rows.append(
            {
                "setting": row.setting.label,
                "model": row.model,
                "runs": len(row.setting.runs),
                "seeds": [run.seed for run in row.setting.runs],
                **folds_of(row),
                "values": row.setting.values.tolist(),
                "mean": row.mean,
                "std_over_seeds": known(row.std),
                "std_of_the_test_set": known(row.test_std),
                "seconds": known(row.seconds),
                "parameters": row.parameters,
                "verdict": verdict_on(comparison, other),
                **({} if other is None else comparison_values(other)),
                **folds_values(row),
            }
        )
    return rows


def verdict_on(comparison: Comparison, other: SettingComparison | None) -> str:
    """Return the verdict on a setting; the first one is the best if there are others."""
    if other is not None:
        return other.verdict
    return "best" if comparison.others else ""


def folds_of(row: SettingRow) -> dict[str, list[int]]:
    """Return the fold of each run of a cross-validation as plain values."""
    folds = [run.fold for run in row.setting.runs if run.fold is not None]
    return {"folds": folds} if folds else {}


def known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def folds_values(row: SettingRow) -> dict[str, Any]:
    """Return the accuracy over all folds of a cross-validation as plain values; none if the setting is not one."""
    found = folds_accuracy(row.setting)
    return {} if found is None else {f"folds_{name}": value for name, value in found._asdict().items()}


def comparison_values(other: SettingComparison) -> dict[str, Any]:
    """Return what was found of a setting against the best, as plain values."""
    values: dict[str, Any] = {"worse_by": other.difference, "seeds_needed": other.seeds}
    if other.models is not None:
        values |= {
            "models_difference": other.models.difference,
            "models_std_error": other.models.std_error,
            "models_p_value": other.models.p_value,
            "models_p_value_holm": other.p_value,
            "models_detectable": other.models.detectable,
            "differing_images": other.models.num_units,
        }
    if other.recipe is not None:
        values |= {
            "recipe_low": known(other.recipe.low),
            "recipe_high": known(other.recipe.high),
            "recipe_p_value": other.recipe.p_value,
            "recipe_p_value_holm": other.recipe_p_value,
        }
    return values


def sentences(comparison: Comparison) -> list[str]:
    """Return what was found in plain words."""
    best, metric = comparison.rows[0], comparison.metric
    value = f"{best.setting.label}: {metric.name} {quantity(best)}."
    found = [f"The best is {value}" if comparison.others else f"There is nothing to compare with {value}"]
    if comparison.num_rivals > 1 and math.isfinite(comparison.luck):
        found.append(
            f"By luck, the best of {comparison.num_rivals} equally good settings would seem "
            f"{amount(comparison.luck, metric)} better than it is: expect {metric.name} {shrunk(comparison):.4f} of it."
        )
    found += [f"{other.label}: {describe(other, metric)}." for other in comparison.others]
    if metric.name != metric.monitor:
        found.append(f"{metric.name} is the share of right answers; epochs were selected by {metric.monitor}.")
    repeated = sum(row.setting.repeated for row in comparison.rows)
    if repeated:
        found.append(f"Left out: {repeated} of the runs, as newer ones have the same setting and seed.")
    for row in comparison.rows:
        together = folds_accuracy(row.setting)
        sentence = unsaved_sentence(row.setting) if together is None else folds_sentence(row.setting.label, together)
        found += [] if sentence is None else [sentence]
    return found


def shrunk(comparison: Comparison) -> float:
    """Return the metric of the best setting without the luck of being picked."""
    sign = 1 if comparison.metric.mode == "max" else -1
    return comparison.rows[0].mean - sign * comparison.luck


def amount(difference: float, metric: Metric) -> str:
    """Return a difference of the metric, in percentage points if it is an accuracy."""
    return f"{100 * difference:.2f} points" if metric.is_accuracy else f"{difference:.4g}"


def about(comparison: Comparison) -> str:
    """Return what all runs have in common: how many they are, their task, and the overrides that no label names."""
    first = comparison.rows[0].setting
    num_runs = sum(len(row.setting.runs) for row in comparison.rows)
    task, words = first.runs[0].manifest.get("task", ""), first.shared
    return f"{num_runs} run{'s' if num_runs > 1 else ''}{f' of task {task}' if task else ''}" + (
        f", all with {words}" if words else ""
    )


def p_text(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def describe(other: SettingComparison, metric: Metric) -> str:
    """Return the verdicts on a setting against the best: on the trained models, and on the recipe."""
    text = f"{amount(other.difference, metric)} worse than the best"
    if other.recipe is None:
        answers = " with saved answers" if metric.is_accuracy else ""
        return f"{text}; it has no run of the same seed{answers}, so that nothing more can be told"
    if other.models is not None:
        told = "differ" if other.p_value < SIGNIFICANT else "cannot be told apart"
        text += (
            f"; the trained models {told} ({p_text(other.p_value)} over {other.models.num_units} images on which they "
            f"differ, detectable: {amount(other.models.detectable, metric)})"
        )
    else:
        text += "; nothing is said of other test images"
    if other.recipe.num_seeds < 2:
        return f"{text}; one seed tells nothing of the recipe"
    text += f"; of the recipe, over {other.recipe.num_seeds} seeds: {other.verdict}"
    return text if other.seeds is None else f"{text} ({other.seeds:,} seeds each would tell the margin)"


def quantity(row: SettingRow) -> str:
    """Return mean and spread of a setting."""
    text = f"{row.mean:.4f}"
    if math.isfinite(row.std):
        text += f" ± {row.std:.4f} over {len(row.setting.seed_means)} seeds"
    return text if math.isnan(row.test_std) else f"{text}, test set ± {row.test_std:.4f}"


# --- text ------------------------------------------------------------------------------------------------------------


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison as a table and in words, for a terminal."""
    rows = [table_row(row, comparison.metric.heading) for row in setting_rows(comparison)]
    table = format_table([{**row, "setting": shorten(row["setting"], MAX_LABEL)} for row in rows])
    return "\n".join([f"{about(comparison)}:", table, "", PLUS_MINUS, *sentences(comparison)])


def table_row(row: dict[str, Any], metric: str) -> dict[str, str]:
    """Return a row of `setting_rows` as cells of a table, by their headings."""
    spread, test, p_value = row["std_over_seeds"], row["std_of_the_test_set"], row.get("models_p_value_holm")
    return {
        "setting": row["setting"],
        "model": row["model"],
        "runs": str(row["runs"]),
        metric: f"{row['mean']:.4f}",
        "± seeds": "" if spread is None else f"{spread:.4f}",
        "± test set": "" if test is None else f"{test:.4f}",
        "p (models)": "" if p_value is None else p_text(p_value).removeprefix("p = ").removeprefix("p "),
        "seconds": "" if row["seconds"] is None else f"{row['seconds']:.0f}",
        "parameters": f"{row['parameters']:,}",
        "verdict": row["verdict"],
    }


def compare_finished(run_dirs: Sequence[Path]) -> list[str]:
    """Return the comparison of finished runs as lines; none of a single run, or of runs that cannot be compared."""
    found = [run for run_dir in run_dirs if (run := read_run(run_dir)) is not None]
    if len(found) < 2:
        return []
    try:
        metric, found = choose_metric(found)
        return ["", comparison_text(compare(group_settings(found), metric=metric, margin=MARGIN))]
    except (ConfigError, DataError):  # of different tasks, or tested on different samples
        return []


# --- page ------------------------------------------------------------------------------------------------------------


def comparison_page(comparison: Comparison, command: str) -> bytes:
    """Return the page of a comparison."""
    words = sentences(comparison)
    claims = tuple(Claim(text, (), rank) for rank, text in enumerate(words))
    rows = [table_row(row, comparison.metric.heading) for row in setting_rows(comparison)]
    cells = [[text.replace(" ", NO_BREAK) if key == "verdict" else text for key, text in row.items()] for row in rows]
    tested = f"{comparison.n:,} test samples. " if comparison.n else ""
    caption = f"{tested}{PLUS_MINUS}; differences below {comparison.margin:g} do not count."
    sections = [
        PageSection("settings", "Settings", Rendered(html_table([*rows[0]], cells), caption, claims=claims), command),
        PageSection("seeds", "All seeds", dots(comparison)),
        PageSection("curves", "Validation", render_curves(comparison)),
    ]
    importance = render_importance([run for row in comparison.rows for run in row.setting.runs], comparison)
    if importance is not None:
        sections.append(PageSection("keys", "What matters", importance))
    if len(words) > NUM_CLAIMS:
        sections.append(PageSection("words", "In words", Rendered(paragraphs(words), "")))
    return page_html("Comparison", f"{comparison.metric.heading} of {about(comparison)}", sections)


def paragraphs(texts: list[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def dots(comparison: Comparison) -> Rendered:
    """Return every run as a dot, and the spread that the test set alone would give as a bar."""
    from patchwork.figures.svg import figure_svg

    caption = (
        "Every run is a dot, the mean of a setting a line. The gray bar is by how much a single run would vary with "
        "another test set (± 1 standard deviation)."
    )
    return Rendered(outline_text(figure_svg(plot_dots(comparison), "seeds", caption)), caption)


def plot_dots(comparison: Comparison) -> "Figure":
    """Plot all runs of all settings, one row each, the best at the top."""
    from matplotlib.figure import Figure

    from patchwork.figures.style import FRAME, GRID, MUTED, PALETTE, SMALL, TEXT

    figure = Figure(figsize=(8, 0.6 + 0.5 * len(comparison.rows)), layout="constrained")
    axes = figure.add_subplot()
    for y, row in enumerate(comparison.rows):
        if math.isfinite(row.test_std):
            axes.barh(y, 2 * row.test_std, left=row.mean - row.test_std, height=0.4, color=FRAME, alpha=0.6)
        axes.plot([row.mean, row.mean], [y - 0.2, y + 0.2], color=TEXT, lw=1.2)
        axes.plot(row.setting.values, [y] * len(row.setting.runs), "o", color=PALETTE[0], ms=5, alpha=0.8)
        axes.text(0.005, y - 0.27, shorten(row.setting.label, MAX_DOTS_LABEL), fontsize=SMALL, color=TEXT, va="bottom",
                  transform=axes.get_yaxis_transform(), parse_math=False)  # fmt: skip
    axes.set_yticks([])  # a label above its row leaves the width to the values
    axes.set_ylim(len(comparison.rows) - 0.6, -0.7)
    axes.set_xlabel(comparison.metric.heading, fontsize=SMALL, color=TEXT)
    axes.tick_params(labelsize=SMALL, labelcolor=MUTED, color=GRID)
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    return figure
