"""Read MNIST from CSV files: a label and 784 pixels in each row.

1. Tell the columns from the first two lines: separator, header, index, label (`read_columns`).
2. Read the rows as numbers, whole ones from 0 to 255 or fractions from 0 to 1 (`read_table`).
3. Hold out a test part where that of the files has no labels, as in a competition (`read_tables`).
"""

import gzip
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from patchwork.core.errors import DataError, one_line
from patchwork.core.progress import Progress
from patchwork.data.sources.forms import TABLES
from patchwork.data.sources.parts import NUM_PIXELS, Part, hold_out, part_of, to_images, to_labels

MAX_ROWS = 200_000
MAX_LINE = 1 << 16  # characters of a table's row
SEPARATORS = (",", ";", "\t", " ")
LABEL_COLUMNS = ("label", "labels", "class", "target", "digit", "y")
INDEX_COLUMNS = ("", "unnamed: 0", "index", "id", "imageid")
EXPECTED = f"expected a label and {NUM_PIXELS} pixels"


@dataclass(frozen=True)
class Columns:
    """The columns of a table; without the index, the label's is `label`, or None if it is not known."""

    separator: str
    has_header: bool
    has_index: bool
    is_labeled: bool
    label: int | None


def read_tables(paths: list[Path], notes: list[str]) -> dict[str, Part]:
    """Read CSV files, one for each part, or one of both parts.

    Args:
        paths: the files; of several, those whose names mean no part are left out.
        notes: to which is added what was made of a part without labels.

    Raises:
        DataError: if a file is damaged, or no row has a label.
    """
    named = tables_by_part(paths)
    labeled = {part: path for part, path in named.items() if read_columns(path).is_labeled}
    unlabeled = [path for part, path in named.items() if part not in labeled]
    if unlabeled and not labeled:
        raise DataError(f"{unlabeled[0]} has no labels: {EXPECTED} in each row")
    parts = {part: read_table(path) for part, path in labeled.items()}
    if unlabeled:
        notes.append(f"{', '.join(path.name for path in unlabeled)} has no labels and was left out")
    if unlabeled and {*parts} == {"train"} and len(parts["train"][1]) > 1:
        parts = hold_out(parts["train"])
        notes.append(f"{len(parts['test'][1]):,} images of {labeled['train'].name}, drawn at random, are the test part")
    return parts


def tables_by_part(paths: list[Path]) -> dict[str, Path]:
    """Return the table of each part.

    Raises:
        DataError: if there are two of one part.
    """
    named: dict[str, Path] = {}
    for path in paths:
        part = part_of(path.name[: -len(next(suffix for suffix in TABLES[::-1] if path.name.lower().endswith(suffix)))])
        if part is None and len(paths) > 1:
            continue
        other = named.setdefault(part or "all", path)
        if other != path:
            raise DataError(f"{path.parent} has several tables of the {part} part: {other.name} and {path.name}")
    return named


def read_columns(path: Path) -> Columns:
    """Tell the columns of a table from its first two lines."""
    with opened(path) as file:
        lines = [*islice(read_lines(file), 2), "", ""]
    separator = max(SEPARATORS, key=lines[0].count)
    cells, following = (split_cells(line, separator) for line in lines[:2])
    counting = cells == [str(number) for number in range(len(cells))]  # columns without names
    has_header = re.search("[a-df-z]", lines[0].lower()) is not None or cells[0] == "" or counting
    label_name = next((name for name in cells if name in LABEL_COLUMNS), None) if has_header else None
    has_index = len(cells) > NUM_PIXELS and (
        cells[0] in INDEX_COLUMNS and (len(cells) > NUM_PIXELS + 1 or label_name is None)
        if has_header
        else len(cells) == NUM_PIXELS + 2 and is_next(cells[0], following[0])
    )
    label = cells.index(label_name) - has_index if label_name is not None else None
    if label is None and has_header and not counting and cells[0] != "":
        label = 0
    return Columns(separator, has_header, has_index, len(cells) - has_index != NUM_PIXELS, label)


def split_cells(line: str, separator: str) -> list[str]:
    return [cell.strip().lower() for cell in (line.split() if separator == " " else line.split(separator))] or [""]


def is_next(first: str, second: str) -> bool:
    """Return whether the second of two texts is the whole number after the first."""
    return first.isdigit() and second.isdigit() and int(second) == int(first) + 1


def read_table(path: Path) -> Part:
    """Read one CSV file, raw or gzip.

    Raises:
        DataError: if a row is not a label and 784 pixels; the message names it.
    """
    rows = bytearray()
    columns = read_columns(path)
    with opened(path) as file, Progress(f"reading {path}"), warnings.catch_warnings():
        warnings.simplefilter("error")  # of text that is no number
        for number, text in enumerate(read_lines(file), start=1):
            if text and (number > 1 or not columns.has_header):
                rows += parse_row(text, columns, f"{path}, line {number}")
    table = np.frombuffer(rows, np.float16).reshape(-1, NUM_PIXELS + 1)
    label_column = columns.label
    if label_column is None:  # the first pixel is 0 in all images
        label_column = 0 if table[:, 0].any() else NUM_PIXELS
    pixels = np.delete(table, label_column, axis=1)
    if (pixels == np.rint(pixels)).all():
        pixels = pixels.astype(np.uint8)
    elif pixels.max() > 1:
        raise DataError(f"{path} has fractions and numbers above 1: expected pixels from 0 to 255, or from 0 to 1")
    return to_images(pixels, path), to_labels(table[:, label_column], path)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open a table, raw or gzip, and raise a `DataError` if it cannot be read within the context."""
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}; expected a table of numbers") from error


def read_lines(file: IO[bytes] | gzip.GzipFile) -> Iterator[str]:
    """Yield the lines of a text file without quotes, at most `MAX_LINE` characters each."""
    for _ in range(MAX_ROWS):
        line = file.readline(MAX_LINE)
        if not line:
            return
        yield line.decode("utf-8-sig").strip(" \r\n").replace('"', "")
    raise DataError(f"{getattr(file, 'name', 'a table')} has more than {MAX_ROWS:,} rows")


def parse_row(text: str, columns: Columns, origin: str) -> bytes:
    """Return the numbers of a row as those of float16, in which they are exact enough; see `read_table`."""
    if columns.separator in ";\t":
        text = text.replace(",", ".")  # of decimals
    try:
        values = np.fromstring(text, sep=columns.separator)[int(columns.has_index) :]
    except (ValueError, DeprecationWarning) as error:
        raise DataError(f"{origin} is not a row of numbers") from error
    if len(values) == NUM_PIXELS:
        raise DataError(f"{origin} has no label: {EXPECTED} in each row")
    if len(values) != NUM_PIXELS + 1:
        raise DataError(f"{origin} has {len(values)} numbers: {EXPECTED}")
    if not ((values >= 0) & (values <= 255) & ((values <= 1) | (values == np.rint(values)))).all():
        raise DataError(f"{origin} has other numbers than whole ones from 0 to 255, or fractions from 0 to 1")
    return values.astype(np.float16).tobytes()
