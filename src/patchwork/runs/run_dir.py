"""The directory of a run: name it, make it, find it again."""

import os
import re
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from patchwork.core.errors import ConfigError, DataError, PatchworkError, ResourceError, one_line
from patchwork.core.rank import RUN_DIR, is_rank_zero
from patchwork.core.schema import check_config, format_value

CONFIG_FILE, LOCK_FILE = "config.yaml", ".lock"
LAUNCH_KEYS = ("run_dir", "resume")  # which say where a run is and how it was started, but not what it is
RESUMABLE_OVERRIDES = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "checkpoint_every_seconds",
)


def find_run(config: DictConfig, overrides: Sequence[str] = ()) -> tuple[DictConfig, Path | None]:
    """Return the configuration to train, and the directory of the run to resume, or None for a new run.

    Args:
        config: as it was composed.
        overrides: those of the command line, most of which are refused when a run is resumed.

    Raises:
        ConfigError: if `resume`, `run_dir` and the other keys contradict each other.
        DataError: if there is no run to resume.
    """
    if not is_rank_zero() and RUN_DIR in os.environ:  # rank 0 has decided
        return read_config(Path(os.environ[RUN_DIR])), Path(os.environ[RUN_DIR])
    if config.resume not in (None, "auto"):
        return resumed_config(config, overrides, Path(config.resume)), Path(config.resume)
    new_config = strip_launch_keys(config)
    if config.run_dir is None:
        return new_config, find_matching_run(new_config) if config.resume else None
    run_dir = Path(config.run_dir)
    if run_dir.is_file():
        raise ConfigError(f"run_dir={run_dir} is a file: pass a directory")
    if not (run_dir / CONFIG_FILE).exists():
        if (run_dir / "checkpoints").exists():
            raise ConfigError(f"run_dir={run_dir} holds checkpoints but no {CONFIG_FILE}: pass another directory")
        return new_config, None
    if config.resume is None:
        raise ConfigError(f"run_dir={run_dir} already holds a run: add resume=auto to resume it, or pass another")
    check_same_config(new_config, run_dir)
    return new_config, run_dir


def strip_launch_keys(config: DictConfig) -> DictConfig:
    """Return a configuration with its links resolved, without the keys that say only how the run was started."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return OmegaConf.create({key: value for key, value in values.items() if key not in LAUNCH_KEYS})


def resumed_config(config: DictConfig, overrides: Sequence[str], run_dir: Path) -> DictConfig:
    """Return the configuration of the run in `run_dir`, with those overrides that a resumed run may have.

    Raises:
        ConfigError: if there are others.
    """
    saved = read_config(run_dir)
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if key in RESUMABLE_OVERRIDES:
            OmegaConf.update(saved, key, OmegaConf.select(config, key))
        elif key != "resume":
            raise ConfigError(
                f"{override} cannot be set when a run is resumed: only {', '.join(RESUMABLE_OVERRIDES)} can; "
                "start a new run to change anything else"
            )
    return saved


def find_matching_run(config: DictConfig) -> Path | None:
    """Return the latest run of the same configuration, whatever its devices, or None; damaged runs are skipped."""
    for path in sorted(runs_root(config).glob(f"*/{CONFIG_FILE}"), reverse=True):
        try:
            check_same_config(config, path.parent)
        except PatchworkError:
            continue
        return path.parent
    return None


def check_same_config(config: DictConfig, run_dir: Path) -> None:
    """Raise a `ConfigError` unless the run in `run_dir` has this configuration, whatever its devices."""
    requested, saved = flatten(config), flatten(read_config(run_dir))
    for key in sorted(set(requested) | set(saved)):
        if requested.get(key) != saved.get(key) and key not in RESUMABLE_OVERRIDES:
            raise ConfigError(
                f"{key}={format_value(requested.get(key))} differs from the run in {run_dir}: use "
                f"{format_value(saved.get(key))}, or another directory"
            )


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Return the values of a nested mapping by their dotted keys."""
    if isinstance(node, DictConfig):
        children = (flatten(value, f"{path}.{name!s}".lstrip(".")) for name, value in node.items())
        return {key: value for values in children for key, value in values.items()}
    return {path: node}


def choice_names(config: DictConfig) -> tuple[str, str]:
    """Return the names of the task and the model: those of their choices, otherwise those of their classes."""
    names = (config.get(f"{key}_name") or config[key]._target_.rpartition(".")[2] for key in ("task", "model"))
    task, model = (re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() for name in names)
    return task, model


def runs_root(config: DictConfig) -> Path:
    """Return the directory of all runs of a task and a model."""
    return Path("outputs", *choice_names(config))


def make_run_dir(path: str | None, parent: Path) -> Path:
    """Make the directory of a new run: `path`, or if that is None a new one below `parent`, named by the time.

    Raises:
        ResourceError: if it cannot be made.
    """
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in count(1):
        run_dir = Path(path) if path else parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
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
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:  # without a reason it is OmegaConf's, about the contents
            reason = f"its {CONFIG_FILE} cannot be read ({error.strerror})"
            raise DataError(f"{run_dir} is not a run directory: {reason}") from error
        raise DataError(f"{run_dir / CONFIG_FILE} is damaged: {one_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise DataError(f"{run_dir / CONFIG_FILE} is damaged: it is not a mapping")
    check_config(config)
    return config
