"""The contract of lists, tags, deletion, private results and repeated requests, on a real Valkey."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from app.errors import JobNotFound, Unavailable
from app.jobs.claims import ClaimStore, Finish
from app.jobs.job import JobFilter, JobStatus
from app.jobs.records import CHUNK_BYTES
from app.jobs.store import ANSWERING_MS, TAKEN_AGAIN_MS

from .conftest import WAKEUP, Stutter, submission

if TYPE_CHECKING:
    import redis

    from app.jobs.job import Job
    from app.jobs.store import JobStore

pytestmark = pytest.mark.anyio

ALICE, BOB = "alice:default", "bob:default"


async def add(store: JobStore, scope: str = ALICE, **changes: Any) -> Job:
    return await store.add(
        scope=scope, executor="aer", submission=submission(**changes), wakeup=WAKEUP
    )


async def ids(store: JobStore, scope: str = ALICE, **which: Any) -> list[str]:
    page = await store.list(scope=scope, which=JobFilter(**which), limit=100)
    assert page.total == len(page.jobs)
    return [job.id for job in page.jobs]


def complete(worker: ClaimStore, result: bytes = b"result", log: str = "") -> str:
    claim = worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=None, claim=True)[1]
    assert claim is not None
    finish = Finish(
        job_id=claim.job.id,
        attempt=claim.job.attempt,
        status=JobStatus.COMPLETED,
        result=result,
        log=log,
        metadata={"executor": "aer"},
    )
    worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=finish, claim=False)
    return claim.job.id


def everything(raw: redis.Redis) -> dict[str, bytes | None]:
    return {key: raw.dump(key) for key in raw.scan_iter()}


async def test_a_list_is_narrowed_by_all_that_is_given(store: JobStore, worker: ClaimStore) -> None:
    done = await add(store, tags=("a", "b"), program_id="sampler")
    assert complete(worker) == done.id
    first = await add(store, tags=("a",), program_id="sampler", backend="fake_manila@aer")
    second = await add(store, tags=("a", "b"), program_id="estimator")
    await add(store, scope=BOB, tags=("a", "b"))

    assert await ids(store) == [second.id, first.id, done.id]
    assert await ids(store, oldest_first=True) == [done.id, first.id, second.id]
    assert await ids(store, tags=("a",)) == [second.id, first.id, done.id]
    assert await ids(store, tags=("a", "b")) == [second.id, done.id]
    assert await ids(store, tags=("a", "b"), pending=True) == [second.id]
    assert await ids(store, pending=False) == [done.id]
    assert await ids(store, program_id="sampler") == [first.id, done.id]
    assert await ids(store, backend="fake_manila@aer") == [first.id]
    assert await ids(store, backend="fake_manila@aer", pending=False) == []


async def test_a_list_is_narrowed_by_time_both_ends_included(store: JobStore) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(await add(store))
        await asyncio.sleep(0.003)
    middle = jobs[1].created

    assert await ids(store, created_after=middle) == [jobs[2].id, jobs[1].id]
    assert await ids(store, created_before=middle) == [jobs[1].id, jobs[0].id]
    later = jobs[2].created + timedelta(milliseconds=1)
    assert await ids(store, created_after=later) == []


async def test_pages_by_offset_and_by_cursor_are_the_same(store: JobStore) -> None:
    jobs = [await add(store) for _ in range(5)]
    expected = [job.id for job in reversed(jobs)]

    by_offset = [
        job.id
        for offset in range(0, 6, 2)
        for job in (await store.list(scope=ALICE, which=JobFilter(), limit=2, offset=offset)).jobs
    ]
    by_cursor, cursor = [], None
    while True:
        page = await store.list(scope=ALICE, which=JobFilter(), limit=2, cursor=cursor)
        by_cursor += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break

    assert by_offset == by_cursor == expected


async def test_tags_are_replaced_and_found(store: JobStore, raw: redis.Redis) -> None:
    job = await add(store, tags=("old", "kept"))

    await store.tag(scope=ALICE, job_id=job.id, tags=("kept", "new: with colon"))

    assert (await store.read(scope=ALICE, job_id=job.id)).tags == ("kept", "new: with colon")
    assert await ids(store, tags=("new: with colon", "kept")) == [job.id]
    assert await ids(store, tags=("old",)) == []
    before = everything(raw)
    with pytest.raises(JobNotFound):
        await store.tag(scope=BOB, job_id=job.id, tags=())
    assert everything(raw) == before


async def test_a_deleted_job_leaves_nothing(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    done = await add(store, tags=("a",))
    complete(worker, log="it ran")
    queued = await add(store, tags=("b",))
    running = await add(store)
    assert worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=None, claim=True)[1]

    for job in (done, queued, running):
        with pytest.raises(JobNotFound):
            await store.delete(scope=BOB, job_id=job.id)
        await store.delete(scope=ALICE, job_id=job.id)

    left = set(raw.scan_iter()) - {"sequence", "wakeup:sequence", "stats", "clock:aer", "running"}
    assert left == {"aer", "service:aer", "usage:alice:default"}
    assert raw.hgetall("running") == {"aer": "0"}


async def test_a_deletion_that_was_not_heard_can_be_repeated_until_it_is_answered(
    store: JobStore, raw: redis.Redis, stutter: Stutter
) -> None:
    heard, unheard = await add(store), await add(store)

    stutter.on = True
    await store.delete(scope=ALICE, job_id=heard.id, retry_s=60)
    await store.delete(scope=ALICE, job_id=unheard.id, retry_s=60)
    stutter.on = False
    await store.deletion_answered(scope=ALICE, job_id=heard.id)

    with pytest.raises(JobNotFound):
        await store.delete(scope=ALICE, job_id=heard.id, retry_s=60)
    with pytest.raises(JobNotFound):
        await store.delete(scope=BOB, job_id=unheard.id, retry_s=60)
    await store.delete(scope=ALICE, job_id=unheard.id, retry_s=60)
    assert 0 < raw.pttl(f"unanswered:{ALICE}:delete:{unheard.id}") <= 60_000


async def test_a_result_that_is_deleted_while_it_is_read_is_gone(
    store: JobStore, worker: ClaimStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await add(store)
    result = b"r" * (2 * CHUNK_BYTES)
    complete(worker, result)
    job = await store.read(scope=ALICE, job_id=made.id)
    assert await store.result(job=job) == result
    get = store._client.get

    async def get_and_delete(key: str) -> Any:
        chunk = await get(key)
        if key.endswith(":0"):
            await store.delete(scope=ALICE, job_id=made.id)
        return chunk

    monkeypatch.setattr(store._client, "get", get_and_delete)
    assert await store.result(job=job) == b""


async def test_a_deleted_job_is_stopped(
    store: JobStore, worker: ClaimStore, raw: redis.Redis
) -> None:
    job = await add(store)
    claim = worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=None, claim=True)[1]
    assert claim is not None
    with raw.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe("cancel")
        heard.get_message(timeout=1)

        await store.delete(scope=ALICE, job_id=job.id)

        message = heard.get_message(timeout=1)
    assert message is not None
    assert message["data"] == f"w1:0 {job.id}"
    late = Finish(job_id=job.id, attempt=1, status=JobStatus.COMPLETED, result=b"late")
    outcome, _ = worker.next(slot="0", executor="aer", wakeup=WAKEUP, finish=late, claim=False)
    assert outcome == "fenced"
    assert raw.exists(f"result:{job.id}:1:0") == 0


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_result_can_be_taken_once(
    store: JobStore, worker: ClaimStore, raw: redis.Redis, size: int
) -> None:
    job = await add(store, private=True)
    complete(worker, result=b"x" * size)
    job = await store.read(scope=ALICE, job_id=job.id)
    assert job.private

    readers = await asyncio.gather(*(store.take_result(job=job) for _ in range(5)))

    assert sorted(len(result) for result in readers) == [0, 0, 0, 0, size]
    assert (await store.read(scope=ALICE, job_id=job.id)).result_chunks == 0
    assert [key for key in raw.scan_iter() if key.startswith("result:")] == []


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_result_whose_taking_was_not_heard_is_given_again(
    store: JobStore, worker: ClaimStore, raw: redis.Redis, stutter: Stutter, size: int
) -> None:
    job = await add(store, private=True)
    complete(worker, result=b"x" * size)
    job = await store.read(scope=ALICE, job_id=job.id)

    stutter.on = True
    assert await store.take_result(job=job) == b"x" * size

    assert await store.take_result(job=job) == b""
    assert [key for key in raw.scan_iter() if key.startswith("result:")] == []


async def test_a_result_that_nobody_heard_of_is_gone_soon(
    store: JobStore, worker: ClaimStore, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await add(store, private=True)
    complete(worker)
    job = await store.read(scope=ALICE, job_id=job.id)

    async def unheard(*_: object) -> None:
        raise Unavailable("it went away", component="redis")

    monkeypatch.setattr(store._client, "delete", unheard)
    await store.take_result(job=job)

    assert 0 < raw.pttl(f"result:{job.id}:1:0") <= TAKEN_AGAIN_MS
    monkeypatch.undo()
    await store.delete(scope=ALICE, job_id=job.id)
    assert raw.exists(f"result:{job.id}:1:0") == 0


async def test_a_log_and_the_provenance_are_kept(store: JobStore, worker: ClaimStore) -> None:
    job = await add(store)

    complete(worker, log="line 1\nline 2")

    job = await store.read(scope=ALICE, job_id=job.id)
    assert await store.log(job=job) == "line 1\nline 2"
    assert await store.provenance(job=job) == {"executor": "aer"}


async def test_a_request_whose_answer_did_not_arrive_is_the_same_job(
    store: JobStore, raw: redis.Redis
) -> None:
    first = await add(store, retry_s=60)
    raw.hincrby(f"job:{first.id}", "created", -ANSWERING_MS)
    before = everything(raw)

    again = await add(store, retry_s=60)

    assert again.id == first.id
    assert everything(raw) == before
    assert (await add(store, retry_s=60, tags=("other",))).id != first.id
    assert (await add(store, retry_s=60, scope=BOB)).id != first.id


async def test_a_request_whose_answer_arrived_is_another_job(store: JobStore) -> None:
    first = await add(store, retry_s=60)
    await store.answered(scope=ALICE, submission=submission(retry_s=60), job_id=first.id)

    again = await add(store, retry_s=60)

    assert again.id != first.id


async def test_two_of_the_same_at_once_are_two_jobs_when_the_first_is_answered(
    store: JobStore,
) -> None:
    first = await add(store, retry_s=60)
    second = asyncio.ensure_future(add(store, retry_s=60))
    await asyncio.sleep(0)

    await store.answered(scope=ALICE, submission=submission(retry_s=60), job_id=first.id)

    assert (await second).id != first.id
