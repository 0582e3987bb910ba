"""The folds of a cross-validation put together: every image of the training part, judged by a run that did not see it.

The mean of a few folds has no honest spread of its own, as the folds share most of their training data (Bengio and
Grandvalet 2004, https://www.jmlr.org/papers/v5/grandvalet04a.html). The interval here is over images, for the runs
that there are.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from patchwork.core.overrides import shell_command
from patchwork.evaluation.compare.runs import FinishedRun, Setting
from patchwork.runs.predictions import predictions_path, read_table
from patchwork.stats.intervals import clustered_wilson


class FoldsAccuracy(NamedTuple):
    """The share of right predictions on the validation parts of all folds, and its 95 % interval over images."""

    accuracy: float
    low: float
    high: float
    num_images: int
    num_folds: int
    num_seeds: int


def folds_accuracy(setting: Setting) -> FoldsAccuracy | None:
    """Return the accuracy over all folds of a setting; an image that several seeds were tested on is one unit.

    None if a seed lacks a fold, if validation predictions are not saved or not right or wrong, or if samples are made
    of several images, which then are in many samples.
    """
    if not has_all_folds(setting):
        return None
    tables = [read_right(run) for run in setting.runs]
    known = [table for table in tables if table is not None]
    if len(known) < len(tables):
        return None
    right, images = (np.concatenate(parts) for parts in zip(*known, strict=True))
    low, high = clustered_wilson(right, images)
    num_folds = len({run.fold for run in setting.runs})
    return FoldsAccuracy(
        float(right.mean()), low, high, len(np.unique(images)), num_folds, len(setting.runs) // num_folds
    )


def has_all_folds(setting: Setting) -> bool:
    """Return whether every seed of a setting was trained on all folds of a cross-validation."""
    by_seed: dict[tuple[int, int], set[int | None]] = defaultdict(set)
    for run in setting.runs:
        by_seed[run.replicate[1:]].add(run.fold)
    num_folds = int(setting.runs[0].config.get("dataset.folds") or 0)
    return num_folds > 0 and all(folds == set(range(num_folds)) for folds in by_seed.values())


def read_right(run: FinishedRun) -> tuple[np.ndarray, np.ndarray] | None:
    """Return which validation samples (n,) a run has right, and the image of each; None if it is not saved."""
    path = predictions_path(run.run_dir, "val")
    if not path.exists():
        return None
    predictions, digest = read_table(path)
    correct, images = predictions.correct, predictions.image_ids
    if digest != run.manifest.get("weights_sha256", digest):  # the run was resumed since
        return None
    if correct is None or images.shape[1] != 1 or bool((images < 0).any()):
        return None
    return correct.numpy(), images[:, 0].numpy()


def unsaved_sentence(setting: Setting) -> str | None:
    """Return the line that says how validation predictions are made that all folds together need; None if it does not.

    Whether samples are single images is told by the answers on the test split.
    """
    unsaved = [run for run in setting.runs if read_right(run) is None] if has_all_folds(setting) else []
    if not unsaved:
        return None
    answers = unsaved[0].answers()
    if answers is None or answers.right.shape[1] != 1 or answers.units.shape[1] != 1:
        return None
    command = shell_command("predict", run=str(unsaved[0].run_dir), split="val", out="val.csv")
    others = f", and likewise of {len(unsaved) - 1} more runs" if len(unsaved) > 1 else ""
    return f"{setting.label}: the folds are put together once {command} has saved its validation predictions{others}."


def folds_sentence(label: str, found: FoldsAccuracy) -> str:
    """Return the accuracy over all folds in plain words."""
    return (
        f"{label}, validation parts of {found.num_folds} folds together: accuracy {found.accuracy:.4f} (95 % interval "
        f"over {found.num_images:,} images {found.low:.4f} to {found.high:.4f}, {found.num_seeds} seed"
        f"{'s' if found.num_seeds > 1 else ''}; the epochs were chosen on the same images)."
    )
