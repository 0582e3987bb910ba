"""Train a task, or resume a run: Hydra composes the configuration, `patchwork.runs.train` does the rest."""

import os
import shlex
import sys
from argparse import ArgumentParser
from unittest.mock import patch

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from patchwork import START_TIME
from patchwork.commands import multirun
from patchwork.commands.app import print_error, run_command
from patchwork.core.errors import ResourceError, one_line
from patchwork.core.hydra_errors import argparse_error, translate_hydra_error
from patchwork.core.job import update_job_status
from patchwork.runs.compose import CONF_DIR, set_choice_names


def main() -> None:
    """Run `train.py`."""
    sys.exit(command(sys.argv[1:]))


def command(args: list[str]) -> int:
    return run_command("train", lambda: compose_and_run(args))


def compose_and_run(args: list[str]) -> int:
    """Let Hydra compose one configuration and train it, or with `-m` start one job for each of several."""
    argv = sys.argv
    multirun.MultirunCallback.sweep_dir = None
    composed, lost = False, 0

    def job(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            multirun.run_job()
            return
        sys.argv = argv  # Lightning starts the other processes of a run by it
        set_choice_names(config, HydraConfig.get())
        overrides = [str(override) for override in HydraConfig.get().overrides.task]
        sys.exit(run_command("train", lambda: run(config, overrides, args)))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us and not to Hydra's own printer
    try:
        with patch.object(sys, "argv", [argv[0], *args]), patch.object(ArgumentParser, "error", argparse_error):
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")(job)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if composed:
            raise
        raise translate_hydra_error(error, CONF_DIR, "train", args) from error
    except RuntimeError as error:
        if multirun.MultirunCallback.sweep_dir is None:
            raise
        lost = print_error("train", ResourceError(f"the launcher lost a job: {one_line(error)[:200]}"))
    sweep_dir = multirun.MultirunCallback.sweep_dir
    return 0 if sweep_dir is None else multirun.print_summary(sweep_dir) or lost


def run(config: DictConfig, overrides: list[str], args: list[str]) -> None:
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.runs.train import Launch, train

    train(config, Launch(shlex.join(["patchwork", "train", *args]), tuple(overrides), START_TIME))
    update_job_status(done=True)
