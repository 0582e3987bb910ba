"""Labels of a sample's cells, the same in all figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from patchwork.tasks.base import Sample


class CellLabel(NamedTuple):
    """The target and the prediction of one cell; they are equal if the sample has no target."""

    target: str
    prediction: str

    @property
    def is_correct(self) -> bool:
        return self.prediction == self.target


def cell_labels(sample: Sample) -> list[CellLabel]:
    """Return the printable labels of a sample's cells, row by row.

    If there are fewer labels than cells, the last cells have empty ones; surplus labels are joined in the last cell.
    """
    num_cells = sample.rows * sample.cols
    predictions = fit_to_cells(sample.prediction, num_cells)
    targets = predictions if sample.target is None else fit_to_cells(sample.target, num_cells)
    return [CellLabel(target, prediction) for target, prediction in zip(targets, predictions, strict=True)]


def fit_to_cells(labels: Sequence[str], num_cells: int) -> list[str]:
    """Return exactly `num_cells` labels, with a dot for each character that cannot be printed."""
    printable = ["".join(c if c.isprintable() else "·" for c in label) for label in labels]
    padding = [""] * (num_cells - 1 - len(printable))
    return [*printable[: num_cells - 1], *padding, " ".join(printable[num_cells - 1 :])]
