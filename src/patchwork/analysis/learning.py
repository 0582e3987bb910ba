"""How a model learned: which samples it had right when, where its heads looked, and what could be read off its layers.

All of it is computed from the weights of the validations of its training, on the same samples. A sample is learned at
the first validation from which on it is right; it is forgotten at each at which it is wrong after it was right (Toneva
et al. 2019, https://arxiv.org/abs/1812.05159).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from patchwork.analysis import attention
from patchwork.analysis.attention import AttentionMaps
from patchwork.analysis.features import first_samples
from patchwork.analysis.inputs import AnalysisInputs, Snapshot
from patchwork.analysis.probes import probe, read_layers, readable
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.core.cpus import single_blas_thread
from patchwork.stats.overlap import overlapping_wilson
from patchwork.tasks.base import to_unit_range

Value = TypeVar("Value")
NUM_SAMPLES = 400
NUM_PROBED = 600  # answers to fit on, and to test on
PENALTY = 0.03  # of all probes, so that epochs are compared
MAX_VALIDATIONS, MAX_FRAMES = 40, 8
NUM_SHOWN = 6


@dataclass(frozen=True, eq=False)
class Learning(Result):
    """What a model had right, where it looked and what it held, at validations of its training.

    Attributes:
        epochs: (E,) of the validations, from 1.
        steps: (E,) optimizer steps done by then.
        right: (E, N) whether each sample was right.
        image_ids: (N, K) the images that each shows, −1 where it shows fewer.
        frames: (F,) which validations the following are of.
        heads: names of all heads of attention; empty without attention.
        effective_keys: (F, H) exp of the entropy of each, mean over samples.
        own_cell: (F, H) share of the t-th query on the t-th cell; NaN without cells.
        maps: (F, H', T, S) float32 weights of the last layer for the first sample.
        map_layer: its name.
        layers: from which the class is read by a linear probe; empty where nothing can be read.
        probed: (F, L, 3) test accuracy and its 95 % interval over images.
        shown: (K,) samples to look at: learned last, forgotten most often, and never learned.
        shown_as: what each is shown as.
        images: (K, C, height, width) uint8.
        targets: what is right of each.
        unit: what samples are.
        attended_n: number of samples of the attention.
        attended_unit: what those are.
    """

    name: ClassVar[str] = "learning"
    epochs: np.ndarray
    steps: np.ndarray
    right: np.ndarray
    image_ids: np.ndarray
    frames: np.ndarray
    heads: tuple[str, ...]
    effective_keys: np.ndarray
    own_cell: np.ndarray
    maps: np.ndarray
    map_layer: str
    layers: tuple[str, ...]
    probed: np.ndarray
    shown: np.ndarray
    shown_as: tuple[str, ...]
    images: np.ndarray
    targets: tuple[str, ...]
    unit: str
    attended_n: int
    attended_unit: str

    @property
    def moments(self) -> tuple[str, ...]:
        """Return the names (E) of the validations: their epoch, and where an epoch has several, their step as well."""
        epochs, steps = self.epochs.tolist(), self.steps.tolist()
        if len({*epochs}) == len(epochs):
            return tuple(f"epoch {epoch}" for epoch in epochs)
        return tuple(f"epoch {epoch}, step {step:,}" for epoch, step in zip(epochs, steps, strict=True))

    @property
    def learned(self) -> np.ndarray:
        """Return the first validation (N,) from which on each sample is right; E if it is wrong at the end."""
        return learned_at(self.right)

    @property
    def forgotten(self) -> np.ndarray:
        """Return how often each sample was wrong after it was right (N,)."""
        return (self.right[:-1] & ~self.right[1:]).sum(axis=0)

    def numbers(self) -> dict[str, Estimate]:
        n = self.right.shape[1]
        shares = {f"right after {moment}": row for moment, row in zip(self.moments, self.right, strict=True)}
        shares |= {"right in the end": self.right[-1], "forgotten at least once": self.forgotten > 0}
        numbers = {
            name: Estimate(
                float(row.mean()), n, self.unit, *overlapping_wilson(row, self.image_ids), "Wilson, over images"
            )
            for name, row in shares.items()
        }
        for index, name in enumerate(self.heads):
            numbers[f"{name}, effective keys in the end"] = Estimate(
                float(self.effective_keys[-1, index]), self.attended_n, self.attended_unit
            )
        return numbers


def learned_at(right: np.ndarray) -> np.ndarray:
    """Return the first validation (N,) from which on each sample is right, of `right` (E, N); E if there is none."""
    wrong = ~right
    last_wrong = len(right) - 1 - wrong[::-1].argmax(axis=0)
    return np.where(wrong.any(axis=0), last_wrong + 1, 0)


def analyze(inputs: AnalysisInputs) -> Learning:
    """Follow the first validation samples, the attention and the probes through the training.

    Raises:
        NotApplicableError: if the weights were not kept, or answers are neither right nor wrong.
    """
    if not inputs.history:
        raise NotApplicableError("the weights of its epochs were not kept: a training with watch=true keeps them")
    if not inputs.task.saves_predictions:
        raise NotApplicableError("the task generates images, and has no answers that are right or wrong")
    history = spread(inputs.history, MAX_VALIDATIONS)
    batch = inputs.batch(torch.arange(min(NUM_SAMPLES, inputs.data.num_samples["val"])), "val")
    right = np.stack([answered_right(inputs.at(snapshot), batch) for snapshot in history])
    frames = spread(range(len(history)), MAX_FRAMES)
    looked = [attention_at(inputs.at(history[frame])) for frame in frames]
    attended = [each for each in looked if each is not None]
    heads, keys, own, maps, map_layer = follow_attention(attended)
    layers, probed = follow_probes(inputs, [history[frame] for frame in frames])
    shown, shown_as = to_show(right)
    images = batch["image"][shown]
    targets = inputs.task.predict_step({name: values[shown] for name, values in batch.items()}, 0).target
    assert targets is not None
    return Learning(
        epochs=np.array([snapshot.epoch for snapshot in history]),
        steps=np.array([snapshot.step for snapshot in history]),
        right=right,
        image_ids=batch["image_ids"].numpy(),
        frames=np.array(frames),
        heads=heads,
        effective_keys=keys,
        own_cell=own,
        maps=maps,
        map_layer=map_layer,
        layers=layers,
        probed=probed,
        shown=shown,
        shown_as=shown_as,
        images=(to_unit_range(side_by_side(images)) * 255).round().byte().numpy(),
        targets=tuple(inputs.task.format_answers(targets)),
        unit=f"validation {inputs.task.samples_name}",
        attended_n=attended[0].n if attended else 0,
        attended_unit=attended[0].unit if attended else "",
    )


def spread(values: Sequence[Value], count: int) -> list[Value]:
    """Return up to `count` of some values, evenly spread, with the first and the last."""
    return [values[index] for index in np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]


@torch.no_grad()
def answered_right(inputs: AnalysisInputs, batch: dict[str, Tensor]) -> np.ndarray:
    """Return whether each sample (N,) is answered right.

    Raises:
        NotApplicableError: if answers cannot be compared with their targets.
    """
    correct = inputs.task.predict_step(batch, 0).correct
    if correct is None:
        raise NotApplicableError("its answers are neither right nor wrong")
    return correct.numpy()


def to_show(right: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the samples to look at (K,), each once, and what each is shown as."""
    learned, forgotten = learned_at(right), (right[:-1] & ~right[1:]).sum(axis=0)
    kinds = {
        "wrong in the end": (learned == len(right), -forgotten),
        "learned last": ((learned > 0) & (learned < len(right)), -learned),
        "forgotten most often": (forgotten > 0, -forgotten),
    }
    shown: dict[int, str] = {}
    for name, (which, order) in kinds.items():
        ranked = [row for row in np.argsort(order, kind="stable").tolist() if which[row] and row not in shown]
        shown |= dict.fromkeys(ranked[:NUM_SHOWN], name)
    return np.array([*shown], dtype=np.int64), tuple(shown.values())


def side_by_side(images: Tensor) -> Tensor:
    """Return images (K, C, height, width), of sequences (K, S, C, height, width) side by side."""
    return rearrange(images, "k s c h w -> k c h (s w)") if images.ndim == 5 else images


# --- attention and probes --------------------------------------------------------------------------------------------


def attention_at(inputs: AnalysisInputs) -> AttentionMaps | None:
    """Return the attention of a model, or None if it has none."""
    try:
        return attention.analyze(inputs)
    except NotApplicableError:
        return None


def follow_attention(
    results: list[AttentionMaps],
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, str]:
    """Return the names of all heads, their effective keys and own-cell shares (F, H), and maps of the last layer."""
    if not results:
        return (), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0, 0, 0), np.float32), ""
    layers = results[0].by_layer()
    heads = tuple(f"{layer.name} head {head + 1}" for layer in layers for head in range(layer.weights.shape[1]))
    maps = np.stack([result.by_layer()[-1].weights[0] for result in results])
    statistics = np.stack([result.statistics for result in results])
    return heads, statistics[..., 0], statistics[..., 4], maps, layers[-1].name


@single_blas_thread()
def follow_probes(inputs: AnalysisInputs, history: list[Snapshot]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the layers, and the accuracy (F, L, 3) of probes of each at each validation; nothing where they fail."""
    try:
        fit, test = first_samples(inputs, "val", NUM_PROBED), first_samples(inputs, "test", NUM_PROBED)
        labels, asked = (next(iter(readable(samples.kinds).values())) for samples in (fit, test))
        rows = []
        for snapshot in history:
            task = inputs.at(snapshot).task
            held, tested = read_layers(task, fit), read_layers(task, test)
            rows.append([probe(held[at], labels, tested[at], asked, penalty=PENALTY) for at in held])
        return tuple(held), np.array(rows)
    except NotApplicableError:
        return (), np.zeros((0, 0, 3))
