"""Accuracies as plain counts, over any split into batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassCalibrationError

from patchwork.tasks.metrics import Accuracy, CalibrationError, GroupedAccuracy

SAMPLES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20)


@given(samples=SAMPLES, batch_size=st.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_grouped_accuracy_counts_each_group(samples: list[tuple[int, int, int]], batch_size: int) -> None:
    metric = GroupedAccuracy("accuracy", {0: "a", 1: "b", 2: "c"})
    for preds, target, group in zip(*(column.split(batch_size) for column in torch.tensor(samples).T), strict=True):
        metric.update(preds, target, group)
    expected = {}
    for number, name in enumerate("abc"):
        correct = [pred == target for pred, target, group in samples if group == number]
        if correct:  # a group without samples is left out
            expected[f"accuracy/{name}"] = pytest.approx(sum(correct) / len(correct))
    assert {name: float(value) for name, value in metric.compute().items()} == expected


@given(samples=SAMPLES, batch_size=st.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_accuracy_of_sequences_needs_all_positions(samples: list[tuple[int, int, int]], batch_size: int) -> None:
    preds, target = torch.tensor(samples), torch.tensor([sample[::-1] for sample in samples])
    metric, scalar = Accuracy(), Accuracy()
    for some_preds, some_target in zip(preds.split(batch_size), target.split(batch_size), strict=True):
        metric.update(some_preds, some_target)
        scalar.update(some_preds[:, 0], some_target[:, 0])
    palindromes = [sample == sample[::-1] for sample in samples]
    assert float(metric.compute()) == pytest.approx(sum(palindromes) / len(samples))
    assert float(scalar.compute()) == pytest.approx(sum(first == last for first, _, last in samples) / len(samples))


def calibration_error(probs: list[float], right: list[bool], batch_size: int = 7) -> float:
    metric = CalibrationError()
    for chunk in zip(torch.tensor(probs).split(batch_size), torch.tensor(right).split(batch_size), strict=True):
        metric.update(*chunk)
    return float(metric.compute())


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None, max_examples=50)
def test_calibration_error_is_that_of_its_definition(samples: list[tuple[float, bool]]) -> None:
    probs, right = map(list, zip(*samples, strict=True))
    expected = 0.0
    for index in range(15):
        low, high = torch.tensor([index / 15, (index + 1) / 15])
        members = [(p, r) for p, r in samples if (low < p <= high) or (index == 0 and p == 0)]
        expected += abs(sum(r - p for p, r in members)) / len(samples)
    assert calibration_error(probs, right) == pytest.approx(expected, abs=1e-5)


def test_certain_predictions_are_in_the_last_bin() -> None:
    """Torchmetrics gives a probability of 1 a bin of its own, so that the two errors here do not cancel."""
    probs, right = torch.tensor([[0.95, 0.05], [0.0, 1.0]]), torch.tensor([0, 0])
    library = MulticlassCalibrationError(2, n_bins=15)(probs, right)
    ours = calibration_error([0.95, 1.0], [True, False])
    assert ours == pytest.approx(0.475)  # |0.5 − 0.975|
    assert float(library) == pytest.approx(0.525)
