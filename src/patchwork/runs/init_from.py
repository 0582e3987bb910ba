"""Begin a new run with the weights of another one: `init_from=RUN_DIR` or `init_from=CHECKPOINT`.

Tensors are taken where names and shapes fit, so the other run may be of another task or model. The run keeps a copy of
the weights that it begins with, and needs nothing of the other run when it is resumed. Only weights are taken: the
optimizer, the schedule and the average of the weights start anew.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchwork.core.errors import DataError, PatchworkWarning
from patchwork.core.paths import exists, expand_home
from patchwork.core.rank import is_rank_zero
from patchwork.runs.run import best_checkpoint, load_weights, read_weights
from patchwork.runs.run_dir import is_run_dir, locate_run
from patchwork.runs.weights import WEIGHTS_FILE, locate_weights_dir
from patchwork.tasks import Task
from patchwork.training.checkpoint_io import LAST, backup_path, read_checkpoint, weights_sha256

INIT = "init.ckpt"  # in the run's `checkpoints`
MAX_LISTED = 3  # tensors in a message
FEW = 0.1  # of the parameters: a smaller fraction helps little
SAME_PARTS = (  # parts of networks that have another name in another one
    (r"^model\.image_encoder\.encoder\.0\.(?=stem\.|proj\.)", "model.patch_embed."),
    (r"^model\.image_encoder\.encoder\.", "model.layers."),
    (r"^model\.encoder_norm\.", "model.norm."),
    (r"^model\.encoder\.", "model.blocks."),
)


def load_initial_weights(task: Task, init_from: str | None, run_dir: Path | None) -> dict[str, Any] | None:
    """Load the weights that a run begins with, if they are another run's.

    Args:
        task: Task of the run; its weights are changed in place.
        init_from: Path of the other run or of a checkpoint; None if the run begins with new weights.
        run_dir: Directory of the run, if it has one already. It has its own copy of these weights then.

    Returns:
        The weights with what was taken, to be saved as the run's own copy; None if the run needs none.

    Raises:
        DataError: if there are no such weights, or none of them fits.
    """
    if init_from is None:
        return None
    if run_dir is not None:
        own, last = (run_dir / "checkpoints" / name for name in (INIT, LAST))
        if exists(last) or exists(backup_path(last)):  # with weights that the run has trained
            return None
        if exists(own):
            initial = read_checkpoint(own)
            load_weights(task, initial, own)
            return initial
    path = locate_weights(init_from)
    weights = read_weights(path)
    taken = take_weights(task, weights, path)
    if taken["parameters_taken"] < FEW * taken["parameters"] and is_rank_zero():
        warnings.warn(
            f"init_from={init_from} gives this model only {taken['parameters_taken']:,} of its {taken['parameters']:,} "
            "parameters, so that it begins almost anew: take a run of the same widths and patches",
            PatchworkWarning,
            stacklevel=2,
        )
    return {"state_dict": task.state_dict(), "init_from": {"path": str(path), **taken}}


def locate_weights(init_from: str) -> Path:
    """Return the path of the weights that `init_from` names: of a run, its best checkpoint.

    Raises:
        DataError: if it names none.
    """
    if (folder := locate_weights_dir(init_from)) is not None:
        return folder / WEIGHTS_FILE
    path = expand_home(init_from)
    if not exists(path):
        raise DataError(f"init_from={init_from} does not exist: pass a run directory or a checkpoint")
    run_dir = locate_run(path)
    if path.is_file() and path.suffix != ".ckpt":
        kind, hint = f"a {path.suffix} file" if path.suffix else "a file", "a run directory or a .ckpt of a run"
        if is_run_dir(run_dir):
            kind, hint = "a file of a run", f"{run_dir} for its best weights, or one of its .ckpt"
        raise DataError(f"init_from={init_from} is {kind}, and no checkpoint: pass {hint}")
    checkpoint = path if path.is_file() else best_checkpoint(run_dir)
    if not exists(checkpoint) and not exists(backup_path(checkpoint)):
        raise DataError(f"init_from={init_from} holds no checkpoint: pass a run directory or a checkpoint")
    return checkpoint


@torch.no_grad()
def take_weights(task: Task, weights: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Copy to a task the tensors that fit by name and shape, and return which did, for the manifest.

    Raises:
        DataError: if no parameter fits.
    """
    ours, theirs = task.state_dict(), {common_name(name): weight for name, weight in weights.items()}
    theirs |= weights  # a name that both have comes first
    taken, not_taken = [], {}
    for name, tensor in ours.items():
        weight = theirs.get(name, theirs.get(common_name(name)))
        if weight is not None and weight.shape == tensor.shape:
            tensor.copy_(weight)
            taken.append(name)
        else:
            found = "missing there" if weight is None else f"{format_shape(weight)} there"
            not_taken[name.removeprefix("model.")] = f"{format_shape(tensor)}, {found}"
    sizes = {name: parameter.numel() for name, parameter in task.named_parameters()}
    if not sizes.keys() & {*taken}:
        raise DataError(f"init_from={path} fits no tensor of this model: {format_tensors(not_taken)}")
    return {
        "weights_sha256": weights_sha256(weights),
        "tensors_taken": len(taken),
        "tensors": len(ours),
        "parameters_taken": sum(sizes.get(name, 0) for name in taken),
        "parameters": sum(sizes.values()),
        "not_taken": not_taken,
    }


def common_name(name: str) -> str:
    """Return the name of a tensor under which networks of several kinds share it."""
    for pattern, replacement in SAME_PARTS:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name


def format_shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def format_tensors(descriptions: Mapping[str, str]) -> str:
    """Format the first few tensors with their descriptions."""
    listed = [f"{name} ({text})" for name, text in [*descriptions.items()][:MAX_LISTED]]
    rest = len(descriptions) - len(listed)
    return ", ".join([*listed, *([f"and {rest} more"] if rest else [])])


def describe_taken(entry: Mapping[str, Any]) -> str:
    """Return in one line what a run has taken from another one, by its entry in the manifest."""
    line = (
        f"init_from: took {entry['tensors_taken']} of {entry['tensors']} tensors ({entry['parameters_taken']:,} of "
        f"{entry['parameters']:,} parameters) from {entry['path']}"
    )
    return f"{line}; not taken: {format_tensors(entry['not_taken'])}" if entry["not_taken"] else line
