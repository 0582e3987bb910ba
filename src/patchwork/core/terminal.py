"""Terminals, pipes and files that are written to: none of them may end a command for its looks.

What an encoding lacks is shown by stand-ins, and nothing is written any more once nobody can read it: the reader of a
pipe or the terminal is gone, or the stream was closed before the start. A command's results are in files.
"""

import codecs
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

STAND_INS = {"…": "...", "·": "-", "×": "x", "±": "+-", "–": "-", "—": "-", "−": "-", "→": "->", "✗": "x"}
STAND_INS |= {"≥": ">=", "≤": "<=", "≈": "~", "“": '"', "”": '"', "‘": "'", "’": "'", "─": "-", "│": "|"}
STAND_INS |= dict.fromkeys("┌┐└┘", "+") | dict.fromkeys("█▉▊▋▌▍▎▏", "#")
MIN_COLUMNS, DEFAULT_COLUMNS = 20, 80  # a terminal that claims fewer does not know its width


def replace_characters(error: UnicodeError) -> tuple[str, int]:
    """Replace what cannot be encoded, as an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(STAND_INS.get(character, "?") for character in text), error.end


codecs.register_error("stand_in", replace_characters)


class OutputStream(io.TextIOWrapper):
    """A text stream that writes what its encoding has, and drops everything once writing fails."""

    def __init__(self, stream: TextIO) -> None:
        self.original = stream  # which would close the buffer if nobody held it
        self.failed = False
        encoding = getattr(stream, "encoding", None) or "utf-8"
        super().__init__(stream.buffer, encoding, "stand_in", write_through=True)
        self.line_buffered = stream.isatty() or getattr(stream, "line_buffering", False)

    def write(self, text: str) -> int:
        if not self.failed:
            try:
                super().write(text)
                if self.line_buffered and "\n" in text:
                    super().flush()
            except (OSError, ValueError):
                self.drop()
        return len(text)

    def flush(self) -> None:
        if not self.failed:
            try:
                super().flush()
            except (OSError, ValueError):
                self.drop()

    def drop(self) -> None:
        """Write to the null device from now on, also what is still in a buffer, and what libraries in C write."""
        self.failed = True
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            super().flush()


@contextmanager
def robust_output() -> Iterator[None]:
    """Let stdout and stderr be streams that never fail, within the context."""
    open_missing()
    saved = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = wrap(saved[0]), wrap(saved[1])
    try:
        yield
    finally:
        wrapped, (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), saved
        for stream, original in zip(wrapped, saved, strict=True):
            if original is None:
                stream.close()
            elif stream is not original and isinstance(stream, OutputStream):
                stream.flush()
                stream.detach()  # leaves the buffer open


def open_missing() -> None:
    """Open the null device for standard streams that were closed before the start.

    Otherwise the first file that is opened gets the number of one of them, and with it what is printed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def wrap(stream: Any) -> Any:
    """Return a stream that never fails; one that is no text over bytes, as a notebook's or a test's, is left alone."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # for as long as the command runs
    if isinstance(stream, OutputStream) or not isinstance(getattr(stream, "buffer", None), io.IOBase):
        return stream
    with suppress(OSError, ValueError):
        stream.flush()
    return OutputStream(stream)


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal; one that is closed, or None, is not."""
    try:
        return stream is not None and bool(stream.isatty())
    except (OSError, ValueError):
        return False


def terminal_width() -> int:
    """Return the number of columns of the terminal; 80 if there is none, or if it tells a width that cannot be."""
    columns = shutil.get_terminal_size((DEFAULT_COLUMNS, 24)).columns
    return columns if columns >= MIN_COLUMNS else DEFAULT_COLUMNS
