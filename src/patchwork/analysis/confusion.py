"""What is confused with what: counts of predictions against targets, and the largest confusions with examples."""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from patchwork.analysis.features import independent_units
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.places import cell_grid
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.stats.intervals import clustered_wilson
from patchwork.tasks.base import to_unit_range
from patchwork.tasks.predictions import ClassAnswers

NUM_CONFUSIONS, NUM_EXAMPLES = 8, 4
INTERVAL = "Wilson, over images"  # of which a grid shares some with others


class Matrix(NamedTuple):
    """Counts (rows, cols) of one kind of answer: a row is a target, a column a prediction."""

    name: str
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    counts: np.ndarray


class Pair(NamedTuple):
    """A confusion: how many (`errors`) of the `total` answers of one class were another.

    `interval` is the 95 % interval of their share, and `examples` are images (n, C, height, width).
    """

    target: str
    prediction: str
    errors: int
    total: int
    interval: tuple[float, float]
    examples: np.ndarray


@dataclass(frozen=True, eq=False)
class Confusion(Result):
    """Confusion matrices, one for each kind of answer, flattened one after the other.

    Attributes:
        names: of the matrices; the first is the one that `pairs` are of.
        labels: of rows and columns of all matrices, in the order of `shapes`: rows, then columns, of the first, …
        shapes: (M, 2) numbers of rows and columns.
        counts: all counts, row by row.
        pairs: (P, 2) the largest confusions of the first matrix: row and column.
        intervals: (P, 2) the 95 % interval of each, as a share of its row.
        accuracy_intervals: (M, 2) that of the accuracy of each matrix.
        examples: (P, E, C, height, width) uint8, images of each, zero where there are fewer.
        unit: what is counted.
    """

    name: ClassVar[str] = "confusion"
    names: tuple[str, ...]
    labels: tuple[str, ...]
    shapes: np.ndarray
    counts: np.ndarray
    pairs: np.ndarray
    intervals: np.ndarray
    accuracy_intervals: np.ndarray
    examples: np.ndarray
    unit: str

    def matrices(self) -> list[Matrix]:
        """Return the matrices one by one."""
        matrices, label, count = [], 0, 0
        for name, (rows, cols) in zip(self.names, self.shapes.tolist(), strict=True):
            row_labels, label = self.labels[label : label + rows], label + rows
            col_labels, label = self.labels[label : label + cols], label + cols
            counts = self.counts[count : count + rows * cols].reshape(rows, cols)
            matrices.append(Matrix(name, row_labels, col_labels, counts))
            count += rows * cols
        return matrices

    def largest(self) -> list[Pair]:
        """Return the largest confusions of the first matrix, the largest first."""
        matrix = self.matrices()[0]
        return [
            Pair(
                matrix.rows[row],
                matrix.cols[col],
                int(matrix.counts[row, col]),
                int(matrix.counts[row].sum()),
                (float(low), float(high)),
                images[: matrix.counts[row, col]],
            )
            for (row, col), (low, high), images in zip(self.pairs.tolist(), self.intervals, self.examples, strict=True)
        ]

    def numbers(self) -> dict[str, Estimate]:
        numbers = {}
        for matrix, (low, high) in zip(self.matrices(), self.accuracy_intervals.tolist(), strict=True):
            n, right = int(matrix.counts.sum()), int(np.trace(matrix.counts))
            numbers[f"accuracy, {matrix.name}"] = Estimate(right / max(n, 1), n, self.unit, low, high, INTERVAL)
        for pair in self.largest()[:1]:
            name = f"{pair.target} taken for {pair.prediction}"
            share = pair.errors / pair.total
            numbers[name] = Estimate(share, pair.total, f"{self.unit} of {pair.target}", *pair.interval, INTERVAL)
        return numbers


def analyze(inputs: AnalysisInputs) -> Confusion:
    """Count the saved predictions of a split.

    Raises:
        NotApplicableError: if the answers of the task are not classes.
    """
    predictions = inputs.saved_predictions()
    answers = inputs.task.class_answers(predictions)
    if not answers:
        raise NotApplicableError("answers that are numbers or images cannot be confused like classes")
    for group, members in inputs.task.sample_groups(predictions).items():
        answers |= {f"{name}, {group}": select(each, members) for name, each in answers.items() if "," not in name}
    matrices = {name: count(each) for name, each in answers.items()}
    first = next(iter(answers.values()))
    pairs = largest_confusions(matrices[next(iter(matrices))])
    labels = [label for each in answers.values() for label in (*each.names, *each.names, *each.others)]
    return Confusion(
        names=tuple(answers),
        labels=tuple(labels),
        shapes=np.array([matrix.shape for matrix in matrices.values()]),
        counts=np.concatenate([matrix.flatten() for matrix in matrices.values()]),
        pairs=pairs,
        intervals=np.array([pair_interval(first, row, col) for row, col in pairs.tolist()]).reshape(-1, 2),
        accuracy_intervals=np.array([accuracy_interval(each) for each in answers.values()]),
        examples=np.stack([find_examples(inputs, first, row, col) for row, col in pairs.tolist()])
        if len(pairs)
        else np.zeros((0, NUM_EXAMPLES, 1, 1, 1), np.uint8),
        unit=f"{inputs.split} {'cells' if len(answers) > 1 and first.others else inputs.task.samples_name}",
    )


def select(answers: ClassAnswers, members: Tensor) -> ClassAnswers:
    """Return the answers about some samples (B,)."""
    rows = members[answers.sample]
    return replace(
        answers,
        target=answers.target[rows],
        prediction=answers.prediction[rows],
        sample=answers.sample[rows],
        cell=answers.cell[rows],
        image_id=answers.image_id[rows],
    )


def count(answers: ClassAnswers) -> np.ndarray:
    """Return the counts (classes, classes + others) of targets and predictions; all classes are there, in order."""
    rows, cols = len(answers.names), len(answers.names) + len(answers.others)
    return np.bincount((answers.target * cols + answers.prediction).numpy(), minlength=rows * cols).reshape(rows, cols)


def largest_confusions(counts: np.ndarray) -> np.ndarray:
    """Return rows and columns (P, 2) of the largest counts off the diagonal; equal ones in reading order."""
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors.flatten(), kind="stable")[:NUM_CONFUSIONS]
    return np.stack(np.unravel_index(order[errors.flatten()[order] > 0], errors.shape), axis=1)


def accuracy_interval(answers: ClassAnswers) -> tuple[float, float]:
    """Return the 95 % interval of the share of right answers."""
    return clustered_wilson((answers.target == answers.prediction).numpy(), independent_units(answers).numpy())


def pair_interval(answers: ClassAnswers, row: int, col: int) -> tuple[float, float]:
    """Return the 95 % interval of a confusion's share of its row."""
    chosen = answers.target == row
    return clustered_wilson((answers.prediction[chosen] == col).numpy(), independent_units(answers)[chosen].numpy())


def find_examples(inputs: AnalysisInputs, answers: ClassAnswers, row: int, col: int) -> np.ndarray:
    """Return images (E, C, height, width) of a confusion as uint8, of the cell that was meant; zero where none is."""
    found = ((answers.target == row) & (answers.prediction == col)).nonzero().squeeze(1)[:NUM_EXAMPLES]
    batch = inputs.batch(answers.sample[found])
    image = batch["anchor"] if "anchor" in batch else batch["image"]  # of a sequence, what it was asked for
    rows, cols = cell_grid(inputs.task.model, image)
    cells = rearrange(to_unit_range(image), "n c (r h) (k w) -> n (r k) c h w", r=rows, k=cols)
    chosen = cells[torch.arange(len(found)), answers.cell[found]]
    images: Tensor = torch.zeros(NUM_EXAMPLES, *chosen.shape[1:], dtype=torch.uint8)
    images[: len(found)] = (chosen * 255).round().to(torch.uint8)
    return images.numpy()
