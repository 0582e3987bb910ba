"""Patchwork: a laboratory for small transformers on images that fit in your head."""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from typing import Any
from unittest.mock import patch

STARTED = time.time()  # when the command began, as near as Python can tell: the first import of every command


def _import_lightning() -> None:
    """Import Lightning without what torchmetrics would pull in for plots and audio, a quarter of every start.

    torchmetrics imports scipy.signal and matplotlib if they are installed; while it is imported, they seem not to be.
    """
    import lightning_utilities.core.imports as available

    def without(find: Callable[..., Any], missing: Callable[[str], Any]) -> Callable[..., Any]:
        def found(name: str, *rest: Any) -> Any:
            return missing(name) if name in ("scipy", "matplotlib") else find(name, *rest)

        return found

    def not_installed(name: str) -> None:
        raise PackageNotFoundError(name)

    with (
        patch.object(available, "_version", without(available._version, not_installed)),
        patch.object(available, "find_spec", without(available.find_spec, lambda name: None)),
    ):
        import pytorch_lightning  # noqa: F401
