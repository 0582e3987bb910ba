"""The logged metrics of a run, from its metrics.csv: a blank cell means not logged."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Series(NamedTuple):
    """The finite values (n,) of one column, with the steps and epochs at which they were logged."""

    step: np.ndarray
    epoch: np.ndarray
    value: np.ndarray


class Best(NamedTuple):
    """The best value of the monitored metric."""

    name: str
    step: float
    epoch: float
    value: float


def read_metrics(csv_path: Path) -> dict[str, Series]:
    """Return the columns that hold at least one finite number, each sorted by step.

    Values that are not finite are skipped. Rows without a step or an epoch are counted instead.

    Raises:
        OSError: if the table cannot be read.
    """
    with csv_path.open(newline="") as file:
        rows = [{name: parse_float(cell) for name, cell in row.items() if name} for row in csv.DictReader(file)]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        # the table counts epochs from 0, figures count them from 1
        cells = [(row.get("step", math.nan), row.get("epoch", math.nan) + 1, row[name]) for row in rows if name in row]
        values = np.array([cell for cell in cells if math.isfinite(cell[2])], dtype=float).reshape(-1, 3)
        if len(values):
            order = np.arange(len(values))
            values[:, 0] = np.where(np.isfinite(values[:, 0]), values[:, 0], order)
            values[:, 1] = np.where(np.isfinite(values[:, 1]), values[:, 1], order + 1)
            values = values[np.argsort(values[:, 0], kind="stable")]
            columns[name] = Series(*values.T)
    return columns


def parse_float(cell: Any) -> float:
    """Return the number in a cell of the table, or NaN if it holds none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def is_loss(name: str) -> bool:
    return "loss" in name.rsplit("/", 1)[-1]


def find_best(name: str, series: Series, mode: str | None) -> Best:
    """Return the best value of a metric.

    Args:
        name: name of the metric.
        series: its values.
        mode: "max" or "min", whichever is better; None is "min" for losses and "max" for others.
    """
    minimize = mode == "min" if mode else is_loss(name)
    index = int(series.value.argmin() if minimize else series.value.argmax())
    return Best(name, float(series.step[index]), float(series.epoch[index]), float(series.value[index]))


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the moving average of values (n,) over a window of n/25; fewer than 50 values are returned as they are."""
    half_width = len(values) // 50
    if not half_width:
        return values
    window = np.hanning(2 * half_width + 3)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
