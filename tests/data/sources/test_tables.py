"""The columns of a table follow from its first two lines."""

from pathlib import Path

import pytest

from patchwork.data.sources.tables import Columns, read_columns

PIXELS = [f"pixel{number}" for number in range(784)]
ROW = ["3", *["0"] * 784]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["label", *PIXELS], ROW, Columns(",", True, False, True, 0)),
        ([*PIXELS, "class"], ROW, Columns(",", True, False, True, 784)),
        (["", "label", *PIXELS], ["7", *ROW], Columns(",", True, True, True, 0)),
        (["id", *PIXELS, "digit"], ["7", *ROW], Columns(",", True, True, True, 784)),
        (["id", *PIXELS], ROW, Columns(",", True, True, False, 0)),
        (PIXELS, ROW[1:], Columns(",", True, False, False, 0)),
        (["number", *PIXELS], ROW, Columns(",", True, False, True, 0)),
        ([*map(str, range(785))], ROW, Columns(",", True, False, True, None)),
        (ROW, ROW, Columns(",", False, False, True, None)),
        (ROW[1:], ROW[1:], Columns(",", False, False, False, None)),
        (["0", *ROW], ["1", *ROW], Columns(",", False, True, True, None)),
        (["0", *ROW], ["0", *ROW], Columns(",", False, False, True, None)),  # of a wrong number, which a row will say
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns(tmp_path: Path, first: list[str], second: list[str], expected: Columns, separator: str) -> None:
    (tmp_path / "train.csv").write_text("\n".join(separator.join(cells) for cells in (first, second)))
    columns = read_columns(tmp_path / "train.csv")
    assert columns == Columns(
        separator, *(getattr(expected, name) for name in ("has_header", "has_index", "is_labeled", "label"))
    )


def test_empty_table_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("")
    assert read_columns(tmp_path / "train.csv").label is None
