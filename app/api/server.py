"""How long and how large may the head of a request be? What no application sees, the server bounds.

uvicorn waits for ever for a head that has begun, and keeps as much of it as comes. Everything that
has a whole head is the guard's (``app/api/middleware.py``).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import problem_of
from app.api.middleware import SECURITY_HEADERS
from app.errors import HeadersTooLarge, HeadTimeout

if TYPE_CHECKING:
    import asyncio

    from app.config import HttpLimits
    from app.errors import ServiceError

#: The guard refuses smaller heads with better words; what is sent in one go may reach it.
SLACK_BYTES = 4 * 1024 * 1024
#: Who was refused may read the answer this long, and what they still send is dropped, seconds.
LINGER_S = 5.0
#: Name of what the application's lifespan gives to end all waits.
LET_GO = "let_go"
#: How long waits go on when the server ends, seconds; it cancels what lasts longer than its grace.
WAITS_S = 5.0


class BoundedHead(HttpToolsProtocol):
    """One connection, whose heads come in time and end."""

    limits: ClassVar[HttpLimits]

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _has_begun = False
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End with the answer that is under way; who waits for a job does so a little longer."""
        let_go = self.app_state.get(LET_GO)
        if let_go is not None and self.cycle is not None and not self.cycle.response_complete:
            self.loop.call_later(WAITS_S, let_go)
        super().shutdown()

    def on_message_begin(self) -> None:
        """Expect the rest of a head that has begun."""
        super().on_message_begin()
        self._has_begun = True
        if self._timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """Hand the request on."""
        self._stop_waiting()
        self._has_begun = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Read on, unless there is too much of a head."""
        if self._is_refused:
            return
        if self._timer is not None:
            self._head_bytes += len(data)
            allowed = self.limits.header_bytes + self.limits.target_bytes
            if self._head_bytes > allowed + SLACK_BYTES:
                sent = self._head_bytes
                message = f"the head has {sent} bytes or more, {allowed} are allowed; send less"
                self._refuse(HeadersTooLarge(message, allowed=allowed))
                return
        super().data_received(data)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(self.limits.head_timeout_s, self._on_late_head)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_late_head(self) -> None:
        if not self._has_begun:
            # Nothing was asked, so there is nothing to answer.
            self.transport.close()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is on its way; this head came behind it.
            self._expect_head()
            return
        allowed_s = self.limits.head_timeout_s
        message = f"the head did not arrive within {allowed_s:g} s; send it faster"
        self._refuse(HeadTimeout(message, allowed_s=allowed_s))

    def _refuse(self, refusal: ServiceError) -> None:
        """Answer, drop what still comes, and close."""
        self._stop_waiting()
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        request_id = uuid.uuid4().hex
        response = problem_of(refusal, path="/", request_id=request_id)
        head = b"HTTP/1.1 %d \r\n" % response.status_code
        fields = [
            *response.raw_headers,
            *SECURITY_HEADERS.items(),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        head += b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        self.transport.write(head + b"\r\n" + bytes(response.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def bounded(limits: HttpLimits) -> type[BoundedHead]:
    """The protocol of connections with these limits, as uvicorn takes it."""
    return type("Bounded", (BoundedHead,), {"limits": limits})
