"""What can a caller do? Submit, read, await, list and end jobs and sessions, for one principal."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from app.errors import BackendNotFound, InvalidProgram, JobIsFinal, LimitExceeded, Unavailable
from app.jobs.job import JobStatus
from app.primitives.programs import QASM3_CHECK

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from app.auth.principal import Principal
    from app.backends.catalog import Backend, Catalog
    from app.jobs.events import JobEvents
    from app.jobs.job import Job, JobFilter, JobPage, Submission, WorkerReport
    from app.jobs.session import Session, SessionRequest, SessionState, Workload
    from app.jobs.sessions import SessionStore
    from app.jobs.snapshot import Fleet, Snapshot, Usage
    from app.jobs.store import JobStore

#: A waiter reads the store at least this often, should an event ever be lost.
REREAD_S = 2.0
#: A parse that a caller waits for goes before that caller's queued jobs, and is short.
CHECK_PRIORITY = 100
CHECK_TIME_LIMIT_S = 10.0
IDEMPOTENCY_KEY_CHARS = 256
#: How long the answer "which executors are alive" is believed.
FLEET_S = 1.0


class Dispatcher:
    """The use cases of callers. Knows the store, never an executor."""

    def __init__(
        self,
        *,
        store: JobStore,
        sessions: SessionStore,
        events: JobEvents,
        catalog: Catalog,
        wakeup: Callable[[str], str],
        executors: Sequence[str],
    ) -> None:
        """Make the dispatcher.

        Args:
            store: where jobs are.
            sessions: where sessions are.
            events: says when a job is final.
            catalog: which backends there are.
            wakeup: gives the message that wakes a worker of an executor.
            executors: executors that are known even while no worker of theirs lives.
        """
        self._store = store
        self._catalog = catalog
        self._sessions = sessions
        self._events = events
        self._wakeup = wakeup
        self._executors = frozenset(executors)
        self._fleet: Fleet | None = None
        self._fleet_until = 0.0

    async def submit(self, principal: Principal, submission: Submission) -> Job:
        """Accept a job: from the moment this returns, it reaches a final state.

        Raises:
            BackendNotFound: no such backend; nothing was stored.
            LimitExceeded: the Idempotency-Key is too long; nothing was stored.
            QueueFull: the caller has too much queued; nothing was stored.
            StorageFull: the caller's jobs take too many bytes; nothing was stored.
            QuotaExceeded: the plan of the caller's instance allows no more; nothing was stored.
            ServiceFull: everybody together has too much queued; nothing was stored.
            IdempotencyConflict: the key came with another request; nothing was stored.
            SessionNotFound: the caller has no such session; nothing was stored.
            SessionClosed: the session takes no jobs, or none for this backend; nothing was stored.
            Unavailable: Redis does not answer; repeat with the same Idempotency-Key.
        """
        key = submission.idempotency_key
        if key is not None and len(key) > IDEMPOTENCY_KEY_CHARS:
            message = (
                f"the Idempotency-Key has {len(key)} characters,"
                f" at most {IDEMPOTENCY_KEY_CHARS} are allowed"
            )
            raise LimitExceeded(message, asked=len(key), allowed=IDEMPOTENCY_KEY_CHARS)
        backend = await self._backend(submission.backend)
        return await self._store.add(
            scope=principal.scope,
            executor=backend.executor,
            submission=replace(submission, target=backend.metadata),
            wakeup=self._wakeup(backend.executor),
        )

    async def read(self, principal: Principal, job_id: str) -> Job:
        """The job.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
        """
        return await self._store.read(scope=principal.scope, job_id=job_id)

    async def wait(self, principal: Principal, job_id: str, timeout_s: float) -> Job:
        """The job, as soon as it is final, the time is over or the process ends.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
        """
        end = time.monotonic() + timeout_s
        async with self._events.watch(job_id) as changed:
            while True:
                changed.clear()
                job = await self.read(principal, job_id)
                left = end - time.monotonic()
                if job.status.is_final or left <= 0 or self._events.has_let_go:
                    return job
                try:
                    async with asyncio.timeout(min(left, REREAD_S)):
                        await changed.wait()
                except TimeoutError:
                    continue

    async def result(self, job: Job) -> bytes:
        """The result of a completed job, as it was produced; empty when none is left.

        A private job's result is deleted by being read.
        """
        if job.private:
            return await self._store.take_result(job=job)
        return await self._store.result(job=job)

    async def position(self, job: Job) -> int | None:
        """Its place among its owner's queued jobs, 1 is next; None when not queued."""
        return await self._store.position(job=job)

    async def cancel(self, principal: Principal, job_id: str) -> Job:
        """End a job that is not final; a running one is stopped.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
            JobIsFinal: it has ended; nothing changed.
        """
        return await self._store.cancel(scope=principal.scope, job_id=job_id)

    async def answered(self, principal: Principal, submission: Submission, job: Job) -> None:
        """Note that the caller has the answer: the same submission is a new job from now on."""
        await self._store.answered(scope=principal.scope, submission=submission, job_id=job.id)

    async def params(self, job: Job) -> bytes:
        """The program of a job, as it was received."""
        return await self._store.params(job_id=job.id)

    async def log(self, job: Job) -> str:
        """What the job's last run has logged."""
        return await self._store.log(job=job)

    async def provenance(self, job: Job) -> dict[str, Any]:
        """What the job's last run was: executor, method, seed, versions, …; empty before it ran."""
        return await self._store.provenance(job=job)

    async def delete(self, principal: Principal, job_id: str, retry_s: float = 0.0) -> None:
        """Delete everything of a job; one that is not final is cancelled before.

        Args:
            principal: who asks.
            job_id: which.
            retry_s: how long they may ask again, until ``deletion_answered``, and find it deleted.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
        """
        await self._store.delete(scope=principal.scope, job_id=job_id, retry_s=retry_s)

    async def deletion_answered(self, principal: Principal, job_id: str) -> None:
        """Note that the caller knows that the job is deleted."""
        await self._store.deletion_answered(scope=principal.scope, job_id=job_id)

    async def tag(self, principal: Principal, job_id: str, tags: Sequence[str]) -> None:
        """Give a job these tags instead of those it has.

        Raises:
            JobNotFound: there is none, or it is somebody else's.
        """
        await self._store.tag(scope=principal.scope, job_id=job_id, tags=tags)

    async def list(
        self,
        principal: Principal,
        which: JobFilter,
        *,
        limit: int,
        offset: int = 0,
        cursor: str | None = None,
    ) -> JobPage:
        """Some of the caller's jobs, newest first unless the filter says otherwise.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        return await self._store.list(
            scope=principal.scope, which=which, limit=limit, offset=offset, cursor=cursor
        )

    async def usage(self, principal: Principal) -> Usage:
        """How long the jobs of the caller's instance have run in the usage period, and may."""
        return await self._store.usage(scope=principal.scope)

    async def open_session(self, principal: Principal, request: SessionRequest) -> Session:
        """Make a session.

        Raises:
            BackendNotFound: no such backend; nothing was stored.
            LimitExceeded: the caller has too many sessions; nothing was stored.
        """
        backend = await self._backend(request.backend)
        return await self._sessions.open(
            scope=principal.scope, executor=backend.executor, request=request
        )

    async def session(self, principal: Principal, session_id: str) -> Session:
        """The session.

        Raises:
            SessionNotFound: there is none, or it is somebody else's.
        """
        return await self._sessions.read(scope=principal.scope, session_id=session_id)

    async def sessions(
        self, principal: Principal, *, states: Collection[SessionState], limit: int
    ) -> tuple[Session, ...]:
        """The caller's sessions that are in one of these states, newest first."""
        return await self._sessions.list(scope=principal.scope, states=states, limit=limit)

    async def close_session(
        self, principal: Principal, session_id: str, how: Literal["stop", "resume", "cancel"]
    ) -> None:
        """Take no more jobs (``stop``), take them again, or also cancel those that wait.

        Raises:
            SessionNotFound: there is none, or it is somebody else's.
            SessionClosed: it has ended and cannot be resumed; nothing changed.
        """
        await self._sessions.close(scope=principal.scope, session_id=session_id, how=how)

    async def workloads(
        self, principal: Principal, *, below: str, above: str, oldest_first: bool, limit: int
    ) -> tuple[Workload, ...]:
        """Some of the caller's jobs outside of sessions, and sessions."""
        return await self._sessions.workloads(
            scope=principal.scope,
            below=below,
            above=above,
            oldest_first=oldest_first,
            limit=limit,
        )

    async def count_workloads(self, principal: Principal, *, below: str, above: str) -> int:
        """How many of them there are."""
        return await self._sessions.count_workloads(scope=principal.scope, below=below, above=above)

    async def validate(
        self, principal: Principal, submission: Submission, timeout_s: float
    ) -> None:
        """Have a worker read the program without running it.

        Raises:
            InvalidProgram: the program is not valid.
            Unavailable: no worker answered in time.
        """
        check = replace(
            submission,
            program_id=QASM3_CHECK,
            priority=CHECK_PRIORITY,
            time_limit_s=CHECK_TIME_LIMIT_S,
            idempotency_key=None,
            listed=False,
        )
        job = await self.submit(principal, check)
        job = await self.wait(principal, job.id, timeout_s)
        if job.status is JobStatus.COMPLETED:
            return
        if not job.status.is_final:
            # It may have ended just now: too late is too late.
            with contextlib.suppress(JobIsFinal):
                await self.cancel(principal, job.id)
        elif job.failure is not None and job.failure.code == InvalidProgram.code:
            raise _invalid_program(job.failure.details)
        message = (
            f"no worker could check the program within {timeout_s:g} s;"
            " submit it without validate=true, or try again"
        )
        raise Unavailable(message, component="celery")

    async def workers(self) -> tuple[WorkerReport, ...]:
        """The workers that live."""
        return await self._store.workers()

    async def fleet(self) -> Fleet:
        """Which executors live, and how many jobs wait for each; at most ``FLEET_S`` old."""
        if self._fleet is None or time.monotonic() > self._fleet_until:
            self._fleet = await self._store.fleet(executors=sorted(self._executors))
            self._fleet_until = time.monotonic() + FLEET_S
        return self._fleet

    async def snapshot(self) -> Snapshot:
        """The whole fleet, for metrics."""
        live = {name for worker in await self.workers() for name in worker.executors}
        return await self._store.snapshot(executors=sorted(self._executors | live))

    async def check(self) -> None:
        """Make sure that jobs can be accepted.

        Raises:
            Unavailable: Redis does not answer, or is full.
        """
        await self._store.check()

    async def _backend(self, name: str) -> Backend:
        """What a name stands for; a worker may have brought an executor that nobody announced."""
        try:
            return self._catalog.resolve(name, self._executors)
        except BackendNotFound:
            fleet = await self.fleet()
        try:
            return self._catalog.resolve(name, fleet.queued, drivers=fleet.devices)
        except BackendNotFound:
            # A driver may have come since the fleet was last looked at.
            self._fleet = None
            fleet = await self.fleet()
            return self._catalog.resolve(name, fleet.queued, drivers=fleet.devices)


def _invalid_program(details: Mapping[str, Any]) -> InvalidProgram:
    """The failure that a sandbox recorded, to be raised again here."""
    return InvalidProgram(
        details["reason"],
        details["problem"],
        line=details["line"],
        column=details["column"],
        source_line=details["source_line"],
        caret=details["caret"],
    )
