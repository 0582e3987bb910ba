"""The routes of the service."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError

from patchwork.data.strokes import Strokes
from patchwork.serve.guard import Guard, Refused, error_body
from patchwork.serve.reader import Reader

AT_ONCE, WAITING = 1, 16  # answers that are computed at once, by one network, and requests that wait
PICTURES = ("image/png", "image/jpeg", "image/bmp", "image/gif", "image/webp", "image/tiff")


class Pool:
    """Computes answers in threads, a few at once, while a few more wait."""

    def __init__(self) -> None:
        self.slots, self.waiting = asyncio.Semaphore(AT_ONCE), 0

    async def compute(self, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Compute when a thread is free.

        Raises:
            Refused: if too many wait for one.
        """
        if self.waiting >= AT_ONCE + WAITING:
            raise Refused(503, "busy", "too many requests are waiting: try again in a second")
        self.waiting += 1
        try:
            async with self.slots:
                return await asyncio.to_thread(function)
        finally:
            self.waiting -= 1


def make_app(reader: Reader, page: bytes, **guard: Any) -> Guard:
    """Return the application, behind its guard.

    Args:
        reader: the model.
        page: the page at /.
        guard: `hosts` and `token` of the guard.
    """
    app = FastAPI(title="Patchwork", docs_url=None, redoc_url=None)  # whose pages load scripts from elsewhere
    pool = Pool()

    @app.get("/")
    def index() -> Response:
        return Response(page, media_type="text/html")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/model")
    def model() -> dict[str, Any]:
        return reader.describe()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        """Answer strokes (JSON) or a picture."""
        return await answer(request, reader.answer)

    @app.post("/explain")
    async def explain(request: Request) -> dict[str, Any]:
        """Answer as /predict does, with the attention of every layer."""
        return await answer(request, reader.explain)

    async def answer(request: Request, respond: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        body, kind = await request.body(), request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in PICTURES:
            return await pool.compute(lambda: respond(reader.read_picture(body)))
        if kind != "application/json":
            takes = ", ".join(("application/json", *PICTURES))
            raise Refused(415, "type", f"the body is {kind or 'of no type'}: use one of {takes}")
        strokes = Strokes.model_validate_json(body)
        return await pool.compute(lambda: respond(reader.read_strokes(strokes)))

    add_error_handlers(app)
    return Guard(app, **guard)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in one form, {"error": {"kind", "message"}}, with nothing of the machine in it."""
    describe: dict[int | type[Exception], Callable[[Any], tuple[int, str, str]]] = {
        Refused: lambda error: (error.status, error.kind, str(error)),
        ValidationError: describe_invalid,
        404: lambda _: (404, "path", "there is nothing at this path"),
        405: lambda _: (405, "method", "this path takes another method"),
        Exception: lambda _: (500, "internal", "the request could not be answered"),
    }
    for error, function in describe.items():
        app.add_exception_handler(error, partial(report, function))


def describe_invalid(error: Any) -> tuple[int, str, str]:
    """Return the status, kind and message of values that are not allowed: the first of them, by name."""
    first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    name = ".".join(map(str, first["loc"])) or "body"
    return 422, "values", f"{name[:100]}: {first['msg'][:200]}"


async def report(describe: Callable[[Any], tuple[int, str, str]], request: Request, error: Any) -> Response:
    status, kind, message = describe(error)
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(error_body(kind, message), status, headers, "application/json")
