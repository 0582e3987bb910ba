"""`manifest.json`: what a run is, how and where it was made, how it ended and what it measured."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from patchwork.core.atomic import write_bytes
from patchwork.core.cpus import available_cpus
from patchwork.core.errors import DataError, one_line
from patchwork.core.rank import is_rank_zero
from patchwork.data import BaseDataModule
from patchwork.runs.run_dir import MANIFEST_FILE, choice_names
from patchwork.tasks import Task

CHECKOUT = Path(__file__).resolve().parents[3]  # if the package is in one
PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy")
LAUNCH_FACTS = ("command", "commit", "versions", "hardware")  # which may differ each time that a run is resumed


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Read the manifest of a run; empty if it has none yet.

    Raises:
        DataError: if it is damaged.
    """
    path = run_dir / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {one_line(error)}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("metrics", {}), dict):
        raise DataError(f"{path} is damaged: it is not a mapping with metrics")
    return manifest


def write_manifest(run_dir: Path, manifest: dict[str, Any]) -> None:
    if is_rank_zero():
        write_bytes(run_dir / MANIFEST_FILE, (json.dumps(manifest, indent=2) + "\n").encode())


def make_manifest(
    config: DictConfig, task: Task, data: BaseDataModule, trainer: pl.Trainer, command: str | None
) -> dict[str, Any]:
    """Return the manifest of a run that is about to start; `command` is None for a run started from Python."""
    task_name, model_name = choice_names(config)
    device = trainer.strategy.root_device
    return {
        "task": task_name,
        "model": model_name,
        "seed": config.seed,
        "started": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "dataset": data.source.name,
        "dataset_sha256": data.source.sha256,
        **({"data_selection": data.selection} if data.selection else {}),
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "command": command,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": git_commit(),
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": available_cpus(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "devices": trainer.num_devices * trainer.num_nodes,
        },
    }


def merge_manifest(saved: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a run that starts, or that is resumed: how it first started stays as it is."""
    if not saved:
        return {**new, "status": "running"}
    session = {key: new[key] for key in LAUNCH_FACTS}
    new = {key: value for key, value in new.items() if key != "started"}  # which old manifests lack
    return {**new, **saved, "resumed": [*saved.get("resumed", []), session], "status": "running"}


def check_dataset(manifest: dict[str, Any], data: BaseDataModule) -> None:
    """Raise a `DataError` if the data set on this machine is not the one that the run was trained on."""
    expected = manifest.get("dataset_sha256", data.source.sha256)
    if expected != data.source.sha256:
        raise DataError(
            f"this machine has dataset={data.source.name}, but the run was trained on "
            f"dataset={manifest.get('dataset')} (dataset_sha256 {expected[:12]}…): make that data set available"
        )


def git_commit() -> str | None:
    """Return the commit of this package, with a + if files are changed or untracked; None outside of git."""

    def git(*args: str) -> str:
        command = ["git", *args]
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != CHECKOUT:  # installed, perhaps inside of another repository
            return None
        commit = git("rev-parse", "--verify", "HEAD")
        return commit + ("+" if git("status", "--porcelain") else "") if commit else None
    except OSError:
        return None
