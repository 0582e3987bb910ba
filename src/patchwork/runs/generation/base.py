"""Loading the model of a run, checks, and the directory that results are written to."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from patchwork.core.atomic import atomic_dir
from patchwork.core.errors import ConfigError
from patchwork.models.generator import Generator
from patchwork.runs.run import Run
from patchwork.tasks import Pixels


def load_generator(run: Run) -> tuple[Pixels, Generator]:
    """Return the task and the generative model of a run.

    Raises:
        ConfigError: if its model is not generative.
    """
    if not isinstance(run.task, Pixels):
        raise ConfigError(
            f"run={run.run_dir} has model={type(run.model).__name__}, which is not generative: use a run of task=pixels"
        )
    return run.task, run.task.generator


def check_classes(classes: list[int] | None, generator: Generator) -> None:
    """Raise a `ConfigError` if one of `classes` does not exist."""
    for label in classes or []:
        if label >= generator.num_classes:
            raise ConfigError(f"classes={classes}: {label} is not a class: use 0 to {generator.num_classes - 1}")


def repeat_to(values: list[int], length: int) -> list[int]:
    """Repeat `values` cyclically to `length`."""
    return [values[index % len(values)] for index in range(length)]


def save_results(run: Run, save: Callable[[Path], None], manifest: dict[str, Any]) -> Path:
    """Let `save` fill a new numbered directory below a run's `generated/`, add `manifest.json`, and return its path.

    Raises:
        ResourceError: if it cannot be written.
    """
    parent = Path(run.run_dir) / "generated"
    path = next(path for number in count() if not (path := parent / f"{number:03}").exists())
    with atomic_dir(path) as temporary:
        save(temporary)
        entry = {**manifest, "weights_sha256": run.manifest.get("weights_sha256")}
        (temporary / "manifest.json").write_text(json.dumps(entry, indent=2) + "\n")
    return path
