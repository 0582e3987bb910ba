"""Import Lightning without what no run here uses; every command begins with this.

torchmetrics, which Lightning imports, brings scipy.signal and matplotlib with it wherever they are installed, for audio
metrics and plots; they took a quarter of the time to the first training step. While it is imported they seem missing.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from typing import Any
from unittest.mock import patch

import lightning_utilities.core.imports as available

UNUSED = ("scipy", "matplotlib")


def not_installed(name: str) -> None:
    raise PackageNotFoundError(name)


def unless_unused(find: Callable[..., Any], otherwise: Callable[[str], Any]) -> Callable[..., Any]:
    return lambda name, *rest: otherwise(name) if name in UNUSED else find(name, *rest)


with (
    patch.object(available, "_version", unless_unused(available._version, not_installed)),
    patch.object(available, "find_spec", unless_unused(available.find_spec, lambda name: None)),
):
    import pytorch_lightning  # noqa: F401
