"""Read the verb form that an icon stands for (document 004)."""

import math
from functools import reduce
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from patchwork.data.icons import LABELS, PERSONS, TENSES, VERBS
from patchwork.errors import ConfigError
from patchwork.models.ensemble import Ensemble, mean_of_laws
from patchwork.tasks.base import PROBES, Batch, Sample, Split, Task, in_range
from patchwork.tasks.metrics import Accuracy, ClassAccuracy

FACTORS = {"tense": ["tense"], "tense_person": ["tense", "person"], "combination": ["verb", "tense", "person"]}
NAMES = {"verb": list(VERBS), "tense": list(TENSES), "person": list(PERSONS)}


class Icons(Task):
    """Predict the class of an icon: its tense (5), tense and person (15), or verb, tense and person (300).

    Args:
        label: what a class is.
        head: `flat` gives each class a logit of its own; `factored` adds one of the verb, one of the tense and one of
            the person, so that a class is understood which was never seen.
        holdout: what was kept out of training, as the data has.
        num_classes: outputs of the model, as the data has.

    Raises:
        ConfigError: if these are not as many as `label` and `head` want.
    """

    needs: ClassVar = ("image", "verb", "tense", "person", "held_out")
    probes: ClassVar = (*PROBES, "positions")

    def __init__(
        self,
        *,
        label: Literal["tense", "tense_person", "combination"],
        head: Literal["factored", "flat"],
        holdout: Literal["combinations"] | None,
        num_classes: int,
        **task: Any,
    ) -> None:
        self.factors = FACTORS[label]
        sizes = [LABELS[name] for name in self.factors]
        wanted = sum(sizes) if head == "factored" else math.prod(sizes)
        if num_classes != wanted:
            raise ConfigError(
                f"data.num_classes={num_classes} is not {wanted}, as task.label={label} with head={head} has"
            )
        self.head = head
        self.holdout = holdout
        super().__init__(**task)

    def metrics(self) -> dict[str, Metric]:
        kinds = {0: "seen", 1: "held_out"}
        unseen = {"combination_accuracy": ClassAccuracy("combination_accuracy", kinds)} if self.holdout else {}
        return {"accuracy": Accuracy(), **{f"{name}_accuracy": Accuracy() for name in self.factors}, **unseen}

    def outputs(self, batch: Batch) -> Tensor:
        logits = self.model(batch["image"])
        if self.head == "factored":
            parts = logits.split([LABELS[name] for name in self.factors], dim=1)
            logits = reduce(lambda one, other: (one[:, :, None] + other[:, None]).flatten(1), parts)
        return logits  # (B, classes)

    def together(self, models: list[nn.Module]) -> nn.Module:
        """Average the laws of verb, tense and person each by itself, or with a flat head those of the classes."""
        sizes = [LABELS[name] for name in self.factors]
        parts = sizes if self.head == "factored" else [math.prod(sizes)]

        def average(said: Tensor) -> Tensor:
            return torch.cat([mean_of_laws(logits.log_softmax(dim=-1)) for logits in said.split(parts, dim=-1)], dim=-1)

        return Ensemble(models, average)

    def chance(self, batch: Batch) -> float:
        return math.log(math.prod(LABELS[name] for name in self.factors))

    def target(self, batch: Batch) -> Tensor:
        """Return the class (B,) of each icon."""
        return reduce(lambda number, name: number * LABELS[name] + batch[name], self.factors, batch["verb"] * 0)

    def apart(self, target: Tensor) -> dict[str, Tensor]:
        """Take classes (B,) apart into their factors (B,) each."""
        parts = {}
        for name in reversed(self.factors):
            parts[name], target = target % LABELS[name], target // LABELS[name]
        return parts

    def step(self, batch: Batch, split: Split) -> Tensor:
        logits, target = self.outputs(batch), self.target(batch)
        if split != "train":
            said = logits.argmax(dim=1)
            parts = {f"{name}_accuracy": (part, batch[name]) for name, part in self.apart(said).items()}
            unseen = {"combination_accuracy": (said, target, batch["held_out"])} if self.holdout else {}
            self.measure(split, accuracy=(said, target), **parts, **unseen)
        return F.cross_entropy(logits, target)

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        batch = {name: values[:count] for name, values in batch.items()}
        said, truth = self.words(self.outputs(batch).argmax(dim=1)), self.words(self.target(batch))
        return [
            Sample(picture, [want], [guess])
            for picture, want, guess in zip(in_range(batch["image"]), truth, said, strict=True)
        ]

    def words(self, classes: Tensor) -> list[str]:
        """Name classes (B,)."""
        parts = self.apart(classes)
        rows = zip(*(parts[name].tolist() for name in self.factors), strict=True)
        return [" ".join(NAMES[name][part] for name, part in zip(self.factors, row, strict=True)) for row in rows]
