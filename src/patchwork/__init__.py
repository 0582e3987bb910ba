"""Patchwork: a PyTorch Lightning and Hydra framework for small vision transformers.

`compose`, `train` and `Run` are imported when they are first used: they bring torch and Lightning.
"""

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchwork.runs.compose import compose
    from patchwork.runs.run import Run
    from patchwork.runs.train import train

__version__ = "0.1.0"
__all__ = ["Run", "compose", "train"]

START_TIME = time.time()  # when the command started, as near as Python can tell: every command imports this first
HOMES = {"Run": "patchwork.runs.run", "compose": "patchwork.runs.compose", "train": "patchwork.runs.train"}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("patchwork.core.fast_import")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
