"""What can the gateway ask of the store? Add, read, list and cancel jobs; see the whole fleet."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from app.errors import (
    IdempotencyConflict,
    InvalidRequest,
    JobIsFinal,
    JobNotFound,
    QueueFull,
    QuotaExceeded,
    ServiceFull,
    SessionClosed,
    SessionNotFound,
    StorageFull,
    Unavailable,
)
from app.jobs.connection import translated
from app.jobs.job import JobPage, JobStatus, WorkerReport
from app.jobs.records import chunks_of, decode_job, encode_submission, pairs
from app.jobs.snapshot import (
    Fleet,
    Histogram,
    QueueFigures,
    RedisFigures,
    Snapshot,
    Usage,
)
from app.lua.keys import BUCKETS_S, DEFAULT_PLAN
from app.lua.scripts import source

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio

    from app.jobs.job import Job, JobFilter, Submission

#: Chunks of params that were written before a job that never came are gone after this time.
ORPHAN_S = 600
PROBE_S = 60
#: An answer that has not gone out after this time never will.
ANSWERING_MS = 1000
#: Pause before looking again whether it has.
ANSWERING_LOOK_S = 0.02
#: Pause between two looks for a job whose caller was told that it was not stored, and how often it
#: must not be there when Redis answers.
FORGET_LOOK_S = 1.0
FORGET_LOOKS = 3
#: A call whose answer was lost is repeated within two of the gateway's time-outs, or never.
TAKEN_AGAIN_MS = 3000
#: Days that usage is told of, and that the seconds of a plan are counted in.
USAGE_DAYS = 28
DAY_S = 86400
#: How long it is believed how much memory Redis may take.
MEMORY_LOOK_S = 60.0


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
        max_queued_bytes: int,
        max_queued_bytes_per_owner: int,
        idempotency_s: float,
        retention_s: float,
        max_kept_bytes_per_owner: int | None = None,
    ) -> None:
        """Make the store; connects with the first call.

        Args:
            client: connection pool to Redis.
            wakeup_cap: most wake-ups in one queue.
            max_queued: jobs of all owners that wait.
            max_queued_per_owner: jobs of one owner that wait.
            max_queued_bytes: of the programs of those.
            max_queued_bytes_per_owner: likewise.
            idempotency_s: how long an Idempotency-Key is remembered.
            retention_s: how long a final job is kept.
            max_kept_bytes_per_owner: what all jobs of one owner take until they are deleted; 0:
                half of the memory that Redis may take; None: without a limit.
        """
        # redis-py types an answer as all that any command may give, in either colour.
        self._client: Any = client
        self._wakeup_cap = wakeup_cap
        self._max_queued = max_queued
        self._max_queued_per_owner = max_queued_per_owner
        self._max_queued_bytes = max_queued_bytes
        self._max_queued_bytes_per_owner = max_queued_bytes_per_owner
        self._max_kept_bytes_per_owner = max_kept_bytes_per_owner
        self._half_memory_bytes: int | None = None
        self._half_memory_until = 0.0
        self._idempotency_ms = round(idempotency_s * 1000)
        self._retention_ms = round(retention_s * 1000)
        self._add = client.register_script(source("add"))
        self._answered = client.register_script(source("answered"))
        self._cancel = client.register_script(source("cancel"))
        self._delete = client.register_script(source("delete"))
        self._tag = client.register_script(source("tag"))
        self._take = client.register_script(source("take"))
        self._list = client.register_script(source("list"))
        self._forgetting: set[asyncio.Task[None]] = set()

    async def add(self, *, scope: str, executor: str, submission: Submission, wakeup: str) -> Job:
        """Store a job and wake a worker, atomically.

        Args:
            scope: whose job it is, ``owner:instance``.
            executor: which queue it goes to.
            submission: what was asked.
            wakeup: the rendered message for that queue.

        Returns:
            The new job, or the one that the same Idempotency-Key made before, or the one that the
            same submission made whose answer did not arrive (``answered`` was not called).

        Raises:
            QueueFull: the owner has as many jobs, or bytes, queued as allowed; nothing was stored.
            QuotaExceeded: the plan of the owner's instance allows no more; nothing was stored.
            StorageFull: what is kept of the owner's jobs would be more than allowed; likewise.
            ServiceFull: all owners together have as much queued as allowed; nothing was stored.
            IdempotencyConflict: the key came with another request before; nothing was stored.
            SessionNotFound: there is no such session, or it is somebody else's; nothing was stored.
            SessionClosed: the session takes no jobs, or none for this backend; nothing was stored.
        """
        job_id = str(uuid.uuid4())
        chunks = chunks_of(submission.params)
        most_kept = await self._most_kept_bytes()
        arguments: list[str | int | bytes] = [
            job_id,
            scope,
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
            json.dumps(submission.tags),
            submission.session_id,
            round(submission.retry_s * 1000),
            ANSWERING_MS,
            len(submission.params),
            self._max_queued_bytes,
            self._max_queued_bytes_per_owner,
            USAGE_DAYS,
            "" if most_kept is None else most_kept,
            *encode_submission(submission),
        ]
        try:
            with translated():
                if len(chunks) > 1:
                    await self._write_chunks(f"params:{job_id}", chunks)
                reply = await self._add(args=arguments)
                while reply[0] == b"answering":
                    # Either its answer goes out, or the time for that is over: at most a second.
                    await asyncio.sleep(ANSWERING_LOOK_S)
                    reply = await self._add(args=arguments)
                if len(chunks) > 1 and reply[1:2] != [job_id.encode()]:
                    # They expire, but until then many refusals would fill Redis.
                    await self._client.delete(*_chunk_keys(f"params:{job_id}", chunks))
        except Unavailable:
            if submission.idempotency_key is None and not submission.retry_s:
                self._forget_later(scope, job_id)
            raise
        self._refuse(reply, submission, most_kept)
        record = pairs(reply[2:])
        if not record:
            raise JobNotFound("the task that this Idempotency-Key made has been deleted")
        return decode_job(reply[1].decode(), record)

    async def _most_kept_bytes(self) -> int | None:
        """What all jobs of one owner may take until they are deleted; None: any."""
        if self._max_kept_bytes_per_owner != 0:
            return self._max_kept_bytes_per_owner
        if time.monotonic() >= self._half_memory_until:
            with translated():
                memory = await self._client.info("memory")
            # Without a limit of its own Redis takes the machine's memory, which nobody knows here.
            self._half_memory_bytes = memory["maxmemory"] // 2 or None
            self._half_memory_until = time.monotonic() + MEMORY_LOOK_S
        return self._half_memory_bytes

    def _forget_later(self, scope: str, job_id: str) -> None:
        """Delete a job that may have been stored though its caller is told that it was not.

        Only the answer may have been lost. Who repeats the request with a key, or with the same
        body where that counts, finds the job; anybody else would make a second one.
        """
        task = asyncio.create_task(self._forget(scope, job_id), name=f"forget {job_id}")
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, scope: str, job_id: str) -> None:
        end = time.monotonic() + ORPHAN_S
        looks = FORGET_LOOKS
        while looks and time.monotonic() < end:
            await asyncio.sleep(FORGET_LOOK_S)
            try:
                await self.delete(scope=scope, job_id=job_id)
            except JobNotFound:
                # What Redis was sent before it hung may be done after this.
                looks -= 1
            except Unavailable:
                continue
            else:
                return

    def _refuse(self, reply: list[Any], submission: Submission, most_kept: int | None) -> None:
        """Raise what the answer of ``add`` says, if it says that nothing was stored."""
        match reply[0].decode():
            case "conflict":
                message = (
                    "this Idempotency-Key was used before with another request;"
                    " send a new key with a new request"
                )
                raise IdempotencyConflict(message)
            case "owner_jobs":
                queued, allowed = int(reply[1]), self._max_queued_per_owner
                message = (
                    f"{queued} of your jobs are queued, at most {allowed} may be;"
                    " wait for some or cancel some"
                )
                raise QueueFull(message, queued=queued, allowed=allowed)
            case "owner_bytes":
                queued, allowed = int(reply[1]), self._max_queued_bytes_per_owner
                sent = len(submission.params)
                message = (
                    f"your queued jobs have {queued} bytes and this one {sent},"
                    f" together at most {allowed} are allowed; wait for some or cancel some"
                )
                raise QueueFull(message, queued=queued, sent=sent, allowed=allowed)
            case "owner_kept":
                kept, asked = int(reply[1]), int(reply[2])
                message = (
                    f"your jobs take {kept} bytes until they are deleted and this one {asked},"
                    f" together at most {most_kept} are allowed; {self._make_room()}"
                )
                raise StorageFull(message, kept=kept, asked=asked, allowed=most_kept)
            case "all_jobs":
                queued, allowed = int(reply[1]), self._max_queued
                message = (
                    f"{queued} jobs of all callers are queued, at most {allowed} may be;"
                    " try again when some have finished"
                )
                raise ServiceFull(message, queued=queued, allowed=allowed)
            case "all_bytes":
                queued, allowed = int(reply[1]), self._max_queued_bytes
                sent = len(submission.params)
                message = (
                    f"the queued jobs of all callers have {queued} bytes and this one {sent},"
                    f" together at most {allowed} are allowed; try again when some have finished"
                )
                raise ServiceFull(message, queued=queued, sent=sent, allowed=allowed)
            case "plan_queued":
                queued, allowed, plan = int(reply[1]), int(reply[2]), reply[3].decode()
                message = (
                    f"{queued} jobs of your instance are queued, its plan {plan!r} allows"
                    f" {allowed}; wait for some or cancel some"
                )
                raise QuotaExceeded(message, plan=plan, queued=queued, allowed=allowed)
            case "plan_seconds":
                used_s, allowed, plan = int(reply[1]) / 1000, int(reply[2]), reply[3].decode()
                message = (
                    f"jobs of your instance have run {used_s:g} seconds in {USAGE_DAYS} days, its"
                    f" plan {plan!r} allows {allowed}; wait until the oldest of that time is over,"
                    " or ask for another plan"
                )
                raise QuotaExceeded(
                    message,
                    plan=plan,
                    used_s=used_s,
                    allowed_s=allowed,
                    retry_after_s=-(-int(reply[4]) // 1000),
                )
            case "plan_kept":
                kept, asked, allowed = (int(number) for number in reply[1:4])
                plan = reply[4].decode()
                message = (
                    f"jobs of your instance take {kept} bytes until they are deleted and this one"
                    f" {asked}, its plan {plan!r} allows {allowed}; {self._make_room()}"
                )
                raise QuotaExceeded(message, plan=plan, kept=kept, asked=asked, allowed=allowed)
            case "session_missing":
                raise SessionNotFound(f"session {submission.session_id[:64]!r} not found")
            case "session_closed":
                message = "the session takes no more jobs; open another one"
                raise SessionClosed(message, state=reply[1].decode())
            case "session_backend":
                of = reply[1].decode()
                message = (
                    f"the session is for backend {of!r}, the job for {submission.backend!r};"
                    " a session has one backend"
                )
                raise SessionClosed(message, backend=of)

    def _make_room(self) -> str:
        """What an owner can do whose jobs take as much as they may."""
        hours = self._retention_ms / 3_600_000
        return (
            "delete some (DELETE /api/v1/jobs/ID), or wait:"
            f" each is deleted by itself {hours:g} hours after its end"
        )

    async def answered(self, *, scope: str, submission: Submission, job_id: str) -> None:
        """Note that the caller has the answer: the same submission is a new job from now on."""
        with translated():
            await self._answered(args=[scope, _fingerprint(submission), job_id])

    async def deletion_answered(self, *, scope: str, job_id: str) -> None:
        """Note that who deleted the job knows: for them, too, there is none from now on."""
        with translated():
            await self._answered(args=[scope, _fingerprint_of_deletion(job_id), job_id])

    async def read(self, *, scope: str, job_id: str) -> Job:
        """The job.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
        """
        with translated():
            record = await self._client.hgetall(f"job:{job_id}")
        if record.get(b"scope") != scope.encode():
            raise _missing(job_id)
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

    async def take_result(self, *, job: Job) -> bytes:
        """The result of a completed job, which is deleted: one reader gets it, others nothing."""
        with translated():
            call = str(uuid.uuid4())
            chunks = await self._take(args=[job.scope, job.id, call, TAKEN_AGAIN_MS])
        if chunks:
            # Redis would delete them by itself, a little later.
            with contextlib.suppress(Unavailable), translated():
                await self._client.delete(*_chunk_keys(f"result:{job.id}:{job.attempt}", chunks))
        return b"".join(chunks)

    async def log(self, *, job: Job) -> str:
        """What the job's last run has logged; empty when it has not run."""
        with translated():
            log: bytes | None = await self._client.get(f"log:{job.id}")
        return (log or b"").decode()

    async def provenance(self, *, job: Job) -> dict[str, Any]:
        """What the job's last run was: executor, method, seed, versions, …; empty before it ran."""
        with translated():
            document = await self._client.get(f"provenance:{job.id}")
        return dict(json.loads(document)) if document else {}

    async def position(self, *, job: Job) -> int | None:
        """Its place among its owner's queued jobs, 1 is next; None when not queued."""
        ready = f"ready:{job.executor}:{job.owner}"
        parked = f"parked:{job.executor}:{job.scope}"
        with translated():
            rank = await self._client.zrank(ready, job.id)
            if rank is None:
                rank = await self._client.zrank(parked, job.id)
                if rank is not None:
                    rank += await self._client.zcard(ready)
        return None if rank is None else int(rank) + 1

    async def cancel(self, *, scope: str, job_id: str) -> Job:
        """End a job that is not final.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
            JobIsFinal: it has ended; nothing changed.
        """
        with translated():
            call = str(uuid.uuid4())
            before = (await self._cancel(args=[scope, job_id, self._retention_ms, call])).decode()
        if before == "missing":
            raise _missing(job_id)
        if JobStatus(before).is_final:
            message = f"the job has ended ({before}), it cannot be cancelled any more"
            raise JobIsFinal(message, state=before)
        return await self.read(scope=scope, job_id=job_id)

    async def delete(self, *, scope: str, job_id: str, retry_s: float = 0.0) -> None:
        """Delete everything of a job; one that is not final is cancelled before.

        Args:
            scope: whose.
            job_id: which.
            retry_s: how long it is no fault that the job is gone when this is asked for again,
                because the answer did not arrive (``deletion_answered`` was not called).

        Raises:
            JobNotFound: there is none, or it is somebody else's.
        """
        with translated():
            outcome = await self._delete(
                args=[
                    scope,
                    job_id,
                    self._retention_ms,
                    round(retry_s * 1000),
                    _fingerprint_of_deletion(job_id),
                ]
            )
        if outcome == b"missing":
            raise _missing(job_id)

    async def tag(self, *, scope: str, job_id: str, tags: Sequence[str]) -> None:
        """Give a job these tags instead of those it has.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
        """
        with translated():
            outcome = await self._tag(args=[scope, job_id, json.dumps(list(tags))])
        if outcome == b"missing":
            raise _missing(job_id)

    async def list(
        self,
        *,
        scope: str,
        which: JobFilter,
        limit: int,
        offset: int = 0,
        cursor: str | None = None,
    ) -> JobPage:
        """Some of the scope's jobs, newest first unless the filter says otherwise.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        lowest, highest = _arrivals(which)
        if cursor is not None:
            if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
                raise InvalidRequest(
                    "this cursor is none that a list gave; leave it out to start anew"
                )
            lowest, highest = (
                (f"({cursor}", highest) if which.oldest_first else (lowest, f"({cursor}")
            )
        order = "ASC" if which.oldest_first else "DESC"
        with translated():
            total, *found = await self._list(
                args=[scope, lowest, highest, order, offset, limit, *_indexes(which)]
            )
            shown = [(found[i].decode(), found[i + 1].decode()) for i in range(0, len(found), 2)]
            pipe = self._client.pipeline(transaction=False)
            for job_id, _ in shown:
                pipe.hgetall(f"job:{job_id}")
            records = await pipe.execute()
        jobs = tuple(
            decode_job(job_id, record)
            for (job_id, _), record in zip(shown, records, strict=True)
            if record
        )
        more = offset + len(shown) < total
        return JobPage(jobs=jobs, total=total, cursor=shown[-1][1] if more and shown else None)

    async def usage(self, *, scope: str) -> Usage:
        """How long jobs of this scope have run in ``USAGE_DAYS`` days, what they take; and may."""
        owner, _, instance = scope.partition(":")
        with translated():
            pipe = self._client.pipeline(transaction=False)
            pipe.time()
            pipe.hgetall(f"usage:{scope}")
            pipe.hget(f"instances:{owner}", instance)
            pipe.hgetall("plans")
            pipe.hget("kept:bytes", scope)
            (seconds, _), days, plan, quotas, kept = await pipe.execute()
        first = seconds // DAY_S - USAGE_DAYS + 1
        allowed_s, allowed_bytes = (
            quotas.get(b"%b|%b" % (plan or DEFAULT_PLAN.encode(), what)) or None
            for what in (b"seconds", b"kept_bytes")
        )
        return Usage(
            used_s=sum(int(ms) for day, ms in days.items() if int(day) >= first) / 1000,
            allowed_s=None if allowed_s is None else int(allowed_s),
            kept_bytes=int(kept or 0),
            allowed_bytes=None if allowed_bytes is None else int(allowed_bytes),
        )

    async def fleet(self, *, executors: Sequence[str]) -> Fleet:
        """Which executors live, and how many jobs wait for each; for these even if none lives."""
        workers = await self.workers()
        live = frozenset(name for worker in workers for name in worker.executors)
        names = sorted(live.union(executors))
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for name in names:
                pipe.zcard(f"arrivals:{name}")
            queued = await pipe.execute()
        return Fleet(
            live=live,
            queued=dict(zip(names, queued, strict=True)),
            max_qubits=max((worker.qubits for worker in workers), default=0) or None,
            devices={
                executor: devices
                for worker in sorted(workers, key=lambda worker: worker.id)
                for executor, devices in worker.devices.items()
            },
        )

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
        for key, chunk in zip(_chunk_keys(prefix, chunks), chunks, strict=True):
            # Once: should the command arrive a second time, the job may have them already.
            await self._client.set(key, chunk, ex=ORPHAN_S, nx=True)

    async def _read_chunks(self, prefix: str, count: int) -> bytes:
        # One by one: Redis shall not be held by a large one.
        chunks = [await self._client.get(f"{prefix}:{i}") for i in range(count)]
        # It may be deleted between two reads: nothing is better than a part.
        return b"" if None in chunks else b"".join(chunks)


def _chunk_keys(prefix: str, chunks: Sequence[bytes]) -> list[str]:
    return [f"{prefix}:{i}" for i in range(len(chunks))]


def _fingerprint_of_deletion(job_id: str) -> str:
    return f"delete:{job_id}"


def _fingerprint(submission: Submission) -> str:
    """What makes two requests the same one."""
    digest = hashlib.sha256(submission.params)
    identity = [
        submission.program_id,
        submission.backend,
        submission.dialect,
        submission.session_id,
        submission.time_limit_s,
        submission.private,
        submission.calibration_id,
        *submission.tags,
    ]
    digest.update(json.dumps(identity).encode())
    return digest.hexdigest()


def _indexes(which: JobFilter) -> list[str]:
    """Names of the indexes that a job must be in to be shown."""
    names = [f"tag:{tag}" for tag in which.tags]
    if which.program_id is not None:
        names.append(f"program:{which.program_id}")
    if which.backend is not None:
        names.append(f"backend:{which.backend}")
    if which.session_id is not None:
        names.append(f"session:{which.session_id}")
    if which.pending is not None:
        names.append("state:pending" if which.pending else "state:final")
    return names


def _arrivals(which: JobFilter) -> tuple[str, str]:
    """Lowest and highest arrival of the jobs to be shown, as a sorted set's range names them."""
    lowest, highest = "-inf", "+inf"
    if which.created_after is not None:
        lowest = str(round(which.created_after.timestamp() * 1_000_000))
    if which.created_before is not None:
        # Times are told in milliseconds; this one counts as a whole.
        highest = str(round(which.created_before.timestamp() * 1_000_000) + 999)
    return lowest, highest


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
        qubits=document["qubits"],
        worth_from=document.get("worth_from"),
        devices=document.get("devices", {}),
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


def _missing(job_id: str) -> JobNotFound:
    """Say, in IBM's words, that a caller has no such job."""
    return JobNotFound(f"Job not found. Job ID: {job_id}")
