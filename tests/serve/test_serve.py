"""The service answers drawings and pictures as the model does, and refuses everything else in one line, soon."""

import asyncio
import io
import json
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from drawing_helpers import draw
from helpers import ROOT
from PIL import Image

from patchwork.core.errors import ConfigError, ResourceError
from patchwork.data.drawing import strokes_to_image
from patchwork.data.strokes import Strokes
from patchwork.runs.run import Run
from patchwork.serve import guard, server
from patchwork.serve.app import make_app
from patchwork.serve.guard import MAX_JSON, TokenBucket
from patchwork.serve.reader import Reader
from patchwork.serve.server import listen, serve_runs

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def reader(finished_run: Path) -> Reader:
    return Reader(Run.load(finished_run))


@pytest.fixture(scope="module")
def address(reader: Reader) -> Iterator[str]:
    """Return the address of the service, which takes many requests here."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(guard, "BURST", 1e9)
        monkeypatch.setattr(guard, "BODY_SECONDS", 1.0)
        listener = listen("127.0.0.1", 0)
        config = uvicorn.Config(make_app(reader, b"<!DOCTYPE html>page"), log_level="critical", lifespan="off")
        service = uvicorn.Server(config)
        thread = threading.Thread(target=service.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        service.should_exit = True
        thread.join(5)


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=10, trust_env=False) as client:
        yield client


def drawing() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    strokes = [s for i in range(4) for s in draw(i, 0, rng, size=150, place=(40 + 280 * (i % 2), 40 + 280 * (i // 2)))]
    return {"strokes": [points.tolist() for points in strokes], "width": 560, "height": 560}


def raw(address: str, request: bytes, *, then: bytes = b"", wait: float = 0.0) -> bytes:
    """Send bytes to the service, wait, send more, and return all that it answers."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        time.sleep(wait)
        answer = b""
        try:
            connection.sendall(then)
            while chunk := connection.recv(65536):
                answer += chunk
                if b"\r\n\r\n" in answer and answer.endswith(b"}"):
                    break
        except OSError:
            pass
        return answer


def test_strokes_are_answered_as_the_model_does(client: httpx.Client, reader: Reader) -> None:
    answer = client.post("/predict", json=drawing()).json()
    image = torch.from_numpy(stitched(reader))[None]
    expected = reader.run.predict(image)
    tokens = expected.prediction[0].tolist()
    assert [digit["digit"] for digit in answer["digits"]] == [token if token < 10 else None for token in tokens]
    assert answer["probability"] == pytest.approx(float(expected.probability[0]), abs=2e-6)
    assert {digit["problem"] for digit in answer["digits"]} == {None}
    np.testing.assert_array_equal(image[0, :28, :28], strokes_to_image(draw_first(), 280).image)


def stitched(reader: Reader) -> np.ndarray:
    """Return the drawing as the model sees it, (56, 56)."""
    cells = [cell.image for cell in reader.read_strokes(Strokes(**drawing())).cells]
    return np.block([cells[:2], cells[2:]])


def draw_first() -> list[np.ndarray]:
    return draw(0, 0, np.random.default_rng(0), size=150, place=(40, 40))


def test_pictures_are_answered_as_strokes_are(client: httpx.Client, reader: Reader) -> None:
    image = stitched(reader)
    for picture in (image, 255 - np.kron(image, np.ones((5, 5), np.uint8))):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        answer = client.post("/predict", content=file.getvalue(), headers={"content-type": "image/png"}).json()
        assert answer["digits"] == client.post("/predict", json=drawing()).json()["digits"]


def test_explanations_are_the_attention_of_every_layer(client: httpx.Client) -> None:
    attention = client.post("/explain", json=drawing()).json()["attention"]
    assert {name.rpartition(".")[2] for name in attention} == {"attn", "cross_attn"}
    for weights in attention.values():
        assert torch.tensor(weights).sum(dim=-1).sub(1).abs().max() < 1e-4


def test_an_empty_canvas_is_no_digit(client: httpx.Client) -> None:
    digits = client.post("/predict", json={"strokes": [], "width": 560, "height": 560}).json()["digits"]
    assert [(digit["problem"], digit["sure"]) for digit in digits] == [("empty", False)] * 4


def test_routes(client: httpx.Client) -> None:
    assert client.get("/").text == "<!DOCTYPE html>page"
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/model").json()["task"] == "seq2seq"
    assert "/predict" in client.get("/openapi.json").json()["paths"]
    headers = client.get("/").headers
    assert {name: headers[name] for name in guard.HEADERS} == guard.HEADERS
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/%00", "/docs", "/predict/x"]
)
def test_other_paths_are_nothing(address: str, path: str) -> None:
    answer = raw(address, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] == b"404"
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.com"}, 400),
        ({"host": "127.0.0.1.evil.com"}, 400),
        ({"host": ""}, 400),
        ({"host": "[::1"}, 400),
        ({"origin": "https://evil.com"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_other_pages_and_names_are_refused(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    content = json.dumps(drawing())
    response = client.post("/predict", content=content, headers={"content-type": "application/json", **headers})
    assert response.status_code == status
    assert {*response.json()["error"]} == {"kind", "message"}


NESTED = b"[" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"strokes": [], "width": 1}',
        b'{"strokes": [], "width": 1, "height": NaN}',
        b'{"strokes": [], "width": 1, "height": Infinity}',
        b'{"strokes": [], "width": -1, "height": 1}',
        b'{"strokes": [[[1e308, 0]]], "width": 1, "height": 1}',
        b'{"strokes": [[[1, 2, 3]]], "width": 1, "height": 1}',
        b'{"strokes": [], "width": 1, "height": 1, "path": "/etc/passwd"}',
        b'{"strokes": [], "width": ' + b"9" * 100_000 + b', "height": 1}',
        b'{"strokes": ' + NESTED + b', "width": 1, "height": 1}',
        b'{"strokes": [' + b",".join([b"[[0,0]]"] * 501) + b'], "width": 1, "height": 1}',
        b'{"strokes": [[' + b",".join([b"[0,0]"] * 20_001) + b']], "width": 1, "height": 1}',
        b"\xff\xfe",
    ],
)
def test_other_values_are_refused_in_a_line(client: httpx.Client, body: bytes) -> None:
    start = time.perf_counter()
    response = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert time.perf_counter() - start < 0.5
    assert response.status_code == 422
    assert "\n" not in response.json()["error"]["message"]


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of one color that is small in the file and large in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress(bytes((width + 1) * min(height, 1000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (bomb(20_000, 20_000), 413),
        (bomb(65_535, 65_535), 413),
        (bomb(2000, 2000)[:200], 400),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400),
        (b"GIF89a" + bytes(100), 400),
        (bomb(1, 1), 422),
    ],
)
def test_pictures_that_are_none_are_refused(client: httpx.Client, content: bytes, status: int) -> None:
    start = time.perf_counter()
    response = client.post("/predict", content=content, headers={"content-type": "image/png"})
    assert time.perf_counter() - start < 0.5
    assert response.status_code == status


def test_bodies_are_limited_while_they_arrive(address: str) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert raw(address, head + b"Content-Length: 99999999999\r\n\r\n").split()[1] == b"413"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    many = chunk * (MAX_JSON // 0x10000 + 2)
    answer = raw(address, head + b"Transfer-Encoding: chunked\r\n\r\n" + many)
    assert answer.split()[1:2] in ([b"413"], [])  # nothing if the connection is closed while the rest is being sent
    assert raw(address, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").split()[1] == b"200"


def test_slow_bodies_time_out_and_idle_connections_stop_nobody(address: str, client: httpx.Client) -> None:
    host, port = address.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(50)]
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    assert raw(address, head + b"{", wait=0.2).split()[1] == b"408"
    assert client.get("/health").status_code == 200
    for connection in idle:
        connection.close()


def test_a_client_has_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BURST", 100.0)
    bucket = TokenBucket()
    assert sum(bucket.take("a") for _ in range(500)) in range(100, 110)
    assert bucket.take("b")
    for number in range(2000):
        bucket.take(str(number))
    assert len(bucket.left) <= guard.MAX_CLIENTS


def test_a_token_is_asked_for(reader: Reader) -> None:
    transport = httpx.ASGITransport(make_app(reader, b"page", hosts=None, token="secret"))

    async def ask(path: str = "/model", **headers: str) -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://example.net") as client:
            return (await client.get(path, headers=headers)).status_code

    assert asyncio.run(ask()) == 401
    assert asyncio.run(ask("/?token=wrong")) == 401
    assert asyncio.run(ask("/?token=secret")) == 200
    assert asyncio.run(ask("/model?token=secret")) == 401  # only the page, which a browser opens
    assert asyncio.run(ask(authorization="Bearer wrong")) == 401
    assert asyncio.run(ask(authorization="Bearer secret")) == 200


def test_other_hosts_need_a_token_and_a_busy_port_is_named(finished_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"host=0\.0\.0\.0 can be reached from elsewhere, which needs token="):
        serve_runs([Run.load(finished_run)], host="0.0.0.0", port=0, token=None)
    busy = listen("127.0.0.1", 0)
    port = busy.getsockname()[1]
    with pytest.raises(ResourceError, match=f"port={port} of host=127.0.0.1 cannot be used: "):
        server.listen("127.0.0.1", port)
    busy.close()


def test_sigterm_ends_the_service(finished_run: Path) -> None:
    arguments = [sys.executable, "-m", "patchwork", "serve", str(finished_run), "port=0"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://localhost:")
    page = httpx.get(line.split()[0], trust_env=False).text
    assert "<title>Patchwork lab</title>" in page
    start = time.monotonic()
    process.terminate()
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - start < 3
    assert process.returncode in (-15, 143)
    assert "Traceback" not in errors
