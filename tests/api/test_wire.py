"""What happens on a real connection? Slow senders, huge heads, clients that go away."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
import uvicorn

from app.api.server import bounded
from app.bootstrap import build_gateway
from app.config import Settings
from app.jobs.job import JobStatus
from tests.api.conftest import BELL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import FastAPI

    from tests.api.fakes import FakeDispatcher

    Address = tuple[str, int]

pytestmark = pytest.mark.anyio

POST = b"POST /tasks HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"


@asynccontextmanager
async def ending(app: FastAPI, *, grace_s: int) -> AsyncIterator[tuple[uvicorn.Server, Address]]:
    """A server that a test ends, and where it listens."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=bounded(app.state.services.settings.http),
            log_config=None,
            lifespan="on",
            timeout_graceful_shutdown=grace_s,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield server, listening.getsockname()
    finally:
        server.should_exit = server.force_exit = True
        await serving


class Wire:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: tuple[str, int]) -> Wire:
        return cls(*await asyncio.open_connection(*address))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, object]]:
        """Status and document of an answer with a Content-Length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = (
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        return int(head.split()[1]), json.loads(await self.reader.readexactly(length))

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def accept(address: tuple[str, int]) -> str:
    """The id of a task that was just submitted."""
    body = json.dumps({"qc": BELL}).encode()
    wire = await Wire.to(address)
    await wire.send(POST + b"content-length: %d\r\n\r\n%s" % (len(body), body))
    status, document = await wire.answer()
    assert status == 200
    await wire.close()
    return str(document["task_id"])


async def finished(events: list[dict[str, object]], status: int) -> dict[str, object]:
    """The log event of a request that ended so."""
    async with asyncio.timeout(5):
        while True:
            for event in events:
                if event["event"] == "http_request_finished" and event["status"] == status:
                    return event
            await asyncio.sleep(0)


async def test_a_body_that_comes_too_slowly_is_ended_with_408(
    make_app: Callable[..., FastAPI],
    serve: Callable[[FastAPI], tuple[str, int]],
    dispatcher: FakeDispatcher,
) -> None:
    wire = await Wire.to(serve(make_app(http={"body_timeout_s": 0.2})))

    await wire.send(POST + b'content-length: 100\r\n\r\n{"qc"')
    status, document = await wire.answer()
    rest = await wire.reader.read()

    assert (status, document["code"], document["allowed_s"]) == (408, "body_timeout", 0.2)
    assert rest == b""
    assert dispatcher.calls == 0
    await wire.close()


async def test_a_body_too_large_is_answered_though_the_client_sends_it_all(
    make_app: Callable[..., FastAPI], serve: Callable[[FastAPI], tuple[str, int]]
) -> None:
    body = b" " * (8 * 1024 * 1024)
    wire = await Wire.to(serve(make_app(http={"body_bytes": 1000})))

    await wire.send(POST + b"content-length: %d\r\n\r\n" % len(body))
    await wire.send(body)
    status, document = await wire.answer()
    rest = await wire.reader.read()

    assert (status, document["code"]) == (413, "body_too_large")
    assert (document["sent"], document["allowed"]) == (len(body), 1000)
    assert rest == b""
    await wire.close()


async def test_endless_chunks_are_ended(
    make_app: Callable[..., FastAPI], serve: Callable[[FastAPI], tuple[str, int]]
) -> None:
    limits = {"body_bytes": 1000, "body_timeout_s": 0.5}
    wire = await Wire.to(serve(make_app(http=limits)))

    async def flood() -> None:
        while True:
            await wire.send(b"400\r\n" + b" " * 1024 + b"\r\n")

    await wire.send(POST + b"transfer-encoding: chunked\r\n\r\n")
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(5):
            await flood()


async def test_a_client_that_waits_to_be_told_to_go_on_is_refused_first(
    make_app: Callable[..., FastAPI], serve: Callable[[FastAPI], tuple[str, int]]
) -> None:
    wire = await Wire.to(serve(make_app(http={"body_bytes": 1000})))

    await wire.send(POST + b"content-length: 1001\r\nexpect: 100-continue\r\n\r\n")
    async with asyncio.timeout(5):
        status, _ = await wire.answer()
        rest = await wire.reader.read()

    assert status == 413
    assert rest == b""
    await wire.close()


async def test_a_huge_head_is_refused(
    make_app: Callable[..., FastAPI], serve: Callable[[FastAPI], tuple[str, int]]
) -> None:
    wire = await Wire.to(serve(make_app()))

    await wire.send(b"GET / HTTP/1.1\r\nhost: test\r\nx: " + b"x" * 1_000_000 + b"\r\n\r\n")
    status, document = await wire.answer()

    assert (status, document["code"]) == (431, "headers_too_large")
    await wire.close()


async def test_a_client_that_goes_while_it_sends_is_no_bug(
    make_app: Callable[..., FastAPI],
    serve: Callable[[FastAPI], tuple[str, int]],
    dispatcher: FakeDispatcher,
    events: list[dict[str, object]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = await Wire.to(serve(make_app()))
    await wire.send(POST + b'content-length: 100\r\n\r\n{"qc"')

    await wire.close()
    event = await finished(events, 499)

    assert event["route"] == "/tasks"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert dispatcher.calls == 0


async def test_a_client_that_goes_while_it_waits_frees_its_place(
    make_app: Callable[..., FastAPI],
    serve: Callable[[FastAPI], tuple[str, int]],
    dispatcher: FakeDispatcher,
    events: list[dict[str, object]],
) -> None:
    address = serve(make_app(http={"waiters": 1}))
    task_id = await accept(address)
    get = b"GET /tasks/%s?wait=60 HTTP/1.1\r\nhost: test\r\n\r\n" % task_id.encode()
    first = await Wire.to(address)
    await first.send(get)
    await dispatcher.wait_began.wait()

    await first.close()
    await asyncio.wait_for(dispatcher.wait_ended.wait(), 5)
    await finished(events, 499)
    dispatcher.wait_began.clear()
    second = await Wire.to(address)
    await second.send(get)
    await asyncio.wait_for(dispatcher.wait_began.wait(), 5)
    dispatcher.end(task_id, JobStatus.CANCELLED)
    status, document = await second.answer()

    assert (status, document["status"]) == (200, "cancelled")
    await second.close()


async def test_a_bug_is_logged_with_its_traceback_once(
    make_app: Callable[..., FastAPI],
    serve: Callable[[FastAPI], tuple[str, int]],
    dispatcher: FakeDispatcher,
    events: list[dict[str, object]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    dispatcher.outage = ZeroDivisionError("a bug")
    wire = await Wire.to(serve(make_app()))

    await wire.send(b"GET /tasks/x HTTP/1.1\r\nhost: test\r\n\r\n")
    status, document = await wire.answer()

    assert (status, document["code"]) == (500, "internal_error")
    # The answer goes out before the server hears of the bug.
    await finished(events, 500)
    await asyncio.sleep(0)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    await wire.close()


# --- heads that are late or have no end -----------------------------------------------------------

HEAD = b"GET /health/live HTTP/1.1\r\nhost: test\r\n"


async def test_a_head_that_comes_too_slowly_is_ended_with_408(
    make_app: Callable[..., FastAPI], serve: Callable[[FastAPI], tuple[str, int]]
) -> None:
    wire = await Wire.to(serve(make_app(http={"head_timeout_s": 1})))

    await wire.send(HEAD)
    async with asyncio.timeout(5):
        status, document = await wire.answer()
        rest = await wire.reader.read()

    assert (status, document["code"], document["allowed_s"]) == (408, "head_timeout", 1)
    assert rest == b""
    await wire.close()


async def test_so_is_a_second_head_on_the_same_connection(
    make_app: Callable[..., FastAPI], serve: Callable[[FastAPI], tuple[str, int]]
) -> None:
    wire = await Wire.to(serve(make_app(http={"head_timeout_s": 1})))
    await wire.send(HEAD + b"\r\n")
    assert (await wire.answer())[0] == 200

    await wire.send(b"GET")
    async with asyncio.timeout(5):
        status, document = await wire.answer()

    assert (status, document["code"]) == (408, "head_timeout")
    await wire.close()


async def test_a_connection_that_asks_nothing_is_closed_without_a_word(
    make_app: Callable[..., FastAPI], serve: Callable[[FastAPI], tuple[str, int]]
) -> None:
    wire = await Wire.to(serve(make_app(http={"head_timeout_s": 0.2})))

    async with asyncio.timeout(5):
        assert await wire.reader.read() == b""
    await wire.close()


async def test_a_slow_body_and_a_slow_answer_are_no_slow_head(
    make_app: Callable[..., FastAPI],
    serve: Callable[[FastAPI], tuple[str, int]],
    dispatcher: FakeDispatcher,
) -> None:
    address = serve(make_app(http={"head_timeout_s": 0.5}))
    task_id = await accept(address)
    wire = await Wire.to(address)
    await wire.send(b"GET /tasks/%s?wait=1 HTTP/1.1\r\nhost: test\r\n\r\n" % task_id.encode())

    status, document = await wire.answer()

    assert (status, document["status"]) == (200, "pending")
    await wire.close()


async def test_a_head_without_an_end_is_cut_off(
    make_app: Callable[..., FastAPI], serve: Callable[[FastAPI], tuple[str, int]]
) -> None:
    wire = await Wire.to(serve(make_app()))
    answered = asyncio.create_task(wire.answer())

    async def flood() -> None:
        while not answered.done():
            await wire.send(b"x: " + b"x" * 65536 + b"\r\n")

    await wire.send(HEAD)
    async with asyncio.timeout(20):
        await flood()
        status, document = await answered

    assert (status, document["code"]) == (431, "headers_too_large")
    await wire.close()


async def test_who_waits_for_a_job_has_it_as_it_is_when_the_server_ends(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.server.WAITS_S", 0.1)
    with patch("app.telemetry.logs.configure_logging"):
        app = build_gateway(Settings(_env_file=None, redis_url=redis_url))
    waiting = app.state.services.waiters
    async with ending(app, grace_s=600) as (server, address), asyncio.timeout(30):
        job_id = await accept(address)
        wire = await Wire.to(address)
        await wire.send(b"GET /tasks/%s?wait=30 HTTP/1.1\r\nhost: test\r\n\r\n" % job_id.encode())
        while waiting._count == 0:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)

        server.should_exit = True
        status, task = await wire.answer()

        assert (status, task["state"]) == (200, "Queued")
        await wire.close()


async def test_a_request_that_the_server_does_not_wait_for_is_told_so(
    make_app: Callable[..., FastAPI], dispatcher: FakeDispatcher
) -> None:
    async with ending(make_app(), grace_s=1) as (server, address), asyncio.timeout(30):
        wire = await Wire.to(address)
        await wire.send(POST + b"content-length: 100\r\n\r\nthe rest is slow")
        while not server.server_state.tasks:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)

        server.should_exit = True
        status, refusal = await wire.answer()

        assert (status, refusal["code"]) == (503, "unavailable")
        assert dispatcher.submissions == []
        await wire.close()
