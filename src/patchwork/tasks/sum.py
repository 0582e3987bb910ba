"""Add up the digits of a sequence of images, trained on the sums alone.

1. A model predicts a number, or the distribution of the sum.
2. A number is trained with the squared error and rounded. A distribution is trained with the negative log-likelihood,
   and its most probable sum is the prediction.

Follows the sequence project (sum), see `docs/references.md`.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError, Metric

from patchwork.core.errors import ConfigError
from patchwork.data.base import Batch, Split
from patchwork.models.ensemble import Ensemble, log_mean_prob
from patchwork.models.protocols import HasMaxLength
from patchwork.models.sum_distribution import convolve_distributions
from patchwork.tasks.base import Sample
from patchwork.tasks.image_sequence import ImageSequenceTask, concat_horizontally
from patchwork.tasks.metrics import Accuracy, GroupedAccuracy
from patchwork.tasks.predictions import Predictions
from patchwork.tasks.summary import summarize_accuracy


class Sum(ImageSequenceTask):
    """Predict the sum of the digits in a sequence of images.

    Sequences longer than `max_length` count only towards the accuracy of their length.

    Args:
        num_classes: number of digit classes, as in the data.
        max_length: length of the longest training sequences, as in the data.
        test_lengths: lengths of additional, longer test sequences, as in the data.

    Raises:
        ConfigError: if the model cannot take sequences as long as `test_lengths`.
    """

    required_keys: ClassVar = ("image", "mask", "digits")
    averages_log_probs = True  # of a model that predicts distributions
    solved: ClassVar = "are added up correctly"

    def __init__(self, *, num_classes: int, max_length: int, test_lengths: list[int], **task: object) -> None:
        self.num_classes = num_classes
        self.max_length = max_length
        self.lengths = [*range(1, max_length + 1), *test_lengths]
        super().__init__(**task)  # type: ignore[arg-type]
        if test_lengths and isinstance(self.model, HasMaxLength):
            raise ConfigError(
                f"data.test_lengths={test_lengths} cannot be used with model={type(self.model).__name__}, which takes "
                f"sequences of up to {self.model.max_length} images: use []"
            )

    def build_metrics(self) -> dict[str, Metric]:
        return {
            "accuracy": Accuracy(),
            "mse": MeanSquaredError(),
            "length_accuracy": GroupedAccuracy("length_accuracy", {length: str(length) for length in self.lengths}),
        }

    def step(self, batch: Batch, split: Split) -> Tensor:
        outputs, target = self.forward(batch), self.target(batch)
        if split != "train":
            predictions = self.predictions(batch, outputs)
            self.collect(split, predictions)
            preds = predictions.prediction
            self.update_metrics(split, length_accuracy=(preds, target, batch["mask"].sum(dim=1)))
            if not self.is_longer(batch):
                self.update_metrics(split, accuracy=(preds, target), mse=(expected_sum(outputs), target.float()))
        return self.compute_loss(outputs, target)

    def eval_step(self, batch: Batch, split: Split) -> None:
        if self.is_longer(batch):
            self.step(batch, split)  # whose loss is not that of the sequences trained on
        else:
            super().eval_step(batch, split)

    def is_longer(self, batch: Batch) -> bool:
        """Return whether a batch is one of the additional, longer test sequences."""
        return batch["mask"].shape[1] > self.max_length

    def target(self, batch: Batch) -> Tensor:
        """Return the sums (B,)."""
        return batch["digits"].sum(dim=1)

    def compute_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of numbers (B,) or of log-probabilities of the sums (B, K)."""
        return F.mse_loss(outputs, target.float()) if outputs.ndim == 1 else F.nll_loss(outputs, target)

    def predictions(self, batch: Batch, outputs: Tensor) -> Predictions:
        target = self.target(batch) if "digits" in batch else None
        if outputs.ndim == 1:
            return self.make_predictions(batch, target, outputs.round().long())
        return self.make_predictions(batch, target, outputs.argmax(dim=1), outputs)

    def uniform_loss(self, batch: Batch) -> float:
        """Return the loss of the distribution of as many uniform digits, or of the number 0."""
        outputs, target = self.forward(batch), self.target(batch)
        if outputs.ndim == 1:
            return float(self.compute_loss(torch.zeros_like(outputs), target))
        mask = batch["mask"]
        zero = torch.eye(self.num_classes, device=mask.device)[0]  # what padding adds
        digit_probs = torch.where(mask[..., None], 1 / self.num_classes, zero)  # (B, S, num_classes)
        return float(self.compute_loss(convolve_distributions(digit_probs).log(), target))

    def image_free_loss(self, batch: Batch) -> float:
        """Return the loss of the distribution of as many uniform digits, or of its mean."""
        if self.forward(batch).ndim > 1:
            return self.uniform_loss(batch)
        mean = (self.num_classes - 1) / 2 * batch["mask"].sum(dim=1)
        return float(F.mse_loss(mean, self.target(batch).float()))

    def make_ensemble(self, models: list[nn.Module]) -> nn.Module:
        return Ensemble(models, self.average_outputs)

    def average_outputs(self, outputs: Tensor) -> Tensor:
        return outputs.mean(dim=0) if outputs.ndim == 2 else log_mean_prob(outputs)

    def outputs_from_log_probs(self, log_probs: Tensor) -> Tensor:
        return log_probs

    def summary(self, metrics: Mapping[str, float], num_samples: int) -> str:
        accuracy, what = metrics["test/accuracy"], f"{self.samples_name} {self.solved}"
        return summarize_accuracy(
            accuracy, num_samples, what, chance=self.chance, guess="the likeliest sum for the length"
        )

    @property
    def chance(self) -> float:
        """Return the accuracy of the likeliest sum of as many uniform digits, over uniform lengths."""
        digit = torch.full((1, 1, self.num_classes), 1 / self.num_classes)
        lengths = range(1, self.max_length + 1)
        return sum(float(convolve_distributions(digit.expand(1, n, -1)).max()) for n in lengths) / self.max_length

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        batch = {name: values[:count] for name, values in batch.items()}
        preds = self.predict_step(batch, 0).prediction
        lengths = batch["mask"].sum(dim=1).tolist()
        targets, answers = self.format_answers(self.target(batch)), self.format_answers(preds)
        return [
            Sample(image[:, :, : length * image.shape[1]], [target], [answer])
            for image, length, target, answer in zip(
                concat_horizontally(batch["image"]), lengths, targets, answers, strict=True
            )
        ]


def expected_sum(outputs: Tensor) -> Tensor:
    """Return the expectation (B,) of sums whose log-probabilities (B, K) are given; numbers (B,) are returned as is."""
    if outputs.ndim == 1:
        return outputs
    sums = torch.arange(outputs.shape[1]).to(outputs)
    return (outputs.exp() * sums).sum(dim=1)
