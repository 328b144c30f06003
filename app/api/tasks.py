"""What do callers of ``/tasks`` send, and what do they read? Two dialects of one small API.

``qc`` and ``circuit`` are the body keys of two older services whose clients work here unchanged;
the key a caller used is the task's dialect. A task is a job; its words (pending, completed, error,
failed) are derived here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.api.body import THREAD_BYTES, idempotency_key_of, read_json
from app.api.dependencies import Caller, Services, Shared
from app.api.errors import SHOWN_NAME_CHARS, faults_of, problem_responses, summary_of
from app.api.waiting import while_connected
from app.auth.principal import Principal
from app.config import Settings
from app.errors import BlankProgram, BodyTooLarge, InvalidRequest, JobNotFound, LimitExceeded
from app.jobs.job import Job, JobFilter, JobStatus, Submission
from app.primitives.params import QasmParams, encode_qasm_params
from app.primitives.programs import QASM3

log = structlog.get_logger()

router = APIRouter(
    prefix="/tasks", tags=["tasks"], responses=problem_responses(HTTPStatus.UNAUTHORIZED)
)

#: The body keys of a source; the one used is the task's dialect.
DIALECTS = ("qc", "circuit")
DEFAULT_BACKEND = "simulator@aer"
#: How long ``?validate=true`` waits for a worker to read the program.
VALIDATE_S = 10.0
SEED_MAX = 2**63 - 1

#: What a body is, said with every body that is not one.
SHAPE = (
    "the body is a JSON object with exactly one of `qc` or `circuit` (OpenQASM 3 source),"
    " and optionally `shots`, `seed`, `backend`, `tags`"
)

#: The same for a task that never was, is gone, or is somebody else's.
NOT_FOUND = "task not found"
_TASK_ID = re.compile(r"[0-9A-Za-z-]{1,64}")

# Possessive, so that no text makes it slow: each character is looked at once.
_GAP = r"(?:\s++|//[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)*+"
_HEADER = re.compile(rf"\ufeff?{_GAP}OPENQASM\b{_GAP}3(?:\.[0-9]++)?{_GAP};")

BELL = (
    'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[2] q;\nbit[2] c;\n'
    "h q[0];\ncx q[0], q[1];\nc = measure q;\n"
)


def _storable(text: str) -> str:
    """The text, if it is one that every part of the service can hold."""
    if "\x00" in text:
        message = "text must not hold a NUL character"
        raise ValueError(message)
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        message = f"character {exc.start + 1} is half of a surrogate pair, which is no character"
        raise ValueError(message) from exc
    return text


Text = Annotated[str, AfterValidator(_storable)]


class TaskRequest(BaseModel):
    """A program to run."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    qc: Text | None = Field(default=None, description="OpenQASM 3 source, with its header")
    circuit: Text | None = Field(default=None, description="OpenQASM 3 source; or else `qc`")
    shots: int | None = Field(default=None, ge=1, description="samples; 1024 when not given")
    seed: int | None = Field(
        default=None, ge=0, le=SEED_MAX, description="makes the samples repeatable"
    )
    backend: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_storable)] = Field(
        default=DEFAULT_BACKEND, description="METADATA@EXECUTOR"
    )
    tags: list[Annotated[str, Field(max_length=64), AfterValidator(_storable)]] = Field(
        default=[], max_length=8, description="words to find the task by"
    )

    @property
    def dialect(self) -> str:
        """Which key the source came with."""
        return "qc" if self.qc is not None else "circuit"

    @property
    def source(self) -> str:
        """The source, by either key."""
        return self.qc or self.circuit or ""


class TaskAccepted(BaseModel):
    """That a task will run."""

    task_id: str
    status: str = "submitted"
    message: str = "Task submitted successfully."


class TaskSummary(BaseModel):
    """A task in a list."""

    task_id: str
    status: str = Field(examples=["completed"])
    state: JobStatus
    created: str = Field(description="ISO 8601, UTC")
    backend: str
    tags: list[str]


class TaskPage(BaseModel):
    """Some tasks, newest first."""

    tasks: list[TaskSummary]
    cursor: str | None = Field(
        default=None, description="give it back to read on; left out when that was all"
    )


class TaskDocument(BaseModel):
    """A task. What a state does not have is left out."""

    task_id: str
    status: str = Field(
        description="pending, completed, cancelled; of a failed task `error` when it was sent as"
        " `qc`, else `failed`"
    )
    state: JobStatus
    message: str | None = None
    position: int | None = Field(
        default=None, description="while queued: 1 is the next of your own tasks to run"
    )
    result: dict[str, int] | None = Field(
        default=None,
        description="bitstring → how often; the leftmost character is the highest classical bit,"
        " registers are separated by one space, the last declared one first",
    )
    error: str | None = Field(default=None, description="why it failed")
    code: str | None = Field(default=None, description="why it failed, as a stable word")
    details: dict[str, Any] | None = Field(
        default=None, description="facts about the failure: reason, line, column, …"
    )


#: Of TaskRequest, in the places where FastAPI would put it if it read the body itself.
REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": TaskRequest.model_json_schema(),
            "examples": {
                "qc": {"summary": "a Bell pair", "value": {"qc": BELL, "shots": 1000, "seed": 7}},
                "circuit": {"summary": "a Bell pair, the other key", "value": {"circuit": BELL}},
            },
        }
    },
}

ACCEPTED_EXAMPLE = {
    "task_id": "0d0f5d8c-7c5e-4f5b-9c3e-1f3f0a1b2c3d",
    "status": "submitted",
    "message": "Task submitted successfully.",
}
STATE_EXAMPLES = {
    "queued": {
        "task_id": ACCEPTED_EXAMPLE["task_id"],
        "status": "pending",
        "state": "Queued",
        "message": "Task is still in progress.",
        "position": 3,
    },
    "completed": {
        "task_id": ACCEPTED_EXAMPLE["task_id"],
        "status": "completed",
        "state": "Completed",
        "result": {"00": 512, "11": 512},
    },
    "failed": {
        "task_id": ACCEPTED_EXAMPLE["task_id"],
        "status": "error",
        "state": "Failed",
        "message": "no gate is called 'hh' (line 5, column 1)\nhh q[0];\n^",
        "error": "no gate is called 'hh' (line 5, column 1)\nhh q[0];\n^",
        "code": "invalid_program",
        "details": {"reason": "unknown_gate", "line": 5, "column": 1},
    },
}


@router.post(
    "",
    response_model=TaskAccepted,
    openapi_extra={"requestBody": REQUEST_BODY},
    responses={
        200: {
            "description": "The task will run; `Location` says where to read it.",
            "headers": {"Location": {"schema": {"type": "string"}}},
            "content": {"application/json": {"example": ACCEPTED_EXAMPLE}},
        },
        **problem_responses(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    },
)
async def submit(
    request: Request,
    services: Shared,
    caller: Caller,
    *,
    validate: Annotated[
        bool, Query(description="have a worker read the program first; a fault is a 422 then")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        Header(description="the same key and body again give the same task, not another one"),
    ] = None,
) -> JSONResponse:
    """Have a program run. It is read by the worker: bad source is accepted and fails later."""
    task = decode_task(await read_json(request), services.settings)
    submission = Submission(
        program_id=QASM3,
        params=encode_qasm_params(
            QasmParams(
                source=task.source,
                shots=task.shots or services.settings.default_shots,
                seed=task.seed,
            )
        ),
        backend=task.backend,
        dialect=task.dialect,
        tags=tuple(task.tags),
        idempotency_key=idempotency_key_of(idempotency_key),
        request_id=request.state.request_id,
    )
    if validate:
        await services.dispatcher.validate(caller, submission, VALIDATE_S)
    job = await services.dispatcher.submit(caller, submission)
    structlog.contextvars.bind_contextvars(job_id=job.id)
    log.info("job_submitted", primitive=job.program_id, backend=job.backend)
    return JSONResponse(
        TaskAccepted(task_id=job.id).model_dump(), headers={"location": f"{router.prefix}/{job.id}"}
    )


@router.get(
    "",
    response_model=TaskPage,
    responses=problem_responses(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def list_tasks(
    services: Shared,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=256)] = None,
) -> JSONResponse:
    """The caller's own tasks, newest first."""
    page = await services.dispatcher.list(
        caller, JobFilter(program_id=QASM3), limit=limit, cursor=cursor
    )
    document = TaskPage(tasks=[_summary(job) for job in page.jobs], cursor=page.cursor)
    return JSONResponse(document.model_dump(exclude_none=True))


@router.get(
    "/{task_id}",
    response_model=TaskDocument,
    responses={
        200: {
            "description": "The task, whatever became of it.",
            "content": {
                "application/json": {
                    "examples": {name: {"value": value} for name, value in STATE_EXAMPLES.items()}
                }
            },
        },
        **problem_responses(
            HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
        ),
    },
)
async def read(
    task_id: str,
    request: Request,
    services: Shared,
    caller: Caller,
    wait: Annotated[
        float,
        Query(ge=0, allow_inf_nan=False, description="seconds to wait for the end, if need be"),
    ] = 0,
) -> Response:
    """A task: pending, or how it ended; with `wait`, as soon as it has ended."""
    _check_wait(wait, services.settings)
    _check_id(task_id)
    with _called_a_task():
        job = await _job(request, services, caller, task_id, wait)
    if job.program_id != QASM3:
        raise JobNotFound(NOT_FOUND)
    if job.status is JobStatus.COMPLETED:
        return await _completed(services, job)
    document = _document(job)
    if job.status is JobStatus.QUEUED:
        document.position = await services.dispatcher.position(job)
    return _answer(document)


@router.delete(
    "/{task_id}",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses=problem_responses(
        HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE
    ),
)
async def cancel(task_id: str, services: Shared, caller: Caller) -> Response:
    """End a task that has not ended."""
    _check_id(task_id)
    with _called_a_task():
        await services.dispatcher.cancel(caller, task_id)
    log.info("job_cancelled")
    return Response(status_code=HTTPStatus.NO_CONTENT)


def decode_task(document: object, settings: Settings) -> TaskRequest:
    """The task that a body asks for.

    Raises:
        InvalidRequest: the body is not one of ours, or its source lacks what its dialect asks for.
        BlankProgram: the source of ``circuit`` is blank.
        BodyTooLarge: the source is too large.
        LimitExceeded: too many shots are asked for.
    """
    if not isinstance(document, dict):
        raise InvalidRequest(SHAPE)
    unknown = next((name for name in document if name not in TaskRequest.model_fields), None)
    if unknown is not None:
        message = f"there is no field {unknown[:SHOWN_NAME_CHARS]!r}; {SHAPE}"
        raise InvalidRequest(message)
    given = [name for name in DIALECTS if name in document]
    if len(given) != 1:
        message = f"{'both' if given else 'neither'} of `qc` and `circuit` came; {SHAPE}"
        raise InvalidRequest(message)
    if document[given[0]] is None:
        message = f"{given[0]} must be a string; {SHAPE}"
        raise InvalidRequest(message)
    try:
        task = TaskRequest.model_validate(document)
    except ValidationError as exc:
        faults = faults_of(exc.errors(include_url=False))
        message = f"{summary_of(faults)}; {SHAPE}"
        raise InvalidRequest(message, faults=faults) from exc
    _check_source(task, settings)
    _check_shots(task, settings)
    return task


def has_header(source: str) -> bool:
    """Whether the source begins with ``OPENQASM 3``, after comments and blanks; in linear time."""
    return _HEADER.match(source) is not None


def _check_source(task: TaskRequest, settings: Settings) -> None:
    sent, allowed = len(task.source.encode()), settings.program.source_bytes
    if sent > allowed:
        message = f"the source has {sent} bytes, at most {allowed} are allowed; send less"
        raise BodyTooLarge(message, sent=sent, allowed=allowed)
    blank = not task.source.strip()
    if blank and task.dialect == "circuit":
        message = "`circuit` is blank; send OpenQASM 3 source"
        raise BlankProgram(message)
    if blank:
        message = "`qc` is blank; send OpenQASM 3 source"
        raise InvalidRequest(message)
    if task.dialect == "qc" and not has_header(task.source):
        message = "`qc` does not begin with its header; put `OPENQASM 3.0;` first"
        raise InvalidRequest(message)


def _check_shots(task: TaskRequest, settings: Settings) -> None:
    allowed = settings.program.shots
    if task.shots is not None and task.shots > allowed:
        message = (
            f"{task.shots} shots, at most {allowed} are allowed; split them over several tasks"
        )
        raise LimitExceeded(message, asked=task.shots, allowed=allowed)


def _check_wait(wait_s: float, settings: Settings) -> None:
    allowed_s = settings.http.wait_s
    if wait_s > allowed_s:
        message = (
            f"wait={wait_s:g} asks for too long, at most {allowed_s:g} seconds; ask again then"
        )
        raise LimitExceeded(message, asked=wait_s, allowed=allowed_s)


def _check_id(task_id: str) -> None:
    if _TASK_ID.fullmatch(task_id) is None:
        raise JobNotFound(NOT_FOUND)
    structlog.contextvars.bind_contextvars(job_id=task_id)


@contextlib.contextmanager
def _called_a_task() -> Iterator[None]:
    """A job that is not found is a task here."""
    try:
        yield
    except JobNotFound as exc:
        raise JobNotFound(NOT_FOUND) from exc


async def _job(
    request: Request, services: Services, caller: Principal, task_id: str, wait_s: float
) -> Job:
    """The job, after waiting for its end if that was asked for and there is room to wait."""
    if wait_s == 0 or services.waiters.is_full:
        return await services.dispatcher.read(caller, task_id)
    with services.waiters:
        return await while_connected(request, services.dispatcher.wait(caller, task_id, wait_s))


async def _completed(services: Services, job: Job) -> Response:
    """A completed task with its counts; a large result is decoded beside the event loop."""
    result = await services.dispatcher.result(job)
    if not result:
        raise JobNotFound(NOT_FOUND)
    if len(result) > THREAD_BYTES:
        return await asyncio.to_thread(_with_counts, job, result)
    return _with_counts(job, result)


def _with_counts(job: Job, result: bytes) -> Response:
    document = _document(job).model_dump(exclude_none=True)
    counts = orjson.loads(result)["counts"]
    return Response(orjson.dumps({**document, "result": counts}), media_type="application/json")


def _answer(document: TaskDocument) -> JSONResponse:
    return JSONResponse(document.model_dump(exclude_none=True))


def _document(job: Job) -> TaskDocument:
    """A task in the words of its dialect, without position and result."""
    document = TaskDocument(task_id=job.id, status=_status_word(job), state=job.status)
    match job.status:
        case JobStatus.QUEUED | JobStatus.RUNNING:
            document.message = "Task is still in progress."
        case JobStatus.FAILED:
            document.message = document.error = (
                job.failure.message if job.failure else "Task failed."
            )
        case JobStatus.CANCELLED:
            document.message = job.failure.message if job.failure else "Task was cancelled."
    if job.failure is not None:
        facts = {name: fact for name, fact in job.failure.details.items() if fact is not None}
        document.code, document.details = job.failure.code, facts or None
    return document


def _status_word(job: Job) -> str:
    match job.status:
        case JobStatus.QUEUED | JobStatus.RUNNING:
            return "pending"
        case JobStatus.COMPLETED:
            return "completed"
        case JobStatus.CANCELLED:
            return "cancelled"
        case JobStatus.FAILED:
            return "error" if job.dialect == "qc" else "failed"


def _summary(job: Job) -> TaskSummary:
    return TaskSummary(
        task_id=job.id,
        status=_status_word(job),
        state=job.status,
        created=job.created.isoformat(),
        backend=job.backend,
        tags=list(job.tags),
    )
