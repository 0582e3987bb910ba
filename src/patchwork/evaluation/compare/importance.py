"""Which configuration keys the test metric depends on, as far as it can be predicted for settings not seen.

A random forest predicts the metric from the keys in which runs differ. It is judged on held-out settings, all seeds of
a setting together, and the importance of a key is by how much its error there grows if the key's values are shuffled
(permutation importance: Breiman 2001, https://doi.org/10.1023/A:1010933404324).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from patchwork.evaluation.compare.comparison import Comparison
from patchwork.evaluation.compare.runs import FinishedRun, is_passed_over, text
from patchwork.figures.rendered import Rendered, html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_KEYS, MIN_RUNS, MIN_SETTINGS = 2, 8, 4
NUM_FOLDS, NUM_TREES, NUM_SHUFFLES = 5, 100, 20
MAX_AXES = 7  # of the parallel coordinates, the most important keys first
MAX_TICKS = 10  # values of a key; of more, the first, middle and last are named
MAX_OFFSET = 0.02  # of a run from the place of its value, as a share of the height
MAX_NAME = 24  # characters of a key or value in the figure


@dataclass(frozen=True, eq=False)
class Importance:
    """What predicts the metric.

    Attributes:
        keys: those in which runs differ, the most important first; keys that change together are one, joined by commas.
        values: (n, K) positions of the values of each run among those of the key, from 0 to 1.
        labels: of each key, its different values in ascending order.
        share: (K,) by how much the squared error grows if a key is shuffled, as a share of the metric's variance: the
            loss of R².
        std: (K,) standard deviation of it over shuffles.
        r2: of the predictions for held-out settings.
    """

    keys: Sequence[str]
    values: np.ndarray
    labels: Sequence[Sequence[str]]
    share: np.ndarray
    std: np.ndarray
    r2: float


def key_importance(runs: Sequence[FinishedRun]) -> Importance | None:
    """Return which keys predict the metric; None for too few runs, settings or keys, or equal values of the metric."""
    columns = varied_keys([run.config for run in runs])
    if len(columns) < MIN_KEYS or len(runs) < MIN_RUNS:
        return None
    codes, labels = zip(*(encode(column) for column in columns.values()), strict=True)
    inputs, target = np.stack(codes, axis=1), np.array([run.value for run in runs])
    _, settings = np.unique(inputs, axis=0, return_inverse=True)
    if settings.max() + 1 < MIN_SETTINGS or target.std() == 0:
        return None
    errors, shuffled = held_out_errors(inputs, target, settings.flatten())
    growth = (shuffled - errors) / target.var()
    order = np.argsort(-growth.mean(axis=1), kind="stable")
    last = np.array([max(len(each) - 1, 1) for each in labels])
    names = [*columns]
    return Importance(
        [names[i] for i in order],
        (inputs / last)[:, order],
        [labels[i] for i in order],
        growth.mean(axis=1)[order],
        growth.std(axis=1, ddof=1)[order],
        float(1 - errors / target.var()),
    )


def varied_keys(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of the keys in which configurations differ; keys that change together are joined."""
    found: dict[tuple[int, ...], tuple[list[str], list[Any]]] = {}
    for key in sorted({key for config in configs for key in config if not is_passed_over(key)}):
        column = [config.get(key) for config in configs]
        numbers: dict[str, int] = {}
        pattern = tuple(numbers.setdefault(text(value), len(numbers)) for value in column)
        if len(numbers) > 1:
            found.setdefault(pattern, ([], column))[0].append(key)
    return {", ".join(keys): column for keys, column in found.values()}


def encode(column: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    """Return the rank of each value (n,) among the different ones, and those: numbers by size, others by name."""
    numeric = all(isinstance(value, int | float) for value in column)
    different = sorted(
        {text(value): value for value in column}.items(), key=lambda each: each[1] if numeric else each[0]
    )
    ranks = {name: rank for rank, (name, _) in enumerate(different)}
    return np.array([float(ranks[text(value)]) for value in column]), [*ranks]


def held_out_errors(inputs: np.ndarray, target: np.ndarray, settings: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean squared error for held-out settings, and those (K, NUM_SHUFFLES) with each key shuffled."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import GroupKFold

    rng, (n, num_keys) = np.random.default_rng(0), inputs.shape
    orders = np.stack([[rng.permutation(n) for _ in range(NUM_SHUFFLES)] for _ in range(num_keys)])  # (K, S, n)
    error, shuffled = 0.0, np.zeros((num_keys, NUM_SHUFFLES))
    for train, test in GroupKFold(min(NUM_FOLDS, int(settings.max()) + 1)).split(inputs, groups=settings):
        forest = RandomForestRegressor(NUM_TREES, random_state=0).fit(inputs[train], target[train])
        error += float(((forest.predict(inputs[test]) - target[test]) ** 2).sum()) / n
        for key in range(num_keys):
            changed = np.repeat(inputs[None, test], NUM_SHUFFLES, axis=0)  # (S, n_test, K)
            changed[:, :, key] = inputs[orders[key][:, test], key]
            predicted = forest.predict(changed.reshape(-1, num_keys)).reshape(NUM_SHUFFLES, -1)
            shuffled[key] += ((predicted - target[test]) ** 2).sum(axis=1) / n
    return error, shuffled


def render_importance(runs: Sequence[FinishedRun], comparison: Comparison) -> Rendered | str | None:
    """Return importance and parallel coordinates; None if runs do not differ enough to speak of it."""
    from patchwork.figures.svg import figure_svg

    found = key_importance(runs)
    if found is None:
        return None
    method = (
        f"Random forest of {NUM_TREES} trees on {len(runs)} runs that differ in {len(found.keys)} keys, out-of-sample "
        f"R² {found.r2:.2f} for held-out settings"
    )
    caption = (
        "Each line is a run, through its values and its metric (right); the best quarter is blue and thick. Values "
        "are spaced evenly, and runs of the same values a little apart. "
    )
    if found.r2 > 0:
        caption += f"{method}. Importance is by how much R² falls if a key is shuffled, ± over shuffles."
        rows = [
            [key, f"{share:.2f} ± {std:.2f}"]
            for key, share, std in zip(found.keys, found.share, found.std, strict=True)
        ]
        table = html_table(["key", "importance (loss of R²)"], rows)
    else:
        caption += f"Which keys matter: cannot tell. {method}: no better than the mean."
        table = ""
    metric = np.array([run.value for run in runs])
    figure = plot_parallel(found, metric, comparison.metric.name, comparison.metric.mode)
    return Rendered(table + outline_text(figure_svg(figure, "keys", caption)), caption)


def outline_text(svg: str) -> str:
    """Return a figure whose texts can be read across lines: they have an outline of the color behind them."""
    return svg.replace('<text style="', '<text style="paint-order: stroke; stroke: var(--panel); stroke-width: 3px; ')


def plot_parallel(found: Importance, metric: np.ndarray, name: str, mode: str) -> "Figure":
    """Plot parallel coordinates of the most important keys and the metric."""
    from matplotlib.figure import Figure

    from patchwork.figures.style import FRAME, GRID, MUTED, PALETTE, SMALL, TEXT

    keys, low, high = found.keys[:MAX_AXES], float(metric.min()), float(metric.max())
    ranks = np.argsort(np.argsort(metric, kind="stable"))
    apart = MAX_OFFSET * (2 * ranks / (len(metric) - 1) - 1)  # runs of the same values are different lines
    heights = np.column_stack([found.values[:, : len(keys)] + apart[:, None], (metric - low) / (high - low)])
    goodness = metric if mode == "max" else -metric
    best = goodness >= np.quantile(goodness, 0.75)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    x = np.arange(len(keys) + 1)
    for good, color, width in ((False, FRAME, 0.8), (True, PALETTE[0], 1.8)):
        for line in heights[best == good]:
            axes.plot(x, line, color=color, lw=width, alpha=0.8)
    for position, labels in enumerate([*found.labels[: len(keys)], [f"{low:.4f}", f"{high:.4f}"]]):
        axes.axvline(position, color=GRID, lw=1, zorder=0)
        for rank, label in enumerate(labels):
            if len(labels) > MAX_TICKS and rank not in (0, len(labels) // 2, len(labels) - 1):
                continue
            axes.annotate(shorten_name(label), (position, rank / max(len(labels) - 1, 1)), (4, 3), "data",
                          "offset points", fontsize=SMALL, color=TEXT, parse_math=False)  # fmt: skip
    axes.set_xticks(x, [shorten_name(key) for key in (*keys, name)], parse_math=False)
    axes.tick_params(labelsize=SMALL, labelcolor=MUTED, color=GRID)
    axes.set_xlim(-0.1, len(keys) + 0.4)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def shorten_name(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"
