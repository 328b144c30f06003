"""What is a session, and which states can it be in? Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from app.errors import SessionEnded
from app.jobs.job import Failure
from app.jobs.records import optional_time, time_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.jobs.job import Job

#: Recorded with a job that was still queued when its session was cancelled, or ran out.
CANCELLED = Failure(code=SessionEnded.code, message="the session was closed before the job started")
RAN_OUT = Failure(
    code=SessionEnded.code,
    message="the session had lasted for its max_ttl before the job started; open another one",
)


class SessionState(StrEnum):
    """The states of a session, in the runtime protocol's words."""

    OPEN = "open"
    ACTIVE = "active"
    INACTIVE = "inactive"
    CLOSED = "closed"


class SessionMode(StrEnum):
    """Whether a session's jobs go before others."""

    DEDICATED = "dedicated"
    BATCH = "batch"


@dataclass(frozen=True, kw_only=True)
class SessionRequest:
    """What a caller asks for, before it is a session."""

    mode: SessionMode
    backend: str
    #: how long it may last from the start of its first job, seconds.
    max_ttl_s: float
    #: how long it stays active with nothing to do, seconds.
    interactive_ttl_s: float


@dataclass(frozen=True, kw_only=True)
class Session:
    """Jobs of one caller on one backend that belong together."""

    id: str
    #: owner and instance, ``owner:instance``: who may see it.
    scope: str
    backend: str
    executor: str
    mode: SessionMode
    state: SessionState
    #: why it ended, or takes no more jobs; empty: the caller wanted so, or it has not.
    reason: str
    accepting: bool
    max_ttl_s: float
    interactive_ttl_s: float
    created: datetime
    #: when its first job started.
    started: datetime | None
    #: when it became active last.
    activated: datetime | None
    closed: datetime | None
    last_started: datetime | None
    last_completed: datetime | None
    #: seconds it was active, up to when it became active last.
    active_s: float
    #: seconds its jobs have run, together.
    run_s: float
    #: each state it entered, and when.
    history: tuple[tuple[SessionState, datetime], ...]
    #: how many of its jobs wait.
    queued: int
    running: int

    @property
    def deadline(self) -> datetime:
        """When it ends at the latest."""
        return (self.started or self.created) + timedelta(seconds=self.max_ttl_s)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A job outside of sessions, or a session."""

    #: order of arrival, microseconds.
    arrival: int
    #: None: it has been deleted meanwhile.
    of: Job | Session | None


def decode_session(session_id: str, record: Mapping[bytes, bytes], *, queued: int) -> Session:
    """The session that a ``session:{id}`` hash describes, of whose jobs so many wait."""

    def text(name: str) -> str:
        return record.get(name.encode(), b"").decode()

    return Session(
        id=session_id,
        scope=text("scope"),
        backend=text("backend"),
        executor=text("executor"),
        mode=SessionMode(text("mode")),
        state=SessionState(text("state")),
        reason=text("reason"),
        accepting=text("accepting") == "1",
        max_ttl_s=int(text("max_ttl_ms")) / 1000,
        interactive_ttl_s=int(text("interactive_ttl_ms")) / 1000,
        created=time_of(int(text("created"))),
        started=optional_time(text("started")),
        activated=optional_time(text("activated")),
        closed=optional_time(text("closed")),
        last_started=optional_time(text("last_started")),
        last_completed=optional_time(text("last_completed")),
        active_s=int(text("active_ms")) / 1000,
        run_s=int(text("run_ms")) / 1000,
        history=_decode_history(text("history")),
        queued=queued,
        running=int(text("running")),
    )


def _decode_history(history: str) -> tuple[tuple[SessionState, datetime], ...]:
    entries = (entry.split(" ") for entry in history.split(";") if entry)
    return tuple((SessionState(state), time_of(int(when))) for state, when in entries)
