"""How does a worker take a claimed job to a final state? Run it in a sandbox, record, repeat."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import structlog

from app.errors import (
    JobFailure,
    MemoryLimitReached,
    SandboxCrashed,
    SandboxUnavailable,
    ServiceError,
    TimeLimitReached,
    Unavailable,
)
from app.executors.registry import AUTO
from app.jobs.claims import WORKER_LOST, Busy, Finish
from app.jobs.job import REASON_RAN_TOO_LONG, Failure, JobStatus
from app.sandbox.protocol import Request, SandboxKilled
from app.telemetry.tracing import job_span, record_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from app.config import ProgramLimits
    from app.executors import Resources
    from app.jobs.claims import Claim, ClaimStore
    from app.sandbox.protocol import Reply

log = structlog.get_logger()

Answer = TypeVar("Answer")

#: Pause between tries while Redis does not answer.
RETRY_S = 0.2
#: Less than this of a slice is not worth waiting out. Redis takes 0 for "for ever".
SHORTEST_WAIT_S = 0.002
#: Pause of a slot that gets no sandbox: its jobs are left to others meanwhile.
NO_SANDBOX_S = 1.0
#: How long killed sandboxes and their jobs' way back may take when a worker stops.
RETURN_S = 5.0

_BUG = Failure(code="internal_error", message="the worker failed while it ran the job")


class Sandbox(Protocol):
    """Where one slot's jobs run."""

    def run(self, *, owner: str, request: Request, time_limit_s: float) -> Reply:
        """Run one job to its end."""

    def kill(self) -> None:
        """Stop what runs, from any thread."""


class Slot:
    """One place to run a job, and the job that is there."""

    def __init__(self, *, name: str, sandbox: Sandbox) -> None:
        """Make a free slot."""
        self.name = name
        self.sandbox = sandbox
        self._lock = threading.Lock()
        self._claim: Claim | None = None
        self._killed = False

    @contextmanager
    def occupied(self, claim: Claim) -> Iterator[None]:
        """The slot runs this job inside the block."""
        with self._lock:
            self._claim, self._killed = claim, False
        try:
            yield
        finally:
            with self._lock:
                self._claim = None

    def kill(self, job_id: str, attempt: int | None = None) -> bool:
        """Stop the job, or this attempt at it, if it still runs here, and no other."""
        with self._lock:
            job = None if self._claim is None else self._claim.job
            if job is None or job.id != job_id or attempt not in {None, job.attempt}:
                return False
            self._killed = True
            self.sandbox.kill()
            return True

    @property
    def was_killed(self) -> bool:
        """Whether the job that runs here, or ran here last, was stopped by ``kill``."""
        return self._killed

    @property
    def busy(self) -> Busy | None:
        """What runs here."""
        with self._lock:
            claim = self._claim
        if claim is None:
            return None
        return Busy(slot=self.name, job_id=claim.job.id, attempt=claim.job.attempt)


class Runner:
    """Runs the jobs of one worker. ``serve`` is called from one thread per slot at most."""

    def __init__(
        self,
        *,
        claims: ClaimStore,
        sandboxes: Mapping[str, Sandbox],
        executors: Sequence[str],
        wakeup: Callable[[str], str],
        limits: ProgramLimits,
        resources: Resources,
        time_limit_s: float,
        slice_s: float,
    ) -> None:
        """Make the runner.

        Args:
            claims: the store.
            sandboxes: slot name → where that slot's jobs run.
            executors: those whose jobs it runs.
            wakeup: gives the message that wakes a worker of an executor.
            limits: what a program may ask for.
            resources: what one slot may use.
            time_limit_s: for jobs that name none, and the most that a job may name.
            slice_s: how long one wake-up is served.
        """
        self._claims = claims
        self._slots = [Slot(name=name, sandbox=box) for name, box in sandboxes.items()]
        self._free = list(self._slots)
        self._changed = threading.Condition()
        self._executors = tuple(executors)
        self._wakeup = wakeup
        self._live: Mapping[str, int] = {}
        self._worth_from: Mapping[str, int] = {}
        self._limits = limits
        self._resources = resources
        self._time_limit_s = time_limit_s
        self._slice_s = slice_s
        self._draining = threading.Event()
        self._abandoned = threading.Event()

    def serve(self, executor: str) -> None:
        """Run jobs for a time slice: those that are ready, and those that come meanwhile.

        When nothing is ready, the slot waits for the next wake-up itself: through Celery it would
        come 2 ms later.
        """
        with self._slot() as slot:
            end = time.monotonic() + self._slice_s
            finish: Finish | None = None
            while True:
                claim = self._next(slot, executor, finish, end)
                if claim is not None:
                    finish = self._run(slot, claim)
                    continue
                finish = None
                woken = self._await_wakeup(end)
                if woken is None:
                    return
                executor = woken

    def busy(self) -> tuple[Busy, ...]:
        """The jobs that run now."""
        return tuple(busy for slot in self._slots if (busy := slot.busy))

    def learn(self, live: Mapping[str, int], worth_from: Mapping[str, int]) -> None:
        """Take note of the executors that live.

        Args:
            live: executor → qubits that it can hold.
            worth_from: executor → fewest qubits at which it is worth it, where that was measured.
        """
        self._live, self._worth_from = live, worth_from

    def kill(self, slot_name: str, job_id: str, attempt: int | None = None) -> bool:
        """Stop a job, or an attempt at it, that is no longer wanted, if it runs in that slot."""
        return any(slot.kill(job_id, attempt) for slot in self._slots if slot.name == slot_name)

    def drain(self, timeout_s: float) -> None:
        """Claim nothing more, wait for what runs, and return what has not ended in time."""
        self._draining.set()
        if self._wait_idle(timeout_s):
            return
        end = time.monotonic() + RETURN_S
        while time.monotonic() < end:
            # Again and again: a job may have been on its way into its sandbox.
            for busy in self.busy():
                self.kill(busy.slot, busy.job_id)
            if self._wait_idle(RETRY_S):
                return
        self._abandoned.set()

    def _wait_idle(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self._free) == len(self._slots), timeout_s)

    @contextmanager
    def _slot(self) -> Iterator[Slot]:
        """The slot that was used last, of those that are free: its sandbox is warm."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._free))
            slot = self._free.pop()
        try:
            yield slot
        finally:
            with self._changed:
                self._free.append(slot)
                self._changed.notify_all()

    def _next(self, slot: Slot, executor: str, finish: Finish | None, end: float) -> Claim | None:
        def ask() -> tuple[Literal["committed", "fenced", "none"], Claim | None]:
            claim = time.monotonic() < end and not self._draining.is_set()
            return self._claims.next(
                slot=slot.name,
                executor=executor,
                wakeup=self._wakeup(executor),
                finish=finish,
                claim=claim,
            )

        outcome, claim = self._until_answered(ask)
        if finish is not None:
            _log_finish(finish, outcome)
        if claim is not None:
            log.debug(
                "job_claimed",
                job_id=claim.job.id,
                request_id=claim.job.request_id,
                attempt=claim.job.attempt,
                slot=slot.name,
            )
        return claim

    def _await_wakeup(self, end: float) -> str | None:
        """The executor of a wake-up that comes before the slice is over."""
        left = end - time.monotonic()
        if left < SHORTEST_WAIT_S or self._draining.is_set():
            return None
        try:
            return self._claims.await_wakeup(executors=self._executors, timeout_s=left)
        except Unavailable:
            return None

    def _run(self, slot: Slot, claim: Claim) -> Finish | None:
        """Run the claimed job; None when it went back, or on to others, instead of ending."""
        try:
            with slot.occupied(claim):
                reply = self._reply(slot, claim)
        except TimeLimitReached as exc:
            return _ended(claim, JobStatus.CANCELLED, exc, reason_code=REASON_RAN_TOO_LONG)
        except MemoryLimitReached as exc:
            return _ended(claim, JobStatus.FAILED, exc)
        except SandboxKilled:
            self._give_back(
                slot, claim, "returned" if self._draining.is_set() else "lost", WORKER_LOST
            )
        except SandboxCrashed as exc:
            kind: Literal["crash", "lost"] = "lost" if slot.was_killed else "crash"
            self._give_back(slot, claim, kind, failure_of(exc))
        except SandboxUnavailable as exc:
            log.warning("sandbox_unavailable", job_id=claim.job.id, error=exc.message)
            self._give_back(slot, claim, "returned", failure_of(exc))
            self._draining.wait(NO_SANDBOX_S)
        except Exception:
            # A bug here must not make the job wait for its lease, nor be tried for ever.
            self._give_back(slot, claim, "crash", _BUG)
            raise
        else:
            if reply is None:
                return None
            status = JobStatus.COMPLETED if reply.failure is None else JobStatus.FAILED
            return Finish(
                job_id=claim.job.id,
                attempt=claim.job.attempt,
                status=status,
                result=reply.result,
                failure=reply.failure,
                metadata=reply.metadata,
                log=reply.output,
            )
        return None

    def _reply(self, slot: Slot, claim: Claim) -> Reply | None:
        """What the sandbox answers; None when the job was handed over to another executor."""
        live = dict(self._live) if claim.job.executor == AUTO else {}
        while True:
            reply = self._traced(slot, claim, live)
            choice = reply.hand_over
            if choice is None:
                return reply
            if choice.executor not in live or choice.executor == AUTO:
                raise SandboxCrashed(
                    "the sandbox gave a job to an executor that it was not offered"
                )
            outcome = self._until_answered(
                partial(
                    self._claims.hand_over,
                    slot=slot.name,
                    job=claim.job,
                    choice=choice,
                    wakeup=self._wakeup(choice.executor),
                )
            )
            if outcome != "unserved":
                log.info(
                    "job_handed_over",
                    job_id=claim.job.id,
                    request_id=claim.job.request_id,
                    executor=choice.executor,
                    outcome=outcome,
                )
                return None
            # Its last worker is gone since the last heartbeat: let it choose among the others.
            del live[choice.executor]

    def _traced(self, slot: Slot, claim: Claim, live: Mapping[str, int]) -> Reply:
        """What the sandbox answers, in the trace of the job's caller if there is one."""
        job, began = claim.job, time.time()
        with job_span(job.traceparent, job_id=job.id, executor=job.executor) as traceparent:
            reply = slot.sandbox.run(
                owner=job.owner,
                request=replace(self._request(claim, live), traceparent=traceparent),
                time_limit_s=self._limit_of(claim),
            )
            stages = reply.metadata.get("timings_s")
            record_stages(traceparent, began, stages if isinstance(stages, dict) else {})
        return reply

    def _request(self, claim: Claim, live: Mapping[str, int]) -> Request:
        return Request(
            job_id=claim.job.id,
            program_id=claim.job.program_id,
            target=claim.job.target,
            executor=claim.job.executor,
            params=claim.params,
            limits=self._limits,
            resources=self._resources,
            attempt=claim.job.attempt,
            log_level=claim.job.log_level,
            choice=claim.job.choice,
            live=live,
            worth_from=self._worth_from,
            served=self._executors,
        )

    def _limit_of(self, claim: Claim) -> float:
        asked = claim.job.time_limit_s
        return self._time_limit_s if asked is None else min(asked, self._time_limit_s)

    def _give_back(
        self,
        slot: Slot,
        claim: Claim,
        kind: Literal["crash", "lost", "returned"],
        failure: Failure,
    ) -> None:
        status = self._until_answered(
            lambda: self._claims.lost(
                slot=slot.name,
                job=claim.job,
                kind=kind,
                failure=failure,
                wakeup=self._wakeup(claim.job.executor),
            )
        )
        log.warning(
            "job_given_back",
            job_id=claim.job.id,
            request_id=claim.job.request_id,
            kind=kind,
            code=failure.code,
            status=status or "stale",
        )

    def _until_answered(self, ask: Callable[[], Answer]) -> Answer:
        """Repeat until Redis answers: what was run is recorded when Redis is back."""
        while True:
            try:
                return ask()
            except Unavailable:
                if self._abandoned.wait(RETRY_S):
                    raise


def failure_of(error: ServiceError) -> Failure:
    """What is recorded of an error."""
    return Failure(code=error.code, message=str(error), details=error.details)


def _ended(
    claim: Claim, status: JobStatus, error: JobFailure, *, reason_code: int | None = None
) -> Finish:
    return Finish(
        job_id=claim.job.id,
        attempt=claim.job.attempt,
        status=status,
        failure=failure_of(error),
        reason_code=reason_code,
        log=str(error),
    )


def _log_finish(finish: Finish, outcome: str) -> None:
    if outcome == "fenced":
        log.warning("finish_fenced", job_id=finish.job_id, attempt=finish.attempt)
        return
    code = finish.failure.code if finish.failure else None
    log.info("job_finished", job_id=finish.job_id, status=finish.status, code=code)
