"""Tables of text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.core.table import format_table

CELLS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=8)


def test_columns_are_aligned_and_missing_cells_are_empty() -> None:
    rows = [{"name": "a", "value": "1.5"}, {"name": "long name", "note": "x"}]
    assert format_table(rows, right=["value"]).splitlines() == [
        "name       value  note",
        "a            1.5",
        "long name         x",
    ]
    assert format_table(rows, columns=["note", "name"]).splitlines()[0].split() == ["note", "name"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.fixed_dictionaries({"first": CELLS, "second": CELLS}), min_size=1, max_size=5))
def test_table_can_be_read_back(rows: list[dict[str, str]]) -> None:
    header, *lines = format_table(rows, columns=["first", "second"]).splitlines()
    start = header.index("second")
    assert [{"first": line[:start].rstrip(), "second": line[start:]} for line in lines] == rows


def test_table_without_rows_has_its_header() -> None:
    assert format_table([], columns=["trial", "loss"]) == "trial  loss"


def test_numbers_are_aligned_to_the_right() -> None:
    rows = [{"trial": "9", "loss": "10.25"}, {"trial": "10", "loss": "3.5"}]
    lines = format_table(rows, right=["trial", "loss"]).splitlines()
    assert lines == ["trial   loss", "    9  10.25", "   10    3.5"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "bb", "ccc"]), CELLS, min_size=1), min_size=1, max_size=5))
def test_lines_have_no_trailing_spaces(rows: list[dict[str, str]]) -> None:
    lines = format_table(rows).splitlines()
    assert len(lines) == len(rows) + 1
    assert all(line == line.rstrip() for line in lines)
