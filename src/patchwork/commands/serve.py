"""Serve trained models on this machine: the page to draw on, and answers to drawings and pictures."""

from importlib.util import find_spec
from typing import Annotated

from annotated_types import Interval, MinLen

from patchwork.commands.app import call_command
from patchwork.core.errors import ConfigError
from patchwork.core.types import PathStr


def command(args: list[str]) -> int:
    return call_command("serve", serve, args)


def serve(
    *,
    run: PathStr | Annotated[list[PathStr], MinLen(1)],
    host: str = "127.0.0.1",
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8000,
    token: str | None = None,
) -> None:
    """Serve trained models over HTTP: the page to draw on at /, and answers to drawings and pictures as JSON.

    POST /predict takes strokes {"strokes": [[[x, y], …], …], "width": …, "height": …} or the bytes of a picture, and
    POST /explain adds the attention of every layer. GET /model says what answers, GET /health whether it does.

    Args:
        run: a run directory of task=seq2seq or task=classify, or [RUN_DIR,RUN_DIR,…], of which the first answers and
            all are on the page.
        host: address to listen on; others than 127.0.0.1 need a token.
        port: port to listen on; 0 for a free one.
        token: what requests must carry as `Authorization: Bearer TOKEN`.

    Raises:
        PatchworkError: of the kind that says what is wrong.
    """
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise ConfigError("patchwork serve needs FastAPI and uvicorn: pip install 'patchwork[serve]'")
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.runs.run import Run
    from patchwork.serve.server import serve_runs

    runs = [Run.load(path) for path in ([run] if isinstance(run, str) else run)]
    serve_runs(runs, host=host, port=port, token=token)
