"""Atomic checkpoints with a checksum.

They are written atomically, see `patchwork.core.atomic`. The SHA-256 of each is stored in the comment of the zip
archive that a torch checkpoint is, so that other tools still read it as an ordinary checkpoint. It is verified at every
read, as torch itself loads flipped bits without an error. Checkpoints are read with `weights_only`: no code in them is
executed.
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

from patchwork.core.atomic import atomic_write, replace
from patchwork.core.errors import DataError, PatchworkWarning

BEST, LAST = "best.ckpt", "last.ckpt"  # in a run directory's `checkpoints`
DIGEST_PREFIX = b"sha256:"
DIGEST_LENGTH = len(DIGEST_PREFIX) + 64


def remove_partial_files(run_dir: Path) -> None:
    """Remove the temporary files that a killed process left in a run directory."""
    for directory in (run_dir, *(path for path in run_dir.iterdir() if path.is_dir())):
        for path in directory.glob(".*.*.part"):
            path.unlink(missing_ok=True)


def backup_path(path: Path) -> Path:
    """Return the path to which `write_checkpoint` moves the checkpoint that it replaces."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint with its digest atomically; the one it replaces becomes `<name>-previous`.

    Raises:
        ResourceError: if the disk is full or the directory is not writable; existing checkpoints stay as they were.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest().encode()
    # a zip archive ends with the length of its comment, which is zero so far
    content = content[:-2] + DIGEST_LENGTH.to_bytes(2, "little") + DIGEST_PREFIX + digest
    with atomic_write(path, content) as temporary:
        if path.exists():
            replace(path, backup_path(path))
        replace(temporary, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        DataError: if it is missing, damaged or not a checkpoint of this project.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    archive, comment = content[:-DIGEST_LENGTH], content[-DIGEST_LENGTH:]
    if not comment.startswith(DIGEST_PREFIX):
        raise DataError(f"checkpoint {path} is damaged or foreign: it does not end with its SHA-256")
    complete = archive[-2:] == DIGEST_LENGTH.to_bytes(2, "little")
    digest = hashlib.sha256(archive[:-2] + bytes(2)).hexdigest().encode()
    if not complete or digest != comment[len(DIGEST_PREFIX) :]:
        raise DataError(f"checkpoint {path} is damaged: its contents do not match its SHA-256")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(
            f"checkpoint {path} is damaged or foreign: it contains more than tensors and plain values"
        ) from error


def read_latest(path: Path) -> dict[str, Any]:
    """Read a checkpoint; if it is damaged or missing, warn and read the previous one.

    Raises:
        DataError: if neither can be read.
    """
    try:
        return read_checkpoint(path)
    except DataError as error:
        if not backup_path(path).exists():
            raise
        state = read_checkpoint(backup_path(path))
        warnings.warn(f"{error}; using {backup_path(path).name}, which is intact", PatchworkWarning, stacklevel=2)
        return state


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights: of every name, dtype, shape and value, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class SafeCheckpointIO(CheckpointIO):
    """Lightning's plugin that saves and loads checkpoints, with this module's functions."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_latest(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
