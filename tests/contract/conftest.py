"""The store on a real Valkey, seen from both sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import redis

from app.jobs.claims import ClaimStore
from app.jobs.connection import connect_gateway, connect_worker
from app.jobs.job import Submission
from app.jobs.store import JobStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

WAKEUP = '{"id": "@UNIQUE@"}'
LEASE_S = 10.0


@dataclass
class Stutter:
    """While it is on, every script is run twice, as when its first answer was lost."""

    on: bool = False
    #: what workers have sent: how to send it once more, and the script's digest first.
    sent: list[tuple[Callable[..., object], tuple[Any, ...]]] = field(default_factory=list)

    def of_gateway(self, client: Any) -> Any:
        once = client.evalsha

        async def evalsha(*args: Any) -> Any:
            if self.on:
                await once(*args)
            return await once(*args)

        client.evalsha = evalsha
        return client

    def of_worker(self, client: Any) -> Any:
        once = client.evalsha

        def evalsha(*args: Any) -> Any:
            self.sent.append((once, args))
            if self.on:
                once(*args)
            return once(*args)

        client.evalsha = evalsha
        return client


@pytest.fixture
def stutter() -> Stutter:
    """Of the clients of `store` and of every worker; it is off."""
    return Stutter()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    """The database itself, to look behind the interface."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def store(redis_url: str, stutter: Stutter) -> AsyncIterator[JobStore]:
    client = stutter.of_gateway(connect_gateway(redis_url))
    yield JobStore(
        client=client,
        wakeup_cap=4,
        max_queued=20,
        max_queued_per_owner=10,
        max_queued_bytes=20 * 1024 * 1024,
        max_queued_bytes_per_owner=10 * 1024 * 1024,
        idempotency_s=60,
        retention_s=1000,
    )
    await client.aclose()


@pytest.fixture
def make_worker(redis_url: str, stutter: Stutter) -> Iterator[Callable[..., ClaimStore]]:
    """Workers of the fleet; each has a connection of its own."""
    clients = []

    def make(
        name: str = "w1", *, lease_s: float = LEASE_S, retention_s: float = 1000
    ) -> ClaimStore:
        clients.append(stutter.of_worker(connect_worker(redis_url)))
        return ClaimStore(
            client=clients[-1],
            worker=name,
            lease_s=lease_s,
            wakeup_cap=4,
            max_attempts=5,
            max_crashes=3,
            retention_s=retention_s,
        )

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def worker(make_worker: Callable[..., ClaimStore]) -> ClaimStore:
    return make_worker()


def submission(**changes: object) -> Submission:
    """Some submission; what a test is about is given."""
    values: dict[str, object] = {
        "program_id": "qasm3",
        "params": b"program",
        "backend": "simulator@aer",
    }
    return Submission(**(values | changes))  # type: ignore[arg-type]
