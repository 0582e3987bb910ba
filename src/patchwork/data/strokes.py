"""Strokes as they come from a file, a request or a correction: checked, and within limits."""

from typing import Annotated

from annotated_types import Interval, Len
from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

MAX_STROKES, MAX_POINTS = 500, 20_000  # of a drawing

Coordinate = Annotated[FiniteFloat, Interval(ge=-1e5, le=1e5)]
Length = Annotated[FiniteFloat, Interval(gt=0, le=1e5)]
Stroke = Annotated[list[tuple[Coordinate, Coordinate]], Len(1, MAX_POINTS)]
StrokeList = Annotated[list[Stroke], Len(0, MAX_STROKES)]
Count = Annotated[int, Interval(ge=1, le=25)]


class Strokes(BaseModel):
    """A drawing on a canvas.

    Attributes:
        strokes: points (x, y) of each stroke, x to the right and y down, in any unit.
        width: of the canvas, in the same unit.
        height: of the canvas.
        rows: rows of cells on it, if it says so.
        cols: cells in a row, likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strokes: StrokeList
    width: Length
    height: Length
    rows: Count | None = None
    cols: Count | None = None

    @model_validator(mode="after")
    def limit_points(self) -> "Strokes":
        if sum(map(len, self.strokes)) > MAX_POINTS:
            raise ValueError(f"a drawing has at most {MAX_POINTS:,} points")
        return self
