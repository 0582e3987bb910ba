"""Weights folders: a trained model as a few small files that any tool reads, checked before they are used.

A folder holds `model.safetensors` (half precision), `config.yaml` (resolved), `manifest.json` (how the weights were
made, and what was measured with this very file), `card.md`, and `SHA256SUMS`, which covers the others, so that
`sha256sum -c` tells a damaged one. Folders that come with the package are named by their last part alone, as in
`run=seq2seq`.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchwork.core.errors import DataError, one_line
from patchwork.core.paths import exists, expand_home
from patchwork.runs.run_dir import CONFIG_FILE, MANIFEST_FILE

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = Path(__file__).parents[1] / "weights"
WEIGHTS_FILE, CARD_FILE, SUMS_FILE = "model.safetensors", "card.md", "SHA256SUMS"
CHECKED_FILES = (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE, CARD_FILE)
SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
OUTPUTS = Path("outputs", "weights")  # where commands write what they make of weights that come with the package


def shipped_names() -> list[str]:
    """Return the names of the weights that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS_FILE}"))


def locate_weights_dir(run: str | Path) -> Path | None:
    """Return the weights folder that a path or a name means; None if it means none. A path that exists comes first."""
    path = expand_home(run)
    if exists(path):
        return path if exists(path / WEIGHTS_FILE) else None
    return SHIPPED / path if str(path) in shipped_names() else None


def outputs_dir(folder: Path) -> Path:
    """Return where to write what is made of the weights in a folder: in it, unless it belongs to the package."""
    return OUTPUTS / folder.name if folder.parent == SHIPPED else folder


def check_weights_dir(folder: Path) -> None:
    """Compare the files of a weights folder with their checksums.

    Raises:
        DataError: if one is missing or differs.
    """
    expected = read_sums(folder / SUMS_FILE)
    for name in CHECKED_FILES:
        content = read_bytes(folder / name)
        if hashlib.sha256(content).hexdigest() != expected.get(name):
            raise DataError(f"{folder / name} is damaged: its SHA-256 is not the one in {SUMS_FILE}")


def read_sums(path: Path) -> dict[str, str]:
    """Read the checksums of files, by name.

    Raises:
        DataError: if a line is none.
    """
    lines = read_bytes(path).decode(errors="replace").splitlines()
    matches = [SUM_LINE.fullmatch(line) for line in lines]
    if not lines or None in matches:
        raise DataError(f"{path} is damaged: its lines are not those of sha256sum")
    return {match[2]: match[1] for match in matches if match is not None}


def format_sums(contents: Mapping[str, bytes]) -> str:
    """Return the checksums of files by name, as `sha256sum` prints them."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def read_weights_file(path: Path) -> "dict[str, Tensor]":
    """Read the tensors of a safetensors file, which holds nothing that could be executed.

    Raises:
        DataError: if it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(read_bytes(path))
    except SafetensorError as error:
        raise DataError(f"{path} is damaged: {one_line(error)}") from error


def manifest_of_weights(manifest: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Return the manifest of a weights folder: that of the run without what is true of its directory alone."""
    kept = (
        *("task", "model", "monitor", "seed", "dataset", "dataset_sha256", "data_selection", "parameters"),
        *("command", "versions", "commit", "hardware", "train_seconds"),
    )
    return {**{key: manifest[key] for key in kept if key in manifest}, "status": "finished", **facts}
