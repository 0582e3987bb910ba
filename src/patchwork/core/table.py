"""Tables of text."""

from collections.abc import Collection, Sequence


def format_table(rows: Sequence[dict[str, str]], columns: Sequence[str] = (), right: Collection[str] = ()) -> str:
    """Align rows under the names of their columns.

    Args:
        rows: the cells of each row by column; a missing one is empty.
        columns: their order; by default that in which they first appear.
        right: the columns that are aligned to the right, as numbers are.

    Returns:
        The lines, without trailing spaces.
    """
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    lines = [list(names), *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(names, line, widths, strict=True)
        ]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def shorten(text: str, length: int) -> str:
    """Return a text of at most `length` characters, of which … is the last if some are left out."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
