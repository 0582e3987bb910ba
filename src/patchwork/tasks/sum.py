"""Add the digits of a sequence of images, having been told nothing but sums (document 001).

1. A model answers with a number, or with the law of the sum.
2. A number is trained by its squared error and rounded to answer; a law by its logarithm, and the likeliest sum is the
   answer.
"""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError, Metric

from patchwork.errors import ConfigError
from patchwork.models.ensemble import Ensemble, mean_of_laws
from patchwork.tasks.base import PROBES, Batch, Sample, Split, Task, in_range
from patchwork.tasks.metrics import Accuracy, ClassAccuracy


class Sum(Task):
    """Predict the sum of the digits in a sequence of images.

    Sequences longer than `max_length` are measured by their length alone.

    Args:
        num_classes: digits below this number are added.
        max_length: of the sequences trained on, as the data has.
        test_lengths: of longer sequences to test on besides, as the data has.
        anchored: whether there is an anchor, as the data has; it must not be.

    Raises:
        ConfigError: if there is an anchor, or the model cannot take sequences as long as `test_lengths`.
    """

    needs: ClassVar = ("image", "mask", "digits")
    calls: ClassVar = {"forward": ("image", "mask")}
    probes: ClassVar = (*PROBES, "padding", "order")

    def __init__(
        self, *, num_classes: int, max_length: int, test_lengths: list[int], anchored: bool = False, **task: object
    ) -> None:
        if anchored:
            raise ConfigError("data.anchored=true is for task=anchor: a sum has no anchor")
        self.num_classes = num_classes
        self.max_length = max_length
        self.lengths = [*range(1, max_length + 1), *test_lengths]
        super().__init__(**task)  # type: ignore[arg-type]
        if test_lengths and hasattr(self.model, "max_length"):
            raise ConfigError(
                f"data.test_lengths={test_lengths} is not for {type(self.model).__name__}, which takes sequences of up "
                f"to {self.model.max_length}: use []"
            )

    def metrics(self) -> dict[str, Metric]:
        return {
            "accuracy": Accuracy(),
            "mse": MeanSquaredError(),
            "length_accuracy": ClassAccuracy("length_accuracy", {length: str(length) for length in self.lengths}),
        }

    def outputs(self, batch: Batch) -> Tensor:
        return self.model(batch["image"], batch["mask"])  # (B,) a number, or (B, K) the logarithm of a law

    def together(self, models: list[nn.Module]) -> nn.Module:
        return Ensemble(models, lambda said: said.mean(dim=0) if said.ndim == 2 else mean_of_laws(said))

    def loss_of(self, said: Tensor, total: Tensor) -> Tensor:
        return F.mse_loss(said, total.float()) if said.ndim == 1 else F.nll_loss(said, total)

    def chance(self, batch: Batch) -> float:
        """Return the loss of the law of as many even digits, or for a model that gives a number, of zero."""
        from patchwork.models.sum_distribution import law_of_sum

        said, mask, total = self.outputs(batch), batch["mask"], batch["digits"].sum(dim=1)
        if said.ndim == 1:
            return float(self.loss_of(torch.zeros_like(said), total))
        law = torch.where(mask[..., None], 1 / self.num_classes, torch.eye(self.num_classes, device=mask.device)[0])
        return float(self.loss_of(law_of_sum(law).log(), total))

    def blind(self, batch: Batch) -> float:
        """Return the loss of as many even digits as there are images: of their law, or of their mean."""
        said, mask = self.outputs(batch), batch["mask"]
        mean = (self.num_classes - 1) / 2 * mask.sum(dim=1)
        return self.chance(batch) if said.ndim > 1 else float(F.mse_loss(mean, batch["digits"].sum(dim=1).float()))

    def step(self, batch: Batch, split: Split) -> Tensor:
        said, total = self.outputs(batch), batch["digits"].sum(dim=1)
        if split != "train":
            answer = said.round() if said.ndim == 1 else said.argmax(dim=1)
            length = batch["mask"].sum(dim=1)
            self.measure(split, length_accuracy=(answer, total, length))
            if batch["mask"].shape[1] <= self.max_length:
                expected = said if said.ndim == 1 else (said.exp() * torch.arange(said.shape[1]).to(said)).sum(dim=1)
                self.measure(split, accuracy=(answer, total), mse=(expected, total.float()))
        return self.loss_of(said, total)

    def evaluate(self, batch: Batch, split: Split) -> None:
        if batch["mask"].shape[1] <= self.max_length:
            super().evaluate(batch, split)
        else:
            self.step(batch, split)

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        batch = {name: values[:count] for name, values in batch.items()}
        said, total, length = self.outputs(batch), batch["digits"].sum(dim=1), batch["mask"].sum(dim=1)
        answer = said.round().long() if said.ndim == 1 else said.argmax(dim=1)
        return [
            Sample(strip[:, :, : end * strip.shape[1]], [str(truth)], [str(guess)])
            for strip, end, truth, guess in zip(
                strips(batch["image"]), length.tolist(), total.tolist(), answer.tolist(), strict=True
            )
        ]


def strips(image: Tensor) -> Tensor:
    """Put the images of sequences (B, S, C, size, size) side by side, as pictures (B, C, size, S · size)."""
    return rearrange(in_range(image), "b s c h w -> b c h (s w)")
