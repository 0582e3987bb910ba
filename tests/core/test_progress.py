"""Progress: nothing within a moment, one line rewritten on a terminal, a line now and then elsewhere."""

import io
import sys
import time
from collections.abc import Iterator

import pytest

from patchwork.core import progress
from patchwork.core.progress import ERASE_LINE, Progress, format_duration, with_progress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "has_terminal", lambda: True)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "REFRESH", 0.0)


@pytest.mark.parametrize("total", [3, None])
def test_what_is_done_within_a_moment_shows_nothing(capsys: Capture, total: int | None) -> None:
    with Progress("testing", total) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_one_line_that_is_erased_at_the_end(terminal: None, capsys: Capture) -> None:
    with Progress("testing", 2000, "images") as bar:
        bar.advance(1000)
        bar.advance()
    first, second, last = capsys.readouterr().err.removeprefix(ERASE_LINE).split(ERASE_LINE)
    assert (first, second, last) == ("testing: 1,000 of 2,000 images, 0 s", "testing: 1,001 of 2,000 images, 0 s", "")


def test_a_line_is_no_longer_than_the_terminal(
    terminal: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with Progress("x" * 100, 2) as bar:
        bar.advance()
    assert max(map(len, capsys.readouterr().err.split(ERASE_LINE))) == 39


def test_elsewhere_there_is_a_line_now_and_then(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.03)
    with Progress("testing", 3) as bar:
        bar.advance()
        time.sleep(0.04)
        bar.advance()
        bar.advance()
    assert capsys.readouterr().err == "testing: 2 of 3 batches, 0 s\n"


def test_without_a_total_the_seconds_are_shown_while_nothing_returns(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.03)
    monkeypatch.setattr(progress, "REFRESH", 0.01)

    def values() -> Iterator[int]:
        yield 1
        time.sleep(0.08)
        yield 2

    assert list(with_progress("scoring", values())) == [1, 2]
    assert set(capsys.readouterr().err.splitlines()) == {"scoring: 0 s"}


def test_nothing_fails_without_stderr(terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress("testing", 1) as bar:
            bar.advance()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", closed)
    assert not progress.has_terminal()


def test_an_error_ends_the_line_and_its_thread(terminal: None) -> None:
    with pytest.raises(KeyError), Progress("testing") as bar:
        raise KeyError
    assert bar.thread is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.3, "5 seconds"),
        (39, "40 seconds"),
        (58, "1 minute"),
        (90, "2 minutes"),
        (3540, "59 minutes"),
        (3599, "1 h"),
        (4790, "1 h 20 min"),
        (86_000, "23 h 55 min"),
    ],
)
def test_durations_are_rounded_to_what_matters(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
