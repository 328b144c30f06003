"""What do Qiskit clients do with jobs? Create, read, list, tag, cancel and delete them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
import orjson
import structlog
from fastapi import APIRouter, BackgroundTasks, Header, Query, Request
from fastapi.responses import Response

from app.api.body import THREAD_BYTES, body_of, idempotency_key_of, require_json
from app.api.dependencies import Caller, Services, Shared
from app.api.runtime.documents import job_document, metrics_document
from app.api.waiting import while_connected
from app.auth.principal import Principal
from app.errors import (
    InvalidRequest,
    InvalidTags,
    JobNotFound,
    LimitExceeded,
    MalformedJson,
    ProgramNotFound,
    ServiceError,
)
from app.jobs.job import Job, JobFilter, JobStatus, Submission
from app.primitives.programs import RUNTIME_PROGRAMS

log = structlog.get_logger()

router = APIRouter(prefix="/jobs", tags=["runtime: jobs"])

#: How long a read of a job that is not final is held: less than the client's poll of 0.5 s.
HELD_S = 0.4
#: How long the same body, whose answer did not arrive, is the same job: the client repeats a POST
#: up to five times within 15 s.
RETRY_S = 60.0
MOST_TAGS = 8
TAG_CHARS = 86
MOST_LISTED = 200
LONGEST_COST_S = 86_400
NAME_CHARS = 128
LOG_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")

_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_SURROGATES = re.compile("[\ud800-\udfff\x00]")


class JobRequest(msgspec.Struct):
    """The body of ``POST /jobs``; ``params`` is not looked at. Unknown members are left out."""

    program_id: str
    params: msgspec.Raw
    backend: str | None = None
    runtime: str | None = None
    log_level: str | None = None
    session_id: str | None = None
    tags: list[str] | None = None
    cost: int | None = None
    private: bool | None = None
    calibration_id: str | None = None


class TagRequest(msgspec.Struct):
    """The body of ``PUT /jobs/{id}/tags``."""

    tags: list[str]


_DECODER = msgspec.json.Decoder(JobRequest)


@router.post("", openapi_extra=body_of("JobRequest"))
async def create(
    request: Request,
    services: Shared,
    caller: Caller,
    background: BackgroundTasks,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Have a program run."""
    require_json(request)
    asked = await _decoded(await request.body())
    submission = _submission(
        asked, key=idempotency_key_of(idempotency_key), request_id=request.state.request_id
    )
    services.catalog.check_calibration(submission.backend, submission.calibration_id)
    job = await services.dispatcher.submit(caller, submission)
    structlog.contextvars.bind_contextvars(job_id=job.id)
    log.info("job_submitted", primitive=job.program_id, backend=job.backend)
    if not await request.is_disconnected():
        background.add_task(_noted, services.dispatcher.answered, caller, submission, job)
    document = {
        "id": job.id,
        "backend": job.backend,
        "session_id": job.session_id or None,
        "private": job.private,
        "calibration_id": job.calibration_id,
    }
    return Response(orjson.dumps(document), media_type="application/json", background=background)


@router.get("")
async def list_jobs(
    services: Shared,
    caller: Caller,
    *,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    exclude_params: bool = True,
    backend: Annotated[str | None, Query(max_length=NAME_CHARS)] = None,
    program: Annotated[str | None, Query(max_length=NAME_CHARS)] = None,
    session_id: Annotated[str | None, Query(max_length=64)] = None,
    pending: bool | None = None,
    tags: Annotated[list[str], Query(max_length=MOST_TAGS)] = [],  # noqa: B006 - FastAPI copies it
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    sort: Literal["ASC", "DESC"] = "DESC",
) -> Response:
    """The caller's jobs that match all of what is given, newest first.

    An empty page has ``count`` equal to ``offset``: the client asks on for ever otherwise.
    """
    which = JobFilter(
        program_id=program,
        backend=backend,
        session_id=session_id,
        pending=pending,
        tags=tuple(tags),
        created_after=created_after,
        created_before=created_before,
        oldest_first=sort == "ASC",
    )
    page = await services.dispatcher.list(caller, which, limit=limit, offset=offset)
    jobs = [
        await _with_params(services, job) if not exclude_params else job_document(job)
        for job in page.jobs
    ]
    count = page.total if jobs else offset
    document = {"jobs": jobs, "count": count, "limit": limit, "offset": offset}
    return Response(orjson.dumps(document), media_type="application/json")


@router.get("/{job_id}")
async def read(
    job_id: str,
    request: Request,
    services: Shared,
    caller: Caller,
    *,
    exclude_params: bool = False,
) -> Response:
    """A job; while it is not final, the answer is held for a moment."""
    _check_id(job_id)
    job = await services.dispatcher.read(caller, job_id)
    if not job.status.is_final and not services.waiters.is_full:
        with services.waiters:
            job = await while_connected(request, services.dispatcher.wait(caller, job_id, HELD_S))
    document = job_document(job) if exclude_params else await _with_params(services, job)
    return Response(orjson.dumps(document), media_type="application/json")


@router.get("/{job_id}/results")
async def results(job_id: str, services: Shared, caller: Caller) -> Response:
    """The result as it was produced; why it failed; or nothing, when there is none (left)."""
    job = await _job(services, caller, job_id)
    if job.status is JobStatus.COMPLETED:
        result = await services.dispatcher.result(job)
        if result:
            return Response(result, media_type="application/json")
    elif job.failure is not None:
        return Response(job.failure.message.encode(), media_type="text/plain; charset=utf-8")
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get("/{job_id}/logs")
async def logs(job_id: str, services: Shared, caller: Caller) -> Response:
    """What the job's last run has logged."""
    text = await services.dispatcher.log(await _job(services, caller, job_id))
    return Response(text.encode(), media_type="text/plain; charset=utf-8")


@router.get("/{job_id}/metrics")
async def metrics(job_id: str, services: Shared, caller: Caller) -> Response:
    """When the job was where, what it used and how it was run."""
    job = await _job(services, caller, job_id)
    queued = job.status is JobStatus.QUEUED
    position = await services.dispatcher.position(job) if queued else None
    provenance = await services.dispatcher.provenance(job)
    document = metrics_document(job, position=position, provenance=provenance)
    return Response(orjson.dumps(document), media_type="application/json")


@router.post("/{job_id}/cancel", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
async def cancel(job_id: str, services: Shared, caller: Caller) -> Response:
    """End a job that has not ended; one that runs is stopped."""
    _check_id(job_id)
    await services.dispatcher.cancel(caller, job_id)
    log.info("job_cancelled")
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.delete("/{job_id}", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
async def delete(
    job_id: str, request: Request, services: Shared, caller: Caller, background: BackgroundTasks
) -> Response:
    """Delete a job with its params, result and log; one that has not ended is cancelled before."""
    _check_id(job_id)
    await services.dispatcher.delete(caller, job_id, RETRY_S)
    log.info("job_deleted")
    if not await request.is_disconnected():
        background.add_task(_noted, services.dispatcher.deletion_answered, caller, job_id)
    return Response(status_code=HTTPStatus.NO_CONTENT, background=background)


@router.put(
    "/{job_id}/tags",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    openapi_extra=body_of("TagRequest"),
)
async def tag(job_id: str, request: Request, services: Shared, caller: Caller) -> Response:
    """Give a job these tags instead of those it has."""
    _check_id(job_id)
    require_json(request)
    tags = _decode_tags(await request.body())
    await services.dispatcher.tag(caller, job_id, tags)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _decode_tags(body: bytes) -> tuple[str, ...]:
    try:
        tags = msgspec.json.decode(body, type=TagRequest).tags
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        message = f'the body is {{"tags": ["…", …]}}, with text only: {exc}'
        raise InvalidTags(message) from exc
    return _checked_tags(tags)


def _decode(body: bytes) -> JobRequest:
    """The envelope of a body.

    Raises:
        MalformedJson: it is not JSON.
        InvalidRequest: it is JSON, but no request for a job.
    """
    try:
        asked = _DECODER.decode(body)
        bytes(asked.params).decode()
    except msgspec.ValidationError as exc:
        message = f"the body is no request for a job: {exc}"
        raise InvalidRequest(message) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        message = f"invalid json: {exc}"
        raise MalformedJson(message) from exc
    except RecursionError as exc:
        message = "invalid json: values are nested too deeply"
        raise MalformedJson(message) from exc
    if not bytes(asked.params).startswith(b"{"):
        message = "params: must be an object, as the program's schema has it"
        raise InvalidRequest(message)
    return asked


def _submission(asked: JobRequest, *, key: str | None, request_id: str) -> Submission:
    """What a request asks for, checked.

    Raises:
        ProgramNotFound: there is no such program.
        InvalidRequest: a value is not allowed.
        LimitExceeded: a value is above its limit.
        InvalidTags: there are too many tags, or one is too long.
    """
    if asked.program_id not in RUNTIME_PROGRAMS:
        known = ", ".join(RUNTIME_PROGRAMS)
        message = f"there is no program {asked.program_id[:64]!r}; there are {known}"
        raise ProgramNotFound(message, allowed=list(RUNTIME_PROGRAMS))
    if not asked.backend:
        message = "backend: missing; name one that GET /backends lists"
        raise InvalidRequest(message)
    for name in ("backend", "runtime", "session_id", "calibration_id"):
        _check_text(name, getattr(asked, name))
    level = asked.log_level or "WARNING"
    if level not in LOG_LEVELS:
        message = f"log_level: {level[:32]!r} is none of {', '.join(LOG_LEVELS)}"
        raise InvalidRequest(message)
    if asked.cost is not None and not 1 <= asked.cost <= LONGEST_COST_S:
        message = f"cost: {asked.cost} seconds; 1 to {LONGEST_COST_S} are allowed"
        raise LimitExceeded(message, asked=asked.cost, allowed=LONGEST_COST_S)
    return Submission(
        program_id=asked.program_id,
        params=bytes(asked.params),
        backend=asked.backend,
        tags=_checked_tags(asked.tags or []),
        time_limit_s=None if asked.cost is None else float(asked.cost),
        idempotency_key=key,
        request_id=request_id,
        session_id=asked.session_id or "",
        private=bool(asked.private),
        log_level=level,
        image=asked.runtime or "",
        calibration_id=asked.calibration_id,
        retry_s=RETRY_S,
    )


def _checked_tags(tags: list[str]) -> tuple[str, ...]:
    if len(tags) > MOST_TAGS:
        message = f"tags: {len(tags)} of them; at most {MOST_TAGS} are allowed"
        raise InvalidTags(message, asked=len(tags), allowed=MOST_TAGS)
    for i, text in enumerate(tags):
        if not 0 < len(text) <= TAG_CHARS or _SURROGATES.search(text):
            message = f"tags[{i}]: {len(text)} characters; 1 to {TAG_CHARS}, no NUL, are allowed"
            raise InvalidTags(message, allowed=TAG_CHARS)
    return tuple(dict.fromkeys(tags))


def _check_text(name: str, text: str | None) -> None:
    if text is not None and (len(text) > NAME_CHARS or _SURROGATES.search(text)):
        message = f"{name}: {len(text)} characters; at most {NAME_CHARS}, no NUL, are allowed"
        raise InvalidRequest(message)


def _check_id(job_id: str) -> None:
    if _ID.fullmatch(job_id) is None:
        message = f"Job not found. Job ID: {job_id[:64]}"
        raise JobNotFound(message)
    structlog.contextvars.bind_contextvars(job_id=job_id)


async def _job(services: Services, caller: Principal, job_id: str) -> Job:
    _check_id(job_id)
    return await services.dispatcher.read(caller, job_id)


async def _with_params(services: Services, job: Job) -> dict[str, Any]:
    """A job with its params, byte for byte as they came; a private one without."""
    document = job_document(job)
    if not job.private:
        document["params"] = orjson.Fragment(await services.dispatcher.params(job) or b"{}")
    return document


async def _noted(note: Callable[..., Awaitable[None]], *about: object) -> None:
    """The answer has gone out; if that cannot be noted, a repetition is the same for a while."""
    try:
        await note(*about)
    except ServiceError as exc:
        log.warning("answer_not_noted", code=exc.code)


async def _decoded(body: bytes) -> JobRequest:
    """The envelope; of a large body in a thread, because the event loop has others to serve."""
    if len(body) > THREAD_BYTES:
        return await asyncio.to_thread(_decode, body)
    return _decode(body)
