"""What tasks count beyond what torchmetrics has: shares of things that are right."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric


class Share(Metric):
    """The share of things that are right; a child says which things."""

    right: Tensor
    total: Tensor

    def __init__(self, things: int = 1) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(things, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        return (self.right / self.total).squeeze()


class Accuracy(Share):
    """The share of samples whose prediction is right, in all places if there are several."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predictions, both (B, ...)."""
        self.right += (preds == target).flatten(1).all(dim=1).sum() if preds.ndim > 1 else (preds == target).sum()
        self.total += len(target)


class ClassAccuracy(Metric):
    """The accuracy of each kind of sample, as `name/kind`; a kind that did not occur is left out.

    Args:
        name: of the metric.
        kinds: what each kind is called, by its number.
    """

    right: Tensor
    total: Tensor

    def __init__(self, name: str, kinds: Mapping[int, str]) -> None:
        super().__init__()
        self.title, self.kinds = name, dict(kinds)
        count = max(self.kinds) + 1
        self.add_state("right", torch.zeros(count, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(count, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, kind: Tensor) -> None:
        """Add predictions (B,), what they ought to be (B,) and the kind of each sample (B,)."""
        kind, count = kind.long(), len(self.total)
        self.total += kind.bincount(minlength=count)
        self.right += kind[preds == target].bincount(minlength=count)

    def compute(self) -> dict[str, Tensor]:
        occurred = [kind for kind in self.kinds if self.total[kind]]
        return {f"{self.title}/{self.kinds[kind]}": self.right[kind] / self.total[kind] for kind in occurred}
