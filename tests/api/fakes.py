"""What stands in for the dispatcher? The same face, a dict of jobs, an event per job."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app.errors import IdempotencyConflict, InvalidRequest, JobIsFinal, JobNotFound
from app.jobs.job import Job, JobFilter, JobPage, JobStatus, WorkerReport
from app.jobs.snapshot import Fleet, Histogram, QueueFigures, RedisFigures, Snapshot
from app.lua.keys import BUCKETS_S

if TYPE_CHECKING:
    from app.auth.principal import Principal
    from app.errors import ServiceError
    from app.jobs.job import Failure, Submission

WORKER = WorkerReport(
    id="w1",
    host="host-1",
    pid=4711,
    executors=("noisy", "aer"),
    slots=4,
    busy=1,
    versions={"qiskit": "2.6.2"},
    age_s=0.5,
)


class FakeDispatcher:
    """Jobs in a dict; a test ends them by hand."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.submissions: list[Submission] = []
        self.validated: list[tuple[Principal, Submission, float]] = []
        self.results: dict[str, bytes] = {}
        self.changed: dict[str, asyncio.Event] = {}
        self.live: tuple[WorkerReport, ...] = (WORKER,)
        self.current_fleet = Fleet(
            live=frozenset({"aer", "noisy"}),
            queued={"aer": 3, "auto": 1, "noisy": 0},
            max_qubits=33,
        )
        self.counters: dict[tuple[str, tuple[str, ...]], int] = {}
        self.histograms: dict[tuple[str, tuple[str, ...]], Histogram] = {}
        #: raised by every call.
        self.outage: Exception | None = None
        #: every call waits for this; None: no call hangs.
        self.hang: asyncio.Event | None = None
        #: raised by ``validate``.
        self.fault: ServiceError | None = None
        #: how many calls of ``wait`` are under way, and an event for each start.
        self.waiting = 0
        self.wait_began = asyncio.Event()
        self.wait_ended = asyncio.Event()
        self.calls = 0

    async def submit(self, principal: Principal, submission: Submission) -> Job:
        await self._reach()
        for job_id, other in zip(self.jobs, self.submissions, strict=True):
            if submission.idempotency_key and other.idempotency_key == submission.idempotency_key:
                if other.params != submission.params:
                    message = "another request"
                    raise IdempotencyConflict(message)
                return self.jobs[job_id]
        job = Job(
            id=str(uuid.uuid4()),
            owner=principal.owner,
            scope=principal.scope,
            status=JobStatus.QUEUED,
            program_id=submission.program_id,
            backend=submission.backend,
            executor=submission.backend.partition("@")[2],
            created=datetime(2026, 1, 2, 3, 4, tzinfo=UTC) + timedelta(seconds=len(self.jobs)),
            dialect=submission.dialect,
            tags=submission.tags,
            request_id=submission.request_id,
        )
        self.jobs[job.id] = job
        self.submissions.append(submission)
        self.changed[job.id] = asyncio.Event()
        return job

    async def read(self, principal: Principal, job_id: str) -> Job:
        await self._reach()
        job = self.jobs.get(job_id)
        if job is None or job.scope != principal.scope:
            message = f"Job not found. Job ID: {job_id}"
            raise JobNotFound(message)
        return job

    async def wait(self, principal: Principal, job_id: str, timeout_s: float) -> Job:
        job = await self.read(principal, job_id)
        if job.status.is_final:
            return job
        self.waiting += 1
        self.wait_began.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self.changed[job_id].wait()
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1
            self.wait_ended.set()
        return await self.read(principal, job_id)

    async def result(self, job: Job) -> bytes:
        await self._reach()
        return self.results.get(job.id, b"")

    async def position(self, job: Job) -> int | None:
        await self._reach()
        return 1 if job.status is JobStatus.QUEUED else None

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        job = await self.read(principal, job_id)
        if job.status.is_final:
            message = "the job has ended"
            raise JobIsFinal(message)
        return self.end(job_id, JobStatus.CANCELLED)

    async def list(
        self,
        principal: Principal,
        which: JobFilter,
        *,
        limit: int,
        offset: int = 0,
        cursor: str | None = None,
    ) -> JobPage:
        await self._reach()
        assert which == JobFilter(program_id="qasm3")
        assert offset == 0
        if cursor is not None and not cursor.isdigit():
            message = "no such cursor"
            raise InvalidRequest(message)
        mine = [job for job in reversed(self.jobs.values()) if job.scope == principal.scope]
        start = int(cursor or 0)
        rest = len(mine) > start + limit
        return JobPage(
            jobs=tuple(mine[start : start + limit]),
            total=len(mine),
            cursor=str(start + limit) if rest else None,
        )

    async def validate(
        self, principal: Principal, submission: Submission, timeout_s: float
    ) -> None:
        await self._reach()
        self.validated.append((principal, submission, timeout_s))
        if self.fault is not None:
            raise self.fault

    async def workers(self) -> tuple[WorkerReport, ...]:
        await self._reach()
        return self.live

    async def fleet(self) -> Fleet:
        await self._reach()
        return self.current_fleet

    async def snapshot(self) -> Snapshot:
        await self._reach()
        return Snapshot(
            counters=self.counters,
            histograms=self.histograms,
            queues={
                "aer": QueueFigures(queued=3, running=2, wakeups=1, oldest_queued_s=1.5),
                "noisy": QueueFigures(queued=0, running=1, wakeups=0, oldest_queued_s=0.0),
            },
            redis=RedisFigures(
                connected_clients=4,
                used_memory_bytes=1_258_291,
                used_memory_human="1.20M",
                max_memory_bytes=4_194_304,
                total_commands_processed=8564,
            ),
        )

    async def check(self) -> None:
        await self._reach()

    def set_status(self, job_id: str, status: JobStatus, **changes: object) -> Job:
        job = dataclasses.replace(self.jobs[job_id], status=status, **changes)
        self.jobs[job_id] = job
        return job

    def end(
        self,
        job_id: str,
        status: JobStatus,
        *,
        result: bytes = b"",
        failure: Failure | None = None,
    ) -> Job:
        if result:
            self.results[job_id] = result
        job = self.set_status(job_id, status, failure=failure)
        self.changed[job_id].set()
        return job

    async def _reach(self) -> None:
        self.calls += 1
        if self.hang is not None:
            await self.hang.wait()
        if self.outage is not None:
            raise self.outage


def histogram(**seconds: int) -> Histogram:
    """A distribution with so many observations in the first, the second and the last bucket."""
    buckets = [0] * (len(BUCKETS_S) + 1)
    buckets[0], buckets[1], buckets[-1] = seconds["first"], seconds["second"], seconds["last"]
    return Histogram(buckets=tuple(buckets), sum_s=7.5)
