"""Results of analyses: frozen dataclasses of arrays, numbers and text, saved as `<name>.npz`, headlines as JSON."""

import json
import math
import zipfile
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import DataError, one_line
from patchwork.core.job import read_json

NUMBERS_FILE = "numbers.json"


class NotApplicableError(ValueError):
    """An analysis does not apply to a task or a model; the message says why in one line."""


@dataclass(frozen=True)
class Estimate:
    """A number with what it was counted on and how sure it is.

    Ends of an interval that are not finite, as of the mean of one sample, are None.

    Attributes:
        value: the number.
        n: how many were counted.
        unit: what was counted, as `test grids` or `digits`.
        low: lower end of the 95 % interval; None without an interval.
        high: upper end of it.
        interval: how the interval was made, as `Wilson` or `bootstrap over digits`; empty without one.
    """

    value: float
    n: int
    unit: str
    low: float | None = None
    high: float | None = None
    interval: str = ""

    def __post_init__(self) -> None:
        if not all(end is not None and math.isfinite(end) for end in (self.low, self.high)):
            for name, none in (("low", None), ("high", None), ("interval", "")):
                object.__setattr__(self, name, none)


@dataclass(frozen=True, eq=False)
class Result:
    """What an analysis has found; subclasses are frozen dataclasses of arrays, numbers, booleans and text.

    A tuple of texts is allowed as well. `name` is that of the file, of the figure and of the section of the page.
    """

    name: ClassVar[str]

    def numbers(self) -> dict[str, Estimate]:
        """Return the headline numbers by name, in the order of their importance; those that are NaN are not saved."""
        raise NotImplementedError

    def save(self, directory: Path) -> None:
        """Write the result and its headline numbers to a directory.

        Raises:
            ResourceError: if a file cannot be written.
        """
        buffer = BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{key: np.asarray(value) for key, value in self.items()})
        write_bytes(directory / f"{self.name}.npz", buffer.getvalue())
        path = directory / NUMBERS_FILE
        finite = {key: asdict(each) for key, each in self.numbers().items() if math.isfinite(each.value)}
        numbers = read_json(path) | {self.name: finite}
        text = json.dumps({key: numbers[key] for key in sorted(numbers)}, indent=1, allow_nan=False)
        write_bytes(path, f"{text}\n".encode())

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the result that `save` has written.

        Raises:
            DataError: if there is none, or it is damaged.
        """
        path = directory / f"{cls.name}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(**{field.name: restore(file[field.name], field.type) for field in fields(cls)})
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist") from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged: {one_line(error)[:200]}") from error

    def items(self) -> list[tuple[str, Any]]:
        """Return the fields with their names."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


def restore(array: np.ndarray, annotation: Any) -> Any:
    """Return a saved field as its annotation says: an array, a number, a text or a tuple of texts."""
    if "tuple" in str(annotation):
        return tuple(array.tolist())
    return array if "ndarray" in str(annotation) else array.item()
