"""How do jobs and sessions read on the wire? The runtime protocol's documents, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.api.runtime.errors import BY_CODE, INTERNAL, number_of
from app.jobs.job import JobStatus
from app.jobs.session import SessionMode, SessionState

if TYPE_CHECKING:
    from app.jobs.job import Job
    from app.jobs.session import Session

#: The runtime image; there is one.
IMAGE = "qfleet"


def time_text(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job_document(job: Job) -> dict[str, Any]:
    """A job, without its params."""
    return {
        "id": job.id,
        "backend": job.backend,
        "state": _state(job),
        "status": job.status,
        "program": {"id": job.program_id},
        "created": time_text(job.created),
        "ended": time_text(job.finished),
        "runtime": job.image or IMAGE,
        "tags": list(job.tags),
        "session_id": job.session_id or None,
        "user_id": job.owner,
        "cost": None if job.time_limit_s is None else round(job.time_limit_s),
        "private": job.private,
        "calibration_id": job.calibration_id,
        "usage": {"seconds": job.run_s},
    }


def _state(job: Job) -> dict[str, Any]:
    if job.failure is None:
        return {"status": job.status}
    error = BY_CODE.get(job.failure.code)
    return {
        "status": job.status,
        "reason": job.failure.message,
        "reason_code": job.reason_code or (number_of(error) if error else INTERNAL),
        "reason_solution": error.remedy if error else None,
    }


def metrics_document(
    job: Job, *, position: int | None, provenance: dict[str, Any]
) -> dict[str, Any]:
    """When the job was where, and what it used.

    Args:
        job: the job.
        position: its place among its owner's queued jobs, 1 is next; None when not queued.
        provenance: what its last run was.
    """
    seconds = job.run_s
    versions = provenance.get("versions")
    return {
        "timestamps": {
            "created": time_text(job.created),
            "running": time_text(job.started),
            "finished": time_text(job.finished),
        },
        "usage": {
            "qpu_charge_time_seconds": seconds,
            "quantum_seconds": seconds,
            "seconds": seconds,
            "status": "complete" if job.status.is_final else "pending",
        },
        "bss": {"seconds": seconds},
        "qiskit_version": versions.get("qiskit") if isinstance(versions, dict) else None,
        "circuits_execution_time_ns": round(seconds * 1e9) if job.status.is_final else None,
        "position_in_queue": position,
        "attempts": job.attempt,
        "provenance": provenance,
    }


def session_document(session: Session) -> dict[str, Any]:
    """A session."""
    return {
        "id": session.id,
        "backend_name": session.backend,
        "mode": session.mode,
        "state": session.state,
        "state_reason": session.reason,
        "accepting_jobs": session.accepting,
        "interactive_ttl": round(session.interactive_ttl_s),
        "max_ttl": round(session.max_ttl_s),
        "active_ttl": round(session.max_ttl_s),
        "created": time_text(session.created),
        "started_at": time_text(session.started),
        "activated_at": time_text(session.activated),
        "closed_at": time_text(session.closed),
        "last_job_started": time_text(session.last_started),
        "last_job_completed": time_text(session.last_completed),
        "elapsed_time": elapsed_s(session),
        "user_id": session.scope.partition(":")[0],
        "timestamps": [
            {"status": state, "timestamp": time_text(moment)} for state, moment in session.history
        ],
    }


def elapsed_s(session: Session) -> float:
    """What a session has used: a dedicated one the time it was active, a batch its jobs' time."""
    if session.mode is SessionMode.BATCH:
        return session.run_s
    if session.state is not SessionState.ACTIVE or session.activated is None:
        return session.active_s
    # The one place where the host's clock meets Redis's: a figure that is out of date when read.
    running_s = (datetime.now(tz=UTC) - session.activated).total_seconds()
    return session.active_s + max(running_s, 0.0)


def workload_of_job(job: Job, instance: str) -> dict[str, Any]:
    """A job in the list of workloads."""
    return {
        "id": job.id,
        "mode": "job",
        "created": time_text(job.created),
        "ended": time_text(job.finished),
        "backend": job.backend,
        "instance": instance,
        "user_id": job.owner,
        "accepting_jobs": False,
        "status": _WORKLOAD_STATUS[job.status],
        "tags": list(job.tags),
        "usage_seconds": job.run_s,
    }


def workload_of_session(session: Session, instance: str) -> dict[str, Any]:
    """A session in the list of workloads."""
    return {
        "id": session.id,
        "mode": "session" if session.mode is SessionMode.DEDICATED else "batch",
        "created": time_text(session.created),
        "ended": time_text(session.closed),
        "backend": session.backend,
        "instance": instance,
        "user_id": session.scope.partition(":")[0],
        "accepting_jobs": session.accepting,
        "status": _SESSION_STATUS[session.state],
        "tags": [],
        "usage_seconds": elapsed_s(session),
    }


_WORKLOAD_STATUS = {
    JobStatus.QUEUED: "pending",
    JobStatus.RUNNING: "in_progress",
    JobStatus.COMPLETED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "canceled",
}
_SESSION_STATUS = {
    SessionState.OPEN: "pending",
    SessionState.ACTIVE: "in_progress",
    SessionState.INACTIVE: "in_progress",
    SessionState.CLOSED: "closed",
}
