"""What callers can do, on a real store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis

from app.auth.principal import LOCAL, Principal
from app.backends.catalog import Catalog
from app.dispatcher import Dispatcher
from app.errors import (
    BackendNotFound,
    InvalidProgram,
    JobNotFound,
    LimitExceeded,
    Unavailable,
)
from app.jobs.claims import ClaimStore, Finish
from app.jobs.connection import connect_gateway, connect_worker
from app.jobs.events import JobEvents
from app.jobs.job import Failure, Job, JobFilter, JobStatus, Submission, WorkerReport
from app.jobs.sessions import SessionStore
from app.jobs.store import JobStore
from tests.chaos.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.local.valkey import EmbeddedValkey

pytestmark = pytest.mark.anyio

BELL = Submission(program_id="qasm3", params=b"bell", backend="simulator@aer")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_gateway(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def events(client: redis.asyncio.Redis) -> JobEvents:
    return JobEvents(client=client)


@pytest.fixture
async def dispatcher(client: redis.asyncio.Redis, events: JobEvents) -> AsyncIterator[Dispatcher]:
    listening = asyncio.create_task(events.run())
    yield Dispatcher(
        store=JobStore(
            client=client,
            wakeup_cap=4,
            max_queued=1000,
            max_queued_per_owner=1000,
            max_queued_bytes=64 * 1024 * 1024,
            max_queued_bytes_per_owner=32 * 1024 * 1024,
            idempotency_s=60,
            retention_s=1000,
        ),
        sessions=SessionStore(client=client, retention_s=1000),
        events=events,
        catalog=Catalog.load(aliases={}, max_qubits=30),
        wakeup=lambda executor: f'{{"wake": "{executor}"}}',
        executors=["aer"],
    )
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.fixture
def worker(redis_url: str) -> ClaimStore:
    return ClaimStore(
        client=connect_worker(redis_url),
        worker="w",
        lease_s=15,
        wakeup_cap=4,
        max_attempts=5,
        max_crashes=3,
        retention_s=1000,
    )


def run_one(worker: ClaimStore, **outcome: Any) -> str:
    """Claim the next job and finish it so."""
    _, claim = worker.next(slot="0", executor="aer", wakeup="", finish=None, claim=True)
    assert claim is not None
    values: dict[str, Any] = {"status": JobStatus.COMPLETED, "result": b"{}"} | outcome
    finish = Finish(job_id=claim.job.id, attempt=claim.job.attempt, **values)
    worker.next(slot="0", executor="aer", wakeup="", finish=finish, claim=False)
    return claim.job.program_id


async def eventually_run_one(worker: ClaimStore, redis_url: str, **outcome: Any) -> str:
    """As a worker that is woken: wait for the job, then run it."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.brpop("aer", timeout=10)
    return await asyncio.to_thread(run_one, worker, **outcome)


async def test_a_waiter_learns_of_the_end_by_event(
    dispatcher: Dispatcher, worker: ClaimStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the net that catches lost ones.
    monkeypatch.setattr("app.dispatcher.REREAD_S", 600)
    job = await dispatcher.submit(LOCAL, BELL)
    waiting = asyncio.create_task(dispatcher.wait(LOCAL, job.id, 30))
    await asyncio.sleep(0)

    await asyncio.to_thread(run_one, worker)

    async with asyncio.timeout(20):
        assert (await waiting).status is JobStatus.COMPLETED


async def test_waiting_for_a_final_job_returns_at_once(
    dispatcher: Dispatcher, worker: ClaimStore
) -> None:
    job = await dispatcher.submit(LOCAL, BELL)
    run_one(worker)
    assert (await dispatcher.wait(LOCAL, job.id, 30)).status is JobStatus.COMPLETED


async def test_waiting_ends_when_its_time_is_over(dispatcher: Dispatcher) -> None:
    job = await dispatcher.submit(LOCAL, BELL)
    assert (await dispatcher.wait(LOCAL, job.id, 0.01)).status is JobStatus.QUEUED


async def test_nobody_waits_for_an_unknown_job(dispatcher: Dispatcher) -> None:
    with pytest.raises(JobNotFound):
        await dispatcher.wait(LOCAL, "none", 30)


async def test_an_event_lost_with_the_connection_does_not_hang_a_waiter(
    dispatcher: Dispatcher, worker: ClaimStore, redis_url: str
) -> None:
    job = await dispatcher.submit(LOCAL, BELL)
    waiting = asyncio.create_task(dispatcher.wait(LOCAL, job.id, 30))
    await asyncio.sleep(0)
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.client_kill_filter(_type="pubsub")
        await asyncio.to_thread(run_one, worker)

    assert (await waiting).status is JobStatus.COMPLETED


async def test_a_subscription_that_hears_nothing_is_made_again(
    valkey_server: EmbeddedValkey, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.events.SILENCE_S", 0.5)
    proxy = Proxy(valkey_server.port)
    client = connect_gateway(redis_url.replace(f":{valkey_server.port}/", f":{proxy.port}/"))
    events = JobEvents(client=client)
    listening = asyncio.create_task(events.run())
    async with (
        asyncio.timeout(20),
        redis.asyncio.Redis.from_url(redis_url) as near,
        events.watch("job") as changed,
    ):
        await changed.wait()
        before = proxy.connections

        proxy.deafen()

        while proxy.connections == before:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        changed.clear()
        proxy.heal()
        await changed.wait()
        changed.clear()
        await near.publish("done", "job")
        await changed.wait()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await client.aclose()
    proxy.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("simulator", "METADATA@EXECUTOR"),
        ("simulator@", "METADATA@EXECUTOR"),
        ("simulator@aer\n", "METADATA@EXECUTOR"),
        ("fake_manilla@aer", "near yours \\['fake_manila"),
        ("simulator@gpu", "executors are \\['aer'\\]"),
    ],
)
async def test_an_unknown_backend_is_refused(
    dispatcher: Dispatcher, redis_url: str, name: str, message: str
) -> None:
    submission = Submission(program_id="qasm3", params=b"bell", backend=name)
    with pytest.raises(BackendNotFound, match=message):
        await dispatcher.submit(LOCAL, submission)
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


async def test_an_executor_of_a_live_worker_is_known(
    dispatcher: Dispatcher, worker: ClaimStore
) -> None:
    report = WorkerReport(
        id="w", host="h", pid=1, executors=("extra",), slots=1, busy=0, versions={}
    )
    worker.beat(report=report, busy=[])
    submission = Submission(program_id="qasm3", params=b"bell", backend="simulator@extra")

    assert (await dispatcher.submit(LOCAL, submission)).executor == "extra"


async def test_an_overlong_idempotency_key_is_refused(
    dispatcher: Dispatcher, redis_url: str
) -> None:
    submission = Submission(
        program_id="qasm3", params=b"p", backend="simulator@aer", idempotency_key="k" * 257
    )
    with pytest.raises(LimitExceeded, match="257 characters, at most 256"):
        await dispatcher.submit(LOCAL, submission)
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


async def test_a_job_is_its_owners_alone(dispatcher: Dispatcher, worker: ClaimStore) -> None:
    job = await dispatcher.submit(LOCAL, BELL)
    run_one(worker)
    stranger = Principal(owner="stranger")
    for question in (
        dispatcher.read(stranger, job.id),
        dispatcher.wait(stranger, job.id, 1),
        dispatcher.cancel(stranger, job.id),
    ):
        with pytest.raises(JobNotFound):
            await question


async def test_validation_passes_a_good_program_and_leaves_no_task(
    dispatcher: Dispatcher, worker: ClaimStore, redis_url: str
) -> None:
    ran, _ = await asyncio.gather(
        eventually_run_one(worker, redis_url), dispatcher.validate(LOCAL, BELL, 10)
    )
    assert ran == "qasm3-check"
    assert (await dispatcher.list(LOCAL, JobFilter(), limit=10, cursor=None)).jobs == ()


async def test_validation_raises_what_the_sandbox_found(
    dispatcher: Dispatcher, worker: ClaimStore, redis_url: str
) -> None:
    found = InvalidProgram("syntax", "no", line=2, column=3, source_line="x y")
    failure = Failure(code=found.code, message=str(found), details=found.details)

    with pytest.raises(InvalidProgram) as caught:
        await asyncio.gather(
            eventually_run_one(
                worker, redis_url, status=JobStatus.FAILED, result=None, failure=failure
            ),
            dispatcher.validate(LOCAL, BELL, 10),
        )

    assert str(caught.value) == str(found)
    assert caught.value.details == found.details


async def test_validation_gives_up_when_no_worker_answers(
    dispatcher: Dispatcher, redis_url: str
) -> None:
    with pytest.raises(Unavailable, match="no worker could check"):
        await dispatcher.validate(LOCAL, BELL, 0.01)
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists("arrivals:aer") == 0


async def test_validation_that_ends_while_it_is_given_up_comes_too_late(
    dispatcher: Dispatcher, worker: ClaimStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = dispatcher.cancel

    async def cancel_late(principal: Principal, job_id: str) -> Job:
        await asyncio.to_thread(run_one, worker)
        return await cancel(principal, job_id)

    monkeypatch.setattr(dispatcher, "cancel", cancel_late)

    with pytest.raises(Unavailable, match="no worker could check"):
        await dispatcher.validate(LOCAL, BELL, 0.01)


async def test_nobody_waits_any_more_when_the_process_ends(
    dispatcher: Dispatcher, events: JobEvents
) -> None:
    job = await dispatcher.submit(LOCAL, BELL)
    waiting = asyncio.create_task(dispatcher.wait(LOCAL, job.id, 600))
    while job.id not in events._waiting:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)

    events.let_go()

    async with asyncio.timeout(10):
        assert (await waiting).status is JobStatus.QUEUED
        assert (await dispatcher.wait(LOCAL, job.id, 600)).status is JobStatus.QUEUED


async def test_a_snapshot_covers_configured_and_live_executors(
    dispatcher: Dispatcher, worker: ClaimStore
) -> None:
    report = WorkerReport(
        id="w", host="h", pid=1, executors=("extra",), slots=1, busy=0, versions={}
    )
    worker.beat(report=report, busy=[])
    assert set((await dispatcher.snapshot()).queues) == {"aer", "extra"}
