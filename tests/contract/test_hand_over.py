"""The contract of a hand-over: a claimed job goes to the queue of another executor, whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.jobs.claims import Claim, ClaimStore, Finish
from app.jobs.connection import connect_gateway
from app.jobs.job import Failure, Job, JobStatus, WorkerReport
from app.jobs.session import SessionMode, SessionRequest, SessionState
from app.jobs.sessions import SessionStore
from app.primitives.programs import Choice

from .conftest import WAKEUP, submission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import redis

    from app.jobs.store import JobStore

pytestmark = pytest.mark.anyio

ALICE, BOB = "alice:default", "bob:default"
BACKEND = "simulator@auto"
GPU = Choice(executor="gpu", because="24 qubits")
FAILURE = Failure(code="sandbox_crashed", message="it died")


@pytest.fixture
def gpu_worker(make_worker: Callable[..., ClaimStore]) -> ClaimStore:
    """A live worker of the executor that jobs are handed over to."""
    return beating(make_worker("w2"), "w2", "gpu")


@pytest.fixture
async def sessions(redis_url: str) -> AsyncIterator[SessionStore]:
    client = connect_gateway(redis_url)
    yield SessionStore(client=client, retention_s=1000)
    await client.aclose()


def beating(worker: ClaimStore, name: str, *executors: str, qubits: int = 30) -> ClaimStore:
    report = WorkerReport(
        id=name,
        host="h",
        pid=1,
        executors=executors,
        slots=1,
        busy=0,
        versions={},
        qubits=qubits,
    )
    worker.beat(report=report, busy=[])
    return worker


async def add(store: JobStore, scope: str = ALICE, executor: str = "auto", **changes: Any) -> Job:
    return await store.add(
        scope=scope,
        executor=executor,
        submission=submission(backend=f"simulator@{executor}", **changes),
        wakeup=WAKEUP,
    )


def claim(worker: ClaimStore, executor: str = "auto", slot: str = "0") -> Claim | None:
    return worker.next(slot=slot, executor=executor, wakeup=WAKEUP, finish=None, claim=True)[1]


def claimed(worker: ClaimStore, executor: str = "auto", slot: str = "0") -> Claim:
    found = claim(worker, executor, slot)
    assert found is not None
    return found


def hand_over(worker: ClaimStore, found: Claim, slot: str = "0") -> str:
    return worker.hand_over(slot=slot, job=found.job, choice=GPU, wakeup=WAKEUP)


def complete(worker: ClaimStore, found: Claim, executor: str = "gpu", slot: str = "0") -> str:
    finish = Finish(
        job_id=found.job.id,
        attempt=found.job.attempt,
        status=JobStatus.COMPLETED,
        result=b"result",
    )
    return worker.next(slot=slot, executor=executor, wakeup=WAKEUP, finish=finish, claim=False)[0]


def everything(raw: redis.Redis) -> dict[str, bytes | None]:
    return {key: raw.dump(key) for key in raw.scan_iter()}


async def test_a_handed_over_job_waits_for_the_other_executor(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    found = claimed(worker)

    assert hand_over(worker, found) == "Queued"

    now = await store.read(scope=ALICE, job_id=job.id)
    assert (now.status, now.executor, now.choice) == (JobStatus.QUEUED, "gpu", GPU)
    assert (now.backend, now.created) == (job.backend, job.created)
    assert claim(worker) is None
    again = claimed(gpu_worker, "gpu")
    assert (again.job.id, again.params, again.job.choice) == (job.id, b"program", GPU)
    assert complete(gpu_worker, again) == "committed"
    assert await store.result(job=await store.read(scope=ALICE, job_id=job.id)) == b"result"


async def test_a_worker_of_the_other_executor_is_woken(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)

    hand_over(worker, claimed(worker))

    assert raw.llen("gpu") == 1


async def test_counters_move_with_the_job(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    hand_over(worker, claimed(worker))

    queues = (await store.snapshot(executors=["auto", "gpu"])).queues
    assert (queues["auto"].queued, queues["auto"].running) == (0, 0)
    assert (queues["gpu"].queued, queues["gpu"].running) == (1, 0)
    complete(gpu_worker, claimed(gpu_worker, "gpu"))

    snapshot = await store.snapshot(executors=["auto", "gpu"])
    assert raw.hgetall("running") == {"auto": "0", "gpu": "0"}
    assert snapshot.counters["jobs_handed_over_total", ("gpu",)] == 1
    assert snapshot.counters["jobs_finished_total", ("Completed", "gpu")] == 1
    assert not {name for name, _ in snapshot.counters} & {"jobs_requeued_total", "jobs_dead_total"}
    leftovers = [key for what in ("ready:*", "held:*", "arrivals:*") for key in raw.scan_iter(what)]
    assert leftovers == []
    assert raw.exists("leases") == 0


async def test_it_keeps_its_place_before_what_came_later(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore
) -> None:
    first = await add(store)
    later = await add(store, executor="gpu")
    urgent = await add(store, executor="gpu", priority=5)

    hand_over(worker, claimed(worker))

    order = [claimed(gpu_worker, "gpu", slot=str(i)).job.id for i in range(3)]
    assert order == [urgent.id, first.id, later.id]


async def test_an_owner_with_a_backlog_there_delays_nobody(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore
) -> None:
    for _ in range(5):
        await add(store, scope=BOB, executor="gpu")
    for slot in range(2):
        claimed(gpu_worker, "gpu", slot=str(slot))
    mine = await add(store)

    hand_over(worker, claimed(worker))

    assert claimed(gpu_worker, "gpu", slot="2").job.id == mine.id


async def test_a_stale_hand_over_changes_nothing(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    found = claimed(worker)
    worker.lost(slot="0", job=found.job, kind="returned", failure=FAILURE, wakeup=WAKEUP)
    newer = claimed(worker, slot="1")
    before = everything(raw)

    assert hand_over(worker, found) == "stale"
    assert hand_over(worker, found, slot="1") == "stale"
    assert hand_over(worker, newer, slot="0") == "stale"

    assert everything(raw) == before
    assert hand_over(worker, newer, slot="1") == "Queued"
    before = everything(raw)
    assert hand_over(worker, newer, slot="1") == "stale", "it may be repeated"
    assert everything(raw) == before


async def test_a_cancelled_job_is_not_handed_over(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore
) -> None:
    job = await add(store)
    found = claimed(worker)
    await store.cancel(scope=ALICE, job_id=job.id)

    assert hand_over(worker, found) == "stale"

    assert (await store.read(scope=ALICE, job_id=job.id)).status is JobStatus.CANCELLED


async def test_nothing_is_handed_over_to_an_executor_that_no_worker_serves(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    beating(worker, "w1", "auto", "aer")
    await add(store)
    found = claimed(worker)
    before = everything(raw)

    assert hand_over(worker, found) == "unserved"

    assert everything(raw) == before
    assert complete(worker, found, executor="auto") == "committed"


async def test_a_silent_worker_serves_nothing(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    found = claimed(worker)
    # Its report has expired, nobody has reaped yet.
    raw.delete("worker:w2")

    assert hand_over(worker, found) == "unserved"


async def test_a_hand_over_is_none_of_the_attempts(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore
) -> None:
    job = await add(store)
    hand_over(worker, claimed(worker))
    for _ in range(4):
        found = claimed(gpu_worker, "gpu")
        status = gpu_worker.lost(
            slot="0", job=found.job, kind="lost", failure=FAILURE, wakeup=WAKEUP
        )
        assert status is JobStatus.QUEUED

    found = claimed(gpu_worker, "gpu")

    assert found.job.attempt == 6
    status = gpu_worker.lost(slot="0", job=found.job, kind="lost", failure=FAILURE, wakeup=WAKEUP)
    assert status is JobStatus.FAILED, "the fifth attempt of five"
    assert (await store.read(scope=ALICE, job_id=job.id)).status is JobStatus.FAILED


async def test_a_zombie_cannot_finish_what_it_handed_over(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore
) -> None:
    await add(store)
    found = claimed(worker)
    hand_over(worker, found)

    assert complete(worker, found, executor="auto") == "fenced"
    again = claimed(gpu_worker, "gpu")
    assert complete(worker, found, executor="auto") == "fenced"
    assert complete(gpu_worker, again) == "committed"


async def test_a_job_of_a_session_stays_in_it(
    store: JobStore,
    sessions: SessionStore,
    worker: ClaimStore,
    gpu_worker: ClaimStore,
    raw: redis.Redis,
) -> None:
    request = SessionRequest(
        mode=SessionMode.DEDICATED, backend=BACKEND, max_ttl_s=100, interactive_ttl_s=10
    )
    session = await sessions.open(scope=ALICE, executor="auto", request=request)
    first = await add(store, session_id=session.id)
    second = await add(store, session_id=session.id)
    other = await add(store, scope=BOB, executor="gpu")

    hand_over(worker, claimed(worker))

    assert claimed(worker, slot="1").job.id == second.id, "each executor serves its own"
    again = claimed(gpu_worker, "gpu")
    assert again.job.id == first.id, "jobs of an active dedicated session go first, there too"
    assert claimed(gpu_worker, "gpu", slot="1").job.id == other.id
    complete(gpu_worker, again)
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state is SessionState.ACTIVE
    await store.cancel(scope=ALICE, job_id=second.id)
    await sessions.close(scope=ALICE, session_id=session.id, how="stop")
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state is SessionState.CLOSED
    assert list(raw.scan_iter("session:*:ready*")) == []


async def test_closing_a_session_cancels_what_was_handed_over(
    store: JobStore, sessions: SessionStore, worker: ClaimStore, gpu_worker: ClaimStore
) -> None:
    request = SessionRequest(
        mode=SessionMode.BATCH, backend=BACKEND, max_ttl_s=100, interactive_ttl_s=10
    )
    session = await sessions.open(scope=ALICE, executor="auto", request=request)
    job = await add(store, session_id=session.id)
    hand_over(worker, claimed(worker))

    await sessions.close(scope=ALICE, session_id=session.id, how="cancel")

    assert (await store.read(scope=ALICE, job_id=job.id)).status is JobStatus.CANCELLED
    assert claim(gpu_worker, "gpu") is None


async def test_a_session_leaves_no_trace_where_its_cancelled_job_waited(
    store: JobStore,
    sessions: SessionStore,
    worker: ClaimStore,
    gpu_worker: ClaimStore,
    raw: redis.Redis,
) -> None:
    request = SessionRequest(
        mode=SessionMode.DEDICATED, backend=BACKEND, max_ttl_s=100, interactive_ttl_s=10
    )
    session = await sessions.open(scope=ALICE, executor="auto", request=request)
    await add(store, session_id=session.id)
    hand_over(worker, claimed(worker))
    assert raw.zrange("dedicated:gpu", 0, -1) == [session.id]

    await sessions.close(scope=ALICE, session_id=session.id, how="cancel")

    assert list(raw.scan_iter("dedicated:*")) == []


async def test_a_worker_knows_who_lives_and_the_largest_of_each(
    make_worker: Callable[..., ClaimStore], raw: redis.Redis
) -> None:
    worker = make_worker("w1")
    assert worker.live() == {}

    beating(worker, "w1", "aer", "auto", qubits=28)
    beating(make_worker("w2"), "w2", "aer", qubits=31)
    beating(make_worker("w3"), "w3", "gpu", qubits=33)

    assert worker.live() == {"aer": 31, "auto": 28, "gpu": 33}
    raw.delete("worker:w3")
    assert worker.live() == {"aer": 31, "auto": 28}


# --- the other executor goes --------------------------------------------------------------------


def go(raw: redis.Redis, name: str) -> None:
    """Let a worker have been silent for long."""
    raw.delete(f"worker:{name}")


async def test_what_waits_for_an_executor_that_is_gone_is_taken_back(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore, raw: redis.Redis
) -> None:
    jobs = [await add(store) for _ in range(3)]
    direct = await add(store, executor="gpu")
    for _ in jobs:
        hand_over(worker, claimed(worker))
    ran = claimed(gpu_worker, "gpu")
    go(raw, "w2")
    raw.delete("auto")

    worker.reap(wakeups={"auto": WAKEUP})

    back = [await store.read(scope=ALICE, job_id=job.id) for job in jobs[1:]]
    assert {(job.status, job.executor, job.choice) for job in back} == {
        (JobStatus.QUEUED, "auto", None)
    }
    assert raw.llen("auto") == 2
    assert [claimed(worker, slot=str(i)).job.id for i in range(2)] == [job.id for job in back]
    assert ran.job.id == jobs[0].id, "what runs is the lease's affair"
    stays = await store.read(scope=ALICE, job_id=direct.id)
    assert stays.executor == "gpu", "its caller has named that executor"
    assert set(raw.scan_iter("handed_over*")) == set()


async def test_what_waits_for_an_executor_that_lives_stays(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    hand_over(worker, claimed(worker))

    worker.reap(wakeups={"auto": WAKEUP})

    assert (await store.read(scope=ALICE, job_id=job.id)).executor == "gpu"
    assert claimed(gpu_worker, "gpu").job.id == job.id


async def test_a_lost_job_is_taken_back_too(
    store: JobStore, worker: ClaimStore, gpu_worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    hand_over(worker, claimed(worker))
    found = claimed(gpu_worker, "gpu")
    gpu_worker.lost(slot="0", job=found.job, kind="returned", failure=FAILURE, wakeup=WAKEUP)
    gpu_worker.leave()

    worker.reap(wakeups={"auto": WAKEUP})

    again = claimed(worker)
    assert (again.job.id, again.job.executor, again.job.choice) == (found.job.id, "auto", None)
    assert complete(worker, again, executor="auto") == "committed"


async def test_a_job_that_was_taken_back_is_in_its_session_still(
    store: JobStore, sessions: SessionStore, worker: ClaimStore, gpu_worker: ClaimStore
) -> None:
    request = SessionRequest(
        mode=SessionMode.DEDICATED, backend=BACKEND, max_ttl_s=100, interactive_ttl_s=10
    )
    session = await sessions.open(scope=ALICE, executor="auto", request=request)
    job = await add(store, session_id=session.id)
    others = [await add(store, scope=BOB, priority=9) for _ in range(2)]
    claims = [claimed(worker, slot=str(i)) for i in range(3)]
    mine = next(found for found in claims if found.job.id == job.id)
    hand_over(worker, mine, slot=str(claims.index(mine)))
    gpu_worker.leave()
    late = await add(store, scope=BOB, priority=9)

    worker.reap(wakeups={"auto": WAKEUP})

    order = [claimed(worker, slot=str(i)).job.id for i in (5, 6)]
    assert order == [job.id, late.id]
    assert len(others) == 2
