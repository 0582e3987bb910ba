"""Hydra's own keys: those that a run follows, and those that are refused because they would do something else.

A run writes everything into its run directory, so Hydra makes no directory, no log file and no copy of the
configuration.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from hydra.conf import HydraConf
from hydra.core.utils import configure_log
from omegaconf import OmegaConf

from patchwork.core.errors import ConfigError
from patchwork.core.overrides import override_key
from patchwork.core.paths import expand_home
from patchwork.core.schema import format_value
from patchwork.core.shell_overrides import parse_typed

DEFAULT_DIR = "."  # of hydra.run.dir and hydra.sweep.subdir: the run directory is our own
PLAIN_RUN = ("hydra.mode=RUN", f"hydra.run.dir={DEFAULT_DIR}")  # of a job, whatever its experiment's file says
MULTIRUN_KEYS = ("hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher")  # and those below them
JOB_KEYS = ("hydra.mode", "hydra.run.dir", *MULTIRUN_KEYS)  # which the jobs of a multirun do not share with it


def check_hydra(hydra_cfg: HydraConf, *, multirun: bool) -> None:
    """Check Hydra's own configuration.

    Raises:
        ConfigError: if a key would do something else here than it says.
    """
    if hydra_cfg.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true is not allowed: paths belong to the working directory, and a run writes into its "
            "run directory; set run_dir=…, or with -m hydra.sweep.dir=… and hydra.sweep.subdir=…"
        )
    if hydra_cfg.output_subdir is not None:
        raise ConfigError(
            f"hydra.output_subdir={hydra_cfg.output_subdir} is not allowed: a run directory holds config.yaml already"
        )
    if hydra_cfg.callbacks:
        raise ConfigError(f"hydra.callbacks.{next(iter(hydra_cfg.callbacks))} is not allowed: use callbacks=…")
    handlers: Any = hydra_cfg.job_logging.get("handlers") or {}
    if any("filename" in handler for handler in handlers.values()):
        choice = hydra_cfg.runtime.choices.get("hydra/job_logging")
        raise ConfigError(
            f"hydra/job_logging={choice} is not allowed, as it writes a file: use hydra/job_logging=stdout"
        )
    if hydra_cfg.verbose and not handlers:
        raise ConfigError(
            f"hydra.verbose={format_value(hydra_cfg.verbose)} needs a place for messages: add hydra/job_logging=stdout"
        )
    sweeper = hydra_cfg.runtime.choices.get("hydra/sweeper")
    if sweeper != "basic":
        raise ConfigError(f"hydra/sweeper={sweeper} is not allowed: patchwork sweep searches with Optuna")
    for override in typed_overrides(hydra_cfg, "hydra"):
        if not multirun and override_key(override).startswith(MULTIRUN_KEYS):
            raise ConfigError(f"{override} applies to several runs: add -m, or drop it")
        if multirun and override_key(override) == "hydra.run.dir":
            raise ConfigError(
                f"{override} applies to one run: use hydra.sweep.dir=… hydra.sweep.subdir='${{hydra.job.num}}'"
            )


def typed_overrides(hydra_cfg: HydraConf, kind: Literal["hydra", "task"]) -> list[str]:
    """Return the overrides of Hydra's keys, or all others, with interpolations as they are written."""
    overrides: Any = OmegaConf.to_container(getattr(hydra_cfg.overrides, kind), resolve=False)
    return overrides


def run_dir_override(hydra_cfg: HydraConf, overrides: list[str]) -> str | None:
    """Return the run directory that `hydra.run.dir` sets, or None if it sets none.

    Raises:
        ConfigError: if `run_dir` is set, too.
    """
    run_dir = hydra_cfg.run.dir
    if run_dir == DEFAULT_DIR:
        return None
    for override in overrides:
        if override_key(override) == "run_dir":
            raise ConfigError(f"hydra.run.dir={run_dir} cannot be combined with {override}: drop one of them")
    return run_dir


def sweeper_params(hydra_cfg: HydraConf, overrides: list[str]) -> list[str]:
    """Return `hydra.sweeper.params` as overrides that Hydra parses, without those that the command line sets, too.

    Args:
        hydra_cfg: Hydra's own configuration.
        overrides: those of the command line, as Hydra parses them.
    """
    typed = {override_key(override) for override in overrides}
    params = [f"{key}={value}" for key, value in (hydra_cfg.sweeper.get("params") or {}).items()]
    return [param for param in parse_typed(params, sweep=True) if override_key(param) not in typed]


def job_overrides(hydra_cfg: HydraConf) -> list[str]:
    """Return the overrides of Hydra's keys that each job of a multirun gets, which is a plain run."""
    shared = [each for each in typed_overrides(hydra_cfg, "hydra") if not override_key(each).startswith(JOB_KEYS)]
    return [*shared, *PLAIN_RUN]


@contextmanager
def job_environment(hydra_cfg: HydraConf) -> Iterator[None]:
    """Set the environment variables of `hydra.job.env_set` and the logging of `hydra/job_logging` for the context."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    variables: Any = OmegaConf.to_container(hydra_cfg.job.env_set)
    job_logging: Any = hydra_cfg.job_logging
    with patch.dict(os.environ, {name: str(value) for name, value in variables.items()}):
        configure_log(job_logging, hydra_cfg.verbose)
        try:
            yield
        finally:
            root.handlers, root.level = handlers, level


def sweep_dir_of(hydra_cfg: HydraConf) -> Path:
    """Return the directory of a multirun."""
    return expand_home(hydra_cfg.sweep.dir)
