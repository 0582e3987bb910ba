"""Downloads: complete, checked and quiet, or one line that says why not."""

import gzip
import io
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
from source_helpers import raises_one_line, same_source, write_gzip, write_idx

from patchwork.core.errors import ResourceError
from patchwork.data.sources import download, idx_source
from patchwork.data.sources.auto import Auto
from patchwork.data.sources.fashion import FashionMNIST
from patchwork.data.sources.idx import NotFoundError
from patchwork.data.sources.mnist import MNIST


class Mirror(ThreadingHTTPServer):
    """An HTTP server on this machine; `faults` are those of its next GETs, "ok" when they are used up."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], faults: Iterator[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.num_gets, self.closing = files, faults, 0, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/mnist/"


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path.split("/")[-1] in self.server.files else 404)
        self.end_headers()

    def do_GET(self) -> None:
        body, fault = self.server.files[self.path.split("/")[-1]], next(self.server.faults, "ok")
        self.server.num_gets += 1
        self.send_response(404 if fault == "gone" else 200)
        body = {"page": b"<html>Please log in</html>", "other": gzip.compress(b"not images")}.get(fault, body)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault in ("dies", "stalls") else body)
        if fault == "stalls":
            self.wfile.flush()
            self.server.closing.wait(10)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(contents: dict[str, bytes]) -> Iterator[Callable[..., Mirror]]:
    mirrors: list[Mirror] = []

    def start(*faults: str, always: str | None = None, files: bool = True) -> Mirror:
        packed = {f"{name}.gz": gzip.compress(content) for name, content in contents.items()} if files else {}
        mirrors.append(Mirror(packed, iter(lambda: always, "") if always else iter(faults)))
        threading.Thread(target=mirrors[-1].serve_forever, args=(0.01,), daemon=True).start()
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.closing.set()
        mirror.shutdown()
        mirror.server_close()


def refusing_url() -> str:
    """Return a URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/mnist/"


def test_download_is_complete_checked_quiet_and_reused(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    contents: dict[str, bytes],
    serve: Callable[..., Mirror],
    set_mirrors: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    mirror, log = serve(), io.StringIO()
    set_mirrors(mirror.url)
    monkeypatch.setattr(pooch.get_logger(), "handlers", [logging.StreamHandler(log)])
    pooch.get_logger().setLevel("INFO")  # pooch's default
    source = MNIST(validation=7).load()
    assert not log.getvalue()
    assert capfd.readouterr() == ("", "")
    write_idx(world / "elsewhere", contents)
    assert same_source(source, MNIST(root=str(world / "elsewhere"), validation=7).load())
    assert sorted(path.name for path in (world / "data/mnist").iterdir()) == sorted(f"{name}.gz" for name in contents)
    assert mirror.num_gets == 4
    assert same_source(source, Auto(validation=7).load())
    assert mirror.num_gets == 4


def test_download_goes_to_the_checkout_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror], set_mirrors: Callable[..., None]
) -> None:
    set_mirrors(serve().url)
    monkeypatch.setattr(idx_source, "search_roots", lambda: [tmp_path / "a/here", tmp_path / "b/checkout"])
    assert MNIST().find() == tmp_path / "b/checkout/data/mnist"
    assert not (tmp_path / "a").exists()


def test_fashion_mnist_is_downloaded_from_its_own_mirrors(
    world: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    mirror = serve()
    dataset = replace(FashionMNIST.dataset, digests=MNIST.dataset.digests, mirrors=(mirror.url,), system_dir=None)
    monkeypatch.setattr(FashionMNIST, "dataset", dataset)
    assert FashionMNIST(validation=7).load().name == "fashion"
    assert len(list((world / "data/fashion").iterdir())) == 4


def test_terminal_shows_the_progress(
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., Mirror],
    set_mirrors: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirror = serve()
    set_mirrors(mirror.url)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    MNIST(validation=7).load()
    err = capsys.readouterr().err
    assert f"Fetching {mirror.url}train-images-idx3-ubyte.gz" in err
    assert "100%" in err


@pytest.mark.parametrize("fault", ["page", "other", "dies", "stalls", "gone"])
def test_transient_fault_is_retried(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror], set_mirrors: Callable[..., None], fault: str
) -> None:
    mirror = serve("ok", fault, fault)
    set_mirrors(mirror.url)
    monkeypatch.setattr(download, "REQUEST_TIMEOUT", (1.0, 0.2))
    assert MNIST(validation=7).load().name == "mnist"
    assert mirror.num_gets == 4 + 2


@pytest.mark.parametrize("fault", ["page", "other", "dies", "stalls", "gone", "404", "refused"])
def test_second_mirror_is_used_where_the_first_fails(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror], set_mirrors: Callable[..., None], fault: str
) -> None:
    bad = refusing_url() if fault == "refused" else serve(always=fault, files=fault != "404").url
    set_mirrors(bad, serve().url)
    monkeypatch.setattr(download, "REQUEST_TIMEOUT", (1.0, 0.1))
    assert MNIST(validation=7).load().name == "mnist"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("page", "damaged or not of MNIST: magic number"),
        ("other", "damaged or not of MNIST: magic number"),
        ("dies", "ChunkedEncodingError"),
        ("stalls", "ConnectionError"),
        ("gone", "HTTPError"),
        ("404", "status 404"),
        ("refused", "ConnectionError"),
    ],
)
def test_failed_download_is_one_line_and_leaves_nothing(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., Mirror],
    set_mirrors: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    fault: str,
    reason: str,
) -> None:
    bad = refusing_url() if fault == "refused" else serve(always=fault, files=fault != "404").url
    set_mirrors(bad)
    monkeypatch.setattr(download, "REQUEST_TIMEOUT", (1.0, 0.1))
    message = raises_one_line(NotFoundError, MNIST().load)
    for text in (f"{bad}train-images-idx3-ubyte.gz", reason, world / "data/mnist", "PATCHWORK_MNIST", "dataset.root"):
        assert str(text) in message
    assert not list((world / "data/mnist").rglob("*"))
    assert capfd.readouterr() == ("", "")
    assert Auto().load().name == "uci"
    warning = " ".join(word for line in capfd.readouterr().err.splitlines() for word in line.strip("# ").split())
    assert reason in warning


def test_download_that_fails_at_the_last_file_leaves_nothing(
    world: Path, serve: Callable[..., Mirror], set_mirrors: Callable[..., None]
) -> None:
    set_mirrors(serve("ok", "ok", "ok", "dies", "page", "gone").url)
    assert Auto().load().name == "uci"
    assert not list((world / "data/mnist").rglob("*"))


def test_incomplete_data_set_is_completed_by_a_download(
    world: Path, contents: dict[str, bytes], serve: Callable[..., Mirror], set_mirrors: Callable[..., None]
) -> None:
    write_gzip(world / "data/mnist", dict(list(contents.items())[:2]))
    set_mirrors(serve().url)
    assert MNIST(validation=7).load().name == "mnist"


def test_refusal_is_reported_at_once_and_silence_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch, set_mirrors: Callable[..., None]
) -> None:
    set_mirrors(refusing_url(), refusing_url())
    start = time.monotonic()
    raises_one_line(NotFoundError, MNIST().load)
    assert time.monotonic() - start < 2
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        set_mirrors(url, url)
        monkeypatch.setattr(download, "MIRROR_TIMEOUT", 0.3)
        start = time.monotonic()
        assert "no answer within 0.3 s" in raises_one_line(NotFoundError, MNIST().load)
        assert time.monotonic() - start < 2


def test_directory_that_cannot_be_written_is_a_resource_error(
    world: Path, serve: Callable[..., Mirror], set_mirrors: Callable[..., None]
) -> None:
    set_mirrors(serve().url)
    (world / "data").write_text("in the way")
    assert f"{world / 'data/mnist'} cannot be written" in raises_one_line(ResourceError, MNIST(validation=7).load)
    assert Auto().load().name == "uci"


def test_full_disk_is_a_resource_error(
    world: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror], set_mirrors: Callable[..., None]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    set_mirrors(serve().url)
    monkeypatch.setattr("pooch.core.shutil.move", full)
    assert "No space left" in raises_one_line(ResourceError, MNIST(validation=7).load)
    assert not list((world / "data/mnist").rglob("*"))
