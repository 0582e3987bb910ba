"""Accuracies as plain counts, over any split into batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.tasks.metrics import Accuracy, GroupedAccuracy

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
