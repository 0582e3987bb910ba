"""Start the service on a socket, until a signal ends it."""

import socket
from collections.abc import Sequence

import uvicorn

from patchwork.core.errors import ConfigError, ResourceError
from patchwork.data.strokes import Strokes
from patchwork.export.lab import build_page, pack
from patchwork.runs.run import Run
from patchwork.serve.app import make_app
from patchwork.serve.guard import LOOPBACK
from patchwork.serve.reader import Reader


def serve_runs(runs: Sequence[Run], *, host: str, port: int, token: str | None) -> None:
    """Serve the page with these models, and answers of the first of them.

    Args:
        runs: trained models.
        host: address to listen on.
        port: port; 0 for a free one.
        token: what requests must carry; needed unless the host is this machine itself.

    Raises:
        ConfigError: if the host needs a token, or a model reads no drawings.
        ResourceError: if the port is in use.
    """
    if host not in LOOPBACK and not token:
        raise ConfigError(f"host={host} can be reached from elsewhere, which needs token=…, or use 127.0.0.1")
    reader, page = Reader(runs[0]), build_page([pack(run) for run in runs])
    reader.answer(reader.read_strokes(Strokes(strokes=[], width=1, height=1)))  # the first answer takes longer
    listener = listen(host, port)
    address = f"http://{'localhost' if host in LOOPBACK else host}:{listener.getsockname()[1]}"
    app = make_app(reader, page, hosts=LOOPBACK if host in LOOPBACK else None, token=token)
    config = uvicorn.Config(
        app, log_level="warning", limit_concurrency=64, timeout_keep_alive=5, h11_max_incomplete_event_size=16384,
        server_header=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    print(f"{address}{f'/?token={token}' if token else ''} (Ctrl-C ends it)", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ResourceError: if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ResourceError(f"port={port} of host={host} cannot be used: {error.strerror}; pass another") from error
    return listener
