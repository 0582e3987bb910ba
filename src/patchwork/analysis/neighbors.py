"""The mistakes that a model is surest of, and the training images that it holds nearest to them.

Near is what the last layer says: the Euclidean distance of what it holds, less the mean at each position.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from patchwork.analysis.features import (
    Samples,
    cell_images,
    independent_units,
    known_classes,
    layer_features,
    select_answers,
)
from patchwork.analysis.inputs import AnalysisInputs, to_double_values
from patchwork.analysis.places import cell_grid
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.data import Batch
from patchwork.stats.intervals import clustered_wilson
from patchwork.tasks import Predictions, Task
from patchwork.tasks.predictions import ClassAnswers

NUM_TRAINING = 2000  # classes of training samples to look among
NUM_SHOWN, NUM_NEIGHBORS, NUM_VOTES = 10, 5, 15
MAX_MISTAKES = 2000  # the first ones of the split, which are any
CHUNK = 200  # mistakes whose samples are in memory at once, with what all layers hold of them


@dataclass(frozen=True, eq=False)
class Neighbors(Result):
    """The surest mistakes with their nearest training images; of very many mistakes, the first ones of the split.

    Attributes:
        layer: whose vectors are compared.
        names: names of the classes, and then of answers that are no class.
        index: (E,) sample of each mistake, by its index in the split, the surest first; no image is there twice.
        target: (E,) what was right.
        prediction: (E,) what was answered.
        probability: (E,) of that answer, whatever else is part of the model's class.
        images: (E, C, height, width) uint8, of the cell that was meant.
        near: (E, 5, C, height, width) uint8, the training images, the nearest first.
        near_target: (E, 5) their classes.
        votes: (M, 2) of all mistakes, how many of 15 nearest training images are of the class that was answered, and of
            the right one.
        interval: (2,) 95 % interval of the share of mistakes with more of the answered class, over images.
        n_training: number of training images looked among.
        unit: what mistakes are of.
    """

    name: ClassVar[str] = "neighbors"
    layer: str
    names: tuple[str, ...]
    index: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray
    images: np.ndarray
    near: np.ndarray
    near_target: np.ndarray
    votes: np.ndarray
    interval: np.ndarray
    n_training: int
    unit: str

    @property
    def misled(self) -> float:
        """Return the share of mistakes whose nearest training images are more often of the class that was answered."""
        return float((self.votes[:, 0] > self.votes[:, 1]).mean())

    def numbers(self) -> dict[str, Estimate]:
        low, high = self.interval.tolist()
        unit = f"mistakes of {self.unit}"
        share = Estimate(self.misled, len(self.votes), unit, low, high, "Wilson, over images")
        return {"nearer to training images of the class that was answered": share}


def analyze(inputs: AnalysisInputs) -> Neighbors:
    """Find the training images nearest to the mistakes of the split.

    Raises:
        NotApplicableError: if nothing is wrong, samples have no classes, or layers no vectors for them.
    """
    answers = inputs.task.class_answers(inputs.saved_predictions())
    if not answers:
        raise NotApplicableError(f"the samples of task={type(inputs.task).__name__.lower()} have no classes")
    kind, first = next(iter(answers.items()))
    if "mask" in inputs.data.batch_keys:
        raise NotApplicableError("its samples are sequences, which have no nearest training image")
    wrong = (first.target != first.prediction).nonzero().squeeze(1)[:MAX_MISTAKES]
    if not len(wrong):
        raise NotApplicableError(f"no answer of the {inputs.split} split is wrong")
    num_answers = len(first.target) if len(wrong) < MAX_MISTAKES else int(wrong[-1]) + 1
    training = training_samples(inputs, NUM_TRAINING)
    layer, near = nearest_in_training(inputs, first, wrong, training)
    probability = probabilities(inputs, kind)[wrong]
    surest = probability.nan_to_num().argsort(descending=True, stable=True)
    wrong, near, probability = wrong[surest], near[surest], probability[surest]
    target = training.answers.target
    answered, right = first.prediction[wrong], first.target[wrong]
    votes = torch.stack([(target[near] == each[:, None]).sum(dim=1) for each in (answered, right)], dim=1)
    misled = (votes[:, 0] > votes[:, 1]).numpy()
    shown = first_of_each(independent_units(first)[wrong])
    return Neighbors(
        layer=layer,
        names=(*first.names, *first.others),
        index=first.sample[wrong][shown].numpy(),
        target=right[shown].numpy(),
        prediction=answered[shown].numpy(),
        probability=probability[shown].numpy(),
        images=to_bytes(cell_images(inputs.task.model, samples_of(inputs, first, wrong[shown]))),
        near=to_bytes(cell_images(inputs.task.model, training))[near[shown, :NUM_NEIGHBORS].numpy()],
        near_target=target[near[shown, :NUM_NEIGHBORS]].numpy(),
        votes=votes.numpy(),
        interval=np.array(clustered_wilson(misled, independent_units(first)[wrong].numpy())),
        n_training=len(target),
        unit=f"{num_answers:,} answers in {inputs.split} {inputs.task.samples_name}",
    )


def nearest_in_training(
    inputs: AnalysisInputs, answers: ClassAnswers, rows: Tensor, training: Samples
) -> tuple[str, Tensor]:
    """Return the last layer, and which training classes are nearest by it to each of some answers (M, 15)."""
    known = layer_features(inputs.task, training)
    layer, near = [*known][-1], []
    for part in rows.split(CHUNK):
        asked = samples_of(inputs, answers, part)
        held = layer_features(inputs.task, asked)[layer]
        near.append(nearest(*centered(held, asked.answers.cell, known[layer], training.answers.cell)))
    return layer, torch.cat(near)


def probabilities(inputs: AnalysisInputs, kind: str) -> Tensor:
    """Return the probability (n,) of each answer of a kind of the split; NaN if none is known.

    Where the model's class has several parts, and an answer is one of them, it is that of all classes with this part.
    """
    predictions = inputs.saved_predictions()
    answers = inputs.task.class_answers(predictions)[kind]
    if predictions.log_probs is None:
        return torch.full(answers.target.shape, torch.nan)
    if predictions.prediction.ndim == 1:
        probs = predictions.log_probs.exp()  # (n, C)
        part = answers_of_classes(inputs.task, kind, probs.shape[1])  # (C,)
        return (probs * (part == answers.prediction[:, None])).sum(dim=1)
    log_probs = predictions.log_probs[answers.sample, answers.cell]
    return log_probs.gather(-1, predictions.prediction[answers.sample, answers.cell][:, None]).squeeze(-1).exp()


def answers_of_classes(task: Task, kind: str, count: int) -> Tensor:
    """Return the answer of a kind (C,) that each of the model's classes is."""
    classes = torch.arange(count)
    return task.class_answers(Predictions(classes, classes[:, None], classes, classes))[kind].prediction


def first_of_each(unit: Tensor) -> Tensor:
    """Return the first ten rows that are of different images, as grids share some."""
    _, which = unit.unique(return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(unit)).scatter_reduce(0, which, torch.arange(len(unit)), "amin")
    return first.sort().values[:NUM_SHOWN]


def samples_of(inputs: AnalysisInputs, answers: ClassAnswers, rows: Tensor) -> Samples:
    """Return the samples that some answers are about, each once, with these answers alone."""
    sample, which = answers.sample[rows].unique(return_inverse=True)
    target = inputs.saved_predictions().target
    chosen = replace(select_answers(answers, rows), sample=which)
    return Samples(inputs.batch(sample), {"": chosen}, None if target is None else target[sample])


@torch.no_grad()
def training_samples(inputs: AnalysisInputs, num_classes: int) -> Samples:
    """Return samples of the first epoch, as they are seen in training, with about `num_classes` classes."""
    batches: list[Batch] = []
    count = 0
    for index in range(inputs.data.num_batches("train")):
        batches.append(inputs.data.make_batch("train", (0, index), slice(None)))
        count += len(batches[-1]["image"]) * math.prod(cell_grid(inputs.task.model, batches[-1]["image"]))
        if count >= num_classes:
            break
    batch = {name: to_double_values(torch.cat([each[name] for each in batches])) for name in batches[0]}
    predictions = inputs.task.predict_step(batch, 0)
    return Samples(batch, known_classes(inputs.task, batch, predictions), predictions.target)


def centered(held: Tensor, cell: Tensor, known: Tensor, known_cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors (M, D) and (N, D) less the mean of the latter at each position."""
    held, known = held.clone(), known.clone()
    for position in known_cell.unique():
        mean = known[known_cell == position].mean(dim=0)
        held[cell == position] -= mean
        known[known_cell == position] -= mean
    return held, known


def nearest(vectors: Tensor, known: Tensor) -> Tensor:
    """Return which of some known vectors (N, D) are nearest to each vector (M, D): (M, 15), the nearest first."""
    distance = torch.cdist(vectors, known, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(min(NUM_VOTES, len(known)), largest=False).indices


def to_bytes(images: Tensor) -> np.ndarray:
    """Return images in [0, 1] as uint8."""
    return (images * 255).round().to(torch.uint8).numpy()
