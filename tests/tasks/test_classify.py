"""Classification: metrics as plain counts, calibration, predictions and samples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.core.errors import ConfigError
from patchwork.figures.braille import render
from patchwork.tasks import Classify

IMAGES = torch.rand(4, 1, 4, 4)


class FixedLogits(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: Tensor) -> Tensor:
        return self.logits


class SequenceModel(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image


def test_class_accuracy_counts_each_class(
    make_task: Callable[..., Any], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    label = torch.tensor([0, 1, 2, 2])
    metrics = compute_metrics(
        make_task(Classify, FixedLogits(logits), num_classes=3), {"image": IMAGES, "label": label}
    )
    assert metrics["accuracy"] == 0.75
    assert [metrics[f"class_accuracy/{name}"] for name in range(3)] == [1, 1, 0.5]
    assert metrics["loss"] == pytest.approx(float(F.cross_entropy(logits, label)))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy(
    make_task: Callable[..., Any], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    probs = torch.tensor([[0.9, 0.1]] * 8 + [[0.6, 0.4]] * 2)
    label = torch.tensor([0] * 4 + [1] * 4 + [0, 1])  # half are correct
    task = make_task(Classify, FixedLogits(probs.log()), num_classes=2)
    metrics = compute_metrics(task, {"image": torch.rand(10, 1, 4, 4), "label": label})
    assert metrics["calibration_error"] == pytest.approx(0.8 * 0.4 + 0.2 * 0.1)


def test_predictions_are_the_most_probable_classes_and_know_their_images(make_task: Callable[..., Any]) -> None:
    logits = torch.randn(4, 3)
    task = make_task(Classify, FixedLogits(logits), num_classes=3)
    batch = {"image": IMAGES, "index": torch.tensor([4, 5, 6, 7]), "image_ids": torch.tensor([[9], [8], [7], [6]])}
    predictions = task.predict_step({**batch, "label": torch.tensor([0, 1, 2, 0])}, 0)
    torch.testing.assert_close(predictions.log_probs.exp(), logits.softmax(dim=1))
    assert torch.equal(predictions.prediction, logits.argmax(dim=1))
    assert torch.equal(predictions.index, batch["index"])
    assert torch.equal(predictions.image_ids, batch["image_ids"])
    assert predictions.target.tolist() == [0, 1, 2, 0]
    assert predictions.embedding is None  # the model has no features
    alone = task.predict_step({"image": IMAGES}, 0)
    assert (alone.target, alone.index.tolist(), alone.image_ids.tolist()) == (None, [0, 1, 2, 3], [[-1]] * 4)


def test_samples_show_targets_and_predictions(make_task: Callable[..., Any]) -> None:
    task = make_task(Classify, FixedLogits(torch.eye(3)[:2]), num_classes=3)
    first, second = task.samples({"image": IMAGES[:2], "label": torch.tensor([0, 2])}, 2)
    assert (first.target, first.prediction) == (["0"], ["0"])
    assert (second.target, second.prediction) == (["2"], ["1"])


def test_samples_and_answers_name_the_classes_where_they_have_names(make_task: Callable[..., Any]) -> None:
    task = make_task(Classify, FixedLogits(torch.eye(3)[:2]), num_classes=3)
    task.class_names = ("sandal", "bag", "ankle boot")
    first, second = task.samples({"image": IMAGES[:2], "label": torch.tensor([0, 2])}, 2)
    assert (first.target, first.prediction) == (["sandal"], ["sandal"])
    assert (second.target, second.prediction) == (["ankle boot"], ["bag"])
    captions = render([first, second], color=False, width=120)
    assert "ankle boot" in captions
    assert "✗bag" in captions


def test_a_model_of_sequences_is_refused(make_task: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        make_task(Classify, SequenceModel(), num_classes=10)
