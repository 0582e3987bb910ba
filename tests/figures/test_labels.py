"""The labels of a sample's cells."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.figures.labels import cell_labels, fit_to_cells
from patchwork.tasks.base import Sample


@settings(deadline=None, max_examples=50)
@given(labels=st.lists(st.text(max_size=5), max_size=8), num_cells=st.integers(1, 6))
def test_each_cell_gets_one_printable_label(labels: list[str], num_cells: int) -> None:
    fitted = fit_to_cells(labels, num_cells)
    assert len(fitted) == num_cells
    assert all(label.isprintable() for label in fitted)
    for index, label in enumerate(labels[: num_cells - 1]):
        assert len(fitted[index]) == len(label)
    if len(labels) >= num_cells:
        assert len(fitted[-1]) == len(" ".join(labels[num_cells - 1 :]))


def test_a_sample_without_targets_has_no_errors() -> None:
    labels = cell_labels(Sample(torch.zeros(1, 28, 56), None, ["3", "4"], 1, 2))
    assert [label.prediction for label in labels] == ["3", "4"]
    assert all(label.is_correct for label in labels)


def test_missing_predictions_are_wrong() -> None:
    labels = cell_labels(Sample(torch.zeros(1, 28, 56), ["3", "4"], ["3"], 1, 2))
    assert [label.is_correct for label in labels] == [True, False]
