"""Classify the digit or the garment that an image shows.

Follows the sequence project (CNN) and the ViT project, see `docs/references.md`.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from patchwork.data.base import Batch, Split
from patchwork.models.ensemble import Ensemble, log_mean_prob
from patchwork.tasks.base import BASE_CHECKS, Task
from patchwork.tasks.metrics import Accuracy, CalibrationError, GroupedAccuracy
from patchwork.tasks.predictions import ClassAnswers, Predictions, log_softmax


class Classify(Task):
    """Predict the class of an image.

    Metrics are the accuracy, overall and by class, and the expected calibration error over 15 bins of confidence (Guo
    et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        num_classes: Number of classes, as in the data.
    """

    required_keys: ClassVar = ("image", "label")
    checks: ClassVar = (*BASE_CHECKS, "position_sensitivity")
    averages_log_probs = True
    solved: ClassVar = "are classified correctly"

    def __init__(self, *, num_classes: int, **task: object) -> None:
        self.num_classes = num_classes
        super().__init__(**task)  # type: ignore[arg-type]

    def build_metrics(self) -> dict[str, Metric]:
        classes = {label: str(label) for label in range(self.num_classes)}
        return {
            "accuracy": Accuracy(),
            "class_accuracy": GroupedAccuracy("class_accuracy", classes),
            "calibration_error": CalibrationError(),
        }

    def step(self, batch: Batch, split: Split) -> Tensor:
        logits, label = self.forward(batch), batch["label"]  # (B, num_classes), (B,)
        if split != "train":
            predictions = self.predictions(batch, logits)
            self.collect(split, predictions)
            preds = predictions.prediction
            self.update_metrics(
                split,
                accuracy=(preds, label),
                class_accuracy=(preds, label, label),
                calibration_error=(logits.softmax(dim=1).amax(dim=1), preds == label),
            )
        return F.cross_entropy(logits, label)

    def predictions(self, batch: Batch, outputs: Tensor) -> Predictions:
        return self.make_predictions(batch, batch.get("label"), outputs.argmax(dim=1), log_softmax(outputs))

    def class_answers(self, predictions: Predictions) -> dict[str, ClassAnswers]:
        assert predictions.target is not None
        names = self.class_names or tuple(map(str, range(self.num_classes)))
        rows = torch.arange(len(predictions))
        zero = torch.zeros_like(rows)
        return {
            "class": ClassAnswers(
                predictions.target, predictions.prediction, rows, zero, predictions.image_ids[:, 0], tuple(names)
            )
        }

    def uniform_loss(self, batch: Batch) -> float:
        return math.log(self.num_classes)

    @property
    def chance(self) -> float:
        return 1 / self.num_classes

    def format_answers(self, answers: Tensor) -> list[str]:
        return self.format_classes(answers)

    def make_ensemble(self, models: list[nn.Module]) -> nn.Module:
        return Ensemble(models, self.average_outputs)

    def average_outputs(self, outputs: Tensor) -> Tensor:
        return log_mean_prob(outputs.log_softmax(dim=-1))

    def outputs_from_log_probs(self, log_probs: Tensor) -> Tensor:
        return log_probs
