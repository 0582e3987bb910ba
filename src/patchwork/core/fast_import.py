"""Import Lightning without packages that no run here uses; every command imports this first.

torchmetrics, which Lightning imports, imports scipy.signal and matplotlib where they are installed, for audio metrics
and plots; they took a quarter of the time to the first training step. During the import they appear to be missing.
"""

import random
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from typing import Any
from unittest.mock import patch

import lightning_utilities.core.imports as available

UNUSED = ("scipy", "matplotlib")


def not_installed(name: str) -> None:
    raise PackageNotFoundError(name)


def hide_unused(find: Callable[..., Any], if_unused: Callable[[str], Any]) -> Callable[..., Any]:
    return lambda name, *args: if_unused(name) if name in UNUSED else find(name, *args)


state = random.getstate()  # which an import there advances
with (
    patch.object(available, "_version", hide_unused(available._version, not_installed)),
    patch.object(available, "find_spec", hide_unused(available.find_spec, lambda name: None)),
):
    import pytorch_lightning  # noqa: F401
random.setstate(state)
