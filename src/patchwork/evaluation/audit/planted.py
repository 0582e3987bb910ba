"""Plant an answer in a known place, let an architecture learn it, and so know what an explanation has to find.

1. Images are those of the data set, but the answers are random. Each answer is written into the image as a mark: one
   of as many patterns as there are classes, in a fixed place. A grid has the mark of an answer in another cell than
   that of its digit.
2. A copy of the architecture, with new weights, learns to answer such samples: only the marks can tell it.
3. That it reads the marks and nothing else is not believed but measured: exchanging the marks of two samples must
   exchange their answers, and exchanging everything else must not change them.

The idea of a known cause by which explanations are judged is that of the sanity checks of Adebayo et al. 2018,
https://arxiv.org/abs/1810.03292, and of spurious features planted in data (Adebayo et al. 2020,
https://arxiv.org/abs/2011.05429).
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.analysis.explanations import CONTROLS, UNIT, ask
from patchwork.analysis.faithfulness import explain
from patchwork.analysis.inputs import freeze, select_samples
from patchwork.analysis.result import NotApplicableError
from patchwork.core.progress import Progress
from patchwork.data import BaseDataModule, Batch
from patchwork.data.rng import make_rng
from patchwork.stats.intervals import wilson
from patchwork.tasks import Classify, Icons, Seq2Seq, Task
from patchwork.training.fit_steps import fit_steps
from patchwork.training.schedulers import wsd

MARK = 8  # side of a mark in pixels
PATTERN = 4  # side of its pattern, enlarged to that
CORNER = 4  # pixels from the top left of an image or a cell to the mark
BATCH_SIZE, NUM_SAMPLES = 64, 64
STEPS = (160, 600)  # of training; what has not learned in the first number is trained anew with the second
MAX_TRIES = 10_000  # patterns that are drawn before there is no room for another that differs enough
TOKEN_STD = 0.02  # of new values of parameters that no module knows how to begin, as a class token
MIN_LEARNED = 0.95  # share of answers that must follow the marks, and nothing else


@dataclass(frozen=True)
class Mark:
    """Where an answer is written: the key of the batch, its position in a sequence, and the top left pixel."""

    key: str
    position: int | None
    num_classes: int
    top: int
    left: int


@dataclass(frozen=True, eq=False)
class Plant:
    """A network that has learned to read marks, and samples that it has not seen.

    Attributes:
        task: with the weights that were learned, in double precision.
        batch: of samples, their targets those that the marks say.
        boxes: (T, P, 4) rows and columns of the P marks that decide each of T answers: first, end, first, end.
        follows: share of answers that follow the marks when those of two samples are exchanged.
        ignores: share of answers that stay when everything but the marks is exchanged.
    """

    task: Task
    batch: Batch
    boxes: Tensor
    follows: float
    ignores: float


def find_marks(task: Task, batch: Batch) -> list[list[Mark]]:
    """Return the marks of each answer of a task.

    Raises:
        NotApplicableError: if its answers are not classes of single images, or an image has no room for marks.
    """
    height, width = batch["image"].shape[-2:]
    if isinstance(task, Classify):
        marks = [[Mark("label", None, task.num_classes, CORNER, CORNER)]]
    elif isinstance(task, Icons):
        sizes = zip(task.factors, task.factor_sizes, strict=True)
        marks = [[Mark(name, None, size, CORNER, CORNER + MARK * index) for index, (name, size) in enumerate(sizes)]]
    elif isinstance(task, Seq2Seq):
        rows, cols = task.model.rows, task.model.cols
        count, side = rows * cols, height // rows
        cells = [(count - 1 - index) if count > 1 else 0 for index in range(count)]  # not that of the digit itself
        marks = [
            [Mark("digits", index, task.model.bos_id, side * (cell // cols) + CORNER, side * (cell % cols) + CORNER)]
            for index, cell in enumerate(cells)
        ]
    else:
        raise NotApplicableError("a place can be planted where the answers are classes of one image")
    if any(mark.top + MARK > height or mark.left + MARK > width for group in marks for mark in group):
        raise NotApplicableError(f"images of {height}×{width} pixels have no room for marks of {MARK} pixels")
    return marks


@cache
def patterns(num_classes: int) -> Tensor:
    """Return a pattern (num_classes, MARK, MARK) of −1 and 1 for each class, any two of which differ by far.

    Raises:
        NotApplicableError: if there are too many classes for that.
    """
    rng, found = make_rng("audit", "marks"), torch.zeros(0, PATTERN * PATTERN)
    for _ in range(MAX_TRIES):
        if len(found) == num_classes:
            break
        new = torch.randint(0, 2, (1, PATTERN * PATTERN), generator=rng) * 2.0 - 1
        if not len(found) or (found * new).sum(dim=1).abs().max() <= PATTERN * PATTERN / 2:
            found = torch.cat([found, new])
    else:
        raise NotApplicableError(f"there are no marks for {num_classes} classes that differ enough to be told apart")
    return F.interpolate(found.view(-1, 1, PATTERN, PATTERN), size=MARK, mode="nearest")[:, 0]


def plant_marks(batch: Batch, marks: list[list[Mark]], rng: torch.Generator) -> Batch:
    """Return a batch with random answers, each written into its place of the image."""
    image, planted = batch["image"].clone(), {name: values.clone() for name, values in batch.items()}
    low, high = image.min(), image.max()
    for mark in (mark for group in marks for mark in group):
        answers = torch.randint(mark.num_classes, (len(image),), generator=rng)
        drawn = low + (high - low) * (patterns(mark.num_classes)[answers].to(image.dtype) + 1) / 2  # (B, MARK, MARK)
        image[:, :, mark.top : mark.top + MARK, mark.left : mark.left + MARK] = drawn[:, None]
        if mark.position is None:
            planted[mark.key] = answers
        else:
            planted[mark.key][:, mark.position] = answers
    return {**planted, "image": image}


def mark_mask(marks: list[list[Mark]], image: Tensor) -> Tensor:
    """Return which pixels (height, width) are in a mark."""
    mask = torch.zeros(image.shape[-2:], dtype=torch.bool)
    for mark in (mark for group in marks for mark in group):
        mask[mark.top : mark.top + MARK, mark.left : mark.left + MARK] = True
    return mask


def plant(task: Task, train_batch: Batch, batch: Batch) -> Plant:
    """Train a copy of a task's architecture on planted samples, and measure that it reads the marks alone.

    Args:
        task: a task, whose weights are not used; it stays as it is.
        train_batch: samples whose images the training uses.
        batch: other samples, for the result.

    Raises:
        NotApplicableError: if no place can be planted, or the architecture has not learned to read it.
    """
    marks = find_marks(task, batch)
    boxes = torch.tensor([[[m.top, m.top + MARK, m.left, m.left + MARK] for m in group] for group in marks])
    for steps in STEPS:
        rng = make_rng("audit", "plant")
        learned = learn_marks(task, train_batch, marks, rng, steps)
        planted = plant_marks({name: values[:NUM_SAMPLES].clone() for name, values in batch.items()}, marks, rng)
        follows, ignores = measure(learned, planted, marks)
        if min(follows, ignores) >= MIN_LEARNED:
            return Plant(learned, planted, boxes, follows, ignores)
    raise NotApplicableError(
        f"this architecture has not learned to read planted marks in {STEPS[-1]} steps: {follows:.0%} of the answers "
        f"follow them, {ignores:.0%} depend on nothing else"
    )


def learn_marks(task: Task, train_batch: Batch, marks: list[list[Mark]], rng: torch.Generator, steps: int) -> Task:
    """Return a copy of a task, in double precision, that was trained anew on planted samples."""
    learner = new_weights(task)
    pool = {name: values.float() if values.is_floating_point() else values for name, values in train_batch.items()}

    def loss(index: int) -> Tensor:
        chosen = torch.randint(len(pool["image"]), (BATCH_SIZE,), generator=rng)
        return learner.step(plant_marks({name: values[chosen] for name, values in pool.items()}, marks, rng), "train")

    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3, betas=(0.9, 0.98), fused=True)
    scheduler = wsd(optimizer, steps, warmup_ratio=0.1, decay_ratio=0.5)
    torch.manual_seed(0)
    fit_steps(loss, learner.parameters(), optimizer, scheduler, steps, max_norm=1.0)
    return freeze(learner)


def new_weights(task: Task) -> Task:
    """Return a copy of a task in single precision and training mode, with new weights as their modules begin them.

    Parameters of other modules, as a class token, are small random numbers; vectors and numbers, as a scale, are kept.
    """
    learner = deepcopy(task).float().train().requires_grad_(True)
    torch.manual_seed(0)
    for module in learner.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=TOKEN_STD)
    return learner


@torch.no_grad()
def measure(task: Task, batch: Batch, marks: list[list[Mark]]) -> tuple[float, float]:
    """Return the share of answers that follow exchanged marks, and that of those that stay when all else is."""
    inside = mark_mask(marks, batch["image"])
    exchanged = {
        "marks": torch.where(inside, batch["image"].roll(1, dims=0), batch["image"]),
        "rest": torch.where(inside, batch["image"], batch["image"].roll(1, dims=0)),
    }
    answers = {
        name: task.predict_step({**batch, "image": image}, 0).prediction
        for name, image in {"none": batch["image"], **exchanged}.items()
    }
    target = task.predict_step(batch, 0).target
    assert target is not None
    follows = (answers["marks"] == target.roll(1, dims=0)).double().mean()
    ignores = (answers["rest"] == answers["none"]).double().mean()
    return float(follows), float(ignores)


def judge_explanations(task: Task, data: BaseDataModule) -> dict[str, tuple[int, int]]:
    """Plant answers in validation samples, and return in how many of how many each explanation points to them.

    Raises:
        NotApplicableError: if the task or the architecture cannot be planted with answers.
    """
    data.setup("")
    indices = torch.arange(min(2 * NUM_SAMPLES, data.num_samples["val"]))
    half = len(indices) // 2
    with Progress("planting an answer in a known place"):
        return find_marks_by(
            plant(task, *(select_samples(data, "val", each) for each in (indices[half:], indices[:half])))
        )


def tells_the_truth(hits: int, total: int) -> bool:
    """Return whether an explanation points to the planted place more often than not, even with bad luck."""
    return wilson(hits, total)[0] > 0.5


def find_marks_by(plant: Plant) -> dict[str, tuple[int, int]]:
    """Return how often each explanation points to the mark of an answer, and of how many answers.

    It points to where its map is largest; where that is a whole patch or cell, to all of it.
    """
    question = ask(plant.task, plant.batch)
    maps, _ = explain(question)
    maps |= {name: control(question) for name, control in CONTROLS.items()}
    found = {}
    for name, values in maps.items():
        parts = F.avg_pool2d(values[:, None], UNIT)[:, 0]
        largest = parts >= parts.amax(dim=(1, 2), keepdim=True) * (1 - 1e-9)
        hits = [
            any(peak[top // UNIT : end // UNIT, left // UNIT : right // UNIT].any() for top, end, left, right in boxes)
            for peak, boxes in zip(largest, plant.boxes[question.answer].tolist(), strict=True)
        ]
        found[name] = (sum(hits), len(hits))
    return found
