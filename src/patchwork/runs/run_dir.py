"""The directory of a run: name it, make it, locate it by a path, read its configuration."""

import re
import time
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from patchwork.core.errors import DataError, PatchworkWarning, ResourceError, one_line
from patchwork.core.paths import exists, expand_home
from patchwork.core.schema import check_config

CONFIG_FILE, MANIFEST_FILE, LOCK_FILE = "config.yaml", "manifest.json", ".lock"
STAMP = "%Y-%m-%d_%H-%M-%S"  # names the directory of a run
MAX_DEPTH = 3  # of a file in a run directory, such as generated/0/image.png


def locate_run(path: str | Path) -> Path:
    """Return the run directory that a path names: itself, or the one that a file or directory within it belongs to.

    So a checkpoint names its run. `~` is the home directory. A path that names no run is returned as it is, for the
    error of whoever reads it.
    """
    path = expand_home(path)
    if exists(path / CONFIG_FILE) or not exists(path):
        return path
    above = [*path.parents[:MAX_DEPTH], *path.resolve().parents[:MAX_DEPTH]]
    return next((parent for parent in above if is_run_dir(parent)), path)


def is_run_dir(path: Path) -> bool:
    return exists(path / CONFIG_FILE) and (exists(path / MANIFEST_FILE) or exists(path / "checkpoints"))


def warn_of_other_path(path: str | Path, run_dir: Path, used: str) -> None:
    """Warn if a path names neither the directory of a run nor the checkpoint of it that is used."""
    path = expand_home(path)
    if path.suffix != ".ckpt":
        if path.resolve() != run_dir.resolve():
            warnings.warn(f"{path} is within the run {run_dir}, which is used", PatchworkWarning, stacklevel=2)
    elif path.name != used and exists(run_dir / "checkpoints" / used):
        warnings.warn(f"{path} names its run, of which {used} is used", PatchworkWarning, stacklevel=2)


def choice_names(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of the task and the model: those of their choices, otherwise those of their classes."""
    names = (config.get(f"{key}_name") or config[key]["_target_"].rpartition(".")[2] for key in ("task", "model"))
    task, model = (re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() for name in names)
    return task, model


def test_result(manifest: dict[str, Any]) -> tuple[str, float] | None:
    """Return the name and value of a run's test metric, the one that its task monitors; None if it has none yet."""
    monitor = manifest.get("monitor")
    name = f"test/{monitor.removeprefix('val/')}" if isinstance(monitor, str) else None
    value = manifest.get("metrics", {}).get(name)
    return (name, float(value)) if name is not None and isinstance(value, int | float) else None


def runs_root(config: DictConfig) -> Path:
    """Return the directory of all runs of a task and a model."""
    return Path("outputs", *choice_names(config))


def make_run_dir(path: str | None, parent: Path) -> Path:
    """Make the directory of a new run: `path`, or if that is None a new one below `parent`, named by the time.

    Raises:
        ResourceError: if it cannot be made.
    """
    stamp = time.strftime(STAMP)
    for attempt in count(1):
        run_dir = expand_home(path) if path else parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            run_dir.mkdir(parents=True, exist_ok=path is not None)
        except FileExistsError as error:
            if path is not None:
                raise ResourceError(f"run_dir={run_dir} is a file: pass a directory") from error
            continue
        except OSError as error:
            raise ResourceError(f"run_dir={run_dir} cannot be created: {error.strerror}; pass another") from error
        else:
            return run_dir
    raise AssertionError


def read_config(run_dir: Path) -> DictConfig:
    """Read and check the configuration of a run.

    Raises:
        DataError: if there is none, or it is damaged.
        ConfigError: if this package would not write it.
    """
    try:
        config = OmegaConf.load(run_dir / CONFIG_FILE)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:  # without a reason it is OmegaConf's, about the contents
            reason = f"its {CONFIG_FILE} cannot be read ({error.strerror})"
            if run_dir.is_file():
                reason = "it is a file, and in no run directory"
            elif not exists(run_dir):
                several = f"; several runs are written run=[{run_dir}]" if "," in run_dir.name else ""
                if run_dir.parts[0].startswith("["):  # commands that take a list have not read it as a path
                    several = "; this command takes one run, not a list"
                reason = f"it does not exist; patchwork runs lists the runs that do{several}"
            elif not exists(run_dir / CONFIG_FILE):
                reason = f"it has no {CONFIG_FILE}; patchwork runs lists the runs that there are"
            raise DataError(f"{run_dir} is not a run directory: {reason}") from error
        raise DataError(f"{run_dir / CONFIG_FILE} is damaged: {one_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise DataError(f"{run_dir / CONFIG_FILE} is damaged: it is not a mapping")
    check_config(config)
    return config
