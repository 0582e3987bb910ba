"""What reaches the service: only its own page and local programs, little at a time, and soon.

A web page of somebody else can send requests to a service on this machine, even under a name of its own that resolves
to 127.0.0.1. So the host is checked against a list, and the origin of a request, where a browser names one, against the
host. Bodies are read here, as a whole, before anything looks at them: within a limit and a time.
"""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_JSON, MAX_PICTURE = 1_000_000, 20_000_000  # bytes of a body
BODY_SECONDS = 10.0
RATE, BURST = 50.0, 100.0  # requests a second of a client, and at once
MAX_CLIENTS = 1000  # whose rates are remembered
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request that is answered with an error of ours."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def error_body(kind: str, message: str) -> bytes:
    return json.dumps({"error": {"kind": kind, "message": message}}).encode()


@dataclass
class TokenBucket:
    """How many requests each client may still send."""

    left: dict[str, tuple[float, float]] = field(default_factory=dict)  # and when that was, by client

    def take(self, client: str) -> bool:
        """Take one request of a client, if it has one left."""
        now = time.monotonic()
        left, then = self.left.pop(client, (BURST, now))
        left = min(left + RATE * (now - then), BURST) - 1
        self.left[client] = (max(left, 0.0), now)
        if len(self.left) > MAX_CLIENTS:
            self.left.pop(next(iter(self.left)))
        return left >= 0


@dataclass
class Guard:
    """Checks each request before the application sees it, and adds headers to each answer.

    Args:
        app: the application.
        hosts: names under which it may be asked; None for any, as of a host that others reach by names of their own,
            who need the token.
        token: what a request must carry as `Authorization: Bearer …`, or as `?token=…` of a page that is opened in a
            browser; None if it need not.
    """

    app: App
    hosts: tuple[str, ...] | None = LOOPBACK
    token: str | None = None
    bucket: TokenBucket = field(default_factory=TokenBucket)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                extra = [
                    (name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in names
                ]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self.check(scope, headers)
            body = await read_body(receive, headers)
        except Refused as refused:
            await respond(send_with_headers, refused)
            return
        await self.app(scope, replay(body, receive), send_with_headers)

    def check(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> None:
        """Check host, origin, token and rate.

        Raises:
            Refused: if one of them is not allowed.
        """
        host = hostname(headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            raise Refused(400, "host", f"the host is not allowed: use {', '.join(self.hosts)}")
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        if site not in ("none", "same-origin") or (
            origin is not None and urlsplit(origin).netloc != headers.get("host")
        ):
            raise Refused(403, "origin", "requests of other pages are not allowed")
        if self.token is not None and scope["path"] != "/health":
            query = parse_qs(scope.get("query_string", b"").decode("latin-1")) if scope["path"] == "/" else {}
            given = headers.get("authorization", "").removeprefix("Bearer ") or query.get("token", [""])[0]
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise Refused(401, "token", "the token is missing or wrong: send Authorization: Bearer TOKEN")
        client = (scope.get("client") or ("?",))[0]
        if not self.bucket.take(client):
            raise Refused(429, "rate", f"more than {RATE:g} requests a second: wait")


def hostname(host: str) -> str:
    """Return the name in a Host header, without the port; empty if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


async def read_body(receive: Receive, headers: dict[str, str]) -> bytes:
    """Read a body within its limit and time.

    Raises:
        Refused: if it is too large or too slow.
    """
    limit = MAX_PICTURE if headers.get("content-type", "").startswith("image/") else MAX_JSON
    too_large = Refused(413, "size", f"a body has at most {limit:,} bytes")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "disconnect", "the client has gone")
                body += message.get("body", b"")
                if len(body) > limit:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, "slow", f"the body did not arrive within {BODY_SECONDS:g} seconds") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read, and then what follows it."""
    sent = False

    async def receive_again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def respond(send: Send, refused: Refused) -> None:
    """Answer with an error, and close the connection, whose body may not have been read."""
    body = error_body(refused.kind, str(refused))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
