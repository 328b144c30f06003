"""Which requests get in, and what does every answer carry? Limits, request ids, headers, logs.

Pure ASGI, around everything else: a refusal needs no route, and no answer misses its headers. What
this cannot see is the server's (``app/api/server.py``): slow or endless heads, idle connections.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers

from app.api.errors import CLIENT_GONE, problem_of
from app.errors import (
    BadFraming,
    BodyTimeout,
    BodyTooLarge,
    HeadersTooLarge,
    ServiceError,
    Unavailable,
    UnsupportedMediaType,
    UriTooLong,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.middleware.cors import CORSMiddleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.config import HttpLimits
    from app.telemetry.metrics import HttpMetrics

log = structlog.get_logger()

#: A caller's own request id is kept when it looks like this.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

#: On every answer that does not say otherwise.
SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}

#: The route of requests that none serves.
UNMATCHED = "unmatched"
SERVER_ERRORS = 500


class Guard:
    """Lets in what keeps the limits, and sees every request to its end."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: HttpLimits,
        metrics: HttpMetrics,
        cors: CORSMiddleware | None,
    ) -> None:
        """Stand around an application; ``cors``: what its answers pass, and so must refusals."""
        self._app = app
        self._cors = cors
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope; only HTTP is guarded, there is nothing else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        exchange = _Exchange(scope, receive, send, limits=self._limits, cors=self._cors)
        try:
            await exchange.run(self._app)
        finally:
            self._record(scope, exchange.outcome, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, duration_s: float) -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", UNMATCHED)
        self._metrics.count(method=method, route=route, status=status, duration_s=duration_s)
        report = log.warning if status >= SERVER_ERRORS else log.info
        report(
            "http_request_finished",
            method=method,
            route=route,
            status=status,
            duration_ms=round(duration_s * 1000, 3),
        )


class _Exchange:
    """One request and its answer."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        limits: HttpLimits,
        cors: CORSMiddleware | None,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._send_refusal = send
        if cors is not None:
            asked = Headers(scope=scope)
            self._send_refusal = partial(cors.send, send=send, request_headers=asked)
        self._limits = limits
        self._deadline = asyncio.get_running_loop().time() + limits.body_timeout_s
        self._body_bytes = 0
        self._body_done = False
        self._gone = False
        self._refusal: ServiceError | None = None
        self._status: int | None = None

    @property
    def outcome(self) -> int:
        """The status for the log: the answer's, or that nobody was left to read it."""
        if self._status is not None:
            return self._status
        return CLIENT_GONE if self._gone else SERVER_ERRORS

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer, or answer for it when a limit is broken."""
        self._refusal = _head_refusal(self._scope, self._limits)
        try:
            if self._refusal is None:
                await app(self._scope, self.receive, self.send)
        except ServiceError as error:
            if error is not self._refusal:
                raise
        except asyncio.CancelledError:
            # The server ends, and has waited for this request for as long as it does.
            if self._status is not None:
                raise
            message = "the gateway is being stopped; send the request again"
            self._refusal = Unavailable(message, component="api")
        finally:
            if self._refusal is not None and self._status is None:
                await self._refuse(self._refusal)

    async def receive(self) -> Message:
        """The next message from the client, as long as it keeps the limits of a body.

        Raises:
            BodyTimeout: the body did not arrive in time.
            BodyTooLarge: there is more of it than allowed.
        """
        if self._body_done:
            message = await self._receive()
        else:
            message = await self._receive_body()
        self._gone = self._gone or message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer, unless the request has been refused meanwhile."""
        if self._refusal is not None and self._status is None:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": self._with_headers(message.get("headers", ()))}
        await self._send(message)

    async def _receive_body(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            allowed_s = self._limits.body_timeout_s
            text = (
                f"the body did not arrive within {allowed_s:g} s,"
                f" {self._body_bytes} bytes did; send it faster, or less"
            )
            self._refusal = BodyTimeout(text, allowed_s=allowed_s, received=self._body_bytes)
            raise self._refusal from None
        self._body_bytes += len(message.get("body", b""))
        self._body_done = message["type"] == "http.request" and not message.get("more_body", False)
        if self._body_bytes > self._limits.body_bytes:
            self._refusal = _too_large(self._body_bytes, self._limits, at_least=True)
            raise self._refusal
        return message

    async def _refuse(self, refusal: ServiceError) -> None:
        """Answer, read away what is still being sent, and close.

        A server that closes while data lies unread makes the kernel reset the connection, and the
        client may lose the answer. So the rest is read and dropped, for as long as a body may take.
        """
        response = problem_of(
            refusal, path=self._scope["path"], request_id=self._scope["state"]["request_id"]
        )
        self._status = response.status_code
        headers = self._with_headers([*response.raw_headers, (b"connection", b"close")])
        await self._send_refusal(
            {"type": "http.response.start", "status": self._status, "headers": headers}
        )
        await self._send_refusal(
            {"type": "http.response.body", "body": response.body, "more_body": True}
        )
        if not isinstance(refusal, BodyTimeout) and not _values(self._scope, b"expect"):
            await self._drain()
        await self._send_refusal({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                while not self._body_done:
                    message = await self._receive()
                    self._body_done = not message.get("more_body", False)
        except TimeoutError:
            return

    def _with_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        given = {name.lower() for name, _ in headers}
        ours = SECURITY_HEADERS | {b"x-request-id": self._scope["state"]["request_id"].encode()}
        return [*headers, *((name, value) for name, value in ours.items() if name not in given)]


def _head_refusal(scope: Scope, limits: HttpLimits) -> ServiceError | None:
    """Why a request is not let in, as far as its head says."""
    return (
        _target_refusal(scope, limits)
        or _header_refusal(scope, limits)
        or _framing_refusal(scope, limits)
    )


def _target_refusal(scope: Scope, limits: HttpLimits) -> ServiceError | None:
    sent = len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"])
    if sent <= limits.target_bytes:
        return None
    text = f"path and query have {sent} bytes, at most {limits.target_bytes} are allowed; send less"
    return UriTooLong(text, sent=sent, allowed=limits.target_bytes)


def _header_refusal(scope: Scope, limits: HttpLimits) -> ServiceError | None:
    count = len(scope["headers"])
    if count > limits.headers:
        text = f"the request has {count} headers, at most {limits.headers} are allowed; send fewer"
        return HeadersTooLarge(text, sent=count, allowed=limits.headers)
    sent = sum(len(name) + len(value) for name, value in scope["headers"])
    if sent > limits.header_bytes:
        text = (
            f"the headers have {sent} bytes, at most {limits.header_bytes} are allowed; send less"
        )
        return HeadersTooLarge(text, sent=sent, allowed=limits.header_bytes)
    return None


def _framing_refusal(scope: Scope, limits: HttpLimits) -> ServiceError | None:
    encodings = [value for value in _values(scope, b"content-encoding") if value != b"identity"]
    if encodings:
        return UnsupportedMediaType("compressed bodies are not read; send the body as it is")
    lengths = _values(scope, b"content-length")
    if not lengths:
        return None
    if len(lengths) > 1 or not lengths[0].isdigit() or _values(scope, b"transfer-encoding"):
        text = "the length of the body is ambiguous; send one Content-Length or chunks, not both"
        return BadFraming(text)
    # A length of thousands of digits is too large, whatever number it is.
    sent = int(lengths[0][:20])
    return _too_large(sent, limits) if sent > limits.body_bytes else None


def _too_large(sent: int, limits: HttpLimits, *, at_least: bool = False) -> BodyTooLarge:
    has = "has at least" if at_least else "has"
    most = limits.body_bytes
    text = (
        f"the body {has} {sent} bytes, at most {most} are allowed; split it over several requests"
    )
    return BodyTooLarge(text, sent=sent, allowed=limits.body_bytes)


def _values(scope: Scope, name: bytes) -> list[bytes]:
    """All values of a header, in lower case."""
    return [value.strip().lower() for key, value in scope["headers"] if key.lower() == name]


def _request_id(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name.lower() == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return str(given[0].decode())
    return uuid.uuid4().hex
