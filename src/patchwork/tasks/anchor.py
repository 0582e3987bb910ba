"""Detect whether a digit of the anchor's class occurs in a sequence, and where.

Follows the sequence project (anchor), see `docs/references.md`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC

from patchwork.core.errors import ConfigError
from patchwork.data.base import Batch, Split
from patchwork.models.ensemble import AnchorDetectorEnsemble, Ensemble, log_mean_prob
from patchwork.models.protocols import Locates
from patchwork.tasks.base import Sample
from patchwork.tasks.image_sequence import ImageSequenceTask, concat_horizontally
from patchwork.tasks.metrics import Accuracy, RunningFraction
from patchwork.tasks.predictions import ClassAnswers, Predictions, to_float32
from patchwork.tasks.summary import summarize_accuracy


class MajorityBaseline(RunningFraction):
    """The accuracy of always predicting the more frequent answer."""

    def update(self, target: Tensor) -> None:
        """Add targets (B,), true or false."""
        self.correct += target.sum()
        self.total += len(target)

    def compute(self) -> Tensor:
        positives = super().compute()
        return torch.maximum(positives, 1 - positives)


class Localization(RunningFraction):
    """The fraction of sequences with a match whose attention peaks on a match."""

    def update(self, attention: Tensor, match: Tensor) -> None:
        """Add attention weights (B, S) and matches (B, S), true or false."""
        present = match.any(dim=1)
        peak = attention.argmax(dim=1, keepdim=True)  # (B, 1)
        self.correct += (match.gather(1, peak).squeeze(1) & present).sum()
        self.total += present.sum()

    def compute(self) -> Tensor:
        return (self.correct / self.total.clamp_min(1)).squeeze()  # 0 if no sequence has a match


class RandomLocalization(Localization):
    """The expected localization of an attention peak at a random image of the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros(1), dist_reduce_fx="sum")

    def update(self, mask: Tensor, match: Tensor) -> None:
        """Add masks (B, S), true where there is an image, and matches (B, S)."""
        self.correct += (match.sum(dim=1) / mask.sum(dim=1)).sum()
        self.total += match.any(dim=1).sum()


class Anchor(ImageSequenceTask):
    """Predict whether any image of a sequence shows the digit that the anchor image shows.

    Metrics are the accuracy beside that of the majority, and the area under the ROC curve; for a model that attends to
    images, also how often its attention peaks on a match, beside how often a random peak would.
    """

    required_keys: ClassVar = ("image", "mask", "anchor", "match", "present")
    model_interface: ClassVar = {"forward": ("image", "mask", "anchor")}

    def build_metrics(self) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {
            "accuracy": Accuracy(),
            "auroc": BinaryAUROC(),
            "majority_baseline": MajorityBaseline(),
        }
        if self.locates:
            metrics |= {"localization": Localization(), "localization_chance": RandomLocalization()}
        return metrics

    @property
    def locates(self) -> bool:
        """Return whether the model attends to images."""
        return isinstance(self.model, Locates)

    def step(self, batch: Batch, split: Split) -> Tensor:
        present = batch["present"]  # (B,)
        if split == "train":
            logits = self.forward(batch)  # (B,)
        else:
            logits, attention = self.locate(batch)
            predictions = self.predictions(batch, logits)
            self.collect(split, predictions)
            self.update_metrics(
                split,
                accuracy=(predictions.prediction, present),
                auroc=(logits.sigmoid(), present.long()),
                majority_baseline=(present,),
            )
            if attention is not None:
                match = batch["match"]
                self.update_metrics(split, localization=(attention, match), localization_chance=(batch["mask"], match))
        return F.binary_cross_entropy_with_logits(logits, present.float())

    def locate(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the logits (B,), and the attention weights (B, S) or None."""
        if isinstance(self.model, Locates):
            return self.model.locate(*self.model_inputs(batch))
        return self.forward(batch), None

    def predictions(self, batch: Batch, outputs: Tensor) -> Predictions:
        target = batch["present"].long() if "present" in batch else None
        logits = to_float32(outputs)
        log_probs = torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)  # (B, 2)
        return self.make_predictions(batch, target, (outputs > 0).long(), log_probs)

    def class_answers(self, predictions: Predictions) -> dict[str, ClassAnswers]:
        assert predictions.target is not None
        rows = torch.arange(len(predictions))
        zero = torch.zeros_like(rows)
        names = tuple(self.format_answers(torch.tensor([False, True])))
        return {
            "anchor": ClassAnswers(
                predictions.target, predictions.prediction, rows, zero, torch.full_like(rows, -1), names
            )
        }

    def uniform_loss(self, batch: Batch) -> float:
        return math.log(2)

    def make_ensemble(self, models: list[nn.Module]) -> nn.Module:
        locating = [isinstance(model, Locates) for model in models]
        if any(locating) and not all(locating):
            raise ConfigError("models with and without attention weights cannot be combined in an ensemble")
        ensemble = AnchorDetectorEnsemble if all(locating) else Ensemble
        return ensemble(models, self.average_outputs)

    def average_outputs(self, outputs: Tensor) -> Tensor:
        return log_mean_prob(F.logsigmoid(outputs)) - log_mean_prob(F.logsigmoid(-outputs))

    @property
    def averages_log_probs(self) -> bool:  # type: ignore[override]
        return not self.locates  # localization needs attention weights

    def outputs_from_log_probs(self, log_probs: Tensor) -> Tensor:
        return log_probs[:, 1] - log_probs[:, 0]

    def perturbed_inputs(self, batch: Batch) -> Iterator[Batch]:
        changes = super().perturbed_inputs(batch)
        yield next(changes)
        yield {**batch, "anchor": batch["anchor"].roll(1, dims=0)}
        yield from changes

    def summary(self, metrics: Mapping[str, float], num_samples: int) -> str:
        accuracy, baseline = metrics["test/accuracy"], metrics["test/majority_baseline"]
        what = f"{self.samples_name} {self.solved}"
        return summarize_accuracy(accuracy, num_samples, what, chance=baseline, guess="always the same answer")

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        """Return sequences after their anchors; the anchor and the image that is attended to most are marked."""
        batch = {name: values[:count] for name, values in batch.items()}
        logits, attention = self.locate(batch)
        preds = self.predictions(batch, logits).prediction
        peaks = None if attention is None else (attention.argmax(dim=1) + 1).tolist()
        lengths = (batch["mask"].sum(dim=1) + 1).tolist()
        images = concat_horizontally(torch.cat([batch["anchor"][:, None], batch["image"]], dim=1))
        targets, answers = self.format_answers(batch["present"]), self.format_answers(preds)
        return [
            Sample(
                image[:, :, : length * image.shape[1]],
                [target],
                [answer],
                cols=length,
                marks={0: "anchor"} if peaks is None else {0: "anchor", peaks[index]: "looked at"},
            )
            for index, (image, length, target, answer) in enumerate(zip(images, lengths, targets, answers, strict=True))
        ]

    def format_answers(self, answers: Tensor) -> list[str]:
        return ["there" if present else "not there" for present in answers.tolist()]
