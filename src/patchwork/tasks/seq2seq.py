"""Read the digits of a grid as a sequence (documents 000 and 003).

1. Training is teacher-forced: predict each token from the image and the true tokens before it, `<finish>` last.
2. Validation and test decode greedily, as a user would; teacher forcing flatters.
"""

import math
from typing import ClassVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from patchwork.models import EncoderDecoder
from patchwork.models.ensemble import Readers
from patchwork.models.transformer import Cache
from patchwork.tasks.base import PROBES, Batch, Sample, Split, Task, in_range
from patchwork.tasks.metrics import Accuracy, Share


class DigitAccuracy(Share):
    """The share of digits that are right."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add sequences of tokens, both (B, T)."""
        self.right += (preds == target).sum()
        self.total += target.numel()


class CellAccuracy(Share):
    """The share of digits that are right in each cell of the grid, as `row_col` from the top left."""

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__(rows * cols)
        self.places = [f"{row}_{col}" for row in range(rows) for col in range(cols)]

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add sequences of tokens, both (B, rows·cols)."""
        self.right += (preds == target).sum(dim=0)
        self.total += len(target)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        shares = self.right / self.total
        return {f"cell_accuracy/{place}": share for place, share in zip(self.places, shares, strict=True)}


class Seq2Seq(Task):
    """Predict the digits of an image in reading order, and that they are finished."""

    model: EncoderDecoder

    calls: ClassVar = {
        "forward": ("image", "tokens"),
        "encode": ("image",),
        "decode": ("memory", "tokens"),
        "greedy": ("memory",),
    }

    needs: ClassVar = ("image", "digits")
    probes: ClassVar = (*PROBES, "positions", "causal", "cache")

    def metrics(self) -> dict[str, Metric]:
        return {
            "sequence_accuracy": Accuracy(),
            "digit_accuracy": DigitAccuracy(),
            "cell_accuracy": CellAccuracy(self.model.rows, self.model.cols),
        }

    def outputs(self, batch: Batch) -> Tensor:
        return self.logits(batch, self.tokens(batch))  # (B, T + 1, V)

    def tokens(self, batch: Batch) -> Tensor:
        return F.pad(batch["digits"], (0, 1), value=self.model.finish)  # (B, T + 1)

    def logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        return self.model(batch["image"], F.pad(tokens[:, :-1], (1, 0), value=self.model.start))

    def written(self, batch: Batch) -> Tensor:
        return self.model.generate(batch["image"])  # (B, T)

    def stepwise(self, batch: Batch, tokens: Tensor) -> Tensor:
        memory = self.model.encode(batch["image"])  # (B, N, D)
        caches = [(Cache(tokens.shape[1]), Cache(memory.shape[1])) for _ in self.model.decoder]
        read = F.pad(tokens[:, :-1], (1, 0), value=self.model.start).split(1, dim=1)
        return torch.cat([self.model.decode(memory, token, caches) for token in read], dim=1)  # (B, T, V)

    def together(self, models: list[nn.Module]) -> nn.Module:
        return Readers(cast(list[EncoderDecoder], models))

    def chance(self, batch: Batch) -> float:
        return math.log(self.model.finish + 1)

    def step(self, batch: Batch, split: Split) -> Tensor:
        digits = batch["digits"]  # (B, T)
        memory = self.model.encode(batch["image"])  # (B, N, D)
        logits = self.model.decode(memory, F.pad(digits, (1, 0), value=self.model.start))  # (B, T + 1, V)
        target = F.pad(digits, (0, 1), value=self.model.finish)  # (B, T + 1)
        if split != "train":
            said = self.model.greedy(memory)
            self.measure(
                split, sequence_accuracy=(said, digits), digit_accuracy=(said, digits), cell_accuracy=(said, digits)
            )
        return F.cross_entropy(rearrange(logits, "b t v -> (b t) v"), target.flatten())

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        image, digits = batch["image"][:count], batch["digits"][:count]
        predicted = self.model.generate(image)  # (B, T)
        return [
            Sample(picture, self.words(truth), self.words(said), rows=self.model.rows, cols=self.model.cols)
            for picture, truth, said in zip(in_range(image), digits, predicted, strict=True)
        ]

    def words(self, tokens: Tensor) -> list[str]:
        """Write tokens (T,) as a reader would: digits as they are, `<start>` as ^ and `<finish>` as $."""
        special = {self.model.start: "^", self.model.finish: "$"}
        return [special.get(token, str(token)) for token in tokens.tolist()]
