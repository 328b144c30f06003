"""How is each process wired? One function per process; the only place that picks classes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import socket
import uuid
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from app.dispatcher import Dispatcher
from app.errors import ConfigurationInvalid, Unavailable
from app.jobs.claims import ClaimStore
from app.jobs.connection import connect_gateway, connect_worker
from app.jobs.events import JobEvents
from app.jobs.job import WorkerReport
from app.jobs.sessions import SessionStore
from app.jobs.store import JobStore
from app.queues.app import create_celery
from app.queues.wakeups import RESERVED, wakeup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis.asyncio
    from celery import Celery
    from fastapi import FastAPI

    from app.auth.identity import Identity
    from app.auth.store import KeyStore
    from app.config import Settings
    from app.runner import Runner
    from app.sandbox.pool import SandboxPool
    from app.sweeper import Sweeper

log = structlog.get_logger()


def build_gateway(settings: Settings) -> FastAPI:
    """The HTTP application."""
    from app.api.application import create_app
    from app.auth.identity import KeyedIdentity, OpenIdentity
    from app.backends.catalog import Catalog
    from app.telemetry.logs import configure_logging

    configure_logging(level=settings.log_level, environment=settings.environment, service="gateway")
    catalog = Catalog.load(aliases=settings.aliases, max_qubits=settings.simulator_qubits)
    client = connect_gateway(redis_url(settings))
    events = JobEvents(client=client)
    dispatcher = Dispatcher(
        store=JobStore(
            client=client,
            wakeup_cap=settings.wakeup_cap,
            max_queued=settings.max_queued,
            max_queued_per_owner=settings.max_queued_per_owner,
            idempotency_s=settings.idempotency_s,
            retention_s=settings.retention_s,
        ),
        sessions=SessionStore(client=client, retention_s=settings.retention_s),
        events=events,
        catalog=catalog,
        wakeup=partial(wakeup, build_celery(settings)),
        executors=settings.executors,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        listening = asyncio.create_task(events.run(), name="job-events")
        try:
            yield
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            await client.aclose()

    identity: Identity = (
        KeyedIdentity(store=build_keys(settings, client), token_s=settings.token_s)
        if settings.asks_for_keys
        else OpenIdentity(token_s=settings.token_s)
    )
    return create_app(
        settings=settings,
        dispatcher=dispatcher,
        catalog=catalog,
        identity=identity,
        lifespan=lifespan,
    )


def build_keys(settings: Settings, client: redis.asyncio.Redis) -> KeyStore:
    """Keys and instances."""
    from app.auth.store import KeyStore

    return KeyStore(client=client, secret=settings.secret, bootstrap_key=settings.bootstrap_key)


@contextlib.asynccontextmanager
async def open_keys(settings: Settings, url: str) -> AsyncIterator[KeyStore]:
    """Keys and instances, for a command that ends soon."""
    client = connect_gateway(url)
    try:
        yield build_keys(settings, client)
    finally:
        await client.aclose()


def first_key(settings: Settings, url: str) -> str | None:
    """The text of the first key, if callers need one and there has never been one.

    Raises:
        Unavailable: Redis does not answer.
    """
    from app.auth.store import ADMIN

    async def issue() -> str | None:
        async with open_keys(settings, url) as keys:
            return await keys.issue_first(owner=ADMIN)

    if not settings.asks_for_keys or settings.bootstrap_key is not None:
        return None
    return asyncio.run(issue())


def build_celery(settings: Settings) -> Celery:
    """The Celery application: renders wake-ups in the gateway, consumes them in a worker."""
    taken = RESERVED.intersection(settings.executors)
    if taken:
        message = f"executors cannot be called {sorted(taken)}: Redis keys have these names"
        raise ConfigurationInvalid(message)
    return create_celery(
        redis_url=redis_url(settings), executors=settings.executors, slots=settings.slots
    )


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The parts of a worker process."""

    id: str
    runner: Runner
    sweeper: Sweeper
    claims: ClaimStore
    sandboxes: SandboxPool

    def leave(self) -> None:
        """End the sandboxes and say goodbye, if Redis listens."""
        self.sandboxes.close()
        try:
            self.claims.leave()
        except Unavailable as exc:
            log.warning("goodbye_unheard", worker=self.id, error=exc.message)


def build_worker(settings: Settings, app: Celery) -> Worker:
    """The parts of a worker, its sandbox started and warm."""
    from app.executors import Resources, registry
    from app.executors.admission import largest_statevector
    from app.runner import Runner
    from app.sandbox.pool import SandboxPool
    from app.sweeper import Sweeper

    unknown = set(settings.executors).difference(registry.names())
    if unknown:
        message = (
            f"there is no executor {sorted(unknown)}; QFLEET_EXECUTORS may name {registry.names()}"
        )
        raise ConfigurationInvalid(message)
    worker_id = uuid.uuid4().hex[:12]
    client = connect_worker(redis_url(settings))
    wakeups = {executor: wakeup(app, executor) for executor in settings.executors}
    claims = ClaimStore(
        client=client,
        worker=worker_id,
        lease_s=settings.lease_s,
        wakeup_cap=settings.wakeup_cap,
        max_attempts=settings.max_attempts,
        max_crashes=settings.max_crashes,
        retention_s=settings.retention_s,
    )
    memory_bytes = settings.sandbox.memory_bytes or available_memory() * 4 // 5 // settings.slots
    resources = Resources(
        threads=max(1, len(os.sched_getaffinity(0)) // settings.slots),
        memory_bytes=memory_bytes,
        max_result_bytes=settings.max_result_bytes,
    )
    sandboxes = SandboxPool(
        limits=settings.sandbox.model_copy(update={"memory_bytes": memory_bytes}),
        resources=resources,
        slots=settings.slots,
    )
    runner = Runner(
        claims=claims,
        sandboxes={str(i): slot for i, slot in enumerate(sandboxes.slots)},
        executors=settings.executors,
        wakeup=partial(wakeup, app),
        limits=settings.program,
        resources=resources,
        time_limit_s=settings.sandbox.time_limit_s,
        slice_s=settings.slice_s,
    )
    sweeper = Sweeper(
        claims=claims,
        client=client,
        runner=runner,
        report=_report(settings, worker_id, qubits=largest_statevector(memory_bytes)),
        wakeups=wakeups,
        beat_s=settings.beat_s,
        heartbeat_file=settings.heartbeat_file,
    )
    return Worker(id=worker_id, runner=runner, sweeper=sweeper, claims=claims, sandboxes=sandboxes)


def redis_url(settings: Settings) -> str:
    """Where Redis is.

    Raises:
        ConfigurationInvalid: no setting says so.
    """
    if settings.redis is None:
        message = (
            "no Redis is configured: set QFLEET_REDIS_URL (or REDIS_HOST),"
            " or start everything with `python -m app up`, which brings its own"
        )
        raise ConfigurationInvalid(message)
    return settings.redis


def available_memory() -> int:
    """Bytes this process may use: the smallest of the machine's memory and its cgroups' limits."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(name).read_text()))
    return min(limits)


def _report(settings: Settings, worker_id: str, *, qubits: int) -> WorkerReport:
    names = ("qiskit", "qiskit-aer", "celery")
    return WorkerReport(
        id=worker_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        executors=settings.executors,
        slots=settings.slots,
        busy=0,
        qubits=qubits,
        versions={"python": platform.python_version()}
        | {name: metadata.version(name) for name in names},
    )
