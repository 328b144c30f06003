"""What is a job, and which states can it be in? Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from app.primitives.programs import Choice


class JobStatus(StrEnum):
    """The state machine's states, in the runtime protocol's words."""

    QUEUED = "Queued"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended. Final states absorb."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


#: Reason code of a job that ran longer than its limit; the only one the Qiskit client knows.
REASON_RAN_TOO_LONG = 1305


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job did not complete, as it is stored with the job."""

    #: ``ServiceError.code`` of the failure.
    code: str
    #: text for a person; may have several lines (source line and caret).
    message: str
    #: facts for a program: ``reason``, ``line``, ``column``, …
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a caller asks for, before it is a job."""

    #: which program, e.g. ``qasm3``.
    program_id: str
    #: the encoded program, as received.
    params: bytes
    #: backend name ``metadata@executor``.
    backend: str
    #: which body key the caller of ``/tasks`` used (``qc`` or ``circuit``); empty otherwise.
    dialect: str = ""
    tags: tuple[str, ...] = ()
    #: higher goes first among one owner's jobs, -100 to 100.
    priority: int = 0
    #: seconds the job may run; None: the worker's default.
    time_limit_s: float | None = None
    #: the caller's Idempotency-Key, at most 256 characters.
    idempotency_key: str | None = None
    #: whether the job appears in lists; a validation does not.
    listed: bool = True
    #: id of the HTTP request, for the logs.
    request_id: str = ""
    #: W3C ``traceparent`` of the call that made it; empty: it is not traced.
    traceparent: str = ""
    #: the session it belongs to; empty: none.
    session_id: str = ""
    #: whether params are never shown again, and the result once.
    private: bool = False
    #: least severe log record of the run that is kept.
    log_level: str = "WARNING"
    #: the runtime image that was asked for; there is one, so this is only told again.
    image: str = ""
    #: the calibration that was asked for; None: the only one there is.
    calibration_id: str | None = None
    #: what the backend's name stands for, behind an alias too; set by the dispatcher.
    target: str = ""
    #: seconds for which the same submission without a key, if its answer did not arrive, is the
    #: same job; 0: it is always a new one.
    retry_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One program, one backend, one caller, one life."""

    id: str
    owner: str
    #: owner and instance, ``owner:instance``: who may see it.
    scope: str
    status: JobStatus
    program_id: str
    backend: str
    executor: str
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None
    #: how often it was claimed; the fencing token.
    attempt: int = 0
    #: how often its sandbox crashed.
    crashes: int = 0
    dialect: str = ""
    tags: tuple[str, ...] = ()
    priority: int = 0
    time_limit_s: float | None = None
    request_id: str = ""
    traceparent: str = ""
    reason_code: int | None = None
    failure: Failure | None = None
    #: chunks that the current attempt's result is stored in; 0 when there is none.
    result_chunks: int = 0
    session_id: str = ""
    private: bool = False
    log_level: str = "WARNING"
    image: str = ""
    calibration_id: str | None = None
    #: the metadata half of its backend.
    target: str = ""
    #: how long it has run, all attempts together.
    run_s: float = 0.0
    #: why its executor is this one, when ``auto`` has handed it over.
    choice: Choice | None = None


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which of a caller's jobs a list shows. What is None or empty narrows nothing."""

    program_id: str | None = None
    backend: str | None = None
    session_id: str | None = None
    #: True: queued and running ones; False: final ones.
    pending: bool | None = None
    #: all of them.
    tags: tuple[str, ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    oldest_first: bool = False


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """Some jobs of one caller."""

    jobs: tuple[Job, ...]
    #: how many there are, on all pages.
    total: int
    #: give it back to read on; None: that was all.
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """What a worker says of itself with every heartbeat."""

    id: str
    host: str
    pid: int
    executors: tuple[str, ...]
    slots: int
    busy: int
    versions: dict[str, str]
    #: qubits of the largest state vector that one slot can hold.
    qubits: int = 0
    #: fewest qubits of a circuit that is quicker here than with Aer, where that was measured.
    worth_from: int | None = None
    #: executor → its devices, when it is a driver: id → ``DriverDevice`` as a JSON object.
    devices: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)
    #: seconds since the last heartbeat, by Redis time; 0 in a report being written.
    age_s: float = 0.0
