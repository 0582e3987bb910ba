"""Pictures of runs: samples in the terminal and on paper, and the curves of a training.

The parts are imported from their own modules, so that to look at one does not cost the import of all; what the
configuration names can also be had from here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchwork.figures.samples import Samples

__all__ = ["Samples"]


def __getattr__(name: str) -> Any:
    if name == "Samples":  # on demand: it brings Lightning, and that brings matplotlib
        from patchwork.figures.samples import Samples

        return Samples
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
