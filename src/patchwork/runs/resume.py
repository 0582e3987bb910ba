"""Which run a training continues: the one that `resume` or `run_dir` names, or the latest of the same configuration."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from patchwork.core.errors import ConfigError, DataError, PatchworkError
from patchwork.core.job import read_json
from patchwork.core.lock import is_locked
from patchwork.core.mappings import flatten, read_yaml
from patchwork.core.overrides import override_key, shell_command, shell_override
from patchwork.core.paths import exists, expand_home
from patchwork.core.rank import RUN_DIR, is_rank_zero
from patchwork.core.schema import TARGET_PACKAGES, default_values, find_target, format_value
from patchwork.runs.differences import LAUNCH_KEYS, NAMES, config_overrides, is_left_open, run_overrides, to_plain
from patchwork.runs.run_dir import (
    CONFIG_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    locate_run,
    read_config,
    runs_root,
    warn_of_other_path,
)
from patchwork.runs.weights import shipped_names

ACCELERATOR_KEYS = tuple(f"trainer.{name}" for name in ("accelerator", "devices", "strategy", "deterministic"))
RESUMABLE_KEYS = (  # and all below them: where a run computes and what it shows, but not what it computes
    *ACCELERATOR_KEYS,
    "trainer.num_nodes",
    "trainer.profiler",
    "checkpoint_every_seconds",
    "report",
    "watch",
    "data.num_workers",
    "dataset.root",
    "data.dataset.root",
    "logger",
    "callbacks.progress",
    "callbacks.show_samples",
)


def find_run(config: DictConfig, overrides: Sequence[str] = ()) -> tuple[DictConfig, Path | None]:
    """Return the configuration to train, and the directory of the run to resume, or None for a new run.

    Args:
        config: as it was composed.
        overrides: those of the command line, of which a resumed run takes only some; by default those that distinguish
            `config` from the default configuration.

    Raises:
        ConfigError: if `resume`, `run_dir` and the other keys contradict each other.
        DataError: if there is no run to resume.
    """
    if not is_rank_zero() and RUN_DIR in os.environ:  # rank 0 has decided
        return read_config(Path(os.environ[RUN_DIR])), Path(os.environ[RUN_DIR])
    if config.resume not in (None, "auto"):
        run_dir = locate_run(config.resume)
        if not exists(run_dir):
            raise DataError(
                f"resume={config.resume} is not a run directory: it does not exist; resume=auto continues the latest "
                "run of the same configuration, and patchwork runs lists all runs"
            )
        warn_of_other_path(config.resume, run_dir, "last.ckpt")
        return resumed_config(config, overrides, run_dir), run_dir
    new_config = strip_launch_keys(config)
    if config.run_dir is None:
        found = find_matching_run(new_config) if config.resume else None
        if found is None:
            return new_config, None
        return complete(new_config, read_config(found)), found
    run_dir = expand_home(config.run_dir)
    if run_dir.is_file():
        raise ConfigError(f"run_dir={run_dir} is a file: pass a directory")
    if not exists(run_dir / CONFIG_FILE):
        if exists(run_dir / "checkpoints"):
            raise ConfigError(f"run_dir={run_dir} holds checkpoints but no {CONFIG_FILE}: pass another directory")
        return new_config, None
    if config.resume is None:
        raise ConfigError(f"run_dir={run_dir} already holds a run: add resume=auto to resume it, or pass another")
    saved = read_config(run_dir)
    check_same_config(new_config, saved, run_dir)
    return complete(new_config, saved), run_dir


def strip_launch_keys(config: DictConfig) -> DictConfig:
    """Return a configuration with its links resolved, without the keys that say only how the run was started.

    The path of `init_from` becomes absolute, so that it means the same wherever the run is resumed, unless it is the
    name of weights that come with the package.
    """
    values = {key: value for key, value in to_plain(config).items() if key not in LAUNCH_KEYS}
    if values.get("init_from") is not None and values["init_from"] not in shipped_names():
        values["init_from"] = str(expand_home(values["init_from"]).absolute())
    return OmegaConf.create(values)


# --- a run that is named ---------------------------------------------------------------------------------------------


def resumed_config(config: DictConfig, overrides: Sequence[str], run_dir: Path) -> DictConfig:
    """Return the configuration of the run in `run_dir`, with those overrides that a resumed run may have.

    Overrides that change nothing are taken, too, such as those of the command that started the run.

    Raises:
        ConfigError: if one changes what the run computes.
    """
    saved, requested = read_config(run_dir), strip_launch_keys(config)
    overrides = [*(overrides or config_overrides(requested))]
    if config.run_dir is not None and locate_run(config.run_dir).resolve() != run_dir.resolve():
        raise ConfigError(f"resume={config.resume} and run_dir={config.run_dir} name two directories: drop run_dir")
    before, changed = to_plain(saved), []
    for override in overrides:
        key = override_key(override).lstrip("~")
        if key == "accelerator" or is_resumable(key):
            update_keys(saved, requested, key)
        elif key not in LAUNCH_KEYS and not sets_same_value(requested, before, key):
            changed.append(override)
    different = list(differences(requested, before))
    if changed and different:
        raise changed_on_resume(blame(changed, different, before, run_dir), overrides, before, run_dir)
    return saved


def is_resumable(key: str) -> bool:
    """Return whether a resumed run may have another value of a key."""
    return any(f"{key}.".startswith(f"{resumable}.") for resumable in RESUMABLE_KEYS)


def update_keys(saved: DictConfig, requested: DictConfig, key: str) -> None:
    """Copy to a saved configuration what an override of a key or group has set."""
    keys = {"accelerator": ACCELERATOR_KEYS, "dataset.root": ("dataset.root", "data.dataset.root")}.get(key, (key,))
    for name in keys:
        OmegaConf.update(saved, name, OmegaConf.select(requested, name), merge=False)


def sets_same_value(requested: DictConfig, saved: Mapping[str, Any], key: str) -> bool:
    """Return whether a key, not a group, has the value in one configuration that it has in the other."""
    values = flatten(to_plain(requested))
    return key in values and values[key] == read_value(saved, key)


def blame(overrides: Sequence[str], different: Sequence[str], saved: Mapping[str, Any], run_dir: Path) -> Sequence[str]:
    """Return those overrides that make configurations differ in some keys; all of them if none is known to."""
    own = run_overrides(run_dir, saved)
    changing = []
    for key, override in {override_key(each).lstrip("~"): each for each in overrides}.items():  # the last of a key
        is_node = key.partition(".")[0] in saved  # unlike a choice of experiment=… or debug=…
        if any(f"{each}.".startswith(f"{key}.") for each in different) or not (is_node or override in own):
            changing.append(override)
    return changing or overrides


def changed_on_resume(
    changed: Sequence[str], overrides: Sequence[str], saved: Mapping[str, Any], run_dir: Path
) -> ConfigError:
    """Return the error of overrides that change what a resumed run computes, with the command that does it instead."""
    if any(override_key(override) == "init_from" for override in changed):
        return ConfigError(
            f"init_from= and resume={run_dir} cannot be combined: resume= continues a run with its own weights, "
            "init_from= begins a new run with those of another; drop one"
        )
    keys = [key for key in RESUMABLE_KEYS if key != "data.dataset.root"]  # which dataset.root sets
    epochs, more = saved["trainer"]["max_epochs"], more_epochs(changed, saved)
    if any(override_key(override) in ("trainer.max_epochs", "trainer.max_steps") for override in changed):
        reason = f"its learning-rate schedule is fixed and ends with epoch {epochs}"
    else:
        reason = f"only {', '.join(('accelerator', *keys))} can"
    purpose = f"to train {more} epoch{'s' if more > 1 else ''} more" if more else "with its weights"
    if read_json(run_dir / MANIFEST_FILE).get("status") != "finished":
        purpose = f"{shell_command('train', resume=str(run_dir))} finishes it; {purpose}"
    new = {override_key(override): override for override in overrides if override_key(override) not in LAUNCH_KEYS}
    if more:
        new["trainer.max_epochs"] = f"trainer.max_epochs={more}"
    words = [each for each in run_overrides(run_dir, saved) if override_key(each) not in {*new, "init_from"}]
    command = shell_command("train", *words, *new.values(), init_from=str(run_dir))
    return ConfigError(
        f"{shlex.join(changed)} cannot be set when a run is resumed: {reason}; {purpose}, begin a new run: {command}"
    )


def more_epochs(changed: Sequence[str], saved: Mapping[str, Any]) -> int:
    """Return how many epochs more than a run has are asked for."""
    values = [each.partition("=")[2] for each in changed if override_key(each) == "trainer.max_epochs"]
    return max([0, *(int(value) - saved["trainer"]["max_epochs"] for value in values if value.isdecimal())])


# --- a run that is found by its configuration ------------------------------------------------------------------------


def find_matching_run(config: DictConfig) -> Path | None:
    """Return the latest run of the same configuration that no process is training, otherwise the latest at all.

    It may differ in the keys that a resumed run can change. Damaged runs are skipped.
    """
    in_use = None
    for path in sorted(runs_root(config).glob(f"*/{CONFIG_FILE}"), reverse=True):
        run_dir = path.parent
        try:
            if first_difference(config, read_yaml(path)) is not None:
                continue
            read_config(run_dir)
        except PatchworkError:
            continue
        if not is_locked(run_dir, LOCK_FILE):
            return run_dir
        in_use = in_use or run_dir
    return in_use


def check_same_config(config: DictConfig, saved: DictConfig, run_dir: Path) -> None:
    """Raise a `ConfigError` unless a run has this configuration, but for the keys that a resumed run can change."""
    key = first_difference(config, saved)
    if key is not None:
        requested, before = (read_value(to_plain(each), key) for each in (config, saved))
        raise ConfigError(
            f"{key}={format_value(requested)} differs from the run in {run_dir}: use {format_value(before)}, or "
            f"another directory; {shell_override('init_from', str(run_dir))} begins a new run with its weights"
        )


def complete(config: DictConfig, saved: DictConfig) -> DictConfig:
    """Return a configuration with the values of a saved one in what it leaves open."""
    completed = config.copy()
    for key, value in flatten(to_plain(config)).items():
        if is_left_open(key, value):
            OmegaConf.update(completed, key, read_value(to_plain(saved), key))
    return completed


def first_difference(requested: Mapping[str, Any], saved: Mapping[str, Any]) -> str | None:
    """Return the first key in which configurations differ, of those that a resumed run cannot change."""
    return next(differences(requested, saved), None)


def differences(requested: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys in which configurations differ, of those that a resumed run cannot change."""
    requested, saved = to_plain(requested), to_plain(saved)
    one, other = flatten(requested), flatten(saved)
    for key in sorted({*one, *other}):
        unnamed = key in NAMES and None in (one.get(key), other.get(key))
        if is_resumable(key) or unnamed or is_left_open(key, one.get(key)):
            continue
        if read_value(requested, key) != read_value(saved, key):
            yield key


def read_value(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key in plain values; of one that a run is older than, its constructor's default."""
    *parents, name = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return None
    packages = [TARGET_PACKAGES[parent] for parent in parents if parent in TARGET_PACKAGES]
    if name in node or "_target_" not in node or not packages:
        return node.get(name)
    return default_values(find_target(".".join(parents), node["_target_"], packages[-1])).get(name)
