"""The commands' front: compose the configuration with Hydra, and tell a fault in one line with its exit code."""

import os
import re
import signal
import sys
import traceback
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from patchwork import multirun
from patchwork.config import ROOMS, check_call, unknown
from patchwork.errors import (
    ConfigError,
    Interrupted,
    PatchworkError,
    PatchworkWarning,
    ResourceError,
    mendable,
    one_line,
)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a function of a configuration into a command of that name in `conf/`."""

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        script = Path(function.__code__.co_filename).resolve()
        conf = script.parent / "conf"

        @wraps(function)
        def job(config: DictConfig) -> None:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                multirun.run_job(script, config_name)
                return
            import patchwork.lightning  # noqa: F401

            try:
                function(config)
            except Exception as caught:
                error = mendable(caught)
                if error is None:
                    traceback.print_exc()  # a fault of the program
                    multirun.note(error=f"{type(caught).__name__}: {one_line(caught)}")
                    sys.exit(1)
                tell(error)
                sys.exit(error.exit_code)
            multirun.note(done=True)

        @wraps(function)
        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # faults come to us and not to Hydra's own printer
            warnings.showwarning = warn
            multirun.folder = None
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, interrupt)
            try:
                with patch.object(ArgumentParser, "error", refuse):
                    hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(job)()
            except (HydraException, OmegaConfBaseException, ValueError) as error:  # of the composition
                wrong = explain(error, conf, config_name, sys.argv[1:])
                tell(wrong)
                sys.exit(wrong.exit_code)
            except Interrupted as stop:
                tell(stop)
                sys.exit(stop.exit_code)
            except (PatchworkError, OSError) as error:  # of the folder of a multirun
                fault = mendable(error)
                if fault is None:
                    raise
                tell(fault)
                sys.exit(fault.exit_code)
            except RuntimeError as error:
                if multirun.folder is None:
                    raise
                tell(ResourceError(f"the launcher has lost a job: {one_line(error)[:200]}"))
            if multirun.folder is not None:
                sys.exit(multirun.conclude(multirun.folder))

        return main

    return decorate


def call(function: Callable[..., None], words: list[str]) -> int:
    """Call a function with the arguments that words `key=value` give it, and return the command's exit code."""
    return guarded(lambda: function(**check_call(function, words)))


def guarded(action: Callable[[], None]) -> int:
    """Do what a command does, tell a fault in one line, and return the exit code."""
    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with patch.object(warnings, "showwarning", warn):
            action()
    except Exception as caught:
        error = mendable(caught)
        if error is None:
            raise
        tell(error)
        return error.exit_code
    except Interrupted as stop:
        tell(stop)
        return stop.exit_code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def refuse(parser: ArgumentParser, message: str) -> None:
    """Stand in for argparse's own way of refusing a word, which prints a page."""
    raise HydraException(f"{message}; settings are group=choice and key=value, see --help")


def speaks() -> bool:
    """Return whether this is the one of the processes that train together which speaks for all."""
    ranks = (os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ)
    return next(ranks, "0") == "0"


def tell(error: BaseException) -> None:
    if speaks():
        script = Path(sys.argv[0])
        print(f"{script.parent.name if script.stem == '__main__' else script.name}: {one_line(error)}", file=sys.stderr)
        multirun.note(error=one_line(error))


def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Show a warning of ours as one line; those of libraries are for developers, and left out."""
    if issubclass(category, PatchworkWarning) and speaks():
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def explain(error: BaseException, conf: Path, config_name: str, words: list[str]) -> ConfigError:
    """Say in one line what Hydra says of a command's words in many: the key, the value and what is allowed."""
    text = str(error.__cause__ or error) + "\n" + str(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, value = (error.missing_cfg_file or "").rpartition("/")
        hint = "; clusters need pip install '.[cluster]'" if value.startswith("submitit") else ""
        return ConfigError(f"{group}={value} is not there: use one of {', '.join(sorted(error.options))}{hint}")
    if "Ambiguous value for argument" in text:
        word = next(word for word in words if word in text)
        key, _, values = word.partition("=")
        return ConfigError(f"{word} names several values: add -m to run each, or write {key}=[{values}] for a list")
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        if key.startswith("task.") and key.partition(".")[2].partition(".")[0] in ROOMS:
            return ConfigError(f"{key} is not set there: set {key.removeprefix('task.')}")
        value = next((word.partition("=")[2] for word in words if word.lstrip("+~").startswith(f"{key}=")), "")
        parent = key.rpartition(".")[0]
        others = [word for word in words if "=" in word and not word.lstrip("+~").startswith(f"{key}=")]
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            try:
                node: Any = hydra.compose(config_name, others)
            except (HydraException, OmegaConfBaseException):  # more than one fault
                node = hydra.compose(config_name)
        for part in filter(None, parent.split(".")):
            node = node.get(part) if isinstance(node, DictConfig) else None
        known = [str(name) for name in node or []]
        return unknown(key, value, parent or "the configuration", known)
    nothing = [word for word in words if word.endswith("=null")]
    if nothing and "NoneType" in text:
        return ConfigError(f"{' '.join(nothing)}: a group needs a choice ({one_line(error)})")
    return ConfigError(one_line(error))
