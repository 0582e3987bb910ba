"""Checkpoints that are whole or not there.

They are written as all files are, see `patchwork.files`. The SHA-256 of each stands in the comment of the zip archive
that a torch checkpoint is, so that it is still an ordinary checkpoint for every other tool. It is verified whenever it
is read: torch itself loads a flipped bit without a word. Reading is `weights_only`, so nothing in a file is executed.
"""

import hashlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from patchwork.errors import DataError, PatchworkWarning
from patchwork.files import whole_or_nothing

BEST, LAST = "best.ckpt", "last.ckpt"  # in a run's folder `checkpoints`
MARK = b"sha256:"
COMMENT = len(MARK) + 64


def sweep(folder: Path) -> None:
    """Remove what a killed process was writing in a run's folder."""
    for place in (folder, folder / "checkpoints"):
        for part in place.glob(".*.*.part"):
            part.unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Return where the checkpoint is kept that `path` replaced."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint with its digest, and keep the one it replaces as `<name>-previous`."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest().encode()
    # the archive ends with the length of its comment, zero until now
    content = content[:-2] + COMMENT.to_bytes(2, "little") + MARK + digest
    with whole_or_nothing(path, content) as part:
        if path.exists():
            path.replace(previous(path))
        part.replace(path)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        DataError: if it is missing, damaged, or not a checkpoint of this project.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    archive, digest = content[:-COMMENT], content[-COMMENT:]
    if not digest.startswith(MARK):
        raise DataError(
            f"checkpoint {path} is damaged or foreign: it does not end with the digest that runs here write"
        )
    whole = archive[-2:] == COMMENT.to_bytes(2, "little")
    if not whole or hashlib.sha256(archive[:-2] + bytes(2)).hexdigest().encode() != digest[len(MARK) :]:
        raise DataError(f"checkpoint {path} is damaged: its contents do not match its SHA-256")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"checkpoint {path} is damaged or foreign: it holds more than tensors and plain values"
        ) from error


def read_latest(path: Path) -> dict[str, Any]:
    """Read a checkpoint, or with a warning the one before it if it is damaged or was lost in the act.

    Raises:
        DataError: if neither can be read.
    """
    try:
        return read(path)
    except DataError as error:
        if not previous(path).exists():
            raise
        state = read(previous(path))
        warnings.warn(f"{error}; going on from {previous(path).name}, which is whole", PatchworkWarning, stacklevel=2)
        return state


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights: of every name, type, shape and value, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written and read as this module does."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_latest(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
