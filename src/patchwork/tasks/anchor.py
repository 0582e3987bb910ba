"""Tell whether a digit of the anchor's class occurs in a sequence, and where (document 001)."""

import math
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC

from patchwork.errors import ConfigError
from patchwork.models import AnchorDetector
from patchwork.models.ensemble import Detectors, Ensemble, mean_of_laws
from patchwork.tasks.base import PROBES, Batch, Sample, Split, Task
from patchwork.tasks.metrics import Accuracy, Share
from patchwork.tasks.sum import strips


class Majority(Share):
    """The accuracy of always giving the commoner answer: what a model has to beat."""

    def update(self, target: Tensor) -> None:
        """Add answers (B,), true or false."""
        self.right += target.sum()
        self.total += len(target)

    def compute(self) -> Tensor:
        share = super().compute()
        return torch.maximum(share, 1 - share)


class Localisation(Share):
    """The share of sequences with a match in which the peak of attention is on one."""

    def update(self, attention: Tensor, match: Tensor) -> None:
        """Add attention (B, S) and where the matches are (B, S)."""
        present = match.any(dim=1)
        self.right += (match.gather(1, attention.argmax(dim=1, keepdim=True)).squeeze(1) & present).sum()
        self.total += present.sum()

    def compute(self) -> Tensor:
        return (self.right / self.total.clamp_min(1)).squeeze()  # 0 where nothing could be found


class LocalisationChance(Localisation):
    """The localisation that a peak anywhere in a sequence has on average."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(1, dtype=torch.double), dist_reduce_fx="sum")

    def update(self, mask: Tensor, match: Tensor) -> None:
        """Add where there are images (B, S) and where the matches are (B, S)."""
        self.right += (match.sum(dim=1) / mask.sum(dim=1)).sum()
        self.total += match.any(dim=1).sum()


class Anchor(Task):
    """Predict whether any image of a sequence shows the digit that the anchor image shows.

    Besides accuracy, the area under the ROC curve is measured, the majority's share, and for a model that attends to
    images, as its `locate` tells, whether the peak of its attention is on a match; how often it would be by chance
    stands beside it.
    """

    needs: ClassVar = ("image", "mask", "anchor", "match", "present")
    calls: ClassVar = {"forward": ("image", "mask", "anchor")}
    probes: ClassVar = (*PROBES, "padding", "order")

    def metrics(self) -> dict[str, Metric]:
        where = (
            {"localisation": Localisation(), "localisation_chance": LocalisationChance()}
            if hasattr(self.model, "locate")
            else {}
        )
        return {"accuracy": Accuracy(), "auroc": BinaryAUROC(), "majority": Majority(), **where}

    def outputs(self, batch: Batch) -> Tensor:
        return self.model(batch["image"], batch["mask"], batch["anchor"])  # (B,)

    def together(self, models: list[nn.Module]) -> nn.Module:
        located = [hasattr(model, "locate") for model in models]
        if any(located) and not all(located):
            raise ConfigError("models of which only some tell where they look are not evaluated as one")
        kind = Detectors if all(located) else Ensemble
        return kind(models, lambda said: mean_of_laws(F.logsigmoid(said)) - mean_of_laws(F.logsigmoid(-said)))

    def chance(self, batch: Batch) -> float:
        return math.log(2)

    def step(self, batch: Batch, split: Split) -> Tensor:
        present = batch["present"]
        if split == "train":
            said = self.outputs(batch)
        else:
            said, where = self.locate(batch)
            self.measure(
                split,
                accuracy=(said > 0, present),
                auroc=(said.sigmoid(), present.long()),
                majority=(present,),
                **where,
            )
        return F.binary_cross_entropy_with_logits(said, present.float())

    def locate(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Return the log-odds (B,), and what there is to measure of the attention."""
        if not hasattr(self.model, "locate"):
            return self.outputs(batch), {}
        said, attention = cast(AnchorDetector, self.model).locate(batch["image"], batch["mask"], batch["anchor"])
        match = batch["match"]
        return said, {"localisation": (attention, match), "localisation_chance": (batch["mask"], match)}

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        batch = {name: values[:count] for name, values in batch.items()}
        said, length = self.outputs(batch) > 0, batch["mask"].sum(dim=1) + 1
        pictures = strips(torch.cat([batch["anchor"][:, None], batch["image"]], dim=1))
        words = {True: "there", False: "not there"}
        return [
            Sample(strip[:, :, : end * strip.shape[1]], [words[truth]], [words[guess]], cols=end)
            for strip, end, truth, guess in zip(
                pictures, length.tolist(), batch["present"].tolist(), said.tolist(), strict=True
            )
        ]
