"""The running quota of a plan: never more run, nobody else waits for it, and nothing is forgotten."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from app.auth.instances import Quota
from app.auth.store import KeyStore
from app.errors import JobIsFinal
from app.jobs.claims import Claim, ClaimStore, Finish
from app.jobs.connection import connect_gateway
from app.jobs.job import Failure, JobStatus, WorkerReport
from app.jobs.session import SessionMode, SessionRequest
from app.jobs.sessions import SessionStore
from app.jobs.store import JobStore
from app.primitives.programs import Choice

from .conftest import WAKEUP, submission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import redis

    from app.jobs.job import Job

pytestmark = pytest.mark.anyio

ALICE, BOB = "alice:default", "bob:default"
EXECUTORS = ("aer", "noisy")
WAKEUPS = dict.fromkeys(EXECUTORS, WAKEUP)
FAILURE = Failure(code="sandbox_crashed", message="it died")


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[JobStore]:
    """A store in which only plans limit what is queued."""
    client = connect_gateway(redis_url)
    yield JobStore(
        client=client,
        wakeup_cap=4,
        max_queued=10_000,
        max_queued_per_owner=10_000,
        max_queued_bytes=1 << 30,
        max_queued_bytes_per_owner=1 << 30,
        idempotency_s=60,
        retention_s=1000,
    )
    await client.aclose()


@pytest.fixture
async def keys(redis_url: str) -> AsyncIterator[KeyStore]:
    client = connect_gateway(redis_url)
    yield KeyStore(client=client, secret=None, bootstrap_key=None)
    await client.aclose()


@pytest.fixture
async def sessions(redis_url: str) -> AsyncIterator[SessionStore]:
    client = connect_gateway(redis_url)
    yield SessionStore(client=client, retention_s=1000)
    await client.aclose()


@pytest.fixture
async def one_at_a_time(keys: KeyStore) -> None:
    """Of alice's instance one job runs; bob's plan has no limit."""
    await keys.issue(owner="alice", plan="small")
    await keys.issue(owner="bob", plan="large")
    await keys.set_plan("small", Quota(running=1))


async def add(store: JobStore, scope: str = ALICE, executor: str = "aer", **changes: Any) -> Job:
    return await store.add(
        scope=scope, executor=executor, submission=submission(**changes), wakeup=WAKEUP
    )


def step(
    worker: ClaimStore,
    slot: str = "0",
    executor: str = "aer",
    finish: Finish | None = None,
    *,
    claim: bool = True,
) -> Claim | None:
    return worker.next(slot=slot, executor=executor, wakeup=WAKEUP, finish=finish, claim=claim)[1]


def claimed(worker: ClaimStore, slot: str = "0", executor: str = "aer") -> Claim:
    found = step(worker, slot, executor)
    assert found is not None
    return found


def completed(found: Claim) -> Finish:
    return Finish(
        job_id=found.job.id, attempt=found.job.attempt, status=JobStatus.COMPLETED, result=b"r"
    )


def nothing_is_parked(raw: redis.Redis) -> bool:
    return [key for key in raw.scan_iter() if key.startswith(("parked", "window"))] == []


# --- who may run ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_job_beyond_the_quota_stays_queued(store: JobStore, worker: ClaimStore) -> None:
    first, second = await add(store), await add(store)

    assert claimed(worker).job.id == first.id

    assert step(worker, "1") is None
    waiting = await store.read(scope=ALICE, job_id=second.id)
    assert waiting.status is JobStatus.QUEUED
    assert await store.position(job=waiting) == 1


@pytest.mark.usefixtures("one_at_a_time")
async def test_it_starts_in_the_step_that_ends_the_one_before(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    jobs = [await add(store) for _ in range(3)]
    found = claimed(worker)

    for job in jobs[1:]:
        found = step(worker, finish=completed(found))  # type: ignore[assignment]
        assert found.job.id == job.id
    assert step(worker, finish=completed(found)) is None
    assert nothing_is_parked(raw)


@pytest.mark.usefixtures("one_at_a_time")
async def test_another_owners_jobs_do_not_wait_for_it(store: JobStore, worker: ClaimStore) -> None:
    for _ in range(100):
        await add(store)
    claimed(worker)
    others = [await add(store, BOB) for _ in range(3)]

    started = [claimed(worker, str(slot)).job.id for slot in range(1, 4)]

    assert started == [job.id for job in others]
    assert step(worker, "4") is None


@pytest.mark.usefixtures("one_at_a_time")
async def test_another_instance_of_the_owner_does_not_wait_for_it(
    store: JobStore, worker: ClaimStore, keys: KeyStore
) -> None:
    await keys.issue(owner="alice", instance="lab", plan="large")
    for _ in range(3):
        await add(store)
    other = await add(store, "alice:lab")
    claimed(worker)

    assert claimed(worker, "1").job.id == other.id
    assert step(worker, "2") is None


async def test_who_has_no_plan_has_the_plan_open(
    store: JobStore, worker: ClaimStore, keys: KeyStore
) -> None:
    await keys.set_plan("open", Quota(running=2))
    for _ in range(3):
        await add(store)

    claimed(worker)
    claimed(worker, "1")
    assert step(worker, "2") is None


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_validation_runs_beside_the_quota(store: JobStore, worker: ClaimStore) -> None:
    await add(store)
    await add(store)
    claimed(worker)

    check = await add(store, listed=False)

    assert claimed(worker, "1").job.id == check.id
    assert step(worker, "2") is None


@pytest.mark.usefixtures("one_at_a_time")
async def test_of_parked_jobs_the_highest_priority_goes_first(
    store: JobStore, worker: ClaimStore
) -> None:
    await add(store)
    found = claimed(worker)
    _, low, high = [await add(store, priority=priority) for priority in (0, -1, 5)]

    first = step(worker, finish=completed(found))

    assert first is not None
    assert first.job.id == high.id
    assert await store.position(job=low) == 2


# --- one quota, several executors -----------------------------------------------------------------


@pytest.mark.usefixtures("one_at_a_time")
async def test_the_quota_counts_what_runs_on_all_executors(
    store: JobStore, worker: ClaimStore
) -> None:
    await add(store, executor="aer")
    second = await add(store, executor="noisy")
    found = claimed(worker)

    assert step(worker, "1", "noisy") is None

    step(worker, finish=completed(found))
    assert claimed(worker, "1", "noisy").job.id == second.id


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_job_that_was_passed_over_is_woken_when_its_turn_comes(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    worker.reap(wakeups=WAKEUPS)
    await add(store, executor="aer")
    second = await add(store, executor="noisy")
    found = claimed(worker)
    # It was ready while nothing ran.
    assert step(worker, "1", "noisy") is None
    raw.delete("noisy")

    step(worker, finish=completed(found), claim=False)

    assert raw.llen("noisy") == 1
    assert claimed(worker, "1", "noisy").job.id == second.id


@pytest.mark.usefixtures("one_at_a_time")
async def test_jobs_for_an_executor_that_is_away_keep_nobody_waiting(
    store: JobStore, worker: ClaimStore
) -> None:
    for _ in range(5):
        await add(store, executor="away")
    job = await add(store, executor="aer")

    found = claimed(worker)
    assert found.job.id == job.id
    following = await add(store, executor="aer")

    again = step(worker, finish=completed(found))
    assert again is not None
    assert again.job.id == following.id


# --- every way in which a job stops running -------------------------------------------------------


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_cancelled_job_lets_the_next_one_in_and_wakes_a_worker(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    second = await add(store)
    found = claimed(worker)
    raw.delete("aer")

    await store.cancel(scope=ALICE, job_id=found.job.id)

    assert raw.llen("aer") == 1, "the slot that is free may be on another machine"
    assert claimed(worker, "1").job.id == second.id


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_slot_that_stops_leaves_a_wakeup_for_the_next_one(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    second = await add(store)
    found = claimed(worker)
    raw.delete("aer")

    step(worker, finish=completed(found), claim=False)

    assert raw.llen("aer") >= 1
    assert claimed(worker, "1").job.id == second.id


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("kind", ["lost", "returned"])
async def test_a_job_that_comes_back_keeps_its_place(
    store: JobStore, worker: ClaimStore, kind: Any
) -> None:
    first = await add(store)
    await add(store)
    found = claimed(worker)

    worker.lost(slot="0", job=found.job, kind=kind, failure=FAILURE, wakeup=WAKEUP)

    assert claimed(worker).job.id == first.id
    assert step(worker, "1") is None


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_job_that_crashed_goes_behind_those_that_are_parked(
    store: JobStore, worker: ClaimStore
) -> None:
    first, second = await add(store), await add(store)
    found = claimed(worker)

    worker.lost(slot="0", job=found.job, kind="crash", failure=FAILURE, wakeup=WAKEUP)

    found = claimed(worker)
    assert found.job.id == second.id
    last = step(worker, finish=completed(found))
    assert last is not None
    assert last.job.id == first.id


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_worker_that_went_silent_holds_no_place(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    first = await add(store)
    await add(store)
    claimed(worker)
    raw.zadd("leases", {first.id: 1})
    seconds, microseconds = raw.time()
    raw.set("reaper:tick", seconds * 1000 + microseconds // 1000)

    assert worker.reap(wakeups=WAKEUPS).given_back == 1

    assert claimed(worker, "1").job.id == first.id
    assert step(worker, "2") is None


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_parked_job_can_be_cancelled_and_deleted(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    found = claimed(worker)
    parked = [await add(store) for _ in range(2)]

    await store.cancel(scope=ALICE, job_id=parked[0].id)
    await store.delete(scope=ALICE, job_id=parked[1].id)

    assert step(worker, finish=completed(found)) is None
    assert nothing_is_parked(raw)
    assert raw.hgetall("queued:jobs") == {}


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_ready_job_that_is_cancelled_makes_room(
    store: JobStore, worker: ClaimStore
) -> None:
    first, second = await add(store), await add(store)

    await store.cancel(scope=ALICE, job_id=first.id)

    assert claimed(worker).job.id == second.id


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_job_that_is_handed_over_keeps_to_the_quota(
    store: JobStore, worker: ClaimStore
) -> None:
    report = WorkerReport(
        id="w1", host="h", pid=1, executors=EXECUTORS, slots=2, busy=0, versions={}
    )
    worker.beat(report=report, busy=())
    first, second = await add(store), await add(store)
    found = claimed(worker)

    choice = Choice(executor="noisy", because="test")
    worker.hand_over(slot="0", job=found.job, choice=choice, wakeup=WAKEUP)

    # Each executor has room for one now; whoever is first takes it.
    moved = claimed(worker, "1", "noisy")
    assert moved.job.id == first.id
    assert step(worker, "0", "aer") is None
    step(worker, "1", "noisy", completed(moved))
    assert claimed(worker, "0", "aer").job.id == second.id


async def test_a_dedicated_session_keeps_to_the_quota(
    store: JobStore, worker: ClaimStore, sessions: SessionStore, keys: KeyStore
) -> None:
    await keys.set_plan("open", Quota(running=1))
    request = SessionRequest(
        mode=SessionMode.DEDICATED, backend="simulator@aer", max_ttl_s=100, interactive_ttl_s=10
    )
    session = await sessions.open(scope=ALICE, executor="aer", request=request)
    first = await add(store, session_id=session.id)
    second = await add(store, session_id=session.id)
    other = await add(store, BOB)

    found = claimed(worker)
    assert found.job.id == first.id
    assert claimed(worker, "1").job.id == other.id
    assert step(worker, "2") is None
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state == "active"

    again = step(worker, finish=completed(found))
    assert again is not None
    assert again.job.id == second.id
    await add(store, session_id=session.id)
    await sessions.close(scope=ALICE, session_id=session.id, how="cancel")
    step(worker, finish=completed(again), claim=False)
    assert (await sessions.read(scope=ALICE, session_id=session.id)).state == "closed"


async def test_an_active_session_whose_job_waits_for_the_quota_stays_active(
    store: JobStore,
    worker: ClaimStore,
    sessions: SessionStore,
    keys: KeyStore,
    raw: redis.Redis,
) -> None:
    await keys.set_plan("open", Quota(running=1))
    request = SessionRequest(
        mode=SessionMode.DEDICATED, backend="simulator@aer", max_ttl_s=100, interactive_ttl_s=10
    )
    session = await sessions.open(scope=ALICE, executor="aer", request=request)
    await add(store, session_id=session.id)
    await add(store)
    # The session's job ends, the other one takes the place, and the session's next has none.
    assert step(worker, finish=completed(claimed(worker))) is not None
    await add(store, session_id=session.id)

    # Its interactive time is over.
    due = raw.zscore("sessions:due", session.id)
    assert due is not None
    assert due >= raw.time()[0] * 1000 + 50_000, "it is looked at when its whole time is over"


# --- a quota that changes -------------------------------------------------------------------------


async def test_a_quota_that_grows_lets_more_in_with_the_next_look(
    store: JobStore, worker: ClaimStore, keys: KeyStore, raw: redis.Redis
) -> None:
    await keys.set_plan("open", Quota(running=1))
    for _ in range(4):
        await add(store)
    claimed(worker)
    raw.delete("aer")

    await keys.set_plan("open", Quota(running=3))
    worker.reap(wakeups=WAKEUPS)

    assert raw.llen("aer") == 2
    claimed(worker, "1")
    claimed(worker, "2")
    assert step(worker, "3") is None


async def test_a_quota_that_is_gone_lets_all_in(
    store: JobStore, worker: ClaimStore, keys: KeyStore, raw: redis.Redis
) -> None:
    await keys.set_plan("open", Quota(running=1))
    for _ in range(4):
        await add(store)
    claimed(worker)

    await keys.set_plan("open", Quota())
    worker.reap(wakeups=WAKEUPS)

    for slot in range(1, 4):
        claimed(worker, str(slot))
    assert nothing_is_parked(raw)


async def test_a_quota_that_comes_late_holds_for_what_is_queued(
    store: JobStore, worker: ClaimStore, keys: KeyStore
) -> None:
    for _ in range(250):
        await add(store)
    await keys.set_plan("open", Quota(running=2))
    other = await add(store, BOB)

    found = claimed(worker)
    started = {found.job.id, claimed(worker, "1").job.id, claimed(worker, "2").job.id}
    # One step parks a hundred jobs at most, so a slot may have to ask again.
    assert other.id in started
    assert [step(worker, str(slot)) for slot in range(3, 8)] == [None] * 5

    done = 0
    while found is not None:
        done += 1
        found = step(worker, finish=completed(found))  # type: ignore[assignment]
    assert done >= 248


async def test_parked_jobs_ask_for_no_wakeups(
    store: JobStore, worker: ClaimStore, keys: KeyStore, raw: redis.Redis
) -> None:
    await keys.set_plan("open", Quota(running=1))
    for _ in range(4):
        await add(store)
    claimed(worker)
    raw.delete("aer")

    worker.reap(wakeups=WAKEUPS)

    assert raw.llen("aer") == 0


# --- everything at once ---------------------------------------------------------------------------

LIMITS = {"alice:default": 2, "alice:lab": 1, "bob:default": 3, "carol:default": None}


def check(raw: redis.Redis, running: dict[str, tuple[str, Claim]]) -> None:
    """What holds after every step, whatever happened."""
    counted = {scope: int(n) for scope, n in raw.hgetall("running:scopes").items()}
    seen: dict[str, int] = {}
    for _, found in running.values():
        seen[found.job.scope] = seen.get(found.job.scope, 0) + 1
    assert counted == seen
    for scope, limit in LIMITS.items():
        assert limit is None or counted.get(scope, 0) <= limit, scope
        for executor in EXECUTORS:
            parked = raw.zcard(f"parked:{executor}:{scope}")
            window = raw.zcard(f"window:{executor}:{scope}")
            if parked:
                assert limit is not None
                assert counted.get(scope, 0) + window >= limit, "nobody would let it in"
    queued = sum(raw.zcard(f"arrivals:{executor}") for executor in EXECUTORS)
    assert int(raw.hget("queued:jobs", "*") or 0) == queued
    ready = sum(
        raw.zcard(f"ready:{executor}:{owner}")
        for executor in EXECUTORS
        for owner in ("alice", "bob", "carol")
    )
    assert ready + sum(map(int, raw.hvals("parked_jobs"))) == queued


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_the_quota_holds_and_every_job_ends(
    store: JobStore,
    keys: KeyStore,
    sessions: SessionStore,
    make_worker: Callable[..., ClaimStore],
    raw: redis.Redis,
    *,
    seed: int,
) -> None:
    dice = random.Random(seed)
    worker = make_worker()
    beat = WorkerReport(id="w1", host="h", pid=1, executors=EXECUTORS, slots=6, busy=0, versions={})
    worker.beat(report=beat, busy=())
    for scope, limit in LIMITS.items():
        owner, _, instance = scope.partition(":")
        plan = f"plan-{owner}-{instance}"
        await keys.issue(owner=owner, instance=instance, plan=plan)
        await keys.set_plan(plan, Quota(running=limit))
    request = SessionRequest(
        mode=SessionMode.DEDICATED, backend="simulator@aer", max_ttl_s=9999, interactive_ttl_s=999
    )
    session = await sessions.open(scope=ALICE, executor="aer", request=request)
    jobs: list[Job] = []
    #: slot → executor it serves, what it runs.
    running: dict[str, tuple[str, Claim]] = {}

    async def one_step() -> None:
        slot = str(dice.randrange(6))
        executor, found = running.get(slot, (EXECUTORS[int(slot) % 2], None))
        match dice.randrange(10):
            case 0 | 1 | 2:
                scope = dice.choice(list(LIMITS))
                inside = scope == ALICE and dice.random() < 0.5
                where = "aer" if inside else dice.choice(EXECUTORS)
                more = {"session_id": session.id} if inside else {}
                jobs.append(await add(store, scope, where, priority=dice.randrange(3), **more))
            case 3 | 4 | 5 | 6:
                finish = completed(found) if found else None
                claim = dice.random() < 0.9
                running.pop(slot, None)
                new = step(worker, slot, executor, finish, claim=claim)
                if new:
                    running[slot] = (executor, new)
            case 7 if found:
                kind: Any = dice.choice(["crash", "lost", "returned"])
                worker.lost(slot=slot, job=found.job, kind=kind, failure=FAILURE, wakeup=WAKEUP)
                del running[slot]
            case 8 if found:
                other = EXECUTORS[1 - EXECUTORS.index(executor)]
                choice = Choice(executor=other, because="test")
                assert (
                    worker.hand_over(slot=slot, job=found.job, choice=choice, wakeup=WAKEUP)
                    == "Queued"
                )
                del running[slot]
            case 9 if jobs:
                job = dice.choice(jobs)
                try:
                    await store.cancel(scope=job.scope, job_id=job.id)
                except JobIsFinal:
                    return
                for busy, (_, claim_of) in list(running.items()):
                    if claim_of.job.id == job.id:
                        del running[busy]

    for _ in range(200):
        await one_step()
        check(raw, running)
    while running or int(raw.hget("queued:jobs", "*") or 0):
        before = (len(running), raw.hgetall("queued:jobs"))
        for slot in map(str, range(6)):
            executor, found = running.pop(slot, (EXECUTORS[int(slot) % 2], None))
            new = step(worker, slot, executor, completed(found) if found else None)
            if new:
                running[slot] = (executor, new)
            check(raw, running)
        assert running or (len(running), raw.hgetall("queued:jobs")) != before, "nothing moves"

    ended = [await store.read(scope=job.scope, job_id=job.id) for job in jobs]
    assert all(job.status.is_final for job in ended)
    assert nothing_is_parked(raw)
    assert raw.hgetall("running:scopes") == raw.hgetall("queued:bytes") == {}
