"""Train a task, or resume a run: Hydra composes the configuration, `patchwork.runs.train` does the rest."""

import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import hydra
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from patchwork import START_TIME
from patchwork.commands import multirun
from patchwork.commands.app import print_help, run_command
from patchwork.commands.train_help import train_help
from patchwork.core.agent_args import agent_args
from patchwork.core.errors import ConfigError, PatchworkWarning
from patchwork.core.hydra_compose import VERSION_BASE
from patchwork.core.hydra_errors import argparse_error, check_words, several_values_error, translate_hydra_error
from patchwork.core.job import update_job_status
from patchwork.core.overrides import parse_override, shell_command
from patchwork.core.paths import expand_home
from patchwork.core.schema import check_scalars, resolve
from patchwork.core.shell_overrides import parse_typed
from patchwork.runs.compose import CONF_DIR, ConfigSource, compose_with_hydra, without_hydra
from patchwork.runs.fitting import check_fit
from patchwork.runs.hydra_keys import (
    DEFAULT_DIR,
    check_hydra,
    job_environment,
    run_dir_override,
    sweeper_params,
    typed_overrides,
)


def command(args: list[str]) -> int:
    if print_help(args, lambda: train_help(args)):
        return 0
    return run_command("train", lambda: compose_and_run(agent_args(args)))


def compose_and_run(args: list[str]) -> int:
    """Compose a configuration and train it, or start a job for each of several."""
    options = parse_options(args)
    source = config_source(options)
    check_words(options.overrides, CONF_DIR, "train")
    if options.help or options.hydra_help or options.cfg or options.info or options.shell_completion or options.resolve:
        overrides = parse_typed(options.overrides, sweep=options.multirun)
        try:
            call_hydra(options, overrides)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise source.translate(error, overrides) from error
        return 0
    multirun_asked = options.multirun or any(
        each.lstrip("+").upper() == "HYDRA.MODE=MULTIRUN" for each in options.overrides
    )
    overrides = parse_typed(options.overrides, sweep=multirun_asked)
    composed = compose_typed(overrides, source, multirun_asked=multirun_asked)
    is_multirun = options.multirun or composed.hydra.mode is RunMode.MULTIRUN
    check_hydra(composed.hydra, multirun=is_multirun)
    if is_multirun:
        return run_multirun(options, composed.hydra, overrides, source)
    run(composed, args)
    return 0


def run_multirun(options: Namespace, hydra_cfg: HydraConf, overrides: list[str], source: ConfigSource) -> int:
    """Check the configuration of each job, and start them all; return the exit code."""
    params = sweeper_params(hydra_cfg, overrides)
    planned = multirun.plan_jobs(hydra_cfg, [*params, *typed_overrides(hydra_cfg, "task")], source)
    words = [*params, *overrides, "hydra.sweeper.params=null"]
    options.multirun = True
    return multirun.run_jobs(hydra_cfg, planned, lambda added, job: call_hydra(options, [*words, *added], job))


def parse_options(args: list[str]) -> Namespace:
    """Return Hydra's options and the overrides, which may stand in any order.

    Raises:
        ConfigError: if an option does not exist or is not allowed.
    """
    with patch.object(ArgumentParser, "error", argparse_error):
        try:
            options = get_args_parser().parse_intermixed_args(args)
        except HydraException as error:
            raise translate_hydra_error(error, CONF_DIR, "train", args) from error
    if options.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun is not allowed, as it executes what is in a file: use resume=RUN_DIR")
    if options.config_path is not None:
        options.config_path = str(expand_home(options.config_path).absolute())
    if options.config_dir is not None:
        options.config_dir = str(expand_home(options.config_dir).absolute())
        if not Path(options.config_dir).is_dir():
            raise ConfigError(f"--config-dir={options.config_dir} is not a directory")
    return options


def config_source(options: Namespace) -> ConfigSource:
    """Return the files that Hydra's options name."""
    return ConfigSource(
        conf_dir=Path(options.config_path or CONF_DIR),
        config_name=options.config_name or "train",
        config_dir=Path(options.config_dir) if options.config_dir else None,
    )


def compose_typed(overrides: list[str], source: ConfigSource, *, multirun_asked: bool) -> DictConfig:
    """Compose the configuration that overrides name, with Hydra's own as the key `hydra`.

    Raises:
        ConfigError: if it cannot be composed, or an override has several values without a multirun.
    """
    listed = [override for override in overrides if parse_override(override).is_sweep_override()]
    composed = compose_with_hydra(overrides, source, multirun=bool(listed) or multirun_asked)
    if listed and not multirun_asked and composed.hydra.mode is not RunMode.MULTIRUN:
        raise several_values_error(listed[0], source.conf_dirs)
    return composed


def call_hydra(options: Namespace, overrides: list[str], job: Callable[[DictConfig], None] | None = None) -> None:
    """Let Hydra show what the options ask for, or launch the jobs of a multirun, each of which calls `job`."""
    flags = {name.replace("_", "-"): value for name, value in vars(options).items() if name != "overrides"}
    argv = [
        sys.argv[0],
        *(f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items() if value),
        *overrides,
    ]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us and not to Hydra's own printer
    with patch.object(sys, "argv", argv):
        hydra.main(version_base=VERSION_BASE, config_path=str(CONF_DIR), config_name="train")(job or print)()


def run(composed: DictConfig, args: list[str]) -> None:
    """Train one configuration, which has Hydra's own as the key `hydra`."""
    hydra_cfg = composed.hydra
    overrides = typed_overrides(hydra_cfg, "task")
    config = without_hydra(composed)
    check_fit(config)
    check_scalars(config)
    if (run_dir := run_dir_override(hydra_cfg, overrides)) is not None:
        config.run_dir = run_dir
        overrides.append(f"run_dir={run_dir}")
    if hydra_cfg.sweeper.get("params"):
        warnings.warn("hydra.sweeper.params applies to several runs: -m starts them", PatchworkWarning, stacklevel=2)
    with job_environment(hydra_cfg):
        config = resolve_hydra(config, composed)
        import patchwork.core.fast_import  # noqa: F401  # from here on with torch, which takes seconds
        from patchwork.runs.train import Launch, train

        train(config, Launch(shell_command("train", *args), tuple(overrides), START_TIME))
    update_job_status(done=True)


def resolve_hydra(config: DictConfig, composed: DictConfig) -> DictConfig:
    """Return a configuration with its interpolations resolved, as `${hydra:job.name}`.

    Hydra's global configuration, which they refer to, is put back: where there is one, Lightning starts the other
    processes of a run by it.

    Raises:
        ConfigError: if an interpolation cannot be resolved, or a value is missing.
    """
    instance = HydraConfig.instance()
    before = instance.cfg
    try:
        if composed.hydra.run.dir != DEFAULT_DIR:
            composed.hydra.runtime.output_dir = str(Path(composed.hydra.run.dir).absolute())
        elif "hydra:runtime.output_dir" in OmegaConf.to_yaml(config):
            raise ConfigError("${hydra:runtime.output_dir} is the directory that hydra.run.dir=… names: add that")
        instance.set_config(composed)
        return OmegaConf.create(resolve(config))
    finally:
        instance.cfg = before
