"""MNIST with corrections: drawings whose label somebody has set right, see `patchwork.data.corrections`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval

from patchwork.core.errors import DataError
from patchwork.core.paths import expand_home
from patchwork.data.corrections import CORRECTIONS_FILE, Correction, read_corrections
from patchwork.data.sources.base import ImageSource, LabeledImages
from patchwork.data.sources.mnist import MNIST

REPLAY = 4  # images of MNIST for each correction in training, at least
MAX_REPEATS = 50  # of a correction in an epoch of all images
FIRST_INDEX = 1_000_000  # of corrections, beyond the images of MNIST


@dataclass(kw_only=True, eq=False)
class Corrections(MNIST):
    """MNIST, to whose training images corrections are added; validation and test are MNIST's own.

    Whole sessions are held out, so that nobody's strokes are on both sides, and a drawing that occurs in a session that
    is held out is not trained on. Each of the others is repeated, as far as four images of MNIST are left for each.

    Args:
        path: the file of corrections.
        held_out: fraction of the corrections to hold out, at least.
        root: directory of MNIST to read; no other is searched.
        download: download MNIST if it is not found.
        verify: accept only MNIST itself, by the MD5 of its files.
        validation: MNIST's images that are for validation, if `folds` is null.

    Raises:
        ConfigError: if `folds` and `fold` do not fit together.
    """

    path: str = str(CORRECTIONS_FILE)
    held_out: Annotated[float, Interval(gt=0, lt=1)] = 0.3

    def load(self) -> ImageSource:
        """Load MNIST and add the corrections that are not held out.

        Raises:
            DataError: if there are no corrections of two sessions, or a file is missing or damaged.
        """
        source, (training, held_out) = super().load(), self.read()
        repeats = max(1, min(len(source.train.labels) // (REPLAY * len(training)), MAX_REPEATS))
        added = to_images(training)
        digest = hashlib.sha256(source.sha256.encode())
        for correction in [*training, *held_out]:
            digest.update(correction.pixels.tobytes() + bytes([correction.label]))
        train = LabeledImages(
            images=torch.cat([source.train.images, added.images.repeat(repeats, 1, 1, 1)]),
            labels=torch.cat([source.train.labels, added.labels.repeat(repeats)]),
            indices=torch.cat([source.train.indices, added.indices.repeat(repeats)]),
        )
        return replace(source, name="corrections", sha256=digest.hexdigest(), train=train)

    def load_held_out(self) -> LabeledImages:
        """Return the corrections that are held out, with indices that no image of MNIST has.

        Raises:
            DataError: if there are no corrections of two sessions, or the file is damaged.
        """
        return to_images(self.read()[1])

    def read(self) -> tuple[list[Correction], list[Correction]]:
        """Read the corrections, and return those for training and those that are held out.

        Raises:
            DataError: if there are none of two sessions, or the file is damaged.
        """
        path = expand_home(Path(self.path))
        corrections = read_corrections(path)
        sessions = {correction.session for correction in corrections}
        if len(sessions) < 2:
            found = f"has {len(corrections)} corrections of one session" if corrections else "has no corrections"
            raise DataError(f"dataset.path={self.path} {found}: two are needed, to train on one and judge by the other")
        training, held_out = split_by_session(corrections, self.held_out)
        if not training:
            raise DataError(f"dataset.path={self.path}: all drawings occur in sessions that are held out")
        return training, held_out


def split_by_session(corrections: Sequence[Correction], fraction: float) -> tuple[list[Correction], list[Correction]]:
    """Split corrections of two sessions or more into those for training and those that are held out.

    Sessions are held out in the order of the SHA-256 of their names until the fraction is reached; the last session
    that is left is never held out. A drawing that occurs twice on one side counts once there.
    """
    names = sorted({c.session for c in corrections}, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    chosen: set[str] = set()
    for name in names[:-1]:
        if sum(c.session in chosen for c in corrections) >= fraction * len(corrections):
            break
        chosen.add(name)
    held_out = {c.image: c for c in corrections if c.session in chosen}
    training = {c.image: c for c in corrections if c.session not in chosen and c.image not in held_out}
    return [*training.values()], [*held_out.values()]


def to_images(corrections: Sequence[Correction]) -> LabeledImages:
    """Return corrections as labeled images (n, 1, 28, 28)."""
    pixels = np.stack([correction.pixels for correction in corrections])[:, None]
    return LabeledImages(
        images=torch.from_numpy(pixels),
        labels=torch.tensor([correction.label for correction in corrections]),
        indices=torch.arange(FIRST_INDEX, FIRST_INDEX + len(corrections)),
    )
