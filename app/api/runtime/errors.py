"""How does the runtime API refuse? In IBM's shape, with a number for each of our codes."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from app import errors

if TYPE_CHECKING:
    from app.errors import ServiceError

#: Where the runtime API is served; its clients look for it in all three places.
MOUNTS = ("/api/v1", "/v1", "/experimental/api/v1")

#: Failure → number. 1200, 1201, 1202, 1204, 1291, 1305 and 9999 mean what they mean at IBM; the
#: others are ours. A class that is missing here has its base's.
NUMBERS: dict[type[ServiceError], int] = {
    errors.ServiceError: 9999,
    errors.NotAuthorized: 1200,
    errors.InvalidKey: 1201,
    errors.QueueFull: 1202,
    errors.InvalidTags: 1204,
    errors.JobNotFound: 1291,
    errors.TimeLimitReached: 1305,
    errors.InvalidRequest: 2000,
    errors.MalformedJson: 2001,
    errors.BodyTooLarge: 2002,
    errors.LimitExceeded: 2003,
    errors.IdempotencyConflict: 2004,
    errors.SessionClosed: 2005,
    errors.FormatNotSupported: 2006,
    errors.VersionMismatch: 2007,
    errors.PermissionDenied: 2008,
    errors.NotFound: 2100,
    errors.BackendNotFound: 2101,
    errors.CalibrationNotFound: 2102,
    errors.ProgramNotFound: 2103,
    errors.SessionNotFound: 2104,
    errors.InstanceNotFound: 2105,
    errors.DriverNotFound: 2106,
    errors.JobIsFinal: 2200,
    errors.DeviceOffline: 2201,
    errors.DriverInvalid: 2202,
    errors.Unavailable: 2300,
    errors.ServiceFull: 2301,
    errors.RateExceeded: 2302,
    errors.LoginsRefused: 2303,
    errors.JobFailure: 3000,
    errors.InvalidProgram: 3001,
    errors.ProgramTooLarge: 3002,
    errors.ExecutionError: 3003,
    errors.MemoryLimitReached: 3004,
    errors.SandboxCrashed: 3005,
    errors.WorkerLost: 3006,
    errors.SessionEnded: 3007,
    errors.DriverUnavailable: 3008,
    errors.DriverBusy: 3009,
}
#: A refusal, for the API's description.
REFUSAL_SCHEMA = {
    "type": "object",
    "required": ["errors", "error", "trace"],
    "properties": {
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "code": {"type": "integer", "description": "stable number"},
                    "message": {"type": "string"},
                    "solution": {"type": "string", "description": "what to do about it"},
                    "more_info": {"type": "string", "description": "stable word"},
                },
            },
        },
        "error": {
            "type": "object",
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
        },
        "trace": {"type": "string", "description": "name it when you ask for help"},
    },
}
#: What every route of the runtime API may answer.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status.value: {
        "description": status.phrase,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
    }
    for status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
}
#: Of a bug of ours, and of what the framework refuses by itself.
INTERNAL = NUMBERS[errors.ServiceError]


def number_of(error: type[ServiceError]) -> int:
    """The number of a failure."""
    return next(NUMBERS[cls] for cls in error.__mro__ if cls in NUMBERS)


def _by_code() -> dict[str, type[ServiceError]]:
    found: dict[str, type[ServiceError]] = {}
    waiting: list[type[ServiceError]] = [errors.ServiceError]
    while waiting:
        error = waiting.pop()
        found[error.code] = error
        waiting += error.__subclasses__()
    return found


#: Code → failure, to tell what was recorded with a job.
BY_CODE = _by_code()


def is_runtime(path: str) -> bool:
    """Whether a request is the runtime API's."""
    return path.startswith(tuple(f"{mount}/" for mount in MOUNTS))


def refusal(
    *,
    status: HTTPStatus,
    code: str,
    message: str,
    request_id: str,
    headers: dict[str, str],
) -> Response:
    """The answer to a request that is refused.

    The client reads ``error``, people read ``errors``; with ``uber-trace-id`` the client's own
    message is the refusal's and nothing else.
    """
    error = BY_CODE.get(code)
    number = number_of(error) if error else INTERNAL
    solution = error.remedy if error else "name the trace when you ask for help"
    document = {
        "errors": [
            {"code": number, "message": message, "solution": solution, "more_info": code},
        ],
        "error": {"code": number, "message": message},
        "trace": request_id,
    }
    return Response(
        # ASCII with escapes: what a caller sent and we repeat may not be encodable.
        json.dumps(document).encode(),
        status_code=status,
        headers=headers | {"uber-trace-id": request_id},
        media_type="application/json",
    )
