"""Tell which digit an image shows (documents 001 and 003)."""

import math
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError

from patchwork.models.ensemble import Ensemble, mean_of_laws
from patchwork.tasks.base import PROBES, Batch, Sample, Split, Task, in_range
from patchwork.tasks.metrics import Accuracy, ClassAccuracy


class Classify(Task):
    """Predict the class of an image.

    Besides accuracy, overall and by class, the expected calibration error is measured: how far, on average over 15
    bins of confidence, the share that is right is from the probability that was claimed (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599).

    Args:
        num_classes: as the data has.
    """

    needs: ClassVar = ("image", "label")
    probes: ClassVar = (*PROBES, "positions")

    def __init__(self, *, num_classes: int, **task: object) -> None:
        self.num_classes = num_classes
        super().__init__(**task)  # type: ignore[arg-type]

    def metrics(self) -> dict[str, Metric]:
        return {
            "accuracy": Accuracy(),
            "class_accuracy": ClassAccuracy("class_accuracy", {kind: str(kind) for kind in range(self.num_classes)}),
            "calibration_error": MulticlassCalibrationError(self.num_classes, n_bins=15),
        }

    def outputs(self, batch: Batch) -> Tensor:
        return self.model(batch["image"])  # (B, num_classes)

    def together(self, models: list[nn.Module]) -> nn.Module:
        return Ensemble(models, lambda said: mean_of_laws(said.log_softmax(dim=-1)))

    def chance(self, batch: Batch) -> float:
        return math.log(self.num_classes)

    def step(self, batch: Batch, split: Split) -> Tensor:
        logits, label = self.outputs(batch), batch["label"]
        if split != "train":
            said = logits.argmax(dim=1)
            self.measure(
                split,
                accuracy=(said, label),
                class_accuracy=(said, label, label),
                calibration_error=(logits.softmax(dim=1), label),
            )
        return F.cross_entropy(logits, label)

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        image, label = batch["image"][:count], batch["label"][:count]
        said = self.model(image).argmax(dim=1)
        return [
            Sample(picture, [str(truth)], [str(guess)])
            for picture, truth, guess in zip(in_range(image), label.tolist(), said.tolist(), strict=True)
        ]
