"""What can a worker ask of the store? Claim and finish jobs, keep them, give them back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from app.errors import WorkerLost
from app.jobs.connection import translated
from app.jobs.job import Failure, JobStatus
from app.jobs.records import chunks_of, decode_job, encode_choice, encode_failure, pairs
from app.jobs.session import RAN_OUT
from app.lua.scripts import source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from app.jobs.job import Job, WorkerReport
    from app.primitives.programs import Choice

#: Chunks of a result whose attempt was fenced off, or never committed, are gone after this time.
ORPHAN_S = 3600
#: Expired leases and final jobs handled by one reap: bounds how long it holds Redis.
REAP_MOST = 100

#: Recorded with a job whose worker went silent too often.
WORKER_LOST = Failure(
    code=WorkerLost.code,
    message="the worker that ran this job went silent, and so did those before it; the job may need"
    " more memory than the workers have: try fewer qubits or shots",
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job that a slot has to run now."""

    #: the job as it was when it was claimed; ``job.attempt`` is the fencing token.
    job: Job
    #: the encoded program.
    params: bytes


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How a claimed job ended."""

    job_id: str
    attempt: int
    status: JobStatus
    result: bytes | None = None
    failure: Failure | None = None
    reason_code: int | None = None
    #: provenance of the run; JSON values.
    metadata: Mapping[str, object] = field(default_factory=dict)
    #: what the run has logged.
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class Busy:
    """A slot and the job it really runs."""

    slot: str
    job_id: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Reaped:
    """What one reap did."""

    given_back: int
    wakeups: int
    deleted: int


class ClaimStore:
    """The store as workers see it. Methods may be called from any thread.

    Every method raises ``Unavailable`` when Redis does not answer, and may be repeated then.
    """

    def __init__(
        self,
        *,
        client: redis.Redis,
        worker: str,
        lease_s: float,
        wakeup_cap: int,
        max_attempts: int,
        max_crashes: int,
        retention_s: float,
    ) -> None:
        """Make the store for one worker; connects with the first call.

        Args:
            client: connection pool to Redis.
            worker: id of this worker process, new with every start.
            lease_s: silence after which a running job goes back.
            wakeup_cap: most wake-ups in one queue.
            max_attempts: claims of a job before it fails.
            max_crashes: sandbox crashes of a job before it fails.
            retention_s: how long a final job is kept.
        """
        # redis-py types an answer as all that any command may give, in either colour.
        self._client: Any = client
        self._worker = worker
        self._lease_ms = round(lease_s * 1000)
        self._wakeup_cap = wakeup_cap
        self._max_attempts = max_attempts
        self._max_crashes = max_crashes
        self._retention_ms = round(retention_s * 1000)
        self._next = client.register_script(source("next"))
        self._lost = client.register_script(source("lost"))
        self._keep = client.register_script(source("keep"))
        self._hand_over = client.register_script(source("hand_over"))
        self._beat = client.register_script(source("beat"))
        self._reap = client.register_script(source("reap"))
        self._leave = client.register_script(source("leave"))

    def next(
        self, *, slot: str, executor: str, wakeup: str, finish: Finish | None, claim: bool
    ) -> tuple[Literal["committed", "fenced", "none"], Claim | None]:
        """Finish what the slot has run, if anything, and claim its next job, atomically.

        Args:
            slot: which slot of this worker asks.
            executor: whose queue to serve.
            wakeup: message to leave behind when it stops while jobs wait.
            finish: how the slot's last job ended.
            claim: whether to claim another one; if not, what the slot was given unheard goes back.

        Returns:
            What became of the finish (``fenced``: a newer attempt or a cancel was first, nothing
            changed), and the claimed job, if there was one.
        """
        with translated():
            reply = self._next(args=self._next_args(slot, executor, wakeup, finish, claim=claim))
            outcome = reply[0].decode()
            if len(reply) == 1:
                return outcome, None
            job_id = reply[1].decode()
            record = pairs(reply[4:])
            count = int(record[b"params_chunks"])
            params = reply[3] if count == 1 else self._read_chunks(f"params:{job_id}", count)
        return outcome, Claim(job=decode_job(job_id, record), params=params or b"")

    def _next_args(
        self, slot: str, executor: str, wakeup: str, finish: Finish | None, *, claim: bool
    ) -> list[str | int | bytes]:
        common: list[str | int | bytes] = [
            f"{self._worker}:{slot}",
            executor,
            self._lease_ms,
            int(claim),
            wakeup,
            self._wakeup_cap,
            self._retention_ms,
        ]
        if finish is None:
            return [*common, "", 0, "", "", "", "", 0, "", ""]
        chunks = [] if finish.result is None else chunks_of(finish.result)
        if len(chunks) > 1:
            for i, chunk in enumerate(chunks):
                self._keep(args=[finish.job_id, finish.attempt, i, chunk, ORPHAN_S])
        return [
            *common,
            finish.job_id,
            finish.attempt,
            finish.status.value,
            encode_failure(finish.failure),
            "" if finish.reason_code is None else finish.reason_code,
            chunks[0] if len(chunks) == 1 else b"",
            len(chunks),
            json.dumps(finish.metadata) if finish.metadata else "",
            finish.log,
        ]

    def await_wakeup(self, *, executors: Sequence[str], timeout_s: float) -> str | None:
        """Wait for a wake-up and take it, past Celery.

        A wake-up says no more than which queue it lies in, so that is all there is to read.

        Args:
            executors: whose queues to wait at.
            timeout_s: how long, more than 0.

        Returns:
            The executor whose wake-up came first; None when the time is over.
        """
        with translated():
            taken = self._client.brpop(list(executors), timeout=timeout_s)
        return None if taken is None else str(taken[0].decode())

    def lost(
        self,
        *,
        slot: str,
        job: Job,
        kind: Literal["crash", "lost", "returned"],
        failure: Failure,
        wakeup: str,
    ) -> JobStatus | None:
        """Give a job back that this slot could not bring to an end.

        Args:
            slot: the slot that claimed it.
            job: the claimed job.
            kind: its sandbox crashed, its sandbox was killed by mistake, or this worker returns it
                untried, which never counts against the job.
            failure: recorded if this was the last try.
            wakeup: message for its queue.

        Returns:
            Queued or Failed; None when the attempt is no longer current: then nothing changed.
        """
        with translated():
            status = self._lost(
                args=[
                    f"{self._worker}:{slot}",
                    job.id,
                    job.attempt,
                    kind,
                    encode_failure(failure),
                    self._max_attempts,
                    self._max_crashes,
                    self._retention_ms,
                    wakeup,
                    self._wakeup_cap,
                ]
            ).decode()
        return None if status == "stale" else JobStatus(status)

    def hand_over(
        self, *, slot: str, job: Job, choice: Choice, wakeup: str
    ) -> Literal["Queued", "unserved", "stale"]:
        """Put a job that this slot has claimed into the queue of another executor.

        It keeps its place, its priority and its session, and the claim is none of its attempts.

        Args:
            slot: the slot that claimed it.
            job: the claimed job.
            choice: the executor, and why.
            wakeup: message for the queue of that executor.

        Returns:
            ``Queued``; with ``unserved`` (no live worker serves that executor) and ``stale`` (the
            attempt is no longer current) nothing changed.
        """
        with translated():
            outcome: Literal["Queued", "unserved", "stale"] = self._hand_over(
                args=[
                    f"{self._worker}:{slot}",
                    job.id,
                    job.attempt,
                    choice.executor,
                    encode_choice(choice),
                    wakeup,
                    self._wakeup_cap,
                ]
            ).decode()
        return outcome

    def live(self) -> dict[str, int]:
        """Executors that live → qubits of the largest state vector a worker of it can hold."""
        live: dict[str, int] = {}
        for report in self._reports():
            for executor in report["executors"]:
                live[executor] = max(live.get(executor, 0), report["qubits"])
        return live

    def worth_from(self) -> dict[str, int]:
        """Executors that live and were measured → fewest qubits at which one is worth it."""
        worth: dict[str, int] = {}
        for report in self._reports():
            measured = report.get("worth_from")
            if measured is None:
                continue
            for executor in report["executors"]:
                worth[executor] = min(worth.get(executor, measured), measured)
        return worth

    def _reports(self) -> list[dict[str, Any]]:
        """What live workers said last."""
        with translated():
            workers = self._client.zrange("workers", 0, -1)
            names = [f"worker:{worker.decode()}" for worker in workers]
            reports = self._client.mget(names) if names else []
        return [json.loads(report) for report in reports if report]

    def beat(self, *, report: WorkerReport, busy: Sequence[Busy]) -> tuple[Busy, ...]:
        """Say that this worker lives; extend the leases of the jobs its slots run.

        Returns:
            The slots whose job is no longer theirs: their sandboxes must be killed.
        """
        named = [value for slot in busy for value in (slot.slot, slot.job_id, slot.attempt)]
        document = asdict(report)
        del document["age_s"]
        with translated():
            stale = self._beat(
                args=[self._worker, json.dumps(document), self._lease_ms, self._lease_ms, *named]
            )
        gone = {
            (slot.decode(), job_id.decode())
            for slot, job_id in zip(stale[::2], stale[1::2], strict=True)
        }
        return tuple(slot for slot in busy if (slot.slot, slot.job_id) in gone)

    def reap(self, *, wakeups: Mapping[str, str]) -> Reaped:
        """Give back jobs of silent workers, top wake-ups up, delete what has expired.

        Args:
            wakeups: executor → message, of every executor this worker serves.
        """
        named = [part for executor, message in wakeups.items() for part in (executor, message)]
        with translated():
            given_back, pushed, deleted = self._reap(
                args=[
                    self._lease_ms,
                    self._max_attempts,
                    self._max_crashes,
                    self._retention_ms,
                    encode_failure(WORKER_LOST),
                    self._lease_ms,
                    REAP_MOST,
                    self._wakeup_cap,
                    encode_failure(RAN_OUT),
                    *named,
                ]
            )
        return Reaped(given_back=given_back, wakeups=pushed, deleted=deleted)

    def leave(self) -> None:
        """Say goodbye: this worker is gone from now on."""
        with translated():
            self._leave(args=[self._worker])

    def _read_chunks(self, prefix: str, count: int) -> bytes:
        chunks = self._client.mget([f"{prefix}:{i}" for i in range(count)])
        return b"".join(chunk for chunk in chunks if chunk)
