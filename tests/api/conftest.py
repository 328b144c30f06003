"""The application in this process, and on a real server where the wire matters."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import httpx2
import pytest
import structlog
import uvicorn

from app.api.application import create_app
from app.api.server import bounded
from app.auth.identity import Identity, OpenIdentity
from app.backends.catalog import Catalog
from app.config import HttpLimits, Settings
from tests.api.fakes import FakeDispatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fastapi import FastAPI

BELL = (
    'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[2] q;\nbit[2] c;\n'
    "h q[0];\ncx q[0], q[1];\nc = measure q;\n"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def dispatcher() -> FakeDispatcher:
    return FakeDispatcher()


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load(aliases={"ibm_lab": "fake_manila@noisy"}, max_qubits=30)


@pytest.fixture
def make_app(dispatcher: FakeDispatcher, catalog: Catalog) -> Callable[..., FastAPI]:
    """An application with limits of a test's own."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield

    def make(
        *,
        http: dict[str, object] | None = None,
        identity: Identity | None = None,
        **settings: object,
    ) -> FastAPI:
        return create_app(
            settings=Settings(_env_file=None, http=HttpLimits(**(http or {})), **settings),
            dispatcher=dispatcher,
            catalog=catalog,
            identity=identity or OpenIdentity(token_s=3600),
            lifespan=lifespan,
        )

    return make


@pytest.fixture
def connect() -> Callable[[FastAPI], httpx2.AsyncClient]:
    """A client of an application in this process."""

    def make(app: FastAPI) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url="http://test")

    return make


@pytest.fixture
async def client(
    make_app: Callable[..., FastAPI], connect: Callable[[FastAPI], httpx2.AsyncClient]
) -> AsyncIterator[httpx2.AsyncClient]:
    async with connect(make_app()) as made:
        yield made


@pytest.fixture
def events() -> Iterator[list[dict[str, object]]]:
    """Every log event, with what is bound to its context."""
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as captured:
        yield captured


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[FastAPI], tuple[str, int]]]:
    """Starts real servers; they stop with the test."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    def start(app: FastAPI) -> tuple[str, int]:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=bounded(app.state.services.settings.http),
                log_config=None,
                lifespan="on",
            )
        )
        running.append((server, asyncio.create_task(server.serve(sockets=[listening]))))
        return listening.getsockname()

    yield start
    for server, task in running:
        server.should_exit = server.force_exit = True
        await task
