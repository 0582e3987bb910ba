"""Grammar icons: a verb form as a small image, after the icons lab (see `docs/references.md`).

    color                     tense    5
    shape                     person   3
    pattern within the shape  verb    20

1. Shapes and patterns are rendered once, supersampled, and averaged down to an atlas of masks.
2. Each icon samples the atlas through its own rotation, scale and shift, all icons at once.
3. Color, noise and occlusion come last; `difficulty` scales all of it.

The lab names 8 of its 20 verbs and two of its patterns. The others were chosen here, so that 12 verbs are regular and 8
are irregular.
"""

import hashlib
import math
from collections.abc import Callable
from functools import cache
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from patchwork.core.errors import ConfigError
from patchwork.data.rng import make_rng
from patchwork.data.sources.base import ImageSource, LabeledImages

VERSION = 1  # of the renderer
ICON_SIZE = 32  # pixels of a side
SUPERSAMPLE, ATLAS_SIZE = 8, 48  # of the atlas: samples along a pixel's side, pixels along a mask's side

TENSES = {
    "infinitive": (128, 128, 128),
    "present_simple": (50, 100, 200),
    "past_simple": (200, 50, 50),
    "past_participle": (50, 200, 100),
    "future": (160, 80, 200),
}
PERSONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # masks of x to the right and y down, both from -1 to 1
    "1sg": lambda x, y: x**2 + y**2 < 0.72,
    "2sg": lambda x, y: (x.abs() < 0.76) & (y.abs() < 0.76),
    "3sg": lambda x, y: (y < 0.72) & (x.abs() < 0.55 * (y + 0.92)),
}


def wave(t: Tensor, count: float) -> Tensor:
    """Return a mask of stripes along `t`: every second of `count` bands between -1 and 1."""
    return (t * count / 2 * math.pi).sin() > 0


VERBS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "work": lambda x, y: wave(y, 5),
    "play": lambda x, y: wave(x, 5),
    "watch": lambda x, y: wave(x + y, 5),
    "look": lambda x, y: wave(x - y, 5),
    "like": lambda x, y: wave(y, 9),
    "walk": lambda x, y: wave(x, 9),
    "talk": lambda x, y: wave(x + 0.25, 5) & wave(y + 0.25, 5),
    "want": lambda x, y: wave(x, 5) ^ wave(y, 5),
    "need": lambda x, y: wave(x + y, 5) ^ wave(x - y, 5),
    "help": lambda x, y: (x.abs() < 0.16) | (y.abs() < 0.16),
    "ask": lambda x, y: ((x + y).abs() < 0.2) | ((x - y).abs() < 0.2),
    "call": lambda x, y: x**2 + y**2 < 0.16,
    "be": lambda x, y: torch.zeros_like(x, dtype=torch.bool),
    "do": lambda x, y: ((x**2 + y**2).sqrt() - 0.38).abs() < 0.12,
    "have": lambda x, y: x < 0,
    "go": lambda x, y: y < 0.1,
    "see": lambda x, y: ((x**2 + y**2).sqrt() * 2.5 * math.pi).cos() > 0,
    "eat": lambda x, y: (x < 0) ^ (y < 0.1),
    "come": lambda x, y: wave(y - x.abs(), 5),
    "take": lambda x, y: (x.abs() < 0.3) & ((y - 0.05).abs() < 0.3),
}
LABELS = {"verb": len(VERBS), "tense": len(TENSES), "person": len(PERSONS)}  # number of classes of each
FACTORS = {  # what a class consists of, by `task.label`
    "tense": ("tense",),
    "tense_person": ("tense", "person"),
    "combination": ("verb", "tense", "person"),
}
COMBINATIONS = math.prod(LABELS.values())
COMBINATION_NAMES = tuple(f"{verb} {tense} {person}" for verb in VERBS for tense in TENSES for person in PERSONS)
BACKGROUND = 240 / 255  # brightness around a shape
PATTERN_BRIGHTNESS = 0.4  # of a pattern's dark parts, relative to the color


class Icons:
    """Icons of every verb, tense and person: four fifths to train on, one fifth to test.

    Labels are combinations, see `combination_labels`; indices count the icons of a split. Validation has one icon of
    each combination, besides the others.

    Args:
        samples_per_class: icons of each of the 300 combinations, in training and test together; a multiple of 5.
        difficulty: amount of variation and occlusion, see `render`.
        holdout: `combinations` keeps one combination in five out of training and validation.

    Raises:
        ConfigError: if `samples_per_class` is not a multiple of 5.
    """

    mean, std = 0.5, 0.5
    class_names = COMBINATION_NAMES

    def __init__(
        self,
        *,
        samples_per_class: PositiveInt = 5,
        difficulty: Annotated[float, Interval(gt=0, le=2)] = 1.0,
        holdout: Literal["combinations"] | None = None,
    ) -> None:
        if samples_per_class % 5:
            raise ConfigError(
                f"data.samples_per_class={samples_per_class} is not allowed: use a multiple of 5, as a fifth is for "
                "the test"
            )
        self.difficulty = difficulty
        self.holdout = holdout
        self.copies = {"train": samples_per_class // 5 * 4, "val": 1, "test": samples_per_class // 5}

    @property
    def num_samples(self) -> dict[str, int]:
        """Return the number of icons in each split."""
        seen = COMBINATIONS * 4 // 5 if self.holdout else COMBINATIONS
        return {split: copies * (COMBINATIONS if split == "test" else seen) for split, copies in self.copies.items()}

    def load(self) -> ImageSource:
        """Render all icons. They are the same in every run, whatever its seed."""
        # not of the bytes, whose last bits depend on the machine's arithmetic
        contents = repr((VERSION, self.copies, self.difficulty, self.holdout))
        return ImageSource(
            name="icons",
            sha256=hashlib.sha256(contents.encode()).hexdigest(),
            mean=self.mean,
            std=self.std,
            train=self.render_split("train"),
            val=self.render_split("val"),
            test=self.render_split("test"),
        )

    def render_split(self, split: str) -> LabeledImages:
        """Render the icons of one split, in random order."""
        factors = all_labels(self.copies[split])
        images = render(factors, difficulty=self.difficulty, rng=make_rng("icons", split))
        included = torch.ones(len(images), dtype=torch.bool)
        if self.holdout and split != "test":
            included = ~held_out(factors)
        indices = included.nonzero().squeeze(1)
        order = indices[torch.randperm(len(indices), generator=make_rng("icons", split, "order"))]
        return LabeledImages(images[order], combination_labels(factors)[order], torch.arange(len(order)))


@cache
def mask_atlas(names: Literal["verbs", "persons"]) -> Tensor:
    """Return the masks (n, 1, ATLAS_SIZE, ATLAS_SIZE) of all patterns or shapes, in [0, 1]."""
    line = (torch.arange(ATLAS_SIZE * SUPERSAMPLE) + 0.5) / (ATLAS_SIZE * SUPERSAMPLE) * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    functions = VERBS if names == "verbs" else PERSONS
    return F.avg_pool2d(torch.stack([mask(x, y).float() for mask in functions.values()])[:, None], SUPERSAMPLE)


def render(labels: dict[str, Tensor], *, difficulty: float, rng: torch.Generator) -> Tensor:
    """Render icons.

    Up to difficulty 1, jitter (2 pixels, 10 degrees, 10 % in size), tint (standard deviation 10 of 255) and noise
    (6 of 255) grow in proportion. From 1 to 2 they go on growing, and two more effects begin: up to half of all pixels
    lose their color, and a gray square of up to 12 pixels hides a part of the icon.

    Args:
        labels: `verb`, `tense` and `person` (n,) of each icon.
        difficulty: from 0 to 2.
        rng: generator of all random numbers.

    Returns:
        Images (n, 3, ICON_SIZE, ICON_SIZE), uint8.
    """
    count, extra_difficulty = len(labels["verb"]), max(0.0, difficulty - 1)
    shift = torch.rand(count, 2, generator=rng) * 2 - 1
    rotation = torch.rand(count, generator=rng) * 2 - 1
    scale = torch.rand(count, generator=rng) * 2 - 1
    tint = torch.randn(count, 3, 1, 1, generator=rng)
    corner = torch.rand(count, 2, 1, 1, generator=rng)
    noise = torch.randn(count, 3, ICON_SIZE, ICON_SIZE, generator=rng)
    is_gray = torch.rand(count, 1, ICON_SIZE, ICON_SIZE, generator=rng) < 0.5 * extra_difficulty

    masks = torch.cat([mask_atlas("persons")[labels["person"]], mask_atlas("verbs")[labels["verb"]]], dim=1)
    grid = jitter_grid(shift, rotation, scale, difficulty)
    shape, pattern = F.grid_sample(masks, grid, align_corners=False).split(1, dim=1)  # (n, 1, H, W) each

    color = torch.tensor(list(TENSES.values()))[labels["tense"]].view(count, 3, 1, 1) / 255
    color = color + tint * 10 / 255 * difficulty
    image = BACKGROUND + shape * (color * (1 - (1 - PATTERN_BRIGHTNESS) * pattern) - BACKGROUND)
    image = torch.where(is_gray, image.mean(dim=1, keepdim=True), image)
    image = torch.where(square_mask(corner, 12 * extra_difficulty), 0.5, image)
    return ((image + noise * 6 / 255 * difficulty) * 255).round().clamp(0, 255).byte()


def jitter_grid(shift: Tensor, rotation: Tensor, scale: Tensor, difficulty: float) -> Tensor:
    """Return where each pixel comes from (n, H, W, 2), for shifts (n, 2), rotations (n,) and scales (n,) in [-1, 1)."""
    angle, size = rotation * math.radians(10) * difficulty, 1 / (1 + scale * 0.1 * difficulty)
    cos, sin = angle.cos() * size, angle.sin() * size
    x, y = (shift * 2 * difficulty * 2 / ICON_SIZE).unbind(-1)
    theta = torch.stack([cos, -sin, x, sin, cos, y], dim=-1).view(-1, 2, 3)
    return F.affine_grid(theta, [len(theta), 1, ICON_SIZE, ICON_SIZE], align_corners=False)


def square_mask(corner: Tensor, side: float) -> Tensor:
    """Return the pixels (n, 1, H, W) of squares of `side` pixels, for positions (n, 2, 1, 1) of a corner in [0, 1)."""
    begin = corner * (ICON_SIZE - side)
    pixel = torch.arange(ICON_SIZE).float()
    rows, columns = ((pixel >= start) & (pixel < start + side) for start in begin.unbind(1))  # (n, 1, size) each
    return (rows[..., None] & columns[:, :, None])[:, :1]


def all_labels(copies: int) -> dict[str, Tensor]:
    """Return `verb`, `tense` and `person` (COMBINATIONS · copies,) of `copies` adjacent icons of each combination."""
    return split_combinations(torch.arange(COMBINATIONS).repeat_interleave(copies))


def split_combinations(combination: Tensor) -> dict[str, Tensor]:
    """Return the `verb`, `tense` and `person` of combinations: the inverse of `combination_labels`."""
    return {
        "verb": combination // (len(TENSES) * len(PERSONS)),
        "tense": combination // len(PERSONS) % len(TENSES),
        "person": combination % len(PERSONS),
    }


def combination_labels(labels: dict[str, Tensor]) -> Tensor:
    """Return the number of the combination of `verb`, `tense` and `person`, from 0 to COMBINATIONS - 1."""
    return (labels["verb"] * len(TENSES) + labels["tense"]) * len(PERSONS) + labels["person"]


def held_out(labels: dict[str, Tensor]) -> Tensor:
    """Return which icons (n,) are of a held-out combination: one in five, evenly over all verbs, tenses and persons."""
    return (labels["verb"] + labels["tense"] + labels["person"]) % len(TENSES) == 0


def num_logits(head: str, label: str) -> int:
    """Return the number of outputs of a model of icons, for `task.head` and `task.label`; 1 for unknown ones."""
    sizes = [LABELS[factor] for factor in FACTORS.get(label, ())]
    return {"flat": math.prod(sizes), "factored": sum(sizes)}.get(head, 1) if sizes else 1
