"""Anchor detection: accuracy beside its baseline, localization, predictions and samples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.core.errors import ConfigError
from patchwork.models import CNN
from patchwork.tasks import Anchor


class FixedLogits(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor) -> Tensor:
        return self.logits


class FixedAttention(FixedLogits):
    def __init__(self, logits: Tensor, attention: Tensor) -> None:
        super().__init__(logits)
        self.attention = attention

    def locate(self, image: Tensor, mask: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits, self.attention


def sequences(match: list[list[bool]]) -> dict[str, Tensor]:
    matches = torch.tensor(match)
    return {
        "image": torch.rand(*matches.shape, 1, 4, 4),
        "mask": torch.ones_like(matches),
        "anchor": torch.rand(len(matches), 1, 4, 4),
        "match": matches,
        "present": matches.any(dim=1),
    }


def test_metrics_are_plain_counts(
    make_task: Callable[..., Any], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    batch = sequences([[True, False], [False, False], [False, True], [False, True], [False, False]])
    logits = torch.tensor([1.0, -1.0, -1.0, 2.0, 0.5])
    attention = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.5, 0.1]])
    metrics = compute_metrics(make_task(Anchor, FixedAttention(logits, attention)), batch)
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["majority_baseline"] == pytest.approx(3 / 5)
    assert metrics["localization"] == pytest.approx(2 / 3)
    assert metrics["localization_chance"] == pytest.approx(1 / 2)
    assert metrics["auroc"] == pytest.approx(4.5 / 6)  # pairs in the right order, a tie counting half
    expected = F.binary_cross_entropy_with_logits(logits, batch["present"].float())
    assert metrics["loss"] == pytest.approx(float(expected))


def test_localization_needs_attention(
    make_task: Callable[..., Any], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    metrics = compute_metrics(make_task(Anchor, FixedLogits(torch.tensor([1.0, -1.0]))), sequences([[True], [False]]))
    assert "localization" not in metrics
    assert metrics["accuracy"] == 1


def test_predictions_are_the_classes_absent_and_present(make_task: Callable[..., Any]) -> None:
    logits = torch.tensor([1.0, -2.0, 3.0])
    task = make_task(Anchor, FixedLogits(logits))
    predictions = task.predict_step(sequences([[True], [True], [True]]), 0)
    assert (predictions.prediction.tolist(), predictions.target.tolist()) == ([1, 0, 1], [1, 1, 1])
    torch.testing.assert_close(predictions.log_probs[:, 1].exp(), logits.sigmoid())
    torch.testing.assert_close(predictions.log_probs.exp().sum(dim=1), torch.ones(3))
    torch.testing.assert_close(task.outputs_from_log_probs(predictions.log_probs), logits)


def test_perturbed_inputs_include_the_anchor_alone(make_task: Callable[..., Any]) -> None:
    batch = sequences([[True, False], [False, False]])
    images, anchor, *positions = make_task(Anchor, FixedLogits(torch.zeros(2))).perturbed_inputs(batch)
    assert torch.equal(images["anchor"], batch["anchor"])
    assert torch.equal(anchor["image"], batch["image"])
    assert torch.equal(anchor["anchor"], batch["anchor"].roll(1, dims=0))
    assert len(positions) == 2


def test_models_with_and_without_attention_are_no_ensemble(make_task: Callable[..., Any]) -> None:
    without, with_attention = FixedLogits(torch.zeros(1)), FixedAttention(torch.zeros(1), torch.ones(1, 1))
    with pytest.raises(ConfigError, match="with and without attention"):
        make_task(Anchor, without).make_ensemble([without, with_attention])


def test_a_model_of_single_images_is_refused(make_task: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        make_task(Anchor, CNN(image_size=16, in_channels=1, num_classes=3))


def test_samples_show_the_anchor_before_the_images(make_task: Callable[..., Any]) -> None:
    (sample,) = make_task(Anchor, FixedLogits(torch.tensor([-1.0]))).samples(sequences([[True, False]]), 1)
    assert (sample.image.shape, sample.cols) == ((1, 4, 12), 3)
    assert (sample.target, sample.prediction) == (["there"], ["not there"])


def test_samples_mark_the_anchor_and_the_image_with_the_most_attention(make_task: Callable[..., Any]) -> None:
    batch = sequences([[True, False, False], [False, False, False]])
    attention = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    batch |= {"index": torch.arange(2), "image_ids": torch.zeros(2, 3, dtype=torch.long)}
    logits = torch.tensor([1.0, -1.0])
    marks = [sample.marks for sample in make_task(Anchor, FixedAttention(logits, attention)).samples(batch, 2)]
    assert marks == [{0: "anchor", 2: "looked at"}, {0: "anchor", 3: "looked at"}]
    marks = [sample.marks for sample in make_task(Anchor, FixedLogits(logits)).samples(batch, 2)]
    assert marks == [{0: "anchor"}] * 2
