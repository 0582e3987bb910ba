"""Sums: numbers and distributions, longer test sequences, baselines and samples."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from patchwork.core.errors import ConfigError
from patchwork.models import CNN, FullyConnected, SumDistribution
from patchwork.tasks import Sum

OPTIONS: dict[str, Any] = {"num_classes": 10, "max_length": 2, "test_lengths": []}


class FixedOutputs(nn.Module):
    """Return given outputs, batch after batch."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.outputs.pop(0)


def sequences(digits: list[list[int]]) -> dict[str, Tensor]:
    size = max(map(len, digits))
    mask = torch.arange(size) < torch.tensor([len(row) for row in digits])[:, None]
    padded = torch.tensor([[*row, *[0] * (size - len(row))] for row in digits])
    return {"image": torch.rand(*mask.shape, 1, 4, 4), "mask": mask, "digits": padded}


def distribution(sums: list[int]) -> Tensor:
    """Return log-probabilities (B, 19) with 0.82 for `sums` and 0.01 for all others."""
    probs = torch.full((len(sums), 19), 0.01)
    probs[torch.arange(len(sums)), sums] = 0.82
    return probs.log()


def test_regression_is_rounded_and_scored_by_squared_error(
    make_task: Callable[..., Any], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    task = make_task(Sum, FixedOutputs(torch.tensor([3.4, 8.6, 2.6])), **OPTIONS)
    metrics = compute_metrics(task, sequences([[3], [4, 5], [1, 1]]))  # sums 3, 9, 2
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["mse"] == metrics["loss"] == pytest.approx((0.4**2 + 0.4**2 + 0.6**2) / 3)
    assert [metrics[f"length_accuracy/{length}"] for length in (1, 2)] == [1, 0.5]


def test_distribution_predicts_its_mode_and_is_scored_by_its_likelihood(
    make_task: Callable[..., Any], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    log_probs = distribution([3, 9, 4])
    metrics = compute_metrics(make_task(Sum, FixedOutputs(log_probs), **OPTIONS), sequences([[3], [4, 5], [1, 1]]))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["loss"] == pytest.approx(-(2 * math.log(0.82) + math.log(0.01)) / 3)
    means = [float(row.exp() @ torch.arange(19.0)) for row in log_probs]
    assert metrics["mse"] == pytest.approx(sum((m - s) ** 2 for m, s in zip(means, (3, 9, 2), strict=True)) / 3)


def test_predictions_hold_a_distribution_where_the_model_has_one(make_task: Callable[..., Any]) -> None:
    batch, log_probs = sequences([[3], [4, 5]]), distribution([3, 8])
    predictions = make_task(Sum, FixedOutputs(log_probs), **OPTIONS).predict_step(batch, 0)
    assert (predictions.prediction.tolist(), predictions.correct.tolist()) == ([3, 8], [True, False])
    assert predictions.probability.tolist() == pytest.approx([0.82, 0.82])
    predictions = make_task(Sum, FixedOutputs(torch.tensor([2.6, 9.2])), **OPTIONS).predict_step(batch, 0)
    assert (predictions.prediction.tolist(), predictions.correct.tolist()) == ([3, 9], [True, True])
    assert predictions.log_probs is None


def test_longer_test_sequences_count_only_towards_their_length(
    make_task: Callable[..., Any], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    model = FixedOutputs(torch.tensor([3.0]), torch.tensor([7.0, 6.0]))
    task = make_task(Sum, model, **{**OPTIONS, "test_lengths": [3]})
    metrics = compute_metrics(task, sequences([[3]]), sequences([[1, 2, 3], [1, 2, 3]]))
    assert (metrics["accuracy"], metrics["loss"], metrics["length_accuracy/3"]) == (1, 0, 0.5)
    assert "length_accuracy/2" not in metrics  # no sequence of this length


def test_uniform_loss_is_that_of_uniform_digits(make_task: Callable[..., Any]) -> None:
    model = SumDistribution(image_size=14, in_channels=1, num_classes=10, stem=None, embed_dim=8)
    batch = {**sequences([[3], [4, 5]]), "image": torch.rand(2, 2, 1, 14, 14)}
    expected = (math.log(10) + math.log(10)) / 2  # P(3) = 1/10; P(9) = 10/100
    assert make_task(Sum, model, **OPTIONS).uniform_loss(batch) == pytest.approx(expected)


def test_image_free_loss_of_regression_is_that_of_the_mean(make_task: Callable[..., Any]) -> None:
    batch = sequences([[3], [4, 5]])  # expected sums 4.5 and 9
    task = make_task(Sum, FixedOutputs(*torch.zeros(2, 2)), **OPTIONS)
    assert task.image_free_loss(batch) == pytest.approx((1.5**2 + 0) / 2)
    assert task.uniform_loss(batch) == pytest.approx((3**2 + 9**2) / 2)


def test_models_of_fixed_length_are_refused_where_longer_ones_are_tested(make_task: Callable[..., Any]) -> None:
    model = FullyConnected(image_size=14, in_channels=1, max_length=10, anchored=False)
    with pytest.raises(ConfigError, match=r"test_lengths=\[20\]"):
        make_task(Sum, model, num_classes=10, max_length=10, test_lengths=[20])


def test_a_model_of_single_images_is_refused(make_task: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        make_task(Sum, CNN(image_size=16, in_channels=1, num_classes=3), **OPTIONS)


def test_samples_show_the_images_side_by_side(make_task: Callable[..., Any]) -> None:
    task = make_task(Sum, FixedOutputs(torch.tensor([3.2, 8.0])), **OPTIONS)
    short, long = task.samples(sequences([[3], [4, 5]]), 2)
    assert (short.image.shape, long.image.shape) == ((1, 4, 4), (1, 4, 8))
    assert (short.prediction, long.target, long.prediction) == (["3"], ["9"], ["8"])
