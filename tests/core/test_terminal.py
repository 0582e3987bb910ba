"""Streams that never fail: what an encoding lacks, readers that go away, streams that are closed."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchwork.core import terminal
from patchwork.core.terminal import OutputStream, is_terminal, open_missing, robust_output, terminal_width

TEXT = "98.6 % ± 0.1 … — épreuve ✗ ⠿┌─┐ \udce9\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """Return the reading end of a pipe, and the writing one as a text stream."""
    read, write = os.pipe()
    stream = os.fdopen(write, "w")
    yield read, stream
    stream.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk", "utf-8"])
def test_everything_can_be_printed_in_every_encoding(encoding: str) -> None:
    buffer = io.BytesIO()
    stream = OutputStream(io.TextIOWrapper(buffer, encoding))
    assert stream.write(TEXT) == len(TEXT)
    shown = buffer.getvalue().decode(encoding)
    assert shown.startswith("98.6 % ")
    assert shown.endswith("?\n")  # for half a surrogate pair, which is in no encoding but may be in a file's name
    if encoding == "ascii":
        assert shown == "98.6 % +- 0.1 ... - ?preuve x ?+-+ ?\n"


def test_reader_that_goes_away_is_not_noticed(
    pipe: tuple[int, io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, original = pipe
    monkeypatch.setattr(sys, "stdout", original)
    with robust_output():
        print("first", flush=True)
        assert os.read(read, 100) == b"first\n"
        os.close(read)
        print("second", flush=True)
        print("third")
    assert sys.stdout is original
    original.flush()  # nothing is left that could fail when the interpreter ends


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EBADF])
def test_terminal_or_disk_that_fails_is_not_noticed(number: int) -> None:
    class FailingBuffer(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(number, os.strerror(number))

    stream = OutputStream(io.TextIOWrapper(FailingBuffer()))
    for _ in range(2):
        stream.write("lost")
        stream.flush()
    assert stream.failed


def test_missing_streams_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as after >&-
    monkeypatch.setattr(sys, "stderr", None)
    with robust_output():
        print("lost")
        assert not is_terminal(sys.stdout)
        sys.stderr.write("lost")
    assert sys.stdout is None


def test_closed_descriptors_are_taken_before_a_file_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def fstat(descriptor: int) -> None:
        if descriptor == 1:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with monkeypatch.context() as closed:
        closed.setattr(os, "fstat", fstat)
        closed.setattr(os, "open", lambda path, flags: opened.append(path))
        open_missing()
    assert opened == [os.devnull]


def test_streams_are_wrapped_once_and_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with robust_output():
        stream = sys.stdout
        with robust_output():
            assert sys.stdout is stream
            print("…")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "…\n"


def test_what_is_no_text_over_bytes_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notebook = io.StringIO()
    monkeypatch.setattr(sys, "stdout", notebook)
    with robust_output():
        assert sys.stdout is notebook


@pytest.mark.parametrize(("columns", "width"), [(0, 80), (1, 80), (50, 50)])
def test_width_of_a_terminal_that_does_not_know_it(monkeypatch: pytest.MonkeyPatch, columns: int, width: int) -> None:
    monkeypatch.setattr(
        terminal.shutil, "get_terminal_size", lambda fallback: os.terminal_size((columns or fallback[0], 24))
    )
    assert terminal_width() == width


def test_closed_stream_is_no_terminal() -> None:
    closed = io.StringIO()
    closed.close()
    assert not is_terminal(closed)
    assert not is_terminal(None)
