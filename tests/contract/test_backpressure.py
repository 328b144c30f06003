"""How much may be queued: by one owner, by all, by a plan; decided where the job is stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.auth.instances import Quota
from app.auth.store import KeyStore
from app.errors import (
    InvalidRequest,
    QueueFull,
    QuotaExceeded,
    ServiceError,
    ServiceFull,
    StorageFull,
    Unavailable,
)
from app.jobs.claims import ClaimStore, Finish
from app.jobs.connection import connect_gateway
from app.jobs.job import Failure, JobStatus
from app.jobs.records import CHUNK_BYTES, encode_failure
from app.jobs.store import DAY_S, USAGE_DAYS, JobStore

from .conftest import WAKEUP, submission
from .ledger import RECORD_BYTES, TAG_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import redis

    from app.jobs.job import Job

    from .conftest import Stutter

pytestmark = pytest.mark.anyio

#: The limits of the store that is tested.
OWNER_JOBS, ALL_JOBS = 10, 20
OWNER_BYTES, ALL_BYTES = 10 * CHUNK_BYTES, 20 * CHUNK_BYTES
FAILURE = Failure(code="sandbox_crashed", message="it died")


@pytest.fixture
async def keys(redis_url: str) -> AsyncIterator[KeyStore]:
    client = connect_gateway(redis_url)
    yield KeyStore(client=client, secret=None, bootstrap_key=None)
    await client.aclose()


async def add(
    store: JobStore, scope: str = "alice:default", executor: str = "aer", **changes: Any
) -> Job:
    return await store.add(
        scope=scope, executor=executor, submission=submission(**changes), wakeup=WAKEUP
    )


def everything(raw: redis.Redis) -> dict[str, Any]:
    return {key: raw.dump(key) for key in raw.scan_iter()}


def counters(raw: redis.Redis) -> tuple[dict[str, str], dict[str, str]]:
    return raw.hgetall("queued:jobs"), raw.hgetall("queued:bytes")


async def refusal(raw: redis.Redis, store: JobStore, *args: Any, **changes: Any) -> ServiceError:
    """Why a job is not taken, and that nothing changed."""
    before = everything(raw)
    with pytest.raises(ServiceError) as caught:
        await add(store, *args, **changes)
    assert everything(raw) == before
    return caught.value


# --- jobs -----------------------------------------------------------------------------------------


async def test_an_owner_cannot_queue_more_than_the_limit(store: JobStore, raw: redis.Redis) -> None:
    for i in range(OWNER_JOBS):
        await add(store, f"alice:i{i % 2}", ("aer", "noisy")[i % 2])

    refused = await refusal(raw, store)

    assert type(refused) is QueueFull
    assert refused.message.startswith("10 of your jobs are queued, at most 10 may be")
    assert refused.details == {"queued": 10, "allowed": 10}
    await add(store, "bob:default")


async def test_all_owners_together_cannot_queue_more_than_the_limit(
    store: JobStore, raw: redis.Redis
) -> None:
    for i in range(ALL_JOBS):
        await add(store, f"owner{i}:default", f"executor{i % 3}")

    refused = await refusal(raw, store, "late:default")

    assert type(refused) is ServiceFull
    assert refused.message.startswith("20 jobs of all callers are queued, at most 20 may be")
    assert refused.details == {"queued": 20, "allowed": 20}


async def test_who_is_at_their_own_limit_is_told_that(store: JobStore, raw: redis.Redis) -> None:
    for i in range(ALL_JOBS):
        await add(store, ("alice:default", "bob:default")[i % 2])

    assert type(await refusal(raw, store)) is QueueFull
    assert type(await refusal(raw, store, "carol:default")) is ServiceFull


async def test_many_at_once_are_as_many_as_allowed(store: JobStore, raw: redis.Redis) -> None:
    outcomes = await asyncio.gather(*(add(store) for _ in range(40)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes].count(QueueFull) == 40 - OWNER_JOBS
    assert raw.zcard("arrivals:aer") == OWNER_JOBS


async def test_a_repeated_request_is_its_job_even_when_nothing_more_is_taken(
    store: JobStore, raw: redis.Redis
) -> None:
    first = await add(store, idempotency_key="k")
    for _ in range(OWNER_JOBS - 1):
        await add(store)
    before = everything(raw)

    assert (await add(store, idempotency_key="k")).id == first.id
    assert everything(raw) == before


# --- bytes ----------------------------------------------------------------------------------------


async def test_an_owner_cannot_queue_more_bytes_than_the_limit(
    store: JobStore, raw: redis.Redis
) -> None:
    await add(store, params=b"p" * (OWNER_BYTES - 1000))

    refused = await refusal(raw, store, params=b"p" * 1001)

    assert type(refused) is QueueFull
    assert refused.details == {"queued": OWNER_BYTES - 1000, "sent": 1001, "allowed": OWNER_BYTES}
    assert f"{OWNER_BYTES}" in refused.message
    await add(store, params=b"p" * 1000)


async def test_all_owners_together_cannot_queue_more_bytes_than_the_limit(
    store: JobStore, raw: redis.Redis
) -> None:
    for owner in ("alice", "bob"):
        await add(store, f"{owner}:default", params=b"p" * (OWNER_BYTES - 10))

    refused = await refusal(raw, store, "carol:default", params=b"p" * 21)

    assert type(refused) is ServiceFull
    assert refused.details == {"queued": ALL_BYTES - 20, "sent": 21, "allowed": ALL_BYTES}


async def test_what_was_uploaded_for_a_refused_job_is_gone(
    store: JobStore, raw: redis.Redis
) -> None:
    await refusal(raw, store, params=b"p" * (OWNER_BYTES + 1))

    assert raw.keys("params:*") == []


async def test_what_was_uploaded_for_a_repeated_job_is_there_once(
    store: JobStore, raw: redis.Redis
) -> None:
    params = b"p" * (2 * CHUNK_BYTES)
    job = await add(store, params=params, idempotency_key="k")

    await add(store, params=params, idempotency_key="k")

    assert sorted(raw.keys("params:*")) == [f"params:{job.id}:{i}" for i in range(2)]


# --- the counters ---------------------------------------------------------------------------------


async def test_the_counters_follow_a_job_through_its_life(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    queued = (
        {"*": "1", "alice": "1"},
        {"*": "7", "alice": "7"},
    )
    await add(store)
    assert counters(raw) == queued

    found = worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=None, claim=True)[1]
    assert found is not None
    assert counters(raw) == ({}, {})
    assert raw.hgetall("running:scopes") == {"alice:default": "1"}

    worker.lost(slot="0", job=found.job, kind="crash", failure=FAILURE, wakeup=WAKEUP)
    assert counters(raw) == queued
    assert raw.hgetall("running:scopes") == {}

    await store.cancel(scope="alice:default", job_id=found.job.id)
    assert counters(raw) == ({}, {})


async def test_a_queued_job_that_is_deleted_is_not_counted_any_more(
    store: JobStore, raw: redis.Redis
) -> None:
    job = await add(store)

    await store.delete(scope="alice:default", job_id=job.id)

    assert counters(raw) == ({}, {})


async def test_an_empty_program_counts_as_a_job(store: JobStore, raw: redis.Redis) -> None:
    await add(store, params=b"")
    assert counters(raw) == ({"*": "1", "alice": "1"}, {})


# --- what is kept ---------------------------------------------------------------------------------

#: of one owner.
KEPT_BYTES = 3 * RECORD_BYTES + 300


@pytest.fixture
async def make_store(redis_url: str) -> AsyncIterator[Callable[..., JobStore]]:
    """Stores that limit what is kept of an owner."""
    client = connect_gateway(redis_url)

    def make(most_bytes: int = KEPT_BYTES) -> JobStore:
        return JobStore(
            client=client,
            wakeup_cap=4,
            max_queued=20,
            max_queued_per_owner=10,
            max_queued_bytes=1 << 40,
            max_queued_bytes_per_owner=1 << 40,
            idempotency_s=60,
            retention_s=7200,
            max_kept_bytes_per_owner=most_bytes,
        )

    yield make
    await client.aclose()


def kept(raw: redis.Redis) -> dict[str, str]:
    return raw.hgetall("kept:bytes")


def of_both(number: int, owner: str = "alice") -> dict[str, str]:
    return {owner: str(number), f"{owner}:default": str(number)}


def run(worker: ClaimStore, **finish: Any) -> Job:
    """The job that is next, run to its end."""
    found = worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=None, claim=True)[1]
    assert found is not None
    ended = Finish(
        job_id=found.job.id, attempt=1, **({"status": JobStatus.COMPLETED, "result": b""} | finish)
    )
    outcome, _ = worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=ended, claim=False)
    assert outcome == "committed"
    return found.job


async def test_jobs_of_an_owner_cannot_take_more_than_the_limit_though_they_have_ended(
    make_store: Callable[..., JobStore], raw: redis.Redis
) -> None:
    store = make_store()
    first = await add(store, params=b"p" * 100)
    await store.cancel(scope="alice:default", job_id=first.id)
    await add(store, "alice:lab", params=b"p" * 100)

    refused = await refusal(raw, store, "alice:lab", params=b"p" * 101)

    assert type(refused) is StorageFull
    taken, asked = 2 * (RECORD_BYTES + 100), RECORD_BYTES + 101
    assert refused.details == {"kept": taken, "asked": asked, "allowed": KEPT_BYTES}
    assert f"take {taken} bytes until they are deleted and this one {asked}" in refused.message
    assert "each is deleted by itself 2 hours after its end" in refused.message
    await add(store, "bob:default", params=b"p" * 101)
    await add(store, "alice:lab", params=b"p" * 100)
    await refusal(raw, store, params=b"")
    await store.delete(scope="alice:default", job_id=first.id)
    await add(store, params=b"p" * 100)


async def test_what_was_uploaded_for_a_job_that_finds_no_room_is_gone(
    make_store: Callable[..., JobStore], raw: redis.Redis
) -> None:
    refused = await refusal(raw, make_store(), params=b"p" * (2 * CHUNK_BYTES))

    assert type(refused) is StorageFull
    assert raw.keys("params:*") == []


async def test_a_result_is_recorded_where_there_is_no_room_for_it(
    make_store: Callable[..., JobStore], worker: ClaimStore, raw: redis.Redis
) -> None:
    store = make_store()
    await add(store)

    job = run(worker, result=b"r" * (2 * CHUNK_BYTES))

    ended = await store.read(scope="alice:default", job_id=job.id)
    assert await store.result(job=ended) == b"r" * (2 * CHUNK_BYTES)
    assert kept(raw) == of_both(RECORD_BYTES + 7 + 2 * CHUNK_BYTES)
    await refusal(raw, store, params=b"")


async def test_what_is_kept_follows_a_job_through_its_life(
    store: JobStore, worker: ClaimStore, raw: redis.Redis, stutter: Stutter
) -> None:
    await add(store, tags=("a", "b"))
    assert kept(raw) == of_both(taken := RECORD_BYTES + 2 * TAG_BYTES + 7)

    job = run(worker, result=b"r" * 50, log="log", metadata={"a": 1})
    assert kept(raw) == of_both(taken := taken + 50 + len("log") + len('{"a": 1}'))

    await store.tag(scope=job.scope, job_id=job.id, tags=["c"])
    assert kept(raw) == of_both(taken := taken - TAG_BYTES)

    ended = await store.read(scope=job.scope, job_id=job.id)
    stutter.on = True
    assert await store.take_result(job=ended) == b"r" * 50
    stutter.on = False
    assert await store.take_result(job=ended) == b""
    assert kept(raw) == of_both(taken - 50)

    await store.delete(scope=job.scope, job_id=job.id)
    assert kept(raw) == {}


async def test_what_is_kept_of_a_failed_job_is_free_again_when_its_time_is_over(
    store: JobStore, make_worker: Callable[..., ClaimStore], raw: redis.Redis
) -> None:
    worker = make_worker(retention_s=0.001)
    await add(store)
    await add(store, "bob:default")

    run(worker, status=JobStatus.FAILED, result=None, failure=FAILURE)

    length = len(encode_failure(FAILURE))
    assert kept(raw) == of_both(RECORD_BYTES + 7 + length) | of_both(RECORD_BYTES + 7, "bob")
    await asyncio.sleep(0.01)
    assert worker.reap(wakeups={}).deleted == 1
    assert kept(raw) == of_both(RECORD_BYTES + 7, "bob")


async def test_a_job_from_before_that_was_counted_takes_nothing_back(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    old = await add(store, tags=("a", "b", "c"))
    raw.hdel(f"job:{old.id}", "kept_bytes")
    raw.delete("kept:bytes")
    await add(store)
    counted = of_both(RECORD_BYTES + 7)

    await store.tag(scope="alice:default", job_id=old.id, tags=[])
    assert kept(raw) == counted
    run(worker, result=b"r" * 50)
    assert kept(raw) == of_both(RECORD_BYTES + 7 + 50)
    ended = await store.read(scope="alice:default", job_id=old.id)
    assert await store.take_result(job=ended) == b"r" * 50
    assert kept(raw) == counted
    await store.delete(scope="alice:default", job_id=old.id)
    assert kept(raw) == counted


async def test_a_plan_limits_what_an_instance_keeps(
    store: JobStore, keys: KeyStore, raw: redis.Redis
) -> None:
    await keys.issue(owner="alice", instance="lab", plan="small")
    await keys.set_plan("small", Quota(kept_bytes=2 * RECORD_BYTES))
    job = await add(store, "alice:lab", params=b"pp")

    refused = await refusal(raw, store, "alice:lab", params=b"p" * RECORD_BYTES)

    assert type(refused) is QuotaExceeded
    assert refused.details == {
        "plan": "small",
        "kept": RECORD_BYTES + 2,
        "asked": 2 * RECORD_BYTES,
        "allowed": 2 * RECORD_BYTES,
    }
    assert "plan 'small' allows 4096" in refused.message
    used = await store.usage(scope="alice:lab")
    assert (used.kept_bytes, used.allowed_bytes) == (RECORD_BYTES + 2, 2 * RECORD_BYTES)
    await add(store, params=b"p" * RECORD_BYTES)
    await store.delete(scope="alice:lab", job_id=job.id)
    await add(store, "alice:lab", params=b"p" * RECORD_BYTES)


async def test_an_owner_keeps_half_of_the_memory_that_redis_may_take(
    make_store: Callable[..., JobStore], raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.store.MEMORY_LOOK_S", 0)
    store, half = make_store(0), 32 * CHUNK_BYTES
    raw.config_set("maxmemory", 2 * half)
    try:
        refused = await refusal(raw, store, params=b"p" * half)

        assert refused.details == {"kept": 0, "asked": half + RECORD_BYTES, "allowed": half}
        await add(store, params=b"p" * 1000)
    finally:
        raw.config_set("maxmemory", 0)
    await add(store, params=b"p" * half)


# --- plans ----------------------------------------------------------------------------------------


async def test_a_plan_limits_what_an_instance_has_queued(
    store: JobStore, keys: KeyStore, raw: redis.Redis
) -> None:
    await keys.issue(owner="alice", instance="lab", plan="small")
    await keys.set_plan("small", Quota(queued=2))
    for _ in range(2):
        await add(store, "alice:lab")

    refused = await refusal(raw, store, "alice:lab")

    assert type(refused) is QuotaExceeded
    assert refused.details == {"plan": "small", "queued": 2, "allowed": 2}
    assert "plan 'small' allows 2" in refused.message
    await add(store, "alice:default")
    await keys.set_plan("small", Quota(queued=3))
    await add(store, "alice:lab")


async def test_who_has_no_plan_has_the_plan_open(
    store: JobStore, keys: KeyStore, raw: redis.Redis
) -> None:
    await keys.set_plan("open", Quota(queued=0))

    assert type(await refusal(raw, store)) is QuotaExceeded


async def test_a_plan_limits_the_seconds_of_a_period(
    store: JobStore, keys: KeyStore, raw: redis.Redis
) -> None:
    await keys.set_plan("open", Quota(seconds=100))
    today = raw.time()[0] // DAY_S
    oldest = today - USAGE_DAYS + 1
    raw.hset("usage:alice:default", mapping={today: 1_000, oldest: 98_999, oldest - 1: 5_000_000})
    await add(store)
    raw.hincrby("usage:alice:default", oldest, 1)

    refused = await refusal(raw, store)

    assert type(refused) is QuotaExceeded
    wait_s = refused.details.pop("retry_after_s")
    left_s = (today + 1) * DAY_S - raw.time()[0]
    assert left_s <= wait_s <= left_s + 5, "the oldest day leaves the period at midnight (UTC)"
    assert refused.details == {"plan": "open", "used_s": 100, "allowed_s": 100}
    used = await store.usage(scope="alice:default")
    assert (used.used_s, used.allowed_s, used.is_exhausted) == (100, 100, True)
    await add(store, "bob:default")


async def test_what_is_queued_runs_though_the_seconds_are_used_up(
    store: JobStore, keys: KeyStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    await add(store)
    await keys.set_plan("open", Quota(seconds=0))
    await refusal(raw, store)

    found = worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=None, claim=True)[1]

    assert found is not None
    finish = Finish(job_id=found.job.id, attempt=1, status=JobStatus.COMPLETED, result=b"r")
    assert (
        worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=finish, claim=False)[0]
        == "committed"
    )


async def test_a_plan_has_the_quota_that_was_set_last(keys: KeyStore) -> None:
    await keys.set_plan("a", Quota(queued=1, running=2, seconds=3))
    await keys.set_plan("b", Quota(running=1))
    await keys.set_plan("a", Quota(seconds=0))
    assert await keys.plans() == {"a": Quota(seconds=0), "b": Quota(running=1)}

    await keys.set_plan("a", Quota())
    assert await keys.plans() == {"b": Quota(running=1)}


@pytest.mark.parametrize(
    ("plan", "quota"),
    [("A b", Quota()), ("a|b", Quota()), ("a", Quota(running=0)), ("a", Quota(queued=-1))],
)
async def test_what_is_no_plan_or_no_quota_is_not_stored(
    keys: KeyStore, raw: redis.Redis, plan: str, quota: Quota
) -> None:
    with pytest.raises(InvalidRequest):
        await keys.set_plan(plan, quota)

    assert everything(raw) == {}


# --- answers that are lost ------------------------------------------------------------------------


def lose_answers(store: JobStore, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Redis does what ``add`` asks, but so many answers do not arrive."""
    really, left = store._add, [times]

    async def add_unheard(**arguments: Any) -> Any:
        answer = await really(**arguments)
        if left[0] > 0:
            left[0] -= 1
            raise TimeoutError
        return answer

    monkeypatch.setattr(store, "_add", add_unheard)


async def test_a_job_that_was_stored_unheard_does_not_outlive_the_refusal(
    store: JobStore, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.store.FORGET_LOOK_S", 0.05)
    lose_answers(store, monkeypatch, times=1)

    with pytest.raises(Unavailable):
        await add(store, params=b"p" * (2 * CHUNK_BYTES))

    assert len(list(raw.scan_iter("job:*"))) == 1, "it was stored"
    await asyncio.wait_for(asyncio.gather(*store._forgetting), 10)
    assert list(raw.scan_iter("job:*")) == []
    assert counters(raw) == ({}, {})
    assert raw.keys("params:*") == []


@pytest.mark.parametrize("known", [{"idempotency_key": "k"}, {"retry_s": 60.0}])
async def test_one_that_a_repetition_finds_stays(
    store: JobStore, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any]
) -> None:
    monkeypatch.setattr("app.jobs.store.ANSWERING_MS", 0)
    lose_answers(store, monkeypatch, times=1)
    with pytest.raises(Unavailable):
        await add(store, **known)
    assert store._forgetting == set()

    again = await add(store, **known)

    assert [key.removeprefix("job:") for key in raw.scan_iter("job:*")] == [again.id]


async def test_a_large_job_whose_answer_came_with_the_second_try_is_whole(
    store: JobStore, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = store._add

    async def add_twice(**arguments: Any) -> Any:
        await really(**arguments)
        return await really(**arguments)

    monkeypatch.setattr(store, "_add", add_twice)
    params = b"p" * (2 * CHUNK_BYTES + 1)

    job = await add(store, params=params)

    assert await store.params(job_id=job.id) == params
