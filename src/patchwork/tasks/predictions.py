"""What a task predicts of the samples of a batch or of a whole split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

PADDING = {"image_ids": -1, "log_probs": -torch.inf}  # of fields whose last dimension differs from batch to batch


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row a sample.

    Attributes:
        index: (B,) int64, the sample's index in its split.
        image_ids: (B, K) int64, the images that the sample was made of, as indices in the source's official training
            or test part, padded with −1.
        target: (B, …) what is to be predicted, or None if it is unknown.
        prediction: (B, …) what is predicted.
        log_probs: (B, …, C) the log-probabilities of all answers, or None if the model gives none. Where the prediction
            is a class, it is an index into the last dimension; where it is a sequence (B, T), there is a distribution
            (B, T, C) of each token given the predicted ones before it.
        embedding: (B, D) features of the sample, or None.
    """

    index: Tensor
    image_ids: Tensor
    target: Tensor | None
    prediction: Tensor
    log_probs: Tensor | None = None
    embedding: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def correct(self) -> Tensor | None:
        """Return whether each prediction (B,) equals its target, in all positions; None if they cannot be compared."""
        if self.target is None or self.target.is_floating_point() != self.prediction.is_floating_point():
            return None
        return (self.prediction == self.target).reshape(len(self), -1).all(dim=1)

    @property
    def probability(self) -> Tensor | None:
        """Return the probability (B,) that the model gives its prediction, or None if it gives none."""
        if self.log_probs is None:
            return None
        chosen = self.log_probs.gather(-1, self.prediction.long()[..., None]).squeeze(-1)  # (B, …)
        return chosen.reshape(len(self), -1).sum(dim=1).exp()

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are not None, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_tensors(cls, values: Mapping[str, Tensor]) -> "Predictions":
        """Return the inverse of `tensors`."""
        return cls(
            index=values["index"],
            image_ids=values["image_ids"],
            target=values.get("target"),
            prediction=values["prediction"],
            log_probs=values.get("log_probs"),
            embedding=values.get("embedding"),
        )

    def cpu(self) -> "Predictions":
        return self.from_tensors({name: value.cpu() for name, value in self.tensors().items()})

    @classmethod
    def concat(cls, batches: Sequence["Predictions"]) -> "Predictions":
        """Return the rows of several batches as one table, padded where their last dimensions differ."""
        tables = [batch.tensors() for batch in batches]
        rows = {
            name: concat_padded([table[name] for table in tables], PADDING.get(name, 0))
            for name in tables[0]
            if all(name in table for table in tables)
        }
        return cls.from_tensors(rows)


@dataclass(frozen=True, eq=False)
class ClassAnswers:
    """Answers that are classes, to be counted against their targets.

    Attributes:
        target: (n,) classes, as indices into `names`.
        prediction: (n,) as indices into `names` and then `others`.
        sample: (n,) the row of the sample in its table.
        cell: (n,) the cell of the sample's image that the answer is about.
        image_id: (n,) the image that the answer is about, see `Predictions`; -1 if it is unknown.
        names: names of the classes.
        others: names of answers that are no class, such as the end of a sequence.
    """

    target: Tensor
    prediction: Tensor
    sample: Tensor
    cell: Tensor
    image_id: Tensor
    names: tuple[str, ...]
    others: tuple[str, ...] = ()


def log_softmax(logits: Tensor) -> Tensor:
    """Return the log-probabilities (…, C) of logits (…, C), in float32 at least, as bfloat16 has two digits."""
    return to_float32(logits).log_softmax(dim=-1)


def to_float32(values: Tensor) -> Tensor:
    """Return values in float32, or in float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def concat_padded(values: Sequence[Tensor], padding: float) -> Tensor:
    """Concatenate tensors (B_i, …, C_i) to (ΣB_i, …, max C_i), filled up with `padding`."""
    if values[0].ndim > 1:
        width = max(value.shape[-1] for value in values)
        values = [F.pad(value, (0, width - value.shape[-1]), value=padding) for value in values]
    return torch.cat([*values])
