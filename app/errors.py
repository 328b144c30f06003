"""What can go wrong on purpose? Every deliberate failure, as a tree, each with a stable code.

``code`` is part of the public contract: clients branch on it, it never changes. ``message`` says
what was asked, what is allowed and what to do. HTTP statuses are a table in ``app/api/errors.py``.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """A failure that a caller may read. Everything else is a bug."""

    code: ClassVar[str] = "service_error"
    #: what its reader can do about it.
    remedy: ClassVar[str] = "read the message"

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
    remedy = "correct what the message names"


class MalformedJson(InvalidRequest):
    """The body is not JSON."""

    code = "malformed_json"
    remedy = "send JSON as RFC 8259 has it, each name once"


class BlankProgram(InvalidRequest):
    """The program's text is empty."""

    code = "blank_program"
    remedy = "send the program's source"


class BadFraming(InvalidRequest):
    """The request's framing is ambiguous."""

    code = "bad_framing"
    remedy = "send one Content-Length, or chunks"


class BodyTooLarge(InvalidRequest):
    """The body is larger than allowed."""

    code = "body_too_large"
    remedy = "send less at once, or raise QFLEET_HTTP__BODY_BYTES"


class HeadersTooLarge(InvalidRequest):
    """There are more headers, or larger ones, than allowed."""

    code = "headers_too_large"
    remedy = "send fewer or shorter headers"


class UriTooLong(InvalidRequest):
    """Path and query string together are longer than allowed."""

    code = "uri_too_long"
    remedy = "send fewer or shorter parameters"


class HeadTimeout(InvalidRequest):
    """The head of the request did not arrive in time."""

    code = "head_timeout"
    remedy = "send the head faster"


class BodyTimeout(InvalidRequest):
    """The body did not arrive in time."""

    code = "body_timeout"
    remedy = "send the body faster"


class UnsupportedMediaType(InvalidRequest):
    """The body is compressed, or of a type that is not read."""

    code = "unsupported_media_type"
    remedy = "send plain JSON with Content-Type application/json"


class LimitExceeded(InvalidRequest):
    """A value is above its limit."""

    code = "limit_exceeded"
    remedy = "ask for less; the message says how much is allowed"


class IdempotencyConflict(InvalidRequest):
    """The Idempotency-Key was used before, with another request."""

    code = "idempotency_conflict"
    remedy = "use a new key for a new request"


class SessionClosed(InvalidRequest):
    """The session takes no more jobs."""

    code = "session_closed"
    remedy = "open another session"


class InvalidTags(InvalidRequest):
    """There are too many tags, or one of them is too long."""

    code = "invalid_tags"
    remedy = "send at most 8 tags of at most 86 characters"


class FormatNotSupported(InvalidRequest):
    """The circuit comes in a format that this service does not read."""

    code = "format_not_supported"
    remedy = "send OpenQASM 3 text, AQO JSON, or QPY"


class VersionMismatch(InvalidRequest):
    """The document is of a version that is not read."""

    code = "version_mismatch"
    remedy = "send the version that the message names"


# --- who the caller is ------------------------------------------------------------------------


class NotAuthorized(ServiceError):
    """The request names no valid credential."""

    code = "not_authorized"
    remedy = "send a valid API key or token"


class InvalidKey(NotAuthorized):
    """The API key is unknown, revoked, or mistyped."""

    code = "invalid_key"
    remedy = "check the key, or have a new one made: python -m app keys create"


class InvalidToken(NotAuthorized):
    """The token is not ours, has expired, or its key was revoked."""

    code = "invalid_token"
    remedy = "get a new token from POST /identity/token"


class PermissionDenied(NotAuthorized):
    """The caller is known, and may not do this."""

    code = "permission_denied"
    remedy = "use a key of owner admin"


# --- what the caller named --------------------------------------------------------------------


class NotFound(ServiceError):
    """There is no such thing, or it is somebody else's."""

    code = "not_found"
    remedy = "check the path"


class JobNotFound(NotFound):
    """No job of this caller has that id."""

    code = "job_not_found"
    remedy = "check the id, the instance and the key; old jobs are deleted after a while"


class BackendNotFound(NotFound):
    """No backend has that name."""

    code = "backend_not_found"
    remedy = "list the backends, and name one of them"


class CalibrationNotFound(NotFound):
    """The backend has no calibration of that id."""

    code = "calibration_not_found"
    remedy = "leave the calibration out"


class ProgramNotFound(NotFound):
    """No program has that id."""

    code = "program_not_found"
    remedy = "name one of the programs in the message"


class SessionNotFound(NotFound):
    """No session of this caller has that id."""

    code = "session_not_found"
    remedy = "check the id, the instance and the key; old sessions are forgotten"


class InstanceNotFound(NotFound):
    """The caller has no such instance."""

    code = "instance_not_found"
    remedy = "name one of your instances, or none"


class DriverNotFound(NotFound):
    """No driver has that name."""

    code = "driver_not_found"
    remedy = "list the drivers, and name one of them"


class JobIsFinal(ServiceError):
    """The job has ended, so it cannot be cancelled."""

    code = "job_is_final"
    remedy = "nothing: the job has ended"


class DeviceOffline(ServiceError):
    """The device takes no circuits at this moment, or cannot do what was asked."""

    code = "device_offline"
    remedy = "wait until its status is ONLINE, or name another device"


class DriverInvalid(ServiceError):
    """The driver cannot be loaded."""

    code = "driver_invalid"
    remedy = "correct the driver; the message says what it lacks"


# --- what the service lacks -------------------------------------------------------------------


class QueueFull(ServiceError):
    """The caller has as many jobs, or bytes of them, queued as one owner may have."""

    code = "queue_full"
    remedy = "wait until some of your jobs have finished, or cancel some"


class QuotaExceeded(QueueFull):
    """The plan of the caller's instance allows no more."""

    code = "quota_exceeded"
    remedy = "wait for your jobs or for the end of the period, delete some, or ask for another plan"


class StorageFull(QueueFull):
    """The caller's jobs take as many bytes, until they are deleted, as those of one owner may."""

    code = "storage_full"
    remedy = "delete jobs that you no longer need, or wait until the service deletes the oldest"


class RateExceeded(ServiceError):
    """More requests came with one key than allowed."""

    code = "rate_exceeded"
    remedy = "send fewer requests; try again after the seconds in Retry-After"


class LoginsRefused(ServiceError):
    """Too many wrong keys or tokens came from the caller's address."""

    code = "logins_refused"
    remedy = "correct the key; try again after the seconds in Retry-After"


class Unavailable(ServiceError):
    """Something the service needs does not answer. Try again."""

    code = "unavailable"
    remedy = "try again after the seconds in Retry-After"


class ServiceFull(Unavailable):
    """All callers together have as many jobs, or bytes of them, queued as the service holds."""

    code = "service_full"
    remedy = "try again when some jobs have finished"


class ConfigurationInvalid(ServiceError):
    """The service cannot start with these settings."""

    code = "configuration_invalid"
    remedy = "correct the setting that the message names"


# --- what became of a job ---------------------------------------------------------------------


class JobFailure(ServiceError):
    """Why a job did not complete. Recorded with the job, never raised at a caller of HTTP."""

    code = "job_failure"
    remedy = "read the message"


class InvalidProgram(JobFailure):
    """The program is not valid; ``reason`` is a stable word, with the place where it is wrong."""

    code = "invalid_program"
    remedy = "correct the program at the place that the message names"

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
    """The run would need more memory or far more time, or give a larger result, than is allowed."""

    code = "program_too_large"
    remedy = "use fewer qubits, shots or parameter sets; the message has the numbers"


class ExecutionError(JobFailure):
    """The executor could not run the program."""

    code = "execution_error"
    remedy = "read the message; if it blames the service, tell the operator the job's id"


class TimeLimitReached(JobFailure):
    """The job ran longer than its limit and was stopped."""

    code = "time_limit_reached"
    remedy = "ask for less work, or in Qiskit for a longer limit (max_execution_time)"


class MemoryLimitReached(JobFailure):
    """The sandbox ran out of memory."""

    code = "memory_limit_reached"
    remedy = "use fewer qubits or shots, or give the sandbox more memory"


class SandboxCrashed(JobFailure):
    """The sandbox process died while it ran the job."""

    code = "sandbox_crashed"
    remedy = "run a smaller part of the program to find what kills it, and report it"


class WorkerLost(JobFailure):
    """The worker went silent while it ran the job, too often to try again."""

    code = "worker_lost"
    remedy = "try fewer qubits or shots; the operator finds the reason in the worker's log"


class SandboxUnavailable(ServiceError):
    """No sandbox child could be started. The job is not to blame."""

    code = "sandbox_unavailable"
    remedy = "try again; the operator finds the reason in the worker's log"


class SessionEnded(JobFailure):
    """The job's session ended before the job could start."""

    code = "session_ended"
    remedy = "open another session, with a longer max_ttl if it ran out"


class DriverUnavailable(JobFailure):
    """The driver or its device does not answer, and no fallback took the job."""

    code = "driver_unavailable"
    remedy = "try again in a moment, or name another device"


class DriverBusy(JobFailure):
    """All connections of the driver are in use."""

    code = "driver_busy"
    remedy = "try again in a moment, or let its pool be larger"
