"""How does a job's hash in Redis become a ``Job``, and a failure its field? One place for both."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from app.jobs.job import Failure, Job, JobStatus
from app.primitives.programs import Choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.jobs.job import Submission

#: Largest value of one key; a bigger one stalls every other client of Redis while it travels.
CHUNK_BYTES = 1024 * 1024


def decode_job(job_id: str, record: Mapping[bytes, bytes]) -> Job:
    """The job that a ``job:{id}`` hash describes."""

    def text(name: str) -> str:
        return record.get(name.encode(), b"").decode()

    return Job(
        id=job_id,
        owner=text("owner"),
        scope=text("scope"),
        status=JobStatus(text("status")),
        program_id=text("program_id"),
        backend=text("backend"),
        executor=text("executor"),
        created=time_of(int(text("created"))),
        started=optional_time(text("started")),
        finished=optional_time(text("finished")),
        attempt=int(text("attempt")),
        crashes=int(text("crashes")),
        dialect=text("dialect"),
        tags=tuple(orjson.loads(record.get(b"tags") or b"[]")),
        priority=int(text("priority")),
        time_limit_s=float(text("time_limit_s")) if text("time_limit_s") else None,
        request_id=text("request_id"),
        traceparent=text("traceparent"),
        reason_code=int(text("reason_code")) if text("reason_code") else None,
        failure=decode_failure(record.get(b"failure", b"")),
        result_chunks=int(text("result_chunks") or 0),
        session_id=text("session_id"),
        private=text("private") == "1",
        log_level=text("log_level"),
        image=text("image"),
        calibration_id=text("calibration_id") or None,
        target=text("target"),
        choice=_decode_choice(record.get(b"choice", b"")),
        run_s=int(text("run_ms") or 0) / 1000,
    )


def encode_submission(submission: Submission) -> list[str]:
    """Field, value, … of what only the caller knows; the script adds the rest."""
    fields = {
        "dialect": submission.dialect,
        "request_id": submission.request_id,
        "traceparent": submission.traceparent,
        "time_limit_s": "" if submission.time_limit_s is None else repr(submission.time_limit_s),
        "private": str(int(submission.private)),
        "log_level": submission.log_level,
        "image": submission.image,
        "calibration_id": submission.calibration_id or "",
        "target": submission.target,
    }
    return [part for field in fields.items() for part in field]


def encode_choice(choice: Choice) -> str:
    """The ``choice`` field."""
    return json.dumps({"executor": choice.executor, "because": choice.because})


def _decode_choice(field: bytes) -> Choice | None:
    """The choice in a ``choice`` field; None for an empty one."""
    return Choice(**json.loads(field)) if field else None


def encode_failure(failure: Failure | None) -> bytes:
    """The ``failure`` field; empty for none."""
    if failure is None:
        return b""
    document = {"code": failure.code, "message": failure.message, "details": failure.details}
    return json.dumps(document).encode()


def decode_failure(field: bytes) -> Failure | None:
    """The failure in a ``failure`` field."""
    if not field:
        return None
    document = json.loads(field)
    return Failure(code=document["code"], message=document["message"], details=document["details"])


def pairs(flat: Iterable[bytes]) -> dict[bytes, bytes]:
    """The mapping in a flat list ``field, value, …``."""
    parts = iter(flat)
    return dict(zip(parts, parts, strict=True))


def chunks_of(blob: bytes) -> list[bytes]:
    """The blob in pieces of at most ``CHUNK_BYTES``; one empty piece for an empty blob."""
    return [blob[i : i + CHUNK_BYTES] for i in range(0, len(blob), CHUNK_BYTES)] or [b""]


def time_of(milliseconds: int) -> datetime:
    """A time of Redis."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def optional_time(field: str) -> datetime | None:
    """A time of Redis; None for an empty field."""
    return time_of(int(field)) if field else None
