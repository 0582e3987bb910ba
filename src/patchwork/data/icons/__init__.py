"""Grammar icons: a verb form as a small picture (document 004).

    colour                    tense    5
    shape                     person   3
    pattern within the shape  verb    20

1. Shapes and patterns are drawn once, finely, and averaged down to an atlas of masks.
2. Each icon looks the atlas up through its own rotation, scale and shift, all icons of a batch at once.
3. Colour, noise and what hides an icon come last; `difficulty` says how much of everything.

`python -m patchwork.data.icons out=FOLDER` writes them as PNG files with their labels and a contact sheet.

The document names 8 of its 20 verbs; the others here were chosen to make 12 regular and 8 irregular ones. So were the
patterns, of which it names two.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from patchwork.data.stream import Batch, Key, Part, Stream, generator, in_turn

VERSION = 1  # of how icons are drawn
SIZE = 32  # pixels of an icon
FINE, TILE = 8, 48  # the atlas: samples along a side of a pixel, pixels along a side of a mask

TENSES = {
    "infinitive": (128, 128, 128),
    "present_simple": (50, 100, 200),
    "past_simple": (200, 50, 50),
    "past_participle": (50, 200, 100),
    "future": (160, 80, 200),
}
PERSONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of x to the right and y down, both from -1 to 1
    "1sg": lambda x, y: x**2 + y**2 < 0.72,
    "2sg": lambda x, y: (x.abs() < 0.76) & (y.abs() < 0.76),
    "3sg": lambda x, y: (y < 0.72) & (x.abs() < 0.55 * (y + 0.92)),
}


def wave(t: Tensor, count: float) -> Tensor:
    """Return stripes along `t`: dark in every second of `count` bands between -1 and 1."""
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
LABELS = {"verb": len(VERBS), "tense": len(TENSES), "person": len(PERSONS)}
COMBINATIONS = math.prod(LABELS.values())
PAPER, INK = 240 / 255, 0.4  # the brightness around a shape, and of a pattern's dark parts relative to the colour


@cache
def atlas(names: Literal["verbs", "persons"]) -> Tensor:
    """Return the masks (n, 1, TILE, TILE) of all patterns or shapes, in [0, 1]."""
    line = (torch.arange(TILE * FINE) + 0.5) / (TILE * FINE) * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    functions = VERBS if names == "verbs" else PERSONS
    return F.avg_pool2d(torch.stack([drawn(x, y).float() for drawn in functions.values()])[:, None], FINE)


def render(labels: dict[str, Tensor], *, difficulty: float, draw: torch.Generator) -> Tensor:
    """Draw icons (n, 3, SIZE, SIZE) as uint8 for the `verb`, `tense` and `person` (n,) of each.

    Up to difficulty 1 come jitter (2 pixels, 10 degrees, 10 % in size), a tint (deviation 10 of 255) and noise
    (deviation 6 of 255), each in proportion. From 1 to 2 they go on, and two more begin: up to half of all pixels lose
    their colour, and a grey square of up to 12 pixels hides a part of the icon.
    """
    count, beyond = len(labels["verb"]), max(0.0, difficulty - 1)
    shift, turn, size, tint, corner = (
        torch.rand(count, 2, generator=draw) * 2 - 1,
        torch.rand(count, generator=draw) * 2 - 1,
        torch.rand(count, generator=draw) * 2 - 1,
        torch.randn(count, 3, 1, 1, generator=draw),
        torch.rand(count, 2, 1, 1, generator=draw),
    )
    noise = torch.randn(count, 3, SIZE, SIZE, generator=draw)
    grey = torch.rand(count, 1, SIZE, SIZE, generator=draw) < 0.5 * beyond

    angle, scale = turn * math.radians(10) * difficulty, 1 / (1 + size * 0.1 * difficulty)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    x, y = (shift * 2 * difficulty * 2 / SIZE).unbind(-1)
    grid = F.affine_grid(
        torch.stack([cos, -sin, x, sin, cos, y], dim=-1).view(count, 2, 3), [count, 1, SIZE, SIZE], align_corners=False
    )
    masks = torch.cat([atlas("persons")[labels["person"]], atlas("verbs")[labels["verb"]]], dim=1)
    shape, pattern = F.grid_sample(masks, grid, align_corners=False).split(1, dim=1)  # (n, 1, SIZE, SIZE) each

    colour = torch.tensor(list(TENSES.values()))[labels["tense"]].view(count, 3, 1, 1) / 255
    colour = colour + tint * 10 / 255 * difficulty
    image = PAPER + shape * (colour * (1 - (1 - INK) * pattern) - PAPER)
    image = torch.where(grey, image.mean(dim=1, keepdim=True), image)
    begin, side = corner * (SIZE - 12 * beyond), 12 * beyond
    place = torch.arange(SIZE).float()
    row, column = ((place >= at) & (place < at + side) for at in begin.unbind(1))  # (n, 1, SIZE) each
    image = torch.where((row[..., None] & column[:, :, None])[:, :1], 0.5, image)
    return ((image + noise * 6 / 255 * difficulty) * 255).round().clamp(0, 255).byte()


def every(copies: int) -> dict[str, Tensor]:
    """Return the labels (COMBINATIONS · copies,) of `copies` icons of each combination, those of one side by side."""
    combination = torch.arange(COMBINATIONS).repeat_interleave(copies)
    return {
        "verb": combination // (len(TENSES) * len(PERSONS)),
        "tense": combination // len(PERSONS) % len(TENSES),
        "person": combination % len(PERSONS),
    }


def held_out(labels: dict[str, Tensor]) -> Tensor:
    """Return which icons (n,) are of a held-out combination: one in five, evenly over all verbs, tenses and persons."""
    return (labels["verb"] + labels["tense"] + labels["person"]) % len(TENSES) == 0


@dataclass(frozen=True, eq=False)
class Source:
    """What the icons of a run are called, and the SHA-256 of all that decides them."""

    name: str
    digest: str


class Icons(Stream):
    """Icons of every verb, tense and person, drawn once: four fifths to train on, one fifth to test.

    A batch holds `image` (B, 3, 32, 32) from -1 to 1; `verb`, `tense` and `person` (B,); and `held_out` (B,), whether
    their combination was kept out of training. Validation has one icon of each combination, besides the others.

    Args:
        train_size: icons in an epoch, which goes on through all of them where the last one ended; what a Trainer's
            limit leaves out of an epoch is left out of the order.
        per_combination: icons of each of the 300 combinations, in training and test together; a multiple of 5.
        difficulty: how much icons vary and what hides them, see `render`.
        holdout: `combinations` keeps one combination in five out of training and validation.
    """

    gives = ("image", "verb", "tense", "person", "held_out")

    def __init__(
        self,
        *,
        seed: NonNegativeInt,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        num_classes: PositiveInt,
        image_size: Literal[32] = 32,
        in_channels: Literal[3] = 3,
        train_size: PositiveInt,
        per_combination: PositiveInt = 5,
        difficulty: Annotated[float, Interval(gt=0, le=2)] = 1.0,
        holdout: Literal["combinations"] | None = None,
        num_workers: Annotated[int, Interval(ge=0, le=64)] = 0,
        same_batch: bool = False,
    ) -> None:
        if per_combination % 5:
            raise ValueError(
                f"per_combination={per_combination} is not a multiple of 5: a fifth of them is for the test"
            )
        test, kept = per_combination // 5, COMBINATIONS * 4 // 5 if holdout else COMBINATIONS
        super().__init__(
            seed=seed,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            train_size=train_size,
            val_size=kept,
            test_size=COMBINATIONS * test,
            num_workers=num_workers,
            same_batch=same_batch,
        )
        self.image_size, self.in_channels, self.num_classes = image_size, in_channels, num_classes
        self.copies: dict[Part, int] = {"train": 4 * test, "val": 1, "test": test}
        self.difficulty = difficulty
        self.holdout = holdout

    def prepare_data(self) -> None:
        """Draw the icons before any process is started."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Draw all icons once. They are the same in every run, whatever its seed."""
        if hasattr(self, "source"):
            return
        self.parts: dict[Part, dict[str, Tensor]] = {}
        for part, copies in self.copies.items():
            labels = every(copies)
            image = render(labels, difficulty=self.difficulty, draw=generator("icons", part))
            drawn = {"image": image, **labels, "held_out": held_out(labels) & (self.holdout is not None)}
            kept = (~drawn["held_out"] | (part == "test")).nonzero().squeeze(1)
            order = kept[torch.randperm(len(kept), generator=generator("icons", part, "order"))]
            self.parts[part] = {name: values[order] for name, values in drawn.items()}
        # not of the bytes, whose last bits depend on the machine's arithmetic
        settings = repr((VERSION, self.copies, self.difficulty, self.holdout))
        self.source = Source("icons", hashlib.sha256(settings.encode()).hexdigest())

    def images(self, part: Part) -> Tensor:
        return self.parts[part]["image"]

    def make(self, part: Part, key: Key, shard: slice) -> Batch:
        epoch, index = key
        if part == "train":
            first = (epoch * self.length(part) + index) * self.batch_size  # since the beginning
            chosen = in_turn(self.seed, first, self.batch_size, len(self.images(part)))
        else:
            size = self.eval_batch_size
            chosen = torch.arange(index * size, min((index + 1) * size, self.sizes[part]))
        batch = {name: values[chosen[shard]] for name, values in self.parts[part].items()}
        return batch | {"image": batch["image"].float().div_(127.5).sub_(1)}
