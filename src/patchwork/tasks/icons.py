"""Classify an icon by the verb form that it stands for.

Follows the icons lab, see `docs/references.md`.
"""

import math
from functools import reduce
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from patchwork.core.errors import ConfigError
from patchwork.data.base import Batch, Split
from patchwork.data.sources.icons import FACTORS, LABELS, PERSONS, TENSES, VERBS, held_out, num_logits
from patchwork.models.ensemble import Ensemble, log_mean_prob
from patchwork.tasks.base import BASE_CHECKS, Task
from patchwork.tasks.metrics import Accuracy, GroupedAccuracy
from patchwork.tasks.predictions import ClassAnswers, Predictions, log_softmax

NAMES = {"verb": list(VERBS), "tense": list(TENSES), "person": list(PERSONS)}


class Icons(Task):
    """Predict the class of an icon: its tense (5), tense and person (15), or verb, tense and person (300).

    Args:
        label: factors that a class consists of.
        head: `flat` has one logit for each class; `factored` has one for each verb, tense and person and adds them up,
            so that combinations can be recognized that were not in training.
        holdout: combinations held out of training, as in the data.
        num_outputs: number of the model's outputs, as in the data.

    Raises:
        ConfigError: if that number does not fit `label` and `head`.
    """

    required_keys: ClassVar = ("image", "verb", "tense", "person", "held_out")
    checks: ClassVar = (*BASE_CHECKS, "position_sensitivity")
    averages_log_probs = True
    samples_name: ClassVar = "icons"
    solved: ClassVar = "are classified correctly"

    def __init__(
        self,
        *,
        label: Literal["tense", "tense_person", "combination"],
        head: Literal["factored", "flat"],
        holdout: Literal["combinations"] | None,
        num_outputs: int,
        **task: Any,
    ) -> None:
        self.factors = FACTORS[label]
        self.factor_sizes = [LABELS[name] for name in self.factors]
        self.num_classes = num_logits("flat", label)
        expected = num_logits(head, label)
        if num_outputs != expected:
            raise ConfigError(
                f"data.num_outputs={num_outputs} does not fit task.label={label} with task.head={head}: use {expected}"
            )
        self.head = head
        self.holdout = holdout
        super().__init__(**task)

    def build_metrics(self) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {"accuracy": Accuracy()}
        metrics |= {f"{name}_accuracy": Accuracy() for name in self.factors}
        if self.holdout:
            metrics["combination_accuracy"] = GroupedAccuracy("combination_accuracy", {0: "seen", 1: "held_out"})
        return metrics

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits (B, num_classes)."""
        outputs = super().forward(batch)
        return self.add_factors(outputs) if self.head == "factored" else outputs

    def add_factors(self, outputs: Tensor) -> Tensor:
        """Return logits of all combinations (B, Π sizes), given those of the factors side by side (B, Σ sizes)."""
        return reduce(
            lambda left, right: (left[:, :, None] + right[:, None]).flatten(1), outputs.split(self.factor_sizes, dim=1)
        )

    def step(self, batch: Batch, split: Split) -> Tensor:
        logits, target = self.forward(batch), self.target(batch)
        if split != "train":
            predictions = self.predictions(batch, logits)
            self.collect(split, predictions)
            preds = predictions.prediction
            factors = self.unravel_classes(preds)
            self.update_metrics(
                split,
                accuracy=(preds, target),
                **{f"{name}_accuracy": (factors[name], batch[name]) for name in self.factors},
            )
            if self.holdout:
                self.update_metrics(split, combination_accuracy=(preds, target, batch["held_out"]))
        return F.cross_entropy(logits, target)

    def predictions(self, batch: Batch, outputs: Tensor) -> Predictions:
        target = self.target(batch) if batch.keys() >= {*self.factors} else None
        return self.make_predictions(batch, target, outputs.argmax(dim=1), log_softmax(outputs))

    def target(self, batch: Batch) -> Tensor:
        """Return the class (B,) of each icon."""
        target = torch.zeros_like(batch[self.factors[0]])
        for name, size in zip(self.factors, self.factor_sizes, strict=True):
            target = target * size + batch[name]
        return target

    def unravel_classes(self, classes: Tensor) -> dict[str, Tensor]:
        """Return the verb, tense or person (B,) of classes (B,), as far as they are part of a class."""
        factors = {}
        for name, size in zip(reversed(self.factors), reversed(self.factor_sizes), strict=True):
            factors[name], classes = classes % size, classes // size
        return factors

    def class_answers(self, predictions: Predictions) -> dict[str, ClassAnswers]:
        """Return the verbs, tenses and persons of icons, as far as they are part of a class."""
        assert predictions.target is not None
        targets, preds = self.unravel_classes(predictions.target), self.unravel_classes(predictions.prediction)
        rows = torch.arange(len(predictions))
        return {
            name: ClassAnswers(
                targets[name],
                preds[name],
                rows,
                torch.zeros_like(rows),
                predictions.image_ids[:, 0],
                tuple(NAMES[name]),
            )
            for name in self.factors
        }

    def sample_groups(self, predictions: Predictions) -> dict[str, Tensor]:
        """Return which icons are of a combination that was seen in training, and of one that was held out."""
        if self.holdout is None or predictions.target is None or {*self.factors} != {*NAMES}:
            return {}
        held = held_out(self.unravel_classes(predictions.target))
        return {"seen in training": ~held, "held out": held}

    def uniform_loss(self, batch: Batch) -> float:
        return math.log(self.num_classes)

    def make_ensemble(self, models: list[nn.Module]) -> nn.Module:
        return Ensemble(models, self.average_outputs)

    def average_outputs(self, outputs: Tensor) -> Tensor:
        """Average the probabilities of verb, tense and person separately, or with a flat head those of the classes."""
        sizes = self.factor_sizes if self.head == "factored" else [self.num_classes]
        averages = [log_mean_prob(logits.log_softmax(dim=-1)) for logits in outputs.split(sizes, dim=-1)]
        return torch.cat(averages, dim=-1)

    def outputs_from_log_probs(self, log_probs: Tensor) -> Tensor:
        """Return logits of the classes, or with a factored head the log-marginals of its independent factors."""
        if self.head == "flat":
            return log_probs
        table = log_probs.unflatten(1, self.factor_sizes)  # (B, *sizes)
        dims = range(1, table.ndim)
        marginals = []
        for dim in dims:
            others = [other for other in dims if other != dim]
            marginals.append(table.logsumexp(dim=others) if others else table)
        return torch.cat(marginals, dim=1)

    @property
    def chance(self) -> float:
        return 1 / self.num_classes

    def format_answers(self, answers: Tensor) -> list[str]:
        """Return the names of classes (B,), as in `work infinitive 1sg`."""
        factors = self.unravel_classes(answers)
        names = [[NAMES[name][number] for number in factors[name].tolist()] for name in self.factors]
        return [" ".join(parts) for parts in zip(*names, strict=True)]
