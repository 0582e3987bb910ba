"""Annotated number types that signatures share; `patchwork.core.schema` checks configured values against them."""

from typing import Annotated

from annotated_types import Interval

Fraction = Annotated[float, Interval(ge=0, le=1)]
