"""Whether explanations are any good: what happens to an answer when the parts that they point to are deleted.

The better an explanation, the sooner the answer is lost. On digits, the ink itself does well, though it has never seen
the model: nothing but ink can matter. So each method is compared with the ink, on the same samples, and one that is no
better explains nothing that the image did not say (controls: Adebayo et al. 2018, https://arxiv.org/abs/1810.03292).

How much there is to find is shown by a search that sees what each deletion does. And as an image with holes is none
that the model knows, parts are also replaced by those of the mean image, and of another sample.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from patchwork.analysis.explanations import CONTROLS, METHODS, Question, ask, deletion_curve, greedy
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.stats.overlap import overlapping_mean_interval
from patchwork.tasks import Task
from patchwork.tasks.base import to_unit_range

NUM_SAMPLES, NUM_SHOWN = 32, 4
NUM_SEARCHED = 8  # samples of which parts are searched for
REPLACEMENTS = ("mean image", "another sample")
ZERO_STD = 0.02
UNTRAINED = ("rollout", "relevance", "gradient")  # methods that are quick enough to be tried there, too


@dataclass(frozen=True, eq=False)
class Faithfulness(Result):
    """Explanations with their grades.

    Attributes:
        methods: names of the methods, then of the controls: maps that never saw the model, and those of the methods on
            the untrained network.
        num_methods: how many of them are methods.
        refused: why other methods do not apply.
        curves: (M, K) mean of what is explained while more and more is deleted, relative to that of the whole images.
        area: (M, 3) mean area under the curve, with 95 % interval over samples; smaller is better.
        insertion: (M, 3) the same while parts are inserted into an empty image; greater is better. NaN of other
            controls than the ink.
        below_ink: (M, 3) by how much it is smaller than that of the ink on the same samples, with interval.
        search: (M, 3) normalized area, 0 for a random order and 1 for a greedy search, with interval; of the first
            `n_searched` samples.
        replaced: (M, R, 3) the area if parts are not deleted, but replaced as in `REPLACEMENTS`; NaN of other controls
            than ink and random.
        maps: (num_methods, n, height, width) of the samples that are shown.
        images: (n, C, height, width) uint8.
        answers: (n,) which answer of each is explained, from 1 on.
        n: number of samples.
        n_searched: number of those of the search.
        unit: what they are.
    """

    name: ClassVar[str] = "faithfulness"
    methods: tuple[str, ...]
    num_methods: int
    refused: tuple[str, ...]
    curves: np.ndarray
    area: np.ndarray
    insertion: np.ndarray
    below_ink: np.ndarray
    search: np.ndarray
    replaced: np.ndarray
    maps: np.ndarray
    images: np.ndarray
    answers: np.ndarray
    n: int
    n_searched: int
    unit: str

    def is_better_than_ink(self, index: int) -> bool:
        """Return whether a method points to what matters more surely than the ink does."""
        return bool(self.below_ink[index, 1] > 0)

    def numbers(self) -> dict[str, Estimate]:
        tables = {
            "area of deletion": (self.area, self.n),
            "normalized area of deletion": (self.search, self.n_searched),
        }
        return {
            f"{title}, {name}": Estimate(value, n, self.unit, low, high, "t, over images")
            for title, (table, n) in tables.items()
            for name, (value, low, high) in zip(self.methods, table.tolist(), strict=True)
            if np.isfinite(value)
        }


def analyze(inputs: AnalysisInputs) -> Faithfulness:
    """Explain answers of the first samples by all methods, and grade them.

    Raises:
        NotApplicableError: if no method applies.
    """
    question = ask(inputs.task, inputs.first(NUM_SAMPLES))
    height, width = question.batch["image"].shape[-2:]
    if height % 4 or width % 4:
        raise NotApplicableError(f"images of {height}×{width} pixels are not made of parts of 4×4")
    maps, refused = explain(question)
    num_methods = len(maps)
    maps |= {name: control(question) for name, control in CONTROLS.items()}
    if inputs.untrained is not None:
        other = question._replace(task=randomize_zeros(inputs.untrained))
        maps |= {f"{name}, untrained": METHODS[name](other).detach() for name in maps if name in UNTRAINED}
    quick = question.in_single_precision()
    curves = {name: deletion_curve(quick, each).double() for name, each in maps.items()}
    areas = {name: relative(each).mean(dim=1).numpy() for name, each in curves.items()}
    searched = quick.of(torch.arange(min(NUM_SEARCHED, len(question.answer))))
    found = deletion_curve(searched, greedy(searched)).double()
    shown, image_ids = slice(0, NUM_SHOWN), question.batch["image_ids"].numpy()
    return Faithfulness(
        methods=tuple(maps),
        num_methods=num_methods,
        refused=tuple(refused),
        curves=np.stack([relative(each).mean(dim=0).numpy() for each in curves.values()]),
        area=np.array([with_interval(each, image_ids) for each in areas.values()]),
        insertion=np.array([insertion(quick, each, name) for name, each in maps.items()]),
        below_ink=np.array([with_interval(areas["ink"] - each, image_ids) for each in areas.values()]),
        search=np.array([normalized_area(each, curves["random"], found, image_ids) for each in curves.values()]),
        replaced=np.array([replaced(quick, each, name) for name, each in maps.items()]),
        maps=np.stack([each[shown].numpy().astype(np.float32) for each in [*maps.values()][:num_methods]]),
        images=(to_unit_range(question.batch["image"][shown]) * 255).round().byte().numpy(),
        answers=question.answer[shown].numpy() + 1,
        n=len(question.answer),
        n_searched=len(found),
        unit=f"{inputs.split} {inputs.task.samples_name}",
    )


def with_interval(values: np.ndarray, image_ids: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of values (n,) of samples with images (n, K), and its 95 % interval."""
    return float(values.mean()), *overlapping_mean_interval(values, image_ids)


def insertion(question: Question, importance: Tensor, name: str) -> tuple[float, float, float]:
    """Return the area while parts are inserted, with interval; NaN of other controls than the ink."""
    if name not in METHODS and name != "ink":
        return (math.nan,) * 3
    curve = deletion_curve(question, importance, insert=True).double()
    return with_interval(relative(curve.flip(1)).mean(dim=1).numpy(), question.batch["image_ids"].numpy())


def replaced(question: Question, importance: Tensor, name: str) -> list[tuple[float, float, float]]:
    """Return the area while parts are replaced, with interval, for each of `REPLACEMENTS`; NaN of most controls."""
    if name not in (*METHODS, "ink", "random"):
        return [(math.nan,) * 3] * len(REPLACEMENTS)
    image, image_ids = question.batch["image"], question.batch["image_ids"].numpy()
    curves = [
        deletion_curve(question, importance, replacement=each).double()
        for each in (image.mean(dim=0, keepdim=True).expand_as(image), image.roll(1, dims=0))
    ]
    return [with_interval(relative(curve).mean(dim=1).numpy(), image_ids) for curve in curves]


def normalized_area(curve: Tensor, random: Tensor, found: Tensor, image_ids: np.ndarray) -> tuple[float, float, float]:
    """Return the normalized area of curves (n, K), with its 95 % interval: 0 for a random order, 1 for a greedy search.

    It is a ratio of means over samples, with an interval by the delta method; NaN if the search finds no better order.
    """
    area, start, end = (each[: len(found)].mean(dim=1).numpy() for each in (curve, random, found))
    span = start - end
    if span.mean() <= 1e-9:
        return (math.nan,) * 3
    score = float((start - area).mean() / span.mean())
    linear = score + (start - area - score * span) / span.mean()
    return score, *overlapping_mean_interval(linear, image_ids[: len(found)])


def randomize_zeros(task: Task) -> Task:
    """Return a copy of a task with small random weights where all are 0, as of a head that begins with uniform answers.

    Without it, no method says anything of an untrained network.
    """
    task, rng = deepcopy(task), torch.Generator().manual_seed(0)
    for parameter in task.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * ZERO_STD)
    return task


def explain(question: Question) -> tuple[dict[str, Tensor], list[str]]:
    """Return the maps (B, height, width) of all methods that apply, and why others do not."""
    maps, refused = {}, []
    for name, method in METHODS.items():
        try:
            maps[name] = method(question).detach()
        except NotApplicableError as error:
            refused.append(f"{name}: {error}")
    return maps, refused


def relative(curve: Tensor) -> Tensor:
    """Return curves (B, K) relative to the mean of what is explained of the whole images."""
    return curve / curve[:, 0].mean().clamp_min(1e-9)
