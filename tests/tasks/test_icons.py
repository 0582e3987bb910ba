"""Icons: factored logits, metrics by factor, ensembles of factored heads and samples."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.core.errors import ConfigError
from patchwork.data.sources.icons import FACTORS, all_labels, num_logits
from patchwork.tasks import Icons

LABELS = all_labels(1)
BATCH = {"image": torch.rand(300, 3, 4, 4), **LABELS, "held_out": LABELS["verb"] == 0}


class FixedOutputs(nn.Module):
    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, image: Tensor) -> Tensor:
        return self.outputs


def test_factored_logits_add_up(make_task: Callable[..., Any]) -> None:
    outputs = torch.randn(300, 28)
    task = make_task(Icons, FixedOutputs(outputs), label="combination", head="factored", holdout=None, num_outputs=28)
    logits, target = task.forward(BATCH), task.target(BATCH)
    assert logits.shape == (300, 300)
    assert torch.equal(target, torch.arange(300))
    factors = dict(zip(("verb", "tense", "person"), outputs.split([20, 5, 3], dim=1), strict=True))
    torch.testing.assert_close(logits, sum(values[:, LABELS[name]] for name, values in factors.items()))
    separate = sum(F.cross_entropy(values, LABELS[name]) for name, values in factors.items())
    torch.testing.assert_close(F.cross_entropy(logits, target), separate)


@pytest.mark.parametrize(("label", "num_classes"), [("tense", 5), ("tense_person", 15), ("combination", 300)])
def test_accuracy_is_counted_by_factor(
    make_task: Callable[..., Any], compute_metrics: Callable[..., dict[str, float]], label: str, num_classes: int
) -> None:
    options = {"label": label, "head": "flat", "holdout": "combinations", "num_outputs": num_classes}
    target = make_task(Icons, FixedOutputs(torch.empty(0)), **options).target(BATCH)
    assert len(target.unique()) == num_classes
    preds = torch.where(LABELS["verb"] == 0, (target + 1) % num_classes, target)
    task = make_task(Icons, FixedOutputs(F.one_hot(preds, num_classes).float()), **options)
    metrics = compute_metrics(task, BATCH)
    assert metrics["accuracy"] == pytest.approx(0.95)
    assert metrics["combination_accuracy/seen"] == 1
    assert metrics["combination_accuracy/held_out"] == 0
    assert task.uniform_loss(BATCH) == pytest.approx(math.log(num_classes))


@pytest.mark.parametrize(
    ("label", "head", "num_outputs"),
    [
        ("combination", "factored", 28),
        ("combination", "flat", 300),
        ("tense_person", "factored", 8),
        ("tense", "factored", 5),
    ],
)
def test_outputs_from_log_probs_predict_the_same(
    make_task: Callable[..., Any], label: str, head: str, num_outputs: int
) -> None:
    options = {"label": label, "head": head, "holdout": None, "num_outputs": num_outputs}
    task = make_task(Icons, FixedOutputs(torch.randn(300, num_outputs)), **options)
    log_probs = task.predict_step(BATCH, 0).log_probs
    again = make_task(Icons, FixedOutputs(task.outputs_from_log_probs(log_probs)), **options)
    torch.testing.assert_close(again.predict_step(BATCH, 0).log_probs, log_probs)


@pytest.mark.parametrize("label", list(FACTORS))
@pytest.mark.parametrize("head", ["flat", "factored"])
def test_outputs_of_the_configuration_fit_the_task(make_task: Callable[..., Any], label: str, head: str) -> None:
    options = {"label": label, "head": head, "holdout": None}
    count = num_logits(head, label)
    task = make_task(Icons, FixedOutputs(torch.randn(300, count)), num_outputs=count, **options)
    assert task.forward(BATCH).shape == (300, task.num_classes)
    with pytest.raises(ConfigError, match=rf"data\.num_outputs={count + 1} does not fit .*: use {count}"):
        make_task(Icons, FixedOutputs(torch.randn(300, count)), num_outputs=count + 1, **options)


def test_predictions_need_no_labels(make_task: Callable[..., Any]) -> None:
    task = make_task(
        Icons, FixedOutputs(torch.eye(300)), label="combination", head="flat", holdout=None, num_outputs=300
    )
    assert task.predict_step({"image": BATCH["image"]}, 0).target is None
    assert task.predict_step(BATCH, 0).correct.all()


def test_samples_show_the_names_of_classes(make_task: Callable[..., Any]) -> None:
    task = make_task(
        Icons, FixedOutputs(torch.eye(300)[:1]), label="combination", head="flat", holdout=None, num_outputs=300
    )
    (sample,) = task.samples({name: values[:1] for name, values in BATCH.items()}, 1)
    assert sample.target == sample.prediction == ["work infinitive 1sg"]
