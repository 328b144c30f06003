"""What can the gateway ask of the store? Add, read, list and cancel jobs; see the whole fleet."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from app.errors import IdempotencyConflict, InvalidRequest, JobIsFinal, JobNotFound, QueueFull
from app.jobs.connection import translated
from app.jobs.job import JobPage, JobStatus, WorkerReport
from app.jobs.records import chunks_of, decode_job, encode_submission, pairs
from app.jobs.snapshot import Histogram, QueueFigures, RedisFigures, Snapshot
from app.lua.keys import BUCKETS_S
from app.lua.scripts import source

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio

    from app.jobs.job import Job, Submission

#: Chunks of params that were written before a job that never came are gone after this time.
ORPHAN_S = 600
PROBE_S = 60


class JobStore:
    """The store as callers of jobs see it, on one Redis or Valkey.

    Every method raises ``Unavailable`` when Redis does not answer.
    """

    def __init__(
        self,
        *,
        client: redis.asyncio.Redis,
        wakeup_cap: int,
        max_queued: int,
        max_queued_per_owner: int,
        idempotency_s: float,
        retention_s: float,
    ) -> None:
        """Make the store; connects with the first call."""
        # redis-py types an answer as all that any command may give, in either colour.
        self._client: Any = client
        self._wakeup_cap = wakeup_cap
        self._max_queued = max_queued
        self._max_queued_per_owner = max_queued_per_owner
        self._idempotency_ms = round(idempotency_s * 1000)
        self._retention_ms = round(retention_s * 1000)
        self._add = client.register_script(source("add"))
        self._cancel = client.register_script(source("cancel"))

    async def add(self, *, owner: str, executor: str, submission: Submission, wakeup: str) -> Job:
        """Store a job and wake a worker, atomically.

        Args:
            owner: whose job it is.
            executor: which queue it goes to.
            submission: what was asked.
            wakeup: the rendered message for that queue.

        Returns:
            The new job, or the one that the same Idempotency-Key made before.

        Raises:
            QueueFull: the executor's or the owner's queue is full; nothing was stored.
            IdempotencyConflict: the key came with another request before; nothing was stored.
        """
        job_id = str(uuid.uuid4())
        chunks = chunks_of(submission.params)
        with translated():
            if len(chunks) > 1:
                await self._write_chunks(f"params:{job_id}", chunks)
            reply = await self._add(
                args=[
                    job_id,
                    owner,
                    executor,
                    submission.priority,
                    chunks[0] if len(chunks) == 1 else b"",
                    len(chunks),
                    submission.idempotency_key or "",
                    _fingerprint(submission),
                    self._idempotency_ms,
                    wakeup,
                    self._wakeup_cap,
                    self._max_queued,
                    self._max_queued_per_owner,
                    int(submission.listed),
                    submission.program_id,
                    submission.backend,
                    *encode_submission(submission),
                ]
            )
        match reply[0].decode():
            case "conflict":
                message = (
                    "this Idempotency-Key was used before with another request;"
                    " send a new key with a new request"
                )
                raise IdempotencyConflict(message)
            case "executor_full":
                queued = int(reply[1])
                message = (
                    f"{queued} jobs are queued for executor {executor!r}, at most"
                    f" {self._max_queued} may be; try again when some have finished"
                )
                raise QueueFull(message, queued=queued, allowed=self._max_queued)
            case "owner_full":
                queued = int(reply[1])
                message = (
                    f"{queued} of your jobs are queued for executor {executor!r}, at most"
                    f" {self._max_queued_per_owner} may be; wait for some or cancel some"
                )
                raise QueueFull(message, queued=queued, allowed=self._max_queued_per_owner)
        record = pairs(reply[2:])
        if not record:
            raise JobNotFound("the task that this Idempotency-Key made has been deleted")
        return decode_job(reply[1].decode(), record)

    async def read(self, *, owner: str, job_id: str) -> Job:
        """The job.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
        """
        with translated():
            record = await self._client.hgetall(f"job:{job_id}")
        if record.get(b"owner") != owner.encode():
            raise JobNotFound("task not found")
        return decode_job(job_id, record)

    async def params(self, *, job_id: str) -> bytes:
        """The program of an existing job, as it was received."""
        with translated():
            count = await self._client.hget(f"job:{job_id}", "params_chunks")
            return await self._read_chunks(f"params:{job_id}", int(count or 0))

    async def result(self, *, job: Job) -> bytes:
        """The result of a completed job, as it was produced; empty when there is none."""
        with translated():
            return await self._read_chunks(f"result:{job.id}:{job.attempt}", job.result_chunks)

    async def position(self, *, job: Job) -> int | None:
        """Its place among its owner's queued jobs, 1 is next; None when not queued."""
        with translated():
            rank = await self._client.zrank(f"ready:{job.executor}:{job.owner}", job.id)
        return None if rank is None else int(rank) + 1

    async def cancel(self, *, owner: str, job_id: str) -> Job:
        """End a job that is not final.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
            JobIsFinal: it has ended; nothing changed.
        """
        with translated():
            before = (await self._cancel(args=[owner, job_id, self._retention_ms])).decode()
        if before == "missing":
            raise JobNotFound("task not found")
        if JobStatus(before).is_final:
            message = f"the task has ended ({before}), it cannot be cancelled any more"
            raise JobIsFinal(message, state=before)
        return await self.read(owner=owner, job_id=job_id)

    async def list(self, *, owner: str, limit: int, cursor: str | None) -> JobPage:
        """The owner's jobs, newest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16):
            raise InvalidRequest("this cursor is none that a list gave; leave it out to start anew")
        below = f"({cursor}" if cursor else "+inf"
        with translated():
            found = await self._client.zrevrangebyscore(
                f"jobs:{owner}", below, "-inf", start=0, num=limit + 1, withscores=True
            )
            shown = found[:limit]
            pipe = self._client.pipeline(transaction=False)
            for job_id, _ in shown:
                pipe.hgetall(f"job:{job_id.decode()}")
            records = await pipe.execute()
        jobs = tuple(
            decode_job(job_id.decode(), record)
            for (job_id, _), record in zip(shown, records, strict=True)
            if record
        )
        more = len(found) > limit
        return JobPage(jobs=jobs, cursor=str(int(shown[-1][1])) if more else None)

    async def workers(self) -> tuple[WorkerReport, ...]:
        """Every worker whose report has not expired."""
        with translated():
            seconds, microseconds = await self._client.time()
            beats = await self._client.zrange("workers", 0, -1, withscores=True)
            if not beats:
                return ()
            reports = await self._client.mget([f"worker:{name.decode()}" for name, _ in beats])
        now_ms = seconds * 1000 + microseconds // 1000
        return tuple(
            _decode_report(report, max(now_ms - beat, 0) / 1000)
            for (_, beat), report in zip(beats, reports, strict=True)
            if report
        )

    async def check(self) -> None:
        """Write something.

        Raises:
            Unavailable: Redis does not answer, or is full.
        """
        with translated():
            await self._client.set("probe", "1", ex=PROBE_S)

    async def snapshot(self, *, executors: Sequence[str]) -> Snapshot:
        """The whole fleet: counters, queues of these executors, and what Redis says of itself."""
        with translated():
            pipe = self._client.pipeline(transaction=True)
            pipe.hgetall("stats")
            pipe.hgetall("running")
            pipe.info("clients")
            pipe.info("memory")
            pipe.info("stats")
            pipe.time()
            for executor in executors:
                pipe.zcard(f"arrivals:{executor}")
                pipe.zrange(f"arrivals:{executor}", 0, 0, withscores=True)
                pipe.llen(executor)
            stats, running, clients, memory, traffic, time, *figures = await pipe.execute()
        now_ms = time[0] * 1000 + time[1] // 1000
        counters, histograms = _decode_stats(stats)
        queues = {
            executor: QueueFigures(
                queued=figures[3 * i],
                running=int(running.get(executor.encode(), 0)),
                wakeups=figures[3 * i + 2],
                oldest_queued_s=_age_s(figures[3 * i + 1], now_ms),
            )
            for i, executor in enumerate(executors)
        }
        return Snapshot(
            counters=counters,
            histograms=histograms,
            queues=queues,
            redis=RedisFigures(
                connected_clients=clients["connected_clients"],
                used_memory_bytes=memory["used_memory"],
                used_memory_human=memory["used_memory_human"],
                max_memory_bytes=memory["maxmemory"],
                total_commands_processed=traffic["total_commands_processed"],
            ),
        )

    async def _write_chunks(self, prefix: str, chunks: Sequence[bytes]) -> None:
        for i, chunk in enumerate(chunks):
            await self._client.set(f"{prefix}:{i}", chunk, ex=ORPHAN_S)

    async def _read_chunks(self, prefix: str, count: int) -> bytes:
        chunks = [await self._client.get(f"{prefix}:{i}") for i in range(count)]
        return b"".join(chunk for chunk in chunks if chunk)


def _fingerprint(submission: Submission) -> str:
    """What makes two requests the same one."""
    digest = hashlib.sha256(submission.params)
    identity = [submission.program_id, submission.backend, submission.dialect, *submission.tags]
    digest.update(json.dumps(identity).encode())
    return digest.hexdigest()


def _decode_report(report: bytes, age_s: float) -> WorkerReport:
    document = json.loads(report)
    return WorkerReport(
        id=document["id"],
        host=document["host"],
        pid=document["pid"],
        executors=tuple(document["executors"]),
        slots=document["slots"],
        busy=document["busy"],
        versions=document["versions"],
        age_s=age_s,
    )


def _age_s(oldest: list[tuple[bytes, float]], now_ms: float) -> float:
    return max(now_ms - oldest[0][1], 0) / 1000 if oldest else 0.0


def _decode_stats(
    stats: dict[bytes, bytes],
) -> tuple[dict[tuple[str, tuple[str, ...]], int], dict[tuple[str, tuple[str, ...]], Histogram]]:
    """What the ``stats`` hash counts, in fields ``name|label|…`` and ``name|label|bucket``."""
    counters: dict[tuple[str, tuple[str, ...]], int] = {}
    buckets: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    sums_s: dict[tuple[str, tuple[str, ...]], float] = {}
    for field, value in stats.items():
        name, *labels = field.decode().split("|")
        if not name.endswith("_seconds"):
            counters[name, tuple(labels)] = int(value)
            continue
        key = (name, tuple(labels[:-1]))
        if labels[-1] == "sum_ms":
            sums_s[key] = int(value) / 1000
        else:
            buckets.setdefault(key, [0] * (len(BUCKETS_S) + 1))[int(labels[-1])] = int(value)
    histograms = {
        key: Histogram(buckets=tuple(found), sum_s=sums_s.get(key, 0.0))
        for key, found in buckets.items()
    }
    return counters, histograms
