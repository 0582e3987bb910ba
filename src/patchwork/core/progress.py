"""Progress of a wait, on stderr: a line that is rewritten on a terminal, a new line now and then elsewhere."""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from patchwork.core.rank import is_rank_zero
from patchwork.core.terminal import is_terminal, terminal_width

DELAY, REFRESH, INTERVAL = 1.5, 0.25, 10.0  # seconds: before the first line, between two on a terminal, and elsewhere
ERASE_LINE = "\r\x1b[K"

Item = TypeVar("Item")


class Progress:
    """Show how far something has come, unless it is done within a moment.

    With a total it shows what `advance` counts. Without one it shows the seconds, from a thread.

    Args:
        label: what is being done.
        total: how many times `advance` will be called, or None if that is unknown.
        unit: what is counted, in the plural.
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "batches") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.rewrites = has_terminal()
        self.count = 0
        self.started = time.monotonic()
        self.next_line = self.started + (DELAY if self.rewrites else INTERVAL)
        self.shown = False
        self.done = threading.Event()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        if self.total is None:  # a thread would be in the way of loaders, which fork; those who load count batches
            self.thread = threading.Thread(target=self.tick, daemon=True)
            self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def tick(self) -> None:
        """Show the seconds until the end."""
        while not self.done.wait(REFRESH):
            self.show_if_due()

    def advance(self, count: int = 1) -> None:
        """Count what is done."""
        self.count += count
        self.show_if_due()

    def show_if_due(self) -> None:
        now = time.monotonic()
        if now >= self.next_line:
            self.next_line = now + (REFRESH if self.rewrites else INTERVAL)
            self.shown = True
            text = self.text(now)
            write(f"{ERASE_LINE}{text[: terminal_width() - 1]}" if self.rewrites else f"{text}\n")

    def text(self, now: float) -> str:
        """Return the line to show."""
        seconds = f"{now - self.started:.0f} s"
        if self.total is None:
            return f"{self.label}: {seconds}"
        return f"{self.label}: {self.count:,} of {self.total:,} {self.unit}, {seconds}"

    def close(self) -> None:
        """Erase the line on a terminal."""
        self.done.set()
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.shown and self.rewrites:
            write(ERASE_LINE)
        self.shown = False


def with_progress(label: str, values: Iterable[Item]) -> Iterator[Item]:
    """Yield values, and show the seconds while each of them is computed."""
    iterator = iter(values)
    while True:
        with Progress(label):
            try:
                value = next(iterator)
            except StopIteration:
                return
        yield value


def has_terminal() -> bool:
    """Return whether stderr is a terminal that has a width, on which a line can be rewritten."""
    try:
        return is_terminal(sys.stderr) and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # it is no file, or was closed
        return False


def write(text: str) -> None:
    """Write to stderr, if it is still there: nothing fails for want of a terminal."""
    if is_rank_zero():
        with suppress(AttributeError, OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def format_duration(seconds: float) -> str:
    """Return a duration in words, rounded to what matters: `40 seconds`, `7 minutes`, `1 h 20 min`."""
    if seconds < 55:
        rounded = max(5 * round(seconds / 5), 5)
        return f"{rounded} seconds"
    minutes = max(round(seconds / 60), 1)
    if minutes < 60:
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    hours, rest = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
