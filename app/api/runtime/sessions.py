"""What do Qiskit clients do with sessions? Open, read and close them; a batch is one of them."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TypeVar

import msgspec
import orjson
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.body import body_of, require_json
from app.api.dependencies import Caller, Shared
from app.api.runtime.documents import session_document
from app.config import Settings
from app.errors import InvalidRequest, LimitExceeded, MalformedJson, SessionNotFound
from app.jobs.session import SessionMode, SessionRequest

log = structlog.get_logger()

router = APIRouter(prefix="/sessions", tags=["runtime: sessions"])

NAME_CHARS = 128
_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


class OpenRequest(msgspec.Struct):
    """The body of ``POST /sessions``; unknown members are left out."""

    backend: str | None = None
    mode: str | None = None
    max_ttl: int | None = None


class ChangeRequest(msgspec.Struct):
    """The body of ``PATCH /sessions/{id}``."""

    accepting_jobs: bool


#: Bodies of these routes.
REQUESTS = (OpenRequest, ChangeRequest)
Body = TypeVar("Body", OpenRequest, ChangeRequest)


@router.post("", openapi_extra=body_of("OpenRequest"))
async def open_session(request: Request, services: Shared, caller: Caller) -> Response:
    """Open a session. It is active while its jobs run, and for a while after."""
    require_json(request)
    asked = _decode(await request.body(), OpenRequest)
    session = await services.dispatcher.open_session(caller, _request(asked, services.settings))
    log.info("session_opened", session_id=session.id, mode=session.mode, backend=session.backend)
    return Response(orjson.dumps(session_document(session)), media_type="application/json")


@router.get("/{session_id}")
async def read(session_id: str, services: Shared, caller: Caller) -> Response:
    """A session."""
    _check_id(session_id)
    session = await services.dispatcher.session(caller, session_id)
    return Response(orjson.dumps(session_document(session)), media_type="application/json")


@router.patch(
    "/{session_id}",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    openapi_extra=body_of("ChangeRequest"),
)
async def change(session_id: str, request: Request, services: Shared, caller: Caller) -> Response:
    """Let a session take jobs no more, or again; what it has taken runs to its end."""
    _check_id(session_id)
    require_json(request)
    asked = _decode(await request.body(), ChangeRequest)
    await services.dispatcher.close_session(
        caller, session_id, "resume" if asked.accepting_jobs else "stop"
    )
    log.info("session_changed", session_id=session_id, accepting=asked.accepting_jobs)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.delete("/{session_id}/close", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
async def close(session_id: str, services: Shared, caller: Caller) -> Response:
    """Let a session take no more jobs, and cancel those that wait."""
    _check_id(session_id)
    await services.dispatcher.close_session(caller, session_id, "cancel")
    log.info("session_closed", session_id=session_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _decode(body: bytes, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        message = f"the body is no request about a session: {exc}"
        raise InvalidRequest(message) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        message = f"invalid json: {exc}"
        raise MalformedJson(message) from exc


def _request(asked: OpenRequest, settings: Settings) -> SessionRequest:
    if not asked.backend or len(asked.backend) > NAME_CHARS:
        message = f"backend: a name of 1 to {NAME_CHARS} characters is needed"
        raise InvalidRequest(message)
    modes = [mode.value for mode in SessionMode]
    mode = asked.mode or SessionMode.DEDICATED
    if mode not in modes:
        message = f"mode: {mode[:32]!r} is none of {', '.join(modes)}"
        raise InvalidRequest(message)
    allowed = settings.session_max_s
    asked_s = allowed if asked.max_ttl is None else asked.max_ttl
    if not 1 <= asked_s <= allowed:
        message = f"max_ttl: {asked_s} seconds; 1 to {allowed:g} are allowed"
        raise LimitExceeded(message, asked=asked_s, allowed=allowed)
    return SessionRequest(
        mode=SessionMode(mode),
        backend=asked.backend,
        max_ttl_s=asked_s,
        interactive_ttl_s=settings.session_interactive_s,
    )


def _check_id(session_id: str) -> None:
    if _ID.fullmatch(session_id) is None:
        message = f"session {session_id[:64]!r} not found"
        raise SessionNotFound(message)
