"""The commands' front: compose the configuration with Hydra, and tell a fault in one line with its exit code."""

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from patchwork.config import one_line, unknown
from patchwork.errors import ConfigError, Interrupted, PatchworkError

CONF = Path(sys.argv[0]).resolve().parent / "conf"


def interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a function of a configuration into a command of that name in `conf/`."""

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        @wraps(function)
        def job(config: DictConfig) -> None:
            import patchwork.lightning  # noqa: F401

            try:
                function(config)
            except PatchworkError as error:
                tell(error)
                if HydraConfig.get().mode is RunMode.MULTIRUN:
                    raise  # Hydra notes it and goes on with the next job
                sys.exit(error.exit_code)

        @wraps(function)
        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # faults come to us and not to Hydra's own printer
            warnings.showwarning = warn
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, interrupt)
            try:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
            except PatchworkError as error:  # of a multirun's job, told already
                sys.exit(error.exit_code)
            except (HydraException, OmegaConfBaseException) as error:
                fault = explain(error, config_name)
                tell(fault)
                sys.exit(fault.exit_code)
            except Interrupted as stop:
                tell(stop)
                sys.exit(stop.exit_code)

        return main

    return decorate


def tell(error: BaseException) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one of the processes that train together speaks for all
        print(f"{Path(sys.argv[0]).name}: {one_line(error)}", file=sys.stderr)


def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Show a warning of ours as one line; those of libraries are for developers, and left out."""
    if issubclass(category, UserWarning) and not re.search("lightning|torch", category.__module__):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def explain(error: BaseException, config_name: str) -> ConfigError:
    """Say in one line what Hydra says in many: the key, the value and what is allowed."""
    text = str(error.__cause__ or error) + "\n" + str(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, value = (error.missing_cfg_file or "").rpartition("/")
        return ConfigError(f"{group}={value} is not there: use one of {', '.join(sorted(error.options))}")
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        value = next((word.partition("=")[2] for word in sys.argv[1:] if word.lstrip("+~").startswith(f"{key}=")), "")
        parent = key.rpartition(".")[0]
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            node: Any = hydra.compose(config_name)
        for part in filter(None, parent.split(".")):
            node = node.get(part) if isinstance(node, DictConfig) else None
        known = [str(name) for name in node or []]
        return unknown(key, value, parent or "the configuration", known)
    return ConfigError(one_line(error))
