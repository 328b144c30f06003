"""The contract of the store: what every verb guarantees, on a real Valkey."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from app.errors import (
    IdempotencyConflict,
    InvalidRequest,
    JobIsFinal,
    JobNotFound,
    Unavailable,
)
from app.jobs.claims import ORPHAN_S, Busy, Claim, ClaimStore, Finish
from app.jobs.connection import connect_gateway
from app.jobs.job import REASON_RAN_TOO_LONG, Failure, JobFilter, JobStatus, WorkerReport
from app.jobs.records import CHUNK_BYTES
from app.jobs.store import JobStore
from app.lua.keys import SCHEMA

from .conftest import LEASE_S, WAKEUP, Stutter, submission

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from app.jobs.job import Job

pytestmark = pytest.mark.anyio

FAILURE = Failure(code="sandbox_crashed", message="it died", details={"signal": "SIGSEGV"})
REPORT = WorkerReport(
    id="w1", host="h", pid=1, executors=("aer",), slots=2, busy=0, versions={"qiskit": "2"}
)


async def add(store: JobStore, owner: str = "alice", executor: str = "aer", **changes: Any) -> Job:
    return await store.add(
        scope=f"{owner}:default", executor=executor, submission=submission(**changes), wakeup=WAKEUP
    )


def claim(worker: ClaimStore, slot: str = "0", finish: Finish | None = None) -> Claim | None:
    return worker.next(slot=slot, executor="aer", wakeup=WAKEUP, finish=finish, claim=True)[1]


def claimed(worker: ClaimStore, slot: str = "0") -> Claim:
    found = claim(worker, slot)
    assert found is not None
    return found


def completed(found: Claim, result: bytes = b"result") -> Finish:
    return Finish(
        job_id=found.job.id, attempt=found.job.attempt, status=JobStatus.COMPLETED, result=result
    )


def end(worker: ClaimStore, finish: Finish, slot: str = "0") -> str:
    return worker.next(slot=slot, executor="aer", wakeup=WAKEUP, finish=finish, claim=False)[0]


async def result_of(store: JobStore, job: Job) -> bytes:
    return await store.result(job=await store.read(scope=job.scope, job_id=job.id))


def expire_leases(raw: redis.Redis) -> None:
    """Let every lease be over, with somebody having reaped a moment ago."""
    for job_id in raw.zrange("leases", 0, -1):
        raw.zadd("leases", {job_id: 1})
    seconds, microseconds = raw.time()
    raw.set("reaper:tick", seconds * 1000 + microseconds // 1000)


def everything(raw: redis.Redis) -> dict[str, bytes | None]:
    """The whole database, to show that a refusal changed nothing."""
    return {key: raw.dump(key) for key in raw.scan_iter()}


# --- add ----------------------------------------------------------------------------------------


async def test_an_added_job_is_queued_and_wakes_a_worker(store: JobStore, raw: redis.Redis) -> None:
    job = await add(store, tags=("a", "b"), dialect="qc", time_limit_s=2.5, request_id="r")

    assert await store.read(scope="alice:default", job_id=job.id) == job
    assert (job.status, job.attempt, job.tags) == (JobStatus.QUEUED, 0, ("a", "b"))
    assert (job.dialect, job.time_limit_s, job.request_id) == ("qc", 2.5, "r")
    assert await store.params(job_id=job.id) == b"program"
    assert raw.llen("aer") == 1


async def test_wakeups_are_no_more_than_queued_jobs(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    claimed(worker)

    await add(store)

    assert raw.llen("aer") == 1, "the first wake-up still lies there, and serves the second job"


async def test_wakeups_are_unique_and_stop_at_the_cap(store: JobStore, raw: redis.Redis) -> None:
    for _ in range(6):
        await add(store)

    messages = raw.lrange("aer", 0, -1)
    assert len(set(messages)) == len(messages) == 4
    assert all(re.fullmatch(r'\{"id": "w\d+"\}', message) for message in messages)


async def test_the_same_idempotency_key_gives_the_same_job(
    store: JobStore, raw: redis.Redis
) -> None:
    first = await add(store, idempotency_key="k")
    before = everything(raw)

    again = await add(store, idempotency_key="k")

    assert again.id == first.id
    assert everything(raw) == before


async def test_the_same_key_with_another_request_is_refused(
    store: JobStore, raw: redis.Redis
) -> None:
    await add(store, idempotency_key="k")
    before = everything(raw)

    with pytest.raises(IdempotencyConflict, match="new key"):
        await add(store, idempotency_key="k", params=b"another")

    assert everything(raw) == before


async def test_an_idempotency_key_belongs_to_its_owner(store: JobStore) -> None:
    first = await add(store, owner="alice", idempotency_key="k")
    second = await add(store, owner="bob", idempotency_key="k")
    assert first.id != second.id


async def test_many_callers_with_one_key_make_one_job(store: JobStore, raw: redis.Redis) -> None:
    jobs = await asyncio.gather(*(add(store, idempotency_key="k") for _ in range(50)))

    assert len({job.id for job in jobs}) == 1
    assert raw.zcard("arrivals:aer") == 1


async def test_large_params_come_back_whole_and_outlive_their_upload(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    params = bytes(range(256)) * (CHUNK_BYTES // 256) * 2 + b"tail"

    job = await add(store, params=params)

    assert claimed(worker).params == params
    assert await store.params(job_id=job.id) == params
    assert [raw.ttl(f"params:{job.id}:{i}") for i in range(3)] == [-1, -1, -1]


async def test_a_full_redis_refuses_new_jobs_and_finishes_old_ones(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    found = claimed(worker)
    sequence = raw.get("sequence")
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(Unavailable, match="full"):
            await add(store)
        assert end(worker, completed(found)) == "committed"
    finally:
        raw.config_set("maxmemory", 0)

    assert (await store.read(scope="alice:default", job_id=job.id)).status is JobStatus.COMPLETED
    assert raw.get("sequence") == sequence


async def test_a_full_redis_takes_a_large_result(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    found, result = claimed(worker), b"r" * (CHUNK_BYTES + 1)
    raw.config_set("maxmemory", 1)
    try:
        assert end(worker, completed(found, result)) == "committed"
    finally:
        raw.config_set("maxmemory", 0)

    assert await result_of(store, job) == result


async def test_what_the_scripts_cannot_read_leaves_no_half_of_a_job(
    store: JobStore, raw: redis.Redis
) -> None:
    job = await add(store, tags=("a",))
    before = everything(raw)

    with pytest.raises(Unavailable):
        await add(store, tags=("\ud800",))
    with pytest.raises(Unavailable):
        await store.tag(scope=job.scope, job_id=job.id, tags=["\ud800"])

    assert everything(raw) == before


# --- read, list ---------------------------------------------------------------------------------


async def test_somebody_elses_job_is_not_found(store: JobStore) -> None:
    job = await add(store, owner="alice")
    with pytest.raises(JobNotFound):
        await store.read(scope="bob:default", job_id=job.id)
    assert (
        await store.list(scope="bob:default", which=JobFilter(), limit=10, cursor=None)
    ).jobs == ()


async def test_a_list_is_newest_first_and_pages_without_gaps(store: JobStore) -> None:
    ids = [(await add(store)).id for _ in range(5)]

    first = await store.list(scope="alice:default", which=JobFilter(), limit=2, cursor=None)
    second = await store.list(
        scope="alice:default", which=JobFilter(), limit=2, cursor=first.cursor
    )
    third = await store.list(
        scope="alice:default", which=JobFilter(), limit=2, cursor=second.cursor
    )

    pages = [*first.jobs, *second.jobs, *third.jobs]
    assert [job.id for job in pages] == ids[::-1]
    assert third.cursor is None


@pytest.mark.parametrize("cursor", ["x", "-1", "1 2", "9" * 40, "²"])
async def test_a_foreign_cursor_is_refused(store: JobStore, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        await store.list(scope="alice:default", which=JobFilter(), limit=2, cursor=cursor)


async def test_an_unlisted_job_appears_in_no_list_and_no_counter(
    store: JobStore, worker: ClaimStore
) -> None:
    job = await add(store, listed=False)
    end(worker, completed(claimed(worker)))

    assert (
        await store.list(scope="alice:default", which=JobFilter(), limit=10, cursor=None)
    ).jobs == ()
    assert (await store.read(scope="alice:default", job_id=job.id)).status is JobStatus.COMPLETED
    counters = (await store.snapshot(executors=["aer"])).counters
    assert not {name for name, _ in counters} & {"jobs_submitted_total", "jobs_finished_total"}


async def test_position_counts_the_owners_queued_jobs(store: JobStore, worker: ClaimStore) -> None:
    first, second = await add(store), await add(store)
    assert await store.position(job=second) == 2

    claimed(worker)

    assert await store.position(job=first) is None
    assert await store.position(job=second) == 1


# --- next: order ----------------------------------------------------------------------------------


async def test_an_owners_jobs_run_in_order_of_arrival(store: JobStore, worker: ClaimStore) -> None:
    ids = [(await add(store)).id for _ in range(4)]
    assert [claimed(worker, str(i)).job.id for i in range(4)] == ids
    assert claim(worker, "9") is None


async def test_higher_priority_goes_first_among_one_owners_jobs(
    store: JobStore, worker: ClaimStore
) -> None:
    low, normal, high = [(await add(store, priority=p)).id for p in (-1, 0, 100)]
    assert [claimed(worker, str(i)).job.id for i in range(3)] == [high, normal, low]


async def test_a_backlog_of_one_owner_delays_another_by_one_job_at_most(
    store: JobStore, worker: ClaimStore
) -> None:
    for _ in range(10):
        await add(store, owner="alice")
    last = claimed(worker)
    await add(store, owner="bob")

    following = claim(worker, finish=completed(last))

    assert following is not None
    assert following.job.owner == "bob"


async def test_owners_share_by_service_not_by_number_of_jobs(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    for _ in range(6):
        await add(store, owner="slow")
        await add(store, owner="quick")
    served: dict[str, int] = {"slow": 0, "quick": 0}
    finish = None
    for _ in range(6):
        found = claim(worker, finish=finish)
        assert found is not None
        served[found.job.owner] += 1
        # The run time is what the script measures: let the slow owner's job have begun a second ago.
        ago_ms = 1000 if found.job.owner == "slow" else 10
        raw.hincrby(f"job:{found.job.id}", "started", -ago_ms)
        finish = completed(found)

    assert served == {"slow": 1, "quick": 5}


async def test_who_ran_long_while_others_were_served_is_charged_for_it(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    long = await add(store, owner="alice")
    assert claimed(worker, "long").job.id == long.id
    for _ in range(2):
        await add(store, owner="bob")
    for _ in range(2):
        short = claimed(worker)
        raw.hincrby(f"job:{short.job.id}", "started", -5_000)
        end(worker, completed(short))
    # Bob has used five seconds before he was last served, and Alice's entry is behind that.
    worker.reap(wakeups={"aer": WAKEUP})
    assert raw.zscore("service:aer", "alice") is None

    raw.hincrby(f"job:{long.id}", "started", -60_000)
    worker.next(
        slot="long", executor="aer", wakeup=WAKEUP, claim=False,
        finish=Finish(job_id=long.id, attempt=1, status=JobStatus.COMPLETED, result=b"r"),
    )  # fmt: skip

    await add(store, owner="alice")
    bobs = [await add(store, owner="bob") for _ in range(2)]
    assert raw.zscore("service:aer", "alice") >= 60_000
    assert [claimed(worker, f"s{i}").job.id for i in range(2)] == [job.id for job in bobs]


async def test_nobody_saves_service_up_while_idle(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    def run_for(owner_ms: int) -> str:
        found = claimed(worker)
        raw.hincrby(f"job:{found.job.id}", "started", -owner_ms)
        end(worker, completed(found))
        return found.job.owner

    for _ in range(3):
        await add(store, owner="busy")
    for _ in range(3):
        run_for(1000)
    for owner in ("busy", "fresh", "fresh", "fresh", "fresh"):
        await add(store, owner=owner)

    # Busy stands at 3000 ms, the clock at 2000: that is where fresh starts, not at 0.
    owners = [run_for(600) for _ in range(3)]

    assert owners == ["fresh", "fresh", "busy"]


async def test_queues_of_executors_are_apart(store: JobStore, worker: ClaimStore) -> None:
    await add(store, executor="noisy", backend="simulator@noisy")
    assert claim(worker) is None


# --- next: finish, fencing, hand-back ---------------------------------------------------------------


async def test_a_finished_job_has_its_result_and_its_times(
    store: JobStore, worker: ClaimStore
) -> None:
    job = await add(store)
    found = claimed(worker)

    assert end(worker, completed(found)) == "committed"

    final = await store.read(scope="alice:default", job_id=job.id)
    assert final.status is JobStatus.COMPLETED
    assert final.started is not None
    assert final.finished is not None
    assert final.created <= final.started <= final.finished
    assert await result_of(store, job) == b"result"


async def test_a_failure_is_recorded_with_its_reason(store: JobStore, worker: ClaimStore) -> None:
    job = await add(store)
    found = claimed(worker)
    finish = Finish(
        job_id=job.id,
        attempt=found.job.attempt,
        status=JobStatus.CANCELLED,
        failure=FAILURE,
        reason_code=REASON_RAN_TOO_LONG,
    )

    end(worker, finish)

    final = await store.read(scope="alice:default", job_id=job.id)
    assert (final.status, final.failure, final.reason_code) == (JobStatus.CANCELLED, FAILURE, 1305)
    assert await result_of(store, job) == b""


async def test_finish_and_claim_are_one_step(store: JobStore, worker: ClaimStore) -> None:
    first, second = await add(store), await add(store)
    found = claimed(worker)

    following = claim(worker, finish=completed(found))

    assert following is not None
    assert following.job.id == second.id
    assert (await store.read(scope="alice:default", job_id=first.id)).status is JobStatus.COMPLETED


async def test_a_repeated_finish_changes_nothing(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    found = claimed(worker)
    end(worker, completed(found))

    assert end(worker, completed(found, b"other")) == "fenced"

    assert await result_of(store, job) == b"result"
    assert raw.hget(f"job:{job.id}", "commits") == "1"


async def test_a_zombie_cannot_overwrite_a_newer_attempt(
    store: JobStore, make_worker: Callable[..., ClaimStore], raw: redis.Redis
) -> None:
    zombie, healthy = make_worker("zombie"), make_worker("healthy")
    job = await add(store)
    stale = claimed(zombie)
    expire_leases(raw)
    healthy.reap(wakeups={"aer": WAKEUP})
    current = claimed(healthy)

    assert current.job.attempt == stale.job.attempt + 1
    assert end(zombie, completed(stale, b"zombie")) == "fenced"
    assert (await store.read(scope="alice:default", job_id=job.id)).status is JobStatus.RUNNING
    assert end(healthy, completed(current, b"healthy")) == "committed"
    assert await result_of(store, job) == b"healthy"
    assert raw.hget("stats", "finishes_fenced_total") == "1"


async def test_a_slot_cannot_finish_an_older_attempt_of_its_own_job(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    old = claimed(worker)
    expire_leases(raw)
    worker.reap(wakeups={"aer": WAKEUP})
    new = claimed(worker)

    assert end(worker, completed(old, b"old")) == "fenced"
    lost = worker.lost(slot="0", job=old.job, kind="crash", failure=FAILURE, wakeup=WAKEUP)
    assert lost is None
    assert (await store.read(scope="alice:default", job_id=job.id)).crashes == 0
    assert end(worker, completed(new, b"new")) == "committed"
    assert await result_of(store, job) == b"new"


async def test_a_zombies_large_result_is_not_even_stored(
    store: JobStore, make_worker: Callable[..., ClaimStore], raw: redis.Redis
) -> None:
    zombie, healthy = make_worker("zombie"), make_worker("healthy")
    job = await add(store)
    stale = claimed(zombie)
    expire_leases(raw)
    healthy.reap(wakeups={"aer": WAKEUP})
    end(healthy, completed(claimed(healthy), b"h" * (CHUNK_BYTES + 1)))

    end(zombie, completed(stale, b"z" * (CHUNK_BYTES + 1)))

    assert await result_of(store, job) == b"h" * (CHUNK_BYTES + 1)
    assert raw.exists(f"result:{job.id}:1:0") == 0
    assert raw.ttl(f"result:{job.id}:2:1") == -1


async def test_a_claim_whose_answer_was_lost_is_given_again(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    unheard = claimed(worker)

    again = claimed(worker)

    assert again == unheard
    assert raw.zcard("leases") == 1
    assert raw.hget("stats", "claims_handed_back_total") == "1"


async def test_a_claim_whose_answer_was_lost_goes_back_when_its_slot_stops(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    first, second = await add(store), await add(store)
    done = completed(claimed(worker))
    assert claim(worker, finish=done) is not None
    raw.delete("aer")

    # Nobody heard of the second job, and the time of the slot is over when it asks again.
    assert end(worker, done) == "fenced"

    waiting = await store.read(scope=second.scope, job_id=second.id)
    assert (waiting.status, raw.llen("aer")) == (JobStatus.QUEUED, 1)
    assert claimed(worker, "1").job.id == second.id
    assert (await store.read(scope=first.scope, job_id=first.id)).status is JobStatus.COMPLETED


async def test_a_fenced_finish_whose_answer_was_lost_loses_no_claim(
    store: JobStore, worker: ClaimStore, raw: redis.Redis, stutter: Stutter
) -> None:
    job = await add(store)
    other = await add(store)
    old = claimed(worker)
    expire_leases(raw)
    worker.reap(wakeups={"aer": WAKEUP})

    stutter.on = True
    again = claim(worker, finish=completed(old))

    assert again is not None
    assert (again.job.id, again.job.attempt) == (job.id, 2)
    assert (await store.read(scope=other.scope, job_id=other.id)).status is JobStatus.QUEUED


async def test_a_finish_whose_answer_was_lost_keeps_its_large_result(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    done = completed(claimed(worker), b"r" * (CHUNK_BYTES + 1))
    assert end(worker, done) == "committed"

    assert end(worker, done) == "fenced"

    assert [raw.ttl(f"result:{job.id}:1:{i}") for i in range(2)] == [-1, -1]


async def test_a_large_result_that_is_never_committed_goes_away(
    store: JobStore, worker: ClaimStore, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await add(store)
    found = claimed(worker)

    def dies(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_next", dies)
    with pytest.raises(KeyboardInterrupt):
        end(worker, completed(found, b"r" * (CHUNK_BYTES + 1)))

    assert 0 < raw.ttl(f"result:{job.id}:1:1") <= ORPHAN_S


async def test_a_lost_claim_is_not_given_to_another_slot(
    store: JobStore, worker: ClaimStore
) -> None:
    await add(store)
    claimed(worker, "0")
    assert claim(worker, "1") is None


async def test_who_stops_while_jobs_wait_leaves_a_wakeup_behind(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    await add(store)
    found = claimed(worker)
    raw.delete("aer")

    end(worker, completed(found))
    assert raw.llen("aer") == 1

    raw.delete("aer")
    end(worker, completed(claimed(worker)))
    assert raw.llen("aer") == 0


# --- lost ---------------------------------------------------------------------------------------


async def test_a_crashed_job_goes_to_the_end_of_the_queue(
    store: JobStore, worker: ClaimStore
) -> None:
    poison, innocent = await add(store), await add(store)
    found = claimed(worker)

    status = worker.lost(slot="0", job=found.job, kind="crash", failure=FAILURE, wakeup=WAKEUP)

    assert status is JobStatus.QUEUED
    assert [claimed(worker, str(i)).job.id for i in range(2)] == [innocent.id, poison.id]


async def test_a_lost_job_keeps_its_place(store: JobStore, worker: ClaimStore) -> None:
    first, second = await add(store), await add(store)
    found = claimed(worker)

    worker.lost(slot="0", job=found.job, kind="lost", failure=FAILURE, wakeup=WAKEUP)

    assert [claimed(worker, str(i)).job.id for i in range(2)] == [first.id, second.id]


async def test_a_poison_job_fails_after_three_crashes(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    statuses = [
        worker.lost(slot="0", job=claimed(worker).job, kind="crash", failure=FAILURE, wakeup=WAKEUP)
        for _ in range(3)
    ]

    assert statuses == [JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.FAILED]
    final = await store.read(scope="alice:default", job_id=job.id)
    assert (final.status, final.attempt, final.crashes) == (JobStatus.FAILED, 3, 3)
    assert final.failure == FAILURE
    assert raw.lrange("dead", 0, -1) == [job.id]


async def test_a_job_that_loses_five_workers_fails(store: JobStore, worker: ClaimStore) -> None:
    await add(store)
    statuses = [
        worker.lost(slot="0", job=claimed(worker).job, kind="lost", failure=FAILURE, wakeup=WAKEUP)
        for _ in range(5)
    ]
    assert statuses == [JobStatus.QUEUED] * 4 + [JobStatus.FAILED]


async def test_a_returned_job_never_fails(store: JobStore, worker: ClaimStore) -> None:
    await add(store)
    statuses = {
        worker.lost(
            slot="0", job=claimed(worker).job, kind="returned", failure=FAILURE, wakeup=WAKEUP
        )
        for _ in range(8)
    }
    assert statuses == {JobStatus.QUEUED}


async def test_being_returned_is_none_of_a_jobs_attempts(
    store: JobStore, worker: ClaimStore
) -> None:
    await add(store)

    def given_back(kind: Any) -> JobStatus | None:
        found = claimed(worker).job
        return worker.lost(slot="0", job=found, kind=kind, failure=FAILURE, wakeup=WAKEUP)

    for _ in range(5):
        given_back("returned")

    assert [given_back("lost") for _ in range(5)] == [JobStatus.QUEUED] * 4 + [JobStatus.FAILED]


async def test_losing_a_job_that_moved_on_changes_nothing(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    found = claimed(worker)
    end(worker, completed(found))
    before = everything(raw)

    status = worker.lost(slot="0", job=found.job, kind="crash", failure=FAILURE, wakeup=WAKEUP)

    assert status is None
    assert everything(raw) == before


async def test_a_job_given_back_wakes_a_worker(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    found = claimed(worker)
    raw.delete("aer")

    worker.lost(slot="0", job=found.job, kind="lost", failure=FAILURE, wakeup=WAKEUP)

    assert raw.llen("aer") == 1


# --- beat, reap -----------------------------------------------------------------------------------


async def test_a_beat_extends_the_leases_of_named_jobs_only(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    named, unnamed = await add(store), await add(store)
    found = claimed(worker, "0")
    claimed(worker, "1")
    expire_leases(raw)

    stale = worker.beat(report=REPORT, busy=[Busy(slot="0", job_id=named.id, attempt=1)])

    assert found.job.id == named.id
    assert stale == ()
    assert raw.zscore("leases", named.id) > time.time() * 1000
    assert raw.zscore("leases", unnamed.id) == 1


async def test_a_beat_names_the_jobs_that_are_no_longer_ours(
    store: JobStore, worker: ClaimStore
) -> None:
    job = await add(store)
    claimed(worker)
    await store.cancel(scope="alice:default", job_id=job.id)
    busy = Busy(slot="0", job_id=job.id, attempt=1)

    assert worker.beat(report=REPORT, busy=[busy]) == (busy,)


async def test_a_worker_is_listed_until_it_leaves(store: JobStore, worker: ClaimStore) -> None:
    worker.beat(report=REPORT, busy=[])
    (listed,) = await store.workers()
    assert (listed.id, listed.executors, listed.slots) == ("w1", ("aer",), 2)
    assert 0 <= listed.age_s < LEASE_S

    worker.leave()

    assert await store.workers() == ()


async def test_expired_leases_go_back_to_the_queue(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    claimed(worker)
    expire_leases(raw)
    raw.delete("aer")

    reaped = worker.reap(wakeups={"aer": WAKEUP})

    assert (reaped.given_back, reaped.wakeups) == (1, 1)
    assert (await store.read(scope="alice:default", job_id=job.id)).status is JobStatus.QUEUED
    assert raw.zcard("leases") == 0
    assert raw.hget("running", "aer") == "0"


async def test_a_live_lease_is_left_alone(store: JobStore, worker: ClaimStore) -> None:
    job = await add(store)
    claimed(worker)
    worker.reap(wakeups={"aer": WAKEUP})

    assert worker.reap(wakeups={"aer": WAKEUP}).given_back == 0

    assert (await store.read(scope="alice:default", job_id=job.id)).status is JobStatus.RUNNING


async def test_after_a_blind_period_every_lease_gets_a_fresh_term(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    claimed(worker)
    expire_leases(raw)
    raw.incrby("reaper:tick", -round(LEASE_S * 1000))

    assert worker.reap(wakeups={"aer": WAKEUP}).given_back == 0

    assert (await store.read(scope="alice:default", job_id=job.id)).status is JobStatus.RUNNING
    assert raw.zscore("leases", job.id) > time.time() * 1000


async def test_a_clock_that_was_set_back_keeps_no_lease_alive(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    claimed(worker)
    hour_ms = 3_600_000
    raw.zincrby("leases", hour_ms, job.id)
    raw.set("reaper:tick", round(time.time() * 1000) + hour_ms)

    assert worker.reap(wakeups={"aer": WAKEUP}).given_back == 0

    assert raw.zscore("leases", job.id) < (time.time() + 2 * LEASE_S) * 1000


async def test_lost_wakeups_are_topped_up_to_what_is_queued(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    for _ in range(3):
        await add(store)
    raw.delete("aer")

    assert worker.reap(wakeups={"aer": WAKEUP}).wakeups == 3
    assert worker.reap(wakeups={"aer": WAKEUP}).wakeups == 0


async def test_what_is_retained_long_enough_goes_without_a_trace(
    store: JobStore, make_worker: Callable[..., ClaimStore], raw: redis.Redis
) -> None:
    worker = make_worker(retention_s=0.001)
    job = await add(store, params=b"p" * (CHUNK_BYTES + 1))
    end(worker, completed(claimed(worker), b"r" * (CHUNK_BYTES + 1)))
    raw.zadd("expiry", {job.id: 1})

    assert worker.reap(wakeups={"aer": WAKEUP}).deleted == 1

    assert [key for key in raw.scan_iter() if job.id in key] == []
    assert raw.zcard("jobs:alice:default") == raw.zcard("expiry") == 0
    with pytest.raises(JobNotFound):
        await store.read(scope="alice:default", job_id=job.id)


# --- cancel ---------------------------------------------------------------------------------------


async def test_a_cancelled_queued_job_leaves_the_queue(store: JobStore, worker: ClaimStore) -> None:
    job = await add(store)

    cancelled = await store.cancel(scope="alice:default", job_id=job.id)

    assert cancelled.status is JobStatus.CANCELLED
    assert claim(worker) is None


async def test_a_cancelled_running_job_is_final_at_once_and_its_worker_is_told(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    found = claimed(worker)
    with raw.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe("cancel", "done")
        subscription.get_message(timeout=1)
        subscription.get_message(timeout=1)

        await store.cancel(scope="alice:default", job_id=job.id)

        messages = [subscription.get_message(timeout=1) for _ in range(2)]
    heard = {message["channel"]: message["data"] for message in messages if message}
    assert heard == {"done": job.id, "cancel": f"w1:0 {job.id}"}
    assert end(worker, completed(found)) == "fenced"
    assert (await store.read(scope="alice:default", job_id=job.id)).status is JobStatus.CANCELLED
    assert raw.hget("running", "aer") == "0"


async def test_a_final_job_stays_final(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    end(worker, completed(claimed(worker)))
    before = everything(raw)

    with pytest.raises(JobIsFinal, match="Completed"):
        await store.cancel(scope="alice:default", job_id=job.id)

    assert everything(raw) == before


async def test_a_cancel_whose_answer_was_lost_is_told_as_done(
    store: JobStore, raw: redis.Redis, stutter: Stutter
) -> None:
    job = await add(store)

    stutter.on = True
    cancelled = await store.cancel(scope=job.scope, job_id=job.id)

    assert cancelled.status is JobStatus.CANCELLED
    assert raw.hget(f"job:{job.id}", "commits") == "1"
    with pytest.raises(JobIsFinal, match="Cancelled"):
        await store.cancel(scope=job.scope, job_id=job.id)


async def test_somebody_elses_job_cannot_be_cancelled(store: JobStore, raw: redis.Redis) -> None:
    job = await add(store)
    before = everything(raw)

    with pytest.raises(JobNotFound):
        await store.cancel(scope="bob:default", job_id=job.id)

    assert everything(raw) == before


async def test_cancel_racing_finish_leaves_one_commit(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    for _ in range(50):
        job = await add(store)
        found = claimed(worker)
        outcome, cancelled = await asyncio.gather(
            asyncio.to_thread(end, worker, completed(found)),
            store.cancel(scope="alice:default", job_id=job.id),
            return_exceptions=True,
        )

        final = await store.read(scope="alice:default", job_id=job.id)
        if final.status is JobStatus.CANCELLED:
            assert outcome == "fenced"
        else:
            assert outcome == "committed"
            assert isinstance(cancelled, JobIsFinal)
        assert raw.hget(f"job:{job.id}", "commits") == "1"


# --- the whole ------------------------------------------------------------------------------------


async def test_at_rest_nothing_is_left_over(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    for _ in range(5):
        await add(store)
    await store.cancel(scope="alice:default", job_id=claimed(worker, "1").job.id)
    worker.lost(slot="0", job=claimed(worker).job, kind="crash", failure=FAILURE, wakeup=WAKEUP)
    while found := claim(worker):
        end(worker, completed(found))

    leftovers = [
        key
        for pattern in ("ready:*", "arrivals:*", "held:*", "leases")
        for key in raw.scan_iter(pattern)
    ]
    assert leftovers == []
    assert raw.hgetall("running") == {"aer": "0"}


async def test_every_key_that_is_written_is_in_the_schema(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store, idempotency_key="k")
    await add(store)
    await store.check()
    poison = claimed(worker, "1").job
    for _ in range(3):
        worker.lost(slot="1", job=poison, kind="crash", failure=FAILURE, wakeup=WAKEUP)
        if again := claim(worker, "1"):
            poison = again.job
    worker.beat(report=REPORT, busy=[])
    worker.reap(wakeups={"aer": WAKEUP})

    patterns = [
        (re.compile(re.sub(r"\\{\w+\\}", r"[^:]+", re.escape(key.pattern))), key.type)
        for key in SCHEMA
    ]
    for name in raw.scan_iter():
        kinds = {kind for pattern, kind in patterns if pattern.fullmatch(name)}
        assert raw.type(name) in kinds, name


async def test_counters_add_up(store: JobStore, worker: ClaimStore) -> None:
    for _ in range(3):
        await add(store)
    end(worker, completed(claimed(worker)))
    claimed(worker)

    snapshot = await store.snapshot(executors=["aer", "noisy"])

    assert snapshot.counters["jobs_submitted_total", ("qasm3", "simulator@aer")] == 3
    assert snapshot.counters["jobs_finished_total", ("Completed", "aer")] == 1
    assert (snapshot.queues["aer"].queued, snapshot.queues["aer"].running) == (1, 1)
    assert snapshot.queues["aer"].oldest_queued_s >= 0
    assert snapshot.queues["noisy"].queued == 0
    assert sum(snapshot.histograms["job_queue_seconds", ("aer",)].buckets) == 2
    assert sum(snapshot.histograms["job_run_seconds", ("aer",)].buckets) == 1


async def test_a_redis_that_is_away_is_named_unavailable() -> None:
    client = connect_gateway("redis://127.0.0.1:1/0")
    store = JobStore(
        client=client,
        wakeup_cap=4,
        max_queued=20,
        max_queued_per_owner=10,
        max_queued_bytes=64 * 1024 * 1024,
        max_queued_bytes_per_owner=32 * 1024 * 1024,
        idempotency_s=60,
        retention_s=1000,
    )
    with pytest.raises(Unavailable, match="does not answer"):
        await store.check()
    await client.aclose()
