"""The contract of sessions: who goes first, when they begin and end, on a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.errors import SessionClosed, SessionNotFound
from app.jobs.claims import Claim, ClaimStore, Finish
from app.jobs.connection import connect_gateway
from app.jobs.job import JobFilter, JobStatus
from app.jobs.session import Session, SessionMode, SessionRequest, SessionState
from app.jobs.sessions import CANCEL_MOST, SessionStore

from .conftest import WAKEUP, submission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from app.jobs.job import Job
    from app.jobs.store import JobStore

pytestmark = pytest.mark.anyio

ALICE, BOB = "alice:default", "bob:default"
BACKEND = "simulator@aer"


@pytest.fixture
async def sessions(redis_url: str) -> AsyncIterator[SessionStore]:
    client = connect_gateway(redis_url)
    yield SessionStore(client=client, retention_s=1000)
    await client.aclose()


async def opened(
    sessions: SessionStore, scope: str = ALICE, mode: SessionMode = SessionMode.DEDICATED
) -> Session:
    request = SessionRequest(mode=mode, backend=BACKEND, max_ttl_s=100, interactive_ttl_s=10)
    return await sessions.open(scope=scope, executor="aer", request=request)


async def add(store: JobStore, scope: str = ALICE, **changes: Any) -> Job:
    return await store.add(
        scope=scope, executor="aer", submission=submission(**changes), wakeup=WAKEUP
    )


def claim(worker: ClaimStore, slot: str = "0") -> Claim:
    found = worker.next(slot=slot, executor="aer", wakeup=WAKEUP, finish=None, claim=True)[1]
    assert found is not None
    return found


def complete(worker: ClaimStore, found: Claim, slot: str = "0") -> None:
    finish = Finish(
        job_id=found.job.id,
        attempt=found.job.attempt,
        status=JobStatus.COMPLETED,
        result=b"result",
    )
    outcome, _ = worker.next(slot=slot, executor="aer", wakeup=WAKEUP, finish=finish, claim=False)
    assert outcome == "committed"


def let_time_pass(raw: redis.Redis, session: Session, fields: dict[str, int]) -> None:
    """Let these times of a session lie further back, ms, and let it be looked at now."""
    for field, by_ms in fields.items():
        raw.hincrby(f"session:{session.id}", field, -by_ms)
    raw.zadd("sessions:due", {session.id: 1})


def reap(worker: ClaimStore) -> None:
    worker.reap(wakeups={"aer": WAKEUP})


def everything(raw: redis.Redis) -> dict[str, bytes | None]:
    return {key: raw.dump(key) for key in raw.scan_iter()}


async def test_a_session_is_open_until_its_first_job_starts(
    sessions: SessionStore, store: JobStore, worker: ClaimStore
) -> None:
    session = await opened(sessions)
    await add(store, session_id=session.id)
    assert session.state is SessionState.OPEN
    assert (session.started, session.accepting) == (None, True)

    claim(worker)

    now = await sessions.read(scope=ALICE, session_id=session.id)
    assert now.state is SessionState.ACTIVE
    assert now.started == now.activated == now.last_started
    assert [state for state, _ in now.history] == [SessionState.OPEN, SessionState.ACTIVE]


async def test_jobs_of_an_active_dedicated_session_go_before_all_others(
    sessions: SessionStore, store: JobStore, worker: ClaimStore
) -> None:
    session = await opened(sessions)
    first = await add(store, session_id=session.id)
    others = [await add(store, scope=BOB) for _ in range(3)]
    mine = [await add(store, session_id=session.id) for _ in range(3)]

    order = [claim(worker, slot=str(i)).job.id for i in range(7)]

    assert order[:4] == [first.id, *(job.id for job in mine)]
    assert set(order[4:]) == {job.id for job in others}


async def test_jobs_of_a_batch_wait_like_others(
    sessions: SessionStore, store: JobStore, worker: ClaimStore
) -> None:
    session = await opened(sessions, mode=SessionMode.BATCH)
    mine = [await add(store, session_id=session.id) for _ in range(3)]
    other = await add(store, scope=BOB)

    order = [claim(worker, slot=str(i)).job.id for i in range(4)]

    assert order == [mine[0].id, other.id, mine[1].id, mine[2].id]


async def test_two_dedicated_sessions_take_turns(
    sessions: SessionStore, store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    a, b = await opened(sessions), await opened(sessions, scope=BOB)
    for _ in range(3):
        await add(store, session_id=a.id)
        await add(store, scope=BOB, session_id=b.id)
    for slot in ("0", "1"):
        claim(worker, slot)
    # Turns are taken by the time of the last one; here, these differ for certain.
    raw.zadd("dedicated:aer", {a.id: 1, b.id: 2})

    order = [claim(worker, slot=f"s{i}").job.session_id for i in range(2)]

    assert order == [a.id, b.id]


async def test_a_session_with_nothing_to_do_becomes_inactive_and_active_again(
    sessions: SessionStore, store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    await add(store, session_id=session.id)
    complete(worker, claim(worker))
    reap(worker)
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state is SessionState.ACTIVE

    let_time_pass(raw, session, {"activated": 5000})
    reap(worker)

    idle = await sessions.read(scope=ALICE, session_id=session.id)
    assert idle.state is SessionState.INACTIVE
    assert idle.active_s >= 5
    waiting = await add(store, scope=BOB)
    await add(store, session_id=session.id)
    await add(store, session_id=session.id)
    order = [claim(worker, slot=str(i)).job for i in range(3)]
    assert order[0].id == waiting.id, "an inactive session has no priority"
    again = await sessions.read(scope=ALICE, session_id=session.id)
    assert again.state is SessionState.ACTIVE
    assert again.started == idle.started


async def test_a_session_ends_with_its_time_and_cancels_what_waits(
    sessions: SessionStore, store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    running, waiting = [await add(store, session_id=session.id) for _ in range(2)]
    found = claim(worker)
    let_time_pass(raw, session, {"started": 200_000})

    reap(worker)

    over = await sessions.read(scope=ALICE, session_id=session.id)
    assert (over.accepting, over.reason) == (False, "max_ttl")
    assert over.state is SessionState.ACTIVE, "a job of it runs"
    cancelled = await store.read(scope=ALICE, job_id=waiting.id)
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.failure is not None
    assert cancelled.failure.code == "session_ended"
    complete(worker, found)
    assert (await store.read(scope=ALICE, job_id=running.id)).status is JobStatus.COMPLETED
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state is SessionState.CLOSED


async def test_a_session_that_never_started_ends_too(
    sessions: SessionStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    let_time_pass(raw, session, {"created": 200_000})

    reap(worker)

    over = await sessions.read(scope=ALICE, session_id=session.id)
    assert (over.state, over.reason) == (SessionState.CLOSED, "max_ttl")


async def test_a_stopped_session_runs_what_it_has_and_refuses_more(
    sessions: SessionStore, store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    await add(store, session_id=session.id)

    await sessions.close(scope=ALICE, session_id=session.id, how="stop")

    before = everything(raw)
    with pytest.raises(SessionClosed, match="no more jobs"):
        await add(store, session_id=session.id)
    assert everything(raw) == before
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state is SessionState.OPEN
    complete(worker, claim(worker))
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state is SessionState.CLOSED


async def test_a_stopped_session_can_be_resumed_until_it_has_ended(
    sessions: SessionStore, store: JobStore
) -> None:
    session = await opened(sessions)
    job = await add(store, session_id=session.id)
    await sessions.close(scope=ALICE, session_id=session.id, how="stop")

    await sessions.close(scope=ALICE, session_id=session.id, how="resume")
    await add(store, session_id=session.id)

    await sessions.close(scope=ALICE, session_id=session.id, how="cancel")
    with pytest.raises(SessionClosed, match="ended"):
        await sessions.close(scope=ALICE, session_id=session.id, how="resume")
    assert (await store.read(scope=ALICE, job_id=job.id)).status is JobStatus.CANCELLED


async def test_cancelling_a_session_spares_what_runs(
    sessions: SessionStore, store: JobStore, worker: ClaimStore
) -> None:
    session = await opened(sessions)
    running, waiting = [await add(store, session_id=session.id) for _ in range(2)]
    found = claim(worker)

    await sessions.close(scope=ALICE, session_id=session.id, how="cancel")

    statuses = [(await store.read(scope=ALICE, job_id=job.id)).status for job in (running, waiting)]
    assert statuses == [JobStatus.RUNNING, JobStatus.CANCELLED]
    complete(worker, found)
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state is SessionState.CLOSED


async def test_a_large_session_is_cancelled_in_steps(
    sessions: SessionStore, redis_url: str
) -> None:
    from app.jobs.store import JobStore

    client = connect_gateway(redis_url)
    store = JobStore(
        client=client,
        wakeup_cap=4,
        max_queued=2000,
        max_queued_per_owner=2000,
        max_queued_bytes=64 * 1024 * 1024,
        max_queued_bytes_per_owner=32 * 1024 * 1024,
        idempotency_s=60,
        retention_s=1000,
    )
    session = await opened(sessions)
    for _ in range(CANCEL_MOST + 3):
        await add(store, session_id=session.id)

    await sessions.close(scope=ALICE, session_id=session.id, how="cancel")

    pending = await store.list(scope=ALICE, which=JobFilter(pending=True), limit=1)
    assert pending.total == 0
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state is SessionState.CLOSED
    await client.aclose()


async def test_a_session_is_nobody_elses(
    sessions: SessionStore, store: JobStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    before = everything(raw)

    for scope in (BOB, "alice:other"):
        with pytest.raises(SessionNotFound):
            await sessions.read(scope=scope, session_id=session.id)
        with pytest.raises(SessionNotFound):
            await sessions.close(scope=scope, session_id=session.id, how="cancel")
        with pytest.raises(SessionNotFound):
            await add(store, scope=scope, session_id=session.id)

    assert everything(raw) == before


async def test_a_session_is_for_one_backend(
    sessions: SessionStore, store: JobStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    before = everything(raw)

    with pytest.raises(SessionClosed, match="one backend"):
        await add(store, session_id=session.id, backend="fake_manila@aer")

    assert everything(raw) == before


async def test_what_a_session_used_is_counted(
    sessions: SessionStore, store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    job = await add(store, session_id=session.id)
    found = claim(worker)
    raw.hincrby(f"job:{job.id}", "started", -3000)

    complete(worker, found)

    now = await sessions.read(scope=ALICE, session_id=session.id)
    assert now.run_s >= 3
    assert (await store.read(scope=ALICE, job_id=job.id)).run_s == now.run_s
    used = await store.usage(scope=ALICE)
    assert (used.used_s, used.allowed_s) == (now.run_s, None)
    assert (await store.usage(scope=BOB)).used_s == 0


async def test_a_job_that_comes_back_stays_in_its_session(
    sessions: SessionStore, store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    await add(store, session_id=session.id)
    found = claim(worker)
    other = await add(store, scope=BOB)
    from app.jobs.job import Failure

    worker.lost(
        slot="0",
        job=found.job,
        kind="crash",
        failure=Failure(code="sandbox_crashed", message="it died"),
        wakeup=WAKEUP,
    )

    assert claim(worker).job.id == found.job.id, "its session is active, it goes first"
    assert claim(worker, slot="1").job.id == other.id
    assert raw.hget(f"session:{session.id}", "running") == "1"


async def test_a_closed_session_is_forgotten_with_time(
    sessions: SessionStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    await sessions.close(scope=ALICE, session_id=session.id, how="stop")
    raw.zadd("sessions:due", {session.id: 1})

    reap(worker)

    with pytest.raises(SessionNotFound):
        await sessions.read(scope=ALICE, session_id=session.id)
    assert [key for key in raw.scan_iter() if "session" in key or "workloads" in key] == []


async def test_a_session_that_ends_with_a_deleted_job_is_kept_for_its_time(
    sessions: SessionStore, store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    job = await add(store, session_id=session.id)
    await sessions.close(scope=ALICE, session_id=session.id, how="stop")

    await store.delete(scope=ALICE, job_id=job.id)
    reap(worker)

    over = await sessions.read(scope=ALICE, session_id=session.id)
    assert over.state is SessionState.CLOSED


async def test_a_session_whose_time_is_over_cannot_be_resumed(
    sessions: SessionStore, store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    session = await opened(sessions)
    await add(store, session_id=session.id)
    claim(worker)
    let_time_pass(raw, session, {"started": 200_000})
    reap(worker)
    before = everything(raw)

    with pytest.raises(SessionClosed, match="ended"):
        await sessions.close(scope=ALICE, session_id=session.id, how="resume")

    assert everything(raw) == before


@pytest.mark.parametrize("suffix", [":ready", ":ready:aer", ":", ""])
async def test_no_name_of_a_session_reaches_another_key(
    sessions: SessionStore, store: JobStore, raw: redis.Redis, suffix: str
) -> None:
    session = await opened(sessions)
    await add(store, session_id=session.id)
    before = everything(raw)

    with pytest.raises(SessionNotFound):
        await add(store, session_id=(session.id + suffix) if suffix else "due")

    assert everything(raw) == before


async def test_workloads_are_sessions_and_the_jobs_outside_of_them(
    sessions: SessionStore, store: JobStore, raw: redis.Redis
) -> None:
    deleted = await add(store)
    job = await add(store)
    session = await opened(sessions)
    await add(store, session_id=session.id)
    await add(store, scope=BOB)
    session = await sessions.read(scope=ALICE, session_id=session.id)
    raw.delete(f"job:{deleted.id}")

    async def found(*, oldest_first: bool, limit: int = 10) -> list[Job | Session | None]:
        some = await sessions.workloads(
            scope=ALICE, below="+inf", above="-inf", oldest_first=oldest_first, limit=limit
        )
        return [workload.of for workload in some]

    assert await found(oldest_first=False) == [session, job, None]
    assert await found(oldest_first=True) == [None, job, session]
    assert await found(oldest_first=False, limit=1) == [session]


async def test_workloads_are_counted_between_arrivals(
    sessions: SessionStore, store: JobStore
) -> None:
    for _ in range(3):
        await add(store)
    await opened(sessions)
    *_, third, _ = await sessions.workloads(
        scope=ALICE, below="+inf", above="-inf", oldest_first=True, limit=10
    )

    async def counted(below: str, above: str, scope: str = ALICE) -> int:
        return await sessions.count_workloads(scope=scope, below=below, above=above)

    assert await counted("+inf", "-inf") == 4
    assert await counted(f"({third.arrival}", "-inf") == 2
    assert await counted("+inf", str(third.arrival)) == 2
    assert await counted("+inf", "-inf", scope=BOB) == 0


async def test_a_session_counts_its_jobs(
    sessions: SessionStore, store: JobStore, worker: ClaimStore
) -> None:
    session = await opened(sessions)
    assert (session.queued, session.running) == (0, 0)
    for executor in ("aer", "aer", "noisy"):
        await store.add(
            scope=ALICE,
            executor=executor,
            submission=submission(session_id=session.id),
            wakeup=WAKEUP,
        )
    claim(worker)

    found = await sessions.read(scope=ALICE, session_id=session.id)

    assert (found.executor, found.queued, found.running) == ("aer", 2, 1)


async def test_sessions_are_listed_newest_first_by_their_states(
    sessions: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.sessions.PAGE", 2)
    await opened(sessions, scope=BOB)
    ids = [(await opened(sessions)).id for _ in range(5)][::-1]
    for closed in (ids[1], ids[2]):
        await sessions.close(scope=ALICE, session_id=closed, how="stop")

    async def listed(*states: SessionState, limit: int = 10) -> list[str]:
        found = await sessions.list(scope=ALICE, states=states, limit=limit)
        return [session.id for session in found]

    assert await listed(*SessionState) == ids
    assert await listed(SessionState.OPEN) == [ids[0], ids[3], ids[4]]
    assert await listed(*SessionState, limit=1) == ids[:1]
    assert await listed(SessionState.OPEN, limit=2) == [ids[0], ids[3]]
    assert await listed(SessionState.CLOSED) == [ids[1], ids[2]]
    assert await listed(SessionState.ACTIVE) == []
