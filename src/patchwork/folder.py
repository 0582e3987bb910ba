"""Where a run is kept: make its folder, find it again, read and write what describes it."""

import json
import os
import time
from itertools import count
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

try:
    import fcntl
except ImportError:  # where there are no such locks
    fcntl = None  # type: ignore[assignment]

from patchwork.config import check, written
from patchwork.errors import ConfigError, DataError, PatchworkError, ResourceError, one_line
from patchwork.files import write_bytes
from patchwork.processes import FOLDER, main_process

CONFIG, MANIFEST, LOCK = "config.yaml", "manifest.json", ".lock"
CHANGEABLE = (  # when a run is resumed
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "save_seconds",
)


def find_run(config: DictConfig) -> tuple[DictConfig, Path | None]:
    """Return the configuration to run, and the folder of the run to go on with, or None for a new one.

    Raises:
        ConfigError: if `resume`, `folder` and the other settings do not fit together.
        DataError: if there is no run to resume.
    """
    if not main_process() and FOLDER in os.environ:  # the main process has decided
        return read_config(Path(os.environ[FOLDER])), Path(os.environ[FOLDER])
    if config.resume not in (None, "auto"):
        return resumed_config(config, Path(config.resume)), Path(config.resume)
    own = own_config(config)
    if config.folder is None:
        return own, find_same(own) if config.resume else None
    folder = Path(config.folder)
    if folder.is_file():
        raise ConfigError(f"folder={folder} is a file: name a folder")
    if not (folder / CONFIG).exists():
        if (folder / "checkpoints").exists():
            raise ConfigError(f"folder={folder} holds checkpoints of a run without its {CONFIG}: name another folder")
        return own, None
    if config.resume is None:
        raise ConfigError(f"folder={folder} holds a run already: add resume=auto to go on with it, or name another")
    return same_config(own, folder), folder


def own_config(config: DictConfig) -> DictConfig:
    """Resolve a configuration and leave out what says only where it is kept and how it was started."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return OmegaConf.create({key: value for key, value in plain.items() if key not in ("folder", "resume")})


def resumed_config(config: DictConfig, folder: Path) -> DictConfig:
    """Return the configuration of the run in `folder`, on the devices that `config` names."""
    saved = read_config(folder)
    for override in HydraConfig.get().overrides.task:
        key = override.lstrip("+").partition("=")[0]
        if key in CHANGEABLE:
            OmegaConf.update(saved, key, OmegaConf.select(config, key))
        elif key != "resume":
            raise ConfigError(
                f"{override} cannot be set when a run is resumed: only {', '.join(CHANGEABLE)} can; "
                "start a new run to change anything else"
            )
    return saved


def find_same(config: DictConfig) -> Path | None:
    """Return the latest run of the same configuration, whatever its devices, or None; damaged ones are passed over."""
    for path in sorted(place().glob(f"*/{CONFIG}"), reverse=True):
        try:
            same_config(config, path.parent)
        except PatchworkError:
            continue
        return path.parent
    return None


def same_config(config: DictConfig, folder: Path) -> DictConfig:
    """Return `config` if the run in `folder` has the same but for its devices, else raise a `ConfigError`."""
    ours, theirs = flat(config), flat(read_config(folder))
    for key in sorted(set(ours) | set(theirs)):
        if ours.get(key) != theirs.get(key) and key not in CHANGEABLE:
            raise ConfigError(
                f"{key}={written(ours.get(key))} is not what the run in {folder} has: "
                f"use {written(theirs.get(key))}, or another folder"
            )
    return config


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested keys to dotted ones."""
    if isinstance(node, DictConfig):
        below = (flat(value, f"{path}.{name!s}".lstrip(".")) for name, value in node.items())
        return {key: value for values in below for key, value in values.items()}
    return {path: node}


def chosen() -> tuple[str, str]:
    """Return the names under which the task and its model were chosen on the command line."""
    choices = HydraConfig.get().runtime.choices
    model = next(choice for group, choice in choices.items() if group.partition("@")[0].strip("/") == "model")
    return choices["task"], model


def place() -> Path:
    """Return the folder of all runs of the chosen task and model."""
    return Path("outputs", *chosen())


def new_folder(wanted: str | None, within: Path | None = None) -> Path:
    """Make the folder of a new run, which no other run has; one that is not `wanted` by name is made `within` another.

    Raises:
        ResourceError: if it cannot be made.
    """
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in count(1):
        folder = Path(wanted) if wanted else (within or place()) / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=wanted is not None)
        except FileExistsError:
            continue
        except OSError as error:
            raise ResourceError(f"folder={folder} cannot be made: {error.strerror}; name one that can") from error
        else:
            return folder
    raise AssertionError


def lock(folder: Path, name: str = LOCK) -> IO[str]:
    """Take a run for this process, until the file that is returned is closed or the process ends.

    Raises:
        ResourceError: if another process has it.
    """
    file = (folder / name).open("w")
    if fcntl is not None and main_process():
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not kept alive by a loader's workers
        except BlockingIOError as error:
            raise ResourceError(f"{folder} is being trained by another process: wait for it, or stop it") from error
    return file


def read_config(folder: Path) -> DictConfig:
    """Read and check the configuration of a run.

    Raises:
        DataError: if there is none, or a damaged one.
        ConfigError: if it is not one that this package would write.
    """
    try:
        config = OmegaConf.load(folder / CONFIG)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:  # without a reason it is OmegaConf's, of the contents
            fault = f"its {CONFIG} cannot be read ({error.strerror})"
            raise DataError(f"{folder} is not a run's folder: {fault}") from error
        raise DataError(f"{folder / CONFIG} is damaged: {one_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise DataError(f"{folder / CONFIG} is damaged: it holds no keys")
    check(config)
    return config


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a run, or nothing if it has none yet.

    Raises:
        DataError: if it is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged: {one_line(error)}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("metrics", {}), dict):
        raise DataError(f"{folder / MANIFEST} is damaged: it holds no keys")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    if main_process():
        write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
