"""What every analysis works on: a task in double precision, and one named set of samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from patchwork.analysis.result import NotApplicableError
from patchwork.data import BaseDataModule
from patchwork.data.base import Batch, Split
from patchwork.models.patch_embed import PatchEmbed
from patchwork.tasks import Predictions, Task
from patchwork.tasks.predictions import PADDING


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Weights of a task at a validation.

    Attributes:
        epoch: of training, from 1.
        step: optimizer steps done.
        state_dict: the task's, as validation used it.
    """

    epoch: int
    step: int
    state_dict: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class AnalysisInputs:
    """A trained task with samples of one split; an analysis changes neither.

    Args:
        task: a copy in double precision and evaluation mode, without gradients of its parameters, see `from_task`.
        data: data module of the samples, set up.
        split: the split that samples are from.
        predictions: saved predictions by split, of the weights of the task; those of `split` may be missing.
        untrained: the same task with the weights that its training began with, as a control; None if not at hand.
        history: the weights of the validations of its training, in order, if they were kept.
    """

    task: Task
    data: BaseDataModule
    split: Split = "test"
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    untrained: Task | None = None
    history: Sequence[Snapshot] = ()

    @classmethod
    def from_task(
        cls,
        task: Task,
        data: BaseDataModule,
        *,
        split: Split = "test",
        predictions: Mapping[str, Predictions] | None = None,
        untrained: Task | None = None,
        history: Sequence[Snapshot] = (),
    ) -> "AnalysisInputs":
        """Copy tasks to the CPU in double precision; the data module is set up if it was not."""
        data.prepare_data()
        data.setup("")
        return cls(freeze(task), data, split, predictions or {}, untrained and freeze(untrained), history)

    def first(self, count: int) -> Batch:
        """Return the first samples of the split, all of them if there are fewer."""
        return self.batch(torch.arange(min(count, self.num_samples)))

    def batch(self, indices: Tensor, split: Split | None = None) -> Batch:
        """Return samples (n,) by their index in a split, in double precision and in this order."""
        return select_samples(self.data, split or self.split, indices)

    @property
    def num_samples(self) -> int:
        return self.data.num_samples[self.split]

    def at(self, snapshot: Snapshot) -> "AnalysisInputs":
        """Return the same inputs with the weights that the task had at a validation."""
        task = deepcopy(self.task)
        task.load_state_dict(snapshot.state_dict)
        return replace(self, task=task)

    def require_untrained(self) -> Task:
        """Return the untrained control.

        Raises:
            NotApplicableError: if the inputs have none.
        """
        if self.untrained is None:
            raise NotApplicableError("these inputs have no untrained network as a control")
        return self.untrained

    def saved_predictions(self) -> Predictions:
        """Return the saved predictions of the split.

        Raises:
            NotApplicableError: if there are none, as of a generator.
        """
        if self.split not in self.predictions:
            raise NotApplicableError(f"task={type(self.task).__name__.lower()} has no predictions of single samples")
        return self.predictions[self.split]


def select_samples(data: BaseDataModule, split: Split, indices: Tensor) -> Batch:
    """Return samples (n,) by their index in a split, floating-point values in double precision, in this order.

    Each batch that holds one of them is made once. Those of other lengths, as of longer sums, are padded.
    """
    which, offset = indices // data.eval_batch_size, indices % data.eval_batch_size
    parts: dict[int, Batch] = {}
    for index in which.unique().tolist():
        batch = data.make_batch(split, (0, index), slice(None))
        parts[index] = {name: values[offset[which == index]] for name, values in batch.items()}
    order = torch.cat([(which == index).nonzero().squeeze(1) for index in parts]).argsort()
    return {
        name: to_double_values(pad_to_same([part[name] for part in parts.values()], PADDING.get(name, 0)))[order]
        for name in next(iter(parts.values()))
    }


def pad_to_same(values: list[Tensor], padding: float = 0) -> Tensor:
    """Concatenate tensors (n_i, S_i, …) to (Σ n_i, max S_i, …), filled up with a value."""
    if values[0].ndim == 1:
        return torch.cat(values)
    length = max(each.shape[1] for each in values)
    padded = [
        torch.cat([each, each.new_full((len(each), length - each.shape[1], *each.shape[2:]), padding)], dim=1)
        for each in values
    ]
    return torch.cat(padded)


def freeze(task: Task) -> Task:
    """Return a copy of a task on the CPU, in double precision and evaluation mode, without gradients of parameters."""
    return to_double(task).cpu().eval().requires_grad_(False)


def to_double(task: Task) -> Task:
    """Return a copy of a task that computes in double precision throughout."""
    task = deepcopy(task).double()
    for module in task.modules():
        if isinstance(module, PatchEmbed):
            module.precision = 32
    return task


def to_double_values(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def require_answers(task: Task) -> None:
    """Raise a `NotApplicableError` if a task has no answers to be explained."""
    if not task.has_answers:
        raise NotApplicableError("the task generates images, and has no answers to explain")


def top_two(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predicted class and the runner-up, (B, T) each, of logits (B, T, C); both are 0 if C is 1."""
    if logits.shape[-1] == 1:
        zero = torch.zeros(logits.shape[:2], dtype=torch.long)
        return zero, zero
    predicted, runner_up = logits.topk(2, dim=-1).indices.unbind(-1)
    return predicted, runner_up


def logit_difference(logits: Tensor, predicted: Tensor, runner_up: Tensor) -> Tensor:
    """Return what an explanation explains: by how much the logit of an answer exceeds that of another.

    Differences of logits, unlike probabilities, do not saturate, and adding a constant to all logits changes nothing.

    Args:
        logits: (B, T, C) of T answers, or one number for each (C = 1).
        predicted: the class of each answer (B, T), as of `top_two` of the unchanged inputs.
        runner_up: the other class (B, T).

    Returns:
        Differences (B, T), or the numbers themselves if C is 1.
    """
    if logits.shape[-1] == 1:
        return logits[..., 0]
    chosen = logits.gather(-1, torch.stack([predicted, runner_up], dim=-1))  # (B, T, 2)
    return chosen[..., 0] - chosen[..., 1]


@contextmanager
def cached_patches(model: nn.Module) -> Iterator[None]:
    """Embed equal images only once while the context is open: a stem takes most of the time of a network this small."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, PatchEmbed):
                stack.enter_context(patch.object(module, "forward", remember(module.forward)))
        yield


def remember(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that computes its result once for equal inputs."""
    known: list[tuple[Tensor, Tensor]] = []

    def cached(image: Tensor) -> Tensor:
        for other, result in known:
            if torch.equal(image, other):
                return result
        known.append((image.clone(), forward(image)))
        return known[-1][1]

    return cached
