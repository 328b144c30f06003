"""Which status does a failure get over gRPC? A code, and google.rpc details for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from app import errors
from app.errors import ServiceError

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN = "drivers.qfleet"

#: Failure → code. A class that is missing here has its base's.
CODES: dict[type[ServiceError], grpc.StatusCode] = {
    errors.ServiceError: grpc.StatusCode.INTERNAL,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.FormatNotSupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.VersionMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.IdempotencyConflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SessionClosed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BodyTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotAuthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.RateExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LoginsRefused: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.JobIsFinal: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DeviceOffline: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DriverInvalid: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConfigurationInvalid: grpc.StatusCode.FAILED_PRECONDITION,
    errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.SandboxUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.JobFailure: grpc.StatusCode.INTERNAL,
    errors.InvalidProgram: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProgramTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.MemoryLimitReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TimeLimitReached: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.WorkerLost: grpc.StatusCode.UNAVAILABLE,
    errors.SessionEnded: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DriverUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DriverBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
#: When trying again may help, seconds.
RETRY_S = {
    grpc.StatusCode.UNAVAILABLE: 1,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 5,
    grpc.StatusCode.DEADLINE_EXCEEDED: 2,
}
#: What kind of failure it is, for whoever sorts them.
TAXONOMY = {
    grpc.StatusCode.INVALID_ARGUMENT: "request",
    grpc.StatusCode.UNIMPLEMENTED: "request",
    grpc.StatusCode.NOT_FOUND: "request",
    grpc.StatusCode.FAILED_PRECONDITION: "state",
    grpc.StatusCode.UNAUTHENTICATED: "identity",
    grpc.StatusCode.PERMISSION_DENIED: "identity",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "resource",
    grpc.StatusCode.UNAVAILABLE: "availability",
    grpc.StatusCode.DEADLINE_EXCEEDED: "time",
    grpc.StatusCode.CANCELLED: "caller",
    grpc.StatusCode.INTERNAL: "service",
}
#: A status travels in metadata, of which clients take 8 KiB, base64 and all: longer texts are cut.
_MOST_FAULTS = 6
_MESSAGE_BYTES = 1000
_FIELD_BYTES = 128
_DESCRIPTION_BYTES = 128
_REMEDY_BYTES = 256


def code_of(error: type[ServiceError]) -> grpc.StatusCode:
    """The code of a failure."""
    return next(CODES[cls] for cls in error.__mro__ if cls in CODES)


def status_of(
    *,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    remedy: str,
    correlation_id: str,
    job_id: str = "",
    details: dict[str, Any] | None = None,
) -> grpc.Status:
    """A failure as it is sent: code, message, and ``google.rpc`` details."""
    facts = details or {}
    message = _cut(message, _MESSAGE_BYTES)
    parts: list[Message] = [
        error_details_pb2.ErrorInfo(
            domain=DOMAIN,
            reason=reason.upper(),
            metadata={
                "taxonomy": TAXONOMY[code],
                "remediation": _cut(remedy, _REMEDY_BYTES),
                "correlation_id": correlation_id,
                "job_id": job_id,
                "retryable": "true" if code in RETRY_S else "false",
            },
        )
    ]
    if code in RETRY_S:
        delay = duration_pb2.Duration(seconds=RETRY_S[code])
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        parts.append(_bad_request(facts, message))
    if job_id:
        parts.append(error_details_pb2.ResourceInfo(resource_type="job", resource_name=job_id))
    packed = []
    for part in parts:
        holder = any_pb2.Any()
        holder.Pack(part)
        packed.append(holder)
    number = code_pb2.Code.Value(code.name)
    status = status_pb2.Status(code=number, message=message, details=packed)
    return cast("grpc.Status", rpc_status.to_status(status))


def status_of_error(error: ServiceError, *, correlation_id: str, job_id: str = "") -> grpc.Status:
    """A failure that was raised."""
    return status_of(
        code=code_of(type(error)),
        reason=error.code,
        message=error.message,
        remedy=error.remedy,
        correlation_id=correlation_id,
        job_id=job_id,
        details=error.details,
    )


def status_of_failure(failure: Any, *, correlation_id: str, job_id: str) -> grpc.Status:
    """A failure that was recorded with a job."""
    error = _known().get(failure.code, ServiceError)
    return status_of(
        code=code_of(error),
        reason=failure.code,
        message=failure.message,
        remedy=error.remedy,
        correlation_id=correlation_id,
        job_id=job_id,
        details=failure.details,
    )


def _known() -> dict[str, type[ServiceError]]:
    found: dict[str, type[ServiceError]] = {}
    waiting: list[type[ServiceError]] = [ServiceError]
    while waiting:
        error = waiting.pop()
        found[error.code] = error
        waiting += error.__subclasses__()
    return found


def _cut(text: str, most: int) -> str:
    """The beginning of a text, in Unicode that can be sent."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= most:
        return encoded.decode()
    return encoded[: most - 3].decode(errors="ignore") + "..."


def _bad_request(facts: dict[str, Any], message: str) -> error_details_pb2.BadRequest:
    """Which fields are at fault."""
    faults = facts.get("faults")
    if not isinstance(faults, list):
        faults = [{"field": "payload.data" if facts.get("line") else "", "message": message}]
    violations = [
        error_details_pb2.BadRequest.FieldViolation(
            field=_cut(str(fault.get("field", "")), _FIELD_BYTES),
            description=_cut(str(fault.get("message", "")), _DESCRIPTION_BYTES),
        )
        for fault in faults[:_MOST_FAULTS]
    ]
    return error_details_pb2.BadRequest(field_violations=violations)
