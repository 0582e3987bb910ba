"""Annotated number types that signatures share; `patchwork.core.schema` checks configured values against them."""

from typing import Annotated

from annotated_types import Interval, MinLen

Fraction = Annotated[float, Interval(ge=0, le=1)]


class HomePath:
    """Mark a string as a path whose leading `~` is the home directory."""


PathStr = Annotated[str, MinLen(1), HomePath]
