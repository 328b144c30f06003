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
from app.errors import BackendNotFound, ConfigurationInvalid, Unavailable
from app.jobs.claims import ClaimStore
from app.jobs.connection import connect_gateway, connect_worker
from app.jobs.events import JobEvents
from app.jobs.job import WorkerReport
from app.jobs.sessions import SessionStore
from app.jobs.store import JobStore
from app.queues.app import create_celery
from app.queues.wakeups import RESERVED, wakeup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import redis.asyncio
    from celery import Celery
    from fastapi import FastAPI

    from app.auth.identity import Identity
    from app.auth.store import KeyStore
    from app.backends.catalog import Backend, Catalog
    from app.config import Settings
    from app.drivers.loaded import LoadedDriver
    from app.drivers.server import DriverManager
    from app.executors import Resources
    from app.executors.engines.probe import Survey
    from app.oversight import Oversight
    from app.runner import Runner, Sandbox
    from app.sandbox.pool import SandboxPool
    from app.sweeper import Sweeper

log = structlog.get_logger()


def build_gateway(settings: Settings) -> FastAPI:
    """The HTTP application."""
    from app.api.application import create_app
    from app.api.server import LET_GO
    from app.backends.catalog import Catalog
    from app.telemetry.logs import configure_logging

    configure_logging(level=settings.log_level, environment=settings.environment, service="gateway")
    catalog = Catalog.load(aliases=settings.aliases, max_qubits=settings.simulator_qubits)
    client = connect_gateway(redis_url(settings))
    events = JobEvents(client=client)
    dispatcher = build_dispatcher(settings, client=client, events=events, catalog=catalog)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, object]]:
        listening = asyncio.create_task(events.run(), name="job-events")
        try:
            yield {LET_GO: events.let_go}
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            await client.aclose()

    identity = build_identity(settings, client, asks=settings.asks_for_keys)
    return create_app(
        settings=settings,
        dispatcher=dispatcher,
        catalog=catalog,
        identity=identity,
        lifespan=lifespan,
    )


def build_dispatcher(
    settings: Settings, *, client: redis.asyncio.Redis, events: JobEvents, catalog: Catalog
) -> Dispatcher:
    """The use cases of callers, for a front door."""
    return Dispatcher(
        store=JobStore(
            client=client,
            wakeup_cap=settings.wakeup_cap,
            max_queued=settings.max_queued,
            max_queued_per_owner=settings.max_queued_per_owner,
            max_queued_bytes=settings.max_queued_bytes,
            max_queued_bytes_per_owner=settings.max_queued_bytes_per_owner,
            idempotency_s=settings.idempotency_s,
            retention_s=settings.retention_s,
            # Where nobody needs a key there is one owner, and nobody else to leave room for.
            max_kept_bytes_per_owner=settings.max_kept_bytes_per_owner
            or (0 if settings.asks_for_keys_over_grpc else None),
        ),
        sessions=SessionStore(client=client, retention_s=settings.retention_s),
        events=events,
        catalog=catalog,
        wakeup=partial(wakeup, build_celery(settings)),
        executors=settings.executors,
    )


def build_identity(settings: Settings, client: redis.asyncio.Redis, *, asks: bool) -> Identity:
    """Who callers are; ``asks`` says whether they must prove it."""
    from app.auth.identity import KeyedIdentity, OpenIdentity
    from app.auth.logins import FailedLogins

    identity: Identity = OpenIdentity(token_s=settings.token_s)
    if asks:
        most = settings.http.failed_logins_per_minute
        identity = KeyedIdentity(
            store=build_keys(settings, client),
            token_s=settings.token_s,
            logins=FailedLogins(client=client, per_minute=most) if most else None,
        )
    return identity


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


@contextlib.asynccontextmanager
async def open_oversight(settings: Settings, url: str) -> AsyncIterator[Oversight]:
    """Everybody's jobs, for a command that ends soon."""
    from app.backends.catalog import Catalog
    from app.oversight import Oversight

    client = connect_gateway(url)
    try:
        yield Oversight(
            client=client,
            dispatcher=build_dispatcher(
                settings.model_copy(update={"redis_url": url}),
                client=client,
                events=JobEvents(client=client),
                catalog=Catalog.load(
                    aliases=settings.aliases, max_qubits=settings.simulator_qubits
                ),
            ),
            keys=build_keys(settings, client),
        )
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
    from app.executors.gpus import names
    from app.sandbox.pool import SandboxPool

    unknown = set(settings.executors).difference(registry.names())
    if unknown:
        message = (
            f"there is no executor {sorted(unknown)}; QFLEET_EXECUTORS may name {registry.names()}"
        )
        raise ConfigurationInvalid(message)
    gpus = _gpus(settings)
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
        gpus=() if gpus is None else names(settings.slots),
    )
    report = _report(
        settings,
        uuid.uuid4().hex[:12],
        qubits=largest_statevector(memory_bytes) if gpus is None else gpus.qubits,
        worth_from=None if gpus is None else gpus.worth_from,
    )
    claims, runner, sweeper = _serving(
        settings,
        app,
        report=report,
        sandboxes={str(i): slot for i, slot in enumerate(sandboxes.slots)},
        resources=resources,
        heartbeat_file=settings.heartbeat_file,
    )
    return Worker(id=report.id, runner=runner, sweeper=sweeper, claims=claims, sandboxes=sandboxes)


def _serving(
    settings: Settings,
    app: Celery,
    *,
    report: WorkerReport,
    sandboxes: Mapping[str, Sandbox],
    resources: Resources,
    heartbeat_file: Path | None = None,
) -> tuple[ClaimStore, Runner, Sweeper]:
    """The parts that serve the queues of a report's executors, with a connection of their own."""
    from app.runner import Runner
    from app.sweeper import Sweeper

    client = connect_worker(redis_url(settings))
    claims = ClaimStore(
        client=client,
        worker=report.id,
        lease_s=settings.lease_s,
        wakeup_cap=settings.wakeup_cap,
        max_attempts=settings.max_attempts,
        max_crashes=settings.max_crashes,
        retention_s=settings.retention_s,
    )
    runner = Runner(
        claims=claims,
        sandboxes=sandboxes,
        executors=report.executors,
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
        report=report,
        wakeups={executor: wakeup(app, executor) for executor in report.executors},
        beat_s=settings.beat_s,
        heartbeat_file=heartbeat_file,
    )
    return claims, runner, sweeper


def build_driver_manager(settings: Settings) -> DriverManager:
    """The driver manager: gRPC over the dispatcher, and a worker for every driver.

    Raises:
        ConfigurationInvalid: its configuration is not valid.
    """
    from app.backends.catalog import Catalog
    from app.drivers.caches import open_caches
    from app.drivers.configuration import read_configuration
    from app.drivers.execution import DriverSandbox, Translators
    from app.drivers.metrics import DriverMetrics
    from app.drivers.registry import DriverRegistry
    from app.drivers.resilience import ResilienceManager
    from app.drivers.server import DriverManager
    from app.drivers.service import DriverManagerService
    from app.drivers.waits import Waits
    from app.drivers.worker import DriverWorker
    from app.executors import Resources, registry
    from app.sandbox.pool import SandboxPool

    config = read_configuration(settings.driver_config)
    url = redis_url(settings)
    client = connect_gateway(url)
    events = JobEvents(client=client)
    catalog = Catalog.load(aliases=settings.aliases, max_qubits=settings.simulator_qubits)
    dispatcher = build_dispatcher(settings, client=client, events=events, catalog=catalog)
    metrics = DriverMetrics()
    resilience = ResilienceManager(config.resilience)
    caches = open_caches(config.caches, lambda: connect_worker(url))
    memory_bytes = settings.sandbox.memory_bytes or available_memory() // 4
    resources = Resources(
        threads=1, memory_bytes=memory_bytes, max_result_bytes=settings.max_result_bytes
    )
    translators = Translators(
        lambda: SandboxPool(
            limits=settings.sandbox.model_copy(update={"memory_bytes": memory_bytes}),
            resources=resources,
            slots=settings.slots,
            perform="app.drivers.translation:perform",
        )
    )
    celery = build_celery(settings)

    def resolve(backend: str) -> Backend | None:
        try:
            return catalog.resolve(backend, settings.executors)
        except BackendNotFound:
            return None

    def employ(driver: LoadedDriver, report: WorkerReport) -> DriverWorker:
        translators.start()
        boxes = {
            str(number): DriverSandbox(
                driver=driver.name,
                translators=translators,
                find=drivers.find,
                fallbacks=drivers.fallbacks,
                results=caches[1],
                resolve=resolve,
            )
            for number in range(driver.pool.size)
        }
        claims, runner, sweeper = _serving(
            settings, celery, report=report, sandboxes=boxes, resources=resources
        )
        return DriverWorker(
            driver=driver.name, slots=len(boxes), claims=claims, runner=runner, sweeper=sweeper
        )

    drivers = DriverRegistry(
        path=settings.driver_config,
        config=config,
        resilience=resilience,
        cache=caches[0],
        metrics=metrics,
        employ=employ,
        taken={*registry.names(), *settings.executors, *RESERVED},
    )
    asks = settings.asks_for_keys_over_grpc
    service = DriverManagerService(
        settings=settings,
        dispatcher=dispatcher,
        catalog=catalog,
        identity=build_identity(settings, client, asks=asks),
        is_open=not asks,
        registry=drivers,
        resilience=resilience,
        caches=caches,
        metrics=metrics,
        waits=Waits(snapshot=dispatcher.snapshot, workers=dispatcher.workers),
    )
    return DriverManager(
        settings=settings,
        service=service,
        registry=drivers,
        translators=translators,
        metrics=metrics,
        events=events,
        close=client.aclose,
    )


def _gpus(settings: Settings) -> Survey | None:
    """What GPUs the worker has, if it is one for GPUs.

    Raises:
        ConfigurationInvalid: it serves other executors as well, it has more slots than GPUs, or
            they cannot be used.
    """
    from app.executors.gpus import CUSTATEVEC, require_alone, survey

    if CUSTATEVEC not in settings.executors:
        return None
    require_alone(settings.executors)
    found = survey(measure=True)
    if not found.gpus:
        message = f"the executor {CUSTATEVEC!r} cannot be served here: {found.reason}"
        raise ConfigurationInvalid(message)
    if settings.slots > len(found.gpus):
        message = (
            f"{settings.slots} slots for {len(found.gpus)} GPUs: every slot has one for itself; "
            f"set QFLEET_SLOTS={len(found.gpus)}"
        )
        raise ConfigurationInvalid(message)
    for gpu in found.gpus[: settings.slots]:
        log.info("gpu_found", index=gpu.index, name=gpu.name, memory_bytes=gpu.memory_bytes)
    log.info("gpu_measured", qubits=found.qubits, worth_from=found.worth_from)
    return found


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


def _report(
    settings: Settings, worker_id: str, *, qubits: int, worth_from: int | None
) -> WorkerReport:
    names = ("qiskit", "qiskit-aer", "celery")
    return WorkerReport(
        id=worker_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        executors=settings.executors,
        slots=settings.slots,
        busy=0,
        qubits=qubits,
        worth_from=worth_from,
        versions={"python": platform.python_version()}
        | {name: metadata.version(name) for name in names},
    )
