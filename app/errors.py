"""What can go wrong on purpose? Every deliberate failure, as a tree, each with a stable code.

``code`` is part of the public contract: clients branch on it, it never changes. ``message`` says
what was asked, what is allowed and what to do. HTTP statuses are a table in ``app/api/errors.py``.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """A failure that a caller may read. Everything else is a bug."""

    code: ClassVar[str] = "service_error"

    def __init__(self, message: str, **details: object) -> None:
        """Make the failure.

        Args:
            message: one sentence in the caller's words.
            details: facts a program may want, e.g. ``allowed=32``; JSON values only.
        """
        super().__init__(message)
        self.message = message
        self.details = details


# --- what the caller sent ---------------------------------------------------------------------


class InvalidRequest(ServiceError):
    """The request cannot be understood, or a value in it is not allowed."""

    code = "invalid_request"


class MalformedJson(InvalidRequest):
    """The body is not JSON."""

    code = "malformed_json"


class BlankProgram(InvalidRequest):
    """The program's text is empty."""

    code = "blank_program"


class BadFraming(InvalidRequest):
    """The request's framing is ambiguous."""

    code = "bad_framing"


class BodyTooLarge(InvalidRequest):
    """The body is larger than allowed."""

    code = "body_too_large"


class HeadersTooLarge(InvalidRequest):
    """There are more headers, or larger ones, than allowed."""

    code = "headers_too_large"


class UriTooLong(InvalidRequest):
    """Path and query string together are longer than allowed."""

    code = "uri_too_long"


class BodyTimeout(InvalidRequest):
    """The body did not arrive in time."""

    code = "body_timeout"


class UnsupportedMediaType(InvalidRequest):
    """The body is compressed, or of a type that is not read."""

    code = "unsupported_media_type"


class LimitExceeded(InvalidRequest):
    """A value is above its limit."""

    code = "limit_exceeded"


class IdempotencyConflict(InvalidRequest):
    """The Idempotency-Key was used before, with another request."""

    code = "idempotency_conflict"


# --- what the caller named --------------------------------------------------------------------


class NotFound(ServiceError):
    """There is no such thing, or it is somebody else's."""

    code = "not_found"


class JobNotFound(NotFound):
    """No job of this caller has that id."""

    code = "job_not_found"


class BackendNotFound(NotFound):
    """No backend has that name."""

    code = "backend_not_found"


class JobIsFinal(ServiceError):
    """The job has ended, so it cannot be cancelled."""

    code = "job_is_final"


# --- what the service lacks -------------------------------------------------------------------


class QueueFull(ServiceError):
    """As many jobs are queued as this caller, or the fleet, may have."""

    code = "queue_full"


class Unavailable(ServiceError):
    """Something the service needs does not answer. Try again."""

    code = "unavailable"


class ConfigurationInvalid(ServiceError):
    """The service cannot start with these settings."""

    code = "configuration_invalid"


# --- what became of a job ---------------------------------------------------------------------


class JobFailure(ServiceError):
    """Why a job did not complete. Recorded with the job, never raised at a caller of HTTP."""

    code = "job_failure"


class InvalidProgram(JobFailure):
    """The program is not valid; ``reason`` is a stable word, with the place where it is wrong."""

    code = "invalid_program"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        line: int | None = None,
        column: int | None = None,
        source_line: str | None = None,
        caret: int | None = None,
    ) -> None:
        """Make the failure.

        Args:
            reason: stable word, e.g. ``syntax`` or ``too_many_qubits``.
            message: what is wrong, and what is allowed.
            line: 1-based line of the source.
            column: 1-based column.
            source_line: that line of the source, cut to a readable length around the column.
            caret: 1-based position in ``source_line`` that the column is at; ``column`` if None.
        """
        super().__init__(
            message,
            reason=reason,
            problem=message,
            line=line,
            column=column,
            source_line=source_line,
            caret=column if caret is None else caret,
        )
        self.caret = column if caret is None else caret
        self.reason = reason
        self.line = line
        self.column = column
        self.source_line = source_line

    def __str__(self) -> str:
        """Message, place, and the source line with a caret under the place."""
        if self.line is None:
            return self.message
        place = f"line {self.line}" + (f", column {self.column}" if self.column else "")
        text = f"{self.message} ({place})"
        if self.source_line is not None:
            text += f"\n{self.source_line}"
            if self.caret is not None:
                text += "\n" + " " * (self.caret - 1) + "^"
        return text


class ProgramTooLarge(JobFailure):
    """The run would need more memory, or give a larger result, than the executor allows."""

    code = "program_too_large"


class ExecutionError(JobFailure):
    """The executor could not run the program."""

    code = "execution_error"


class TimeLimitReached(JobFailure):
    """The job ran longer than its limit and was stopped."""

    code = "time_limit_reached"


class MemoryLimitReached(JobFailure):
    """The sandbox ran out of memory."""

    code = "memory_limit_reached"


class SandboxCrashed(JobFailure):
    """The sandbox process died while it ran the job."""

    code = "sandbox_crashed"


class WorkerLost(JobFailure):
    """The worker went silent while it ran the job, too often to try again."""

    code = "worker_lost"


class SandboxUnavailable(ServiceError):
    """No sandbox child could be started. The job is not to blame."""

    code = "sandbox_unavailable"
