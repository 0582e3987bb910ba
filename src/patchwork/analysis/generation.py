"""What a generator expects of each patch: its surprise in bits, what else it considered, where it looked for it.

The patches are those of test images, each predicted from the true ones before it, so that every number is exact.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.data.base import Batch
from patchwork.models.generator import TokenGenerator
from patchwork.models.transformer import record_attention
from patchwork.stats.intervals import mean_interval, wilson
from patchwork.tasks import Pixels
from patchwork.tasks.base import to_unit_range

NUM_IMAGES, NUM_SHOWN, NUM_HARD, NUM_CONSIDERED = 100, 4, 3, 5
MAX_PATCHES = 4900  # of all images, of which there are fewer if they have more patches
BEAM = 16  # how many beginnings of a patch are followed
LN2 = float(np.log(2))


@dataclass(frozen=True, eq=False)
class Generation(Result):
    """The surprise at patches (N of an image, in reading order), and what the generator did for the hardest ones.

    Attributes:
        bits: (n, N) surprise at each patch, given the class where there are classes.
        images: (E, height, width) uint8 of the images that are shown, the first of `bits`.
        hard: (E, Q) the patches of each that surprised most.
        considered: (E, Q, 5, p, p) uint8, the likeliest patches there.
        considered_probs: (E, Q, 5) their probabilities.
        actual: (E, Q, p, p) uint8, the true patches.
        heads: names of all heads of attention.
        weights: (E, Q, H, N) float32, where each looked: first at the condition, then at the patches before.
        class_bits: (n, C) surprise at whole images, given each class; empty where there are no classes.
        labels: (n,) classes of the images.
        saved: (N,) bits that knowing the class saves at each patch, mean over images; empty where there are none.
        unit: what images are.
    """

    name: ClassVar[str] = "generation"
    bits: np.ndarray
    images: np.ndarray
    hard: np.ndarray
    considered: np.ndarray
    considered_probs: np.ndarray
    actual: np.ndarray
    heads: tuple[str, ...]
    weights: np.ndarray
    class_bits: np.ndarray
    labels: np.ndarray
    saved: np.ndarray
    unit: str

    @property
    def grid_size(self) -> int:
        return round(self.bits.shape[1] ** 0.5)

    @property
    def classified(self) -> np.ndarray:
        """Return whether each image (n,) is least surprising given its own class."""
        return self.class_bits.argmin(axis=1) == self.labels

    def numbers(self) -> dict[str, Estimate]:
        n, total = len(self.bits), self.bits.sum(axis=1)
        numbers = {
            "bits of an image": Estimate(float(total.mean()), n, self.unit, *mean_interval(total), "t over images")
        }
        if self.class_bits.size:
            right = int(self.classified.sum())
            numbers["classified by likelihood"] = Estimate(right / n, n, self.unit, *wilson(right, n), "Wilson")
            numbers["bits that the class saves"] = Estimate(float(self.saved.sum()), n, self.unit)
        return numbers


def analyze(inputs: AnalysisInputs) -> Generation:
    """Predict the patches of the first test images.

    Raises:
        NotApplicableError: if the task generates nothing, or its model no tokens one after the other.
    """
    task = inputs.task
    if not isinstance(task, Pixels):
        raise NotApplicableError("the task generates no images")
    if not isinstance(task.model, TokenGenerator):
        raise NotApplicableError(f"{type(task.model).__name__} does not generate one patch after the other")
    model = task.model
    num_patches = model.tokenize(inputs.first(1)["image"]).shape[1]
    batch = inputs.first(max(min(NUM_IMAGES, MAX_PATCHES // num_patches), NUM_SHOWN))
    label = batch["label"] if task.class_conditional else torch.full_like(batch["label"], model.null_class)
    tokens = model.tokenize(batch["image"])  # (n, N, K)
    with torch.no_grad():
        bits = surprise(model(batch["image"], label), tokens)
    with torch.no_grad(), record_attention(task.model) as calls:
        model(batch["image"][:NUM_SHOWN], label[:NUM_SHOWN])
    hard = bits[:NUM_SHOWN].argsort(dim=1, descending=True)[:, :NUM_HARD]  # (E, Q)
    considered, probs = considered_patches(model, label[:NUM_SHOWN], tokens[:NUM_SHOWN], hard)
    row = torch.arange(len(hard))[:, None]
    looked = {name: call[0].weights[row, :, hard] for name, call in calls.items() if call}  # (E, Q, H, N) each
    class_bits, saved = by_class(task, batch, bits)
    return Generation(
        bits=bits.numpy(),
        images=to_bytes(batch["image"][:NUM_SHOWN, 0]),
        hard=hard.numpy(),
        considered=considered,
        considered_probs=probs,
        actual=cut_patches(batch["image"][:NUM_SHOWN, 0], bits.shape[1])[row.numpy(), hard.numpy()],
        heads=tuple(f"{name} head {head + 1}" for name, each in looked.items() for head in range(each.shape[2])),
        weights=torch.cat([*looked.values()], dim=2).numpy().astype(np.float32),
        class_bits=class_bits,
        labels=batch["label"].numpy(),
        saved=saved,
        unit=f"{inputs.split} images",
    )


def surprise(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the bits (n, N) of patches with K tokens (n, N, K), of logits (n, N, K, V)."""
    return F.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none").sum(dim=2) / LN2


@torch.no_grad()
def by_class(task: Pixels, batch: Batch, bits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the bits of images given each class (n, C), and how many the own class saves at each patch (N,).

    What it saves is relative to no condition, or to the mean of the other classes if it was trained with classes only.
    """
    if not task.class_conditional:
        return np.zeros((0, 0)), np.zeros(0)
    model, count = task.token_generator, task.generator.num_classes
    tokens, label = model.tokenize(batch["image"]), batch["label"]
    given = [surprise(model(batch["image"], torch.full_like(label, each)), tokens) for each in range(count)]
    each_class = torch.stack(given, dim=1)  # (n, C, N)
    if task.uncond_prob:
        without = surprise(model(batch["image"], torch.full_like(label, model.null_class)), tokens)
    else:
        without = (each_class.sum(dim=1) - bits) / (count - 1)
    return each_class.sum(dim=2).numpy(), (without - bits).mean(dim=0).numpy()


@torch.no_grad()
def considered_patches(
    model: TokenGenerator, label: Tensor, tokens: Tensor, hard: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest patches (E, Q, 5, p, p) at the hardest places (E, Q), and their probabilities (E, Q, 5).

    A patch of several tokens is found by a beam search over them.
    """
    num_patches, num_tokens = tokens.shape[1:]
    place, row = hard.flatten(), torch.arange(hard.numel())
    true, label = tokens.repeat_interleave(hard.shape[1], dim=0), label.repeat_interleave(hard.shape[1])
    beams, log_probs = true[row, place][:, None], torch.zeros(len(row), 1, dtype=torch.float64)  # (R, W, K), (R, W)
    for position in range(num_tokens):
        width = beams.shape[1]
        variants = true[:, None].repeat(1, width, 1, 1)  # (R, W, N, K)
        variants[row, :, place] = beams
        image = model.detokenize(variants.flatten(0, 1)).double()
        logits = model(image, label.repeat_interleave(width)).unflatten(0, (-1, width))  # (R, W, N, K, V)
        total = log_probs[..., None] + logits[row, :, place, position].log_softmax(dim=-1)
        log_probs, index = total.flatten(1).topk(min(BEAM, total[0].numel()), dim=1)
        beams = beams[row[:, None], index // logits.shape[-1]].clone()
        beams[..., position] = index % logits.shape[-1]
    probs, best = log_probs[:, :NUM_CONSIDERED].exp(), beams[:, :NUM_CONSIDERED].flatten(0, 1)  # (R, 5), (R · 5, K)
    images = model.detokenize(best[:, None].expand(-1, num_patches, -1))[:, 0].double() / (model.num_levels - 1)
    patches = cut_patches(images, num_patches, scaled=True)[:, 0]  # of images of one patch throughout
    return patches.reshape(*hard.shape, -1, *patches.shape[1:]), probs.reshape(*hard.shape, -1).numpy()


def cut_patches(images: Tensor, count: int, *, scaled: bool = False) -> np.ndarray:
    """Return the patches (n, count, p, p), uint8, of images (n, height, width); padded where they do not fit."""
    side = round(count**0.5)
    size = -(-images.shape[-1] // side)
    images = images if scaled else to_unit_range(images)
    padded = F.pad(images, (0, side * size - images.shape[-1], 0, side * size - images.shape[-2]))
    patches = padded.unflatten(2, (side, size)).unflatten(1, (side, size)).permute(0, 1, 3, 2, 4).flatten(1, 2)
    return (patches * 255).round().to(torch.uint8).numpy()


def to_bytes(images: Tensor) -> np.ndarray:
    """Return images of any range as uint8."""
    return (to_unit_range(images) * 255).round().to(torch.uint8).numpy()
