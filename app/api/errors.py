"""Which answer does a failure get? A status, and one of two shapes of a refusal.

RFC 9457 problem documents; IBM's shape where its clients ask (``app/api/runtime/errors.py``).
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from app import errors
from app.api.runtime.errors import is_runtime, refusal
from app.errors import InvalidRequest, ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI

#: Failure → status. A class that is missing here has its base's; what became of a job is no answer
#: to a request, so all but a program that was only to be checked end at 500.
STATUS: dict[type[ServiceError], HTTPStatus] = {
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.MalformedJson: HTTPStatus.BAD_REQUEST,
    errors.BlankProgram: HTTPStatus.BAD_REQUEST,
    errors.BadFraming: HTTPStatus.BAD_REQUEST,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.HeadersTooLarge: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.UriTooLong: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.HeadTimeout: HTTPStatus.REQUEST_TIMEOUT,
    errors.BodyTimeout: HTTPStatus.REQUEST_TIMEOUT,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.SessionClosed: HTTPStatus.BAD_REQUEST,
    errors.NotAuthorized: HTTPStatus.UNAUTHORIZED,
    errors.PermissionDenied: HTTPStatus.FORBIDDEN,
    errors.InvalidProgram: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.JobIsFinal: HTTPStatus.CONFLICT,
    errors.DeviceOffline: HTTPStatus.CONFLICT,
    errors.DriverInvalid: HTTPStatus.CONFLICT,
    errors.QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    errors.RateExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.LoginsRefused: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SandboxUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ServiceError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ConfigurationInvalid: HTTPStatus.INTERNAL_SERVER_ERROR,
}

#: When to try again, seconds, unless the failure's ``retry_after_s`` knows better: a queue empties
#: by jobs, an outage ends by a restart.
RETRY_AFTER_S = {HTTPStatus.TOO_MANY_REQUESTS: 5, HTTPStatus.SERVICE_UNAVAILABLE: 2}

#: Nobody reads this status: the client has gone. It shows in the access log (nginx's number).
CLIENT_GONE = 499

#: What an answer says of the credentials it misses (RFC 9110, 11.6.1).
CHALLENGE = {HTTPStatus.UNAUTHORIZED: 'Bearer realm="qfleet"'}

MEDIA_TYPE = "application/problem+json"

#: Most faults of one request that are told, and the longest name of a field that is repeated.
SHOWN_FAULTS = 8
SHOWN_NAME_CHARS = 64
SHOWN_PATH_CHARS = 200

#: Those that a route may have.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Problem(BaseModel):
    """Every refusal. Some have more members, e.g. `allowed`, `line`, `column`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(default="about:blank", description="RFC 9457; there is no page about it")
    title: str = Field(description="the status in words", examples=["Unprocessable Entity"])
    status: int = Field(description="the status", examples=[422])
    detail: str = Field(description="what was asked, what is allowed, what to do")
    code: str = Field(description="stable word for programs", examples=["limit_exceeded"])
    request_id: str = Field(description="name it when you ask for help")


def status_of(error: ServiceError) -> HTTPStatus:
    """The status of a failure."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def problem(
    *,
    path: str,
    status: HTTPStatus,
    code: str,
    detail: str,
    request_id: str,
    details: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to a request that is refused, in the shape that belongs to its path."""
    told_headers = dict(headers or {})
    if status in RETRY_AFTER_S:
        retry_after_s = (details or {}).get("retry_after_s", RETRY_AFTER_S[status])
        told_headers["retry-after"] = str(retry_after_s)
    if status in CHALLENGE:
        told_headers["www-authenticate"] = CHALLENGE[status]
    if is_runtime(path):
        return refusal(
            status=status, code=code, message=detail, request_id=request_id, headers=told_headers
        )
    members = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    told = {name: value for name, value in (details or {}).items() if value is not None}
    document = members | told | members
    return Response(
        # ASCII with escapes: what a caller sent and we repeat may not be encodable.
        json.dumps(document, default=str).encode(),
        status_code=status,
        headers=told_headers,
        media_type=MEDIA_TYPE,
    )


def problem_of(error: ServiceError, *, path: str, request_id: str) -> Response:
    """The answer to a request that failed with this."""
    return problem(
        path=path,
        status=status_of(error),
        code=error.code,
        detail=str(error),
        request_id=request_id,
        details=error.details,
    )


def problem_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI description says of these statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status.value: {"description": status.phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def faults_of(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Where pydantic found faults, and which; bounded, with what was sent where it is short."""
    return [
        {
            "where": ".".join(str(part)[:SHOWN_NAME_CHARS] for part in fault["loc"]),
            "fault": fault["msg"].removeprefix("Value error, ") + _sent(fault),
        }
        for fault in found[:SHOWN_FAULTS]
    ]


def _sent(fault: Mapping[str, Any]) -> str:
    value = fault.get("input")
    if "input" not in fault or fault["type"] == "value_error" or isinstance(value, list | dict):
        return ""
    shown = json.dumps(value, default=str)
    return f", not {shown}" if len(shown) <= SHOWN_NAME_CHARS else ""


def summary_of(faults: Sequence[Mapping[str, str]]) -> str:
    """The faults in one line."""
    return "; ".join(f"{fault['where']}: {fault['fault']}" for fault in faults)


def install(app: FastAPI) -> None:
    """Make every failure of the application a problem answer."""
    app.exception_handler(ServiceError)(_service_error)
    app.exception_handler(RequestValidationError)(_parameters_invalid)
    app.exception_handler(HTTPException)(_http_exception)
    app.exception_handler(ClientDisconnect)(_client_gone)
    app.exception_handler(Exception)(_bug)


async def _service_error(request: Request, error: ServiceError) -> Response:
    return problem_of(error, path=request.url.path, request_id=request.state.request_id)


async def _parameters_invalid(request: Request, error: RequestValidationError) -> Response:
    faults = faults_of(error.errors())
    return problem_of(
        InvalidRequest(summary_of(faults), faults=faults),
        path=request.url.path,
        request_id=request.state.request_id,
    )


async def _http_exception(request: Request, error: HTTPException) -> Response:
    """The framework's own refusals: no such route, no such method."""
    status = HTTPStatus(error.status_code)
    asked = f"{request.method[:SHOWN_NAME_CHARS]} {request.url.path[:SHOWN_PATH_CHARS]}"
    detail, headers = str(error.detail), dict(error.headers or {})
    if status is HTTPStatus.NOT_FOUND:
        detail = f"there is no {asked}; /docs describes what there is"
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette names those of one route; several share a path.
        allowed = ", ".join(sorted(_methods(request)))
        headers = {"allow": allowed}
        detail = f"there is no {asked}; the methods of this path are {allowed}"
    return problem(
        path=request.url.path,
        status=status,
        code=status.name.lower(),
        detail=detail,
        request_id=request.state.request_id,
        headers=headers,
    )


def _methods(request: Request) -> set[str]:
    """The methods of the path that was asked for."""
    return {
        method
        for method in METHODS
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }


async def _client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _bug(request: Request, _error: Exception) -> Response:
    """Tell nothing but the request id: the server logs the traceback under it."""
    return problem(
        path=request.url.path,
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        code="internal_error",
        detail="something went wrong on our side; the log has it under this request id",
        request_id=request.state.request_id,
    )
