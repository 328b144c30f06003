"""What do a worker and its sandbox children say to each other? Framed bytes, never a pickle.

A frame is two lengths (32 bit, big-endian), a JSON header and raw bytes. The parent trusts nothing
that comes from a child.
"""

from __future__ import annotations

import os
import struct
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from app.config import ProgramLimits
from app.executors import Resources
from app.jobs.job import Failure
from app.primitives.programs import Choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LENGTHS = struct.Struct(">II")
#: Longest header of a frame.
HEADER_BYTES = 1 << 24
#: Longest text of a choice.
CHOICE_CHARS = 1000


@dataclass(frozen=True, kw_only=True)
class Request:
    """One job, as a sandbox sees it: no owner, no user, no queue."""

    job_id: str
    program_id: str
    #: the metadata half of the backend's name.
    target: str
    executor: str
    #: the encoded program.
    params: bytes
    limits: ProgramLimits
    resources: Resources
    #: how often the job was claimed.
    attempt: int = 1
    #: W3C ``traceparent`` of the run; empty: it is not traced.
    traceparent: str = ""
    #: least severe log record that is written: a level's name.
    log_level: str = "WARNING"
    #: why this executor runs it, when ``auto`` has handed it over.
    choice: Choice | None = None
    #: what ``auto`` may choose from: executor → qubits of the largest state vector that a live
    #: worker of it can hold.
    live: Mapping[str, int] = field(default_factory=dict)
    #: executor → fewest qubits at which it is worth it, where that was measured.
    worth_from: Mapping[str, int] = field(default_factory=dict)
    #: executors of this worker.
    served: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """How a job ended in its sandbox: exactly one of ``result``, ``failure`` and ``hand_over``."""

    result: bytes | None
    failure: Failure | None
    #: provenance of the run.
    metadata: dict[str, object] = field(default_factory=dict)
    #: what the job logged and wrote to stdout and stderr, cut to ``SandboxLimits.output_bytes``.
    output: str = ""
    #: the executor, none of this worker's, that shall run it instead.
    hand_over: Choice | None = None


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How a child is after a job."""

    #: resident memory of the child.
    rss_bytes: int


class SandboxKilled(Exception):
    """The job was stopped by ``kill``."""


class MalformedFrame(Exception):
    """What came is no frame of ours."""


def encode_frame(header: dict[str, Any], body: bytes) -> bytes:
    """A frame."""
    encoded = orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY)
    return LENGTHS.pack(len(encoded), len(body)) + encoded + body


def decode_lengths(prefix: bytes, *, most_body: int) -> tuple[int, int]:
    """Lengths of header and body.

    Raises:
        MalformedFrame: one of them is too large.
    """
    header, body = LENGTHS.unpack(prefix)
    if header > HEADER_BYTES or body > most_body:
        message = f"a frame of {header} + {body} bytes; at most {HEADER_BYTES} + {most_body}"
        raise MalformedFrame(message)
    return header, body


def read_frame(descriptor: int, *, most_body: int) -> tuple[bytes, bytes] | None:
    """The header and the body of the next frame; None when the other side has hung up.

    Raises:
        MalformedFrame: it announces more than is allowed.
    """
    prefix = _read(descriptor, LENGTHS.size)
    if not prefix:
        return None
    lengths = decode_lengths(prefix, most_body=most_body)
    header, body = (_read(descriptor, length) for length in lengths)
    return (header, body) if (len(header), len(body)) == lengths else None


def write_frame(descriptor: int, frame: bytes) -> None:
    """Send all of a frame."""
    view = memoryview(frame)
    while view:
        view = view[os.write(descriptor, view) :]


def _read(descriptor: int, count: int) -> bytes:
    """So many bytes; none if there is an end before them."""
    parts = bytearray()
    while len(parts) < count:
        part = os.read(descriptor, min(count - len(parts), 1 << 20))
        if not part:
            return b""
        parts += part
    return bytes(parts)


def encode_request(request: Request, *, cpu_limit_s: float) -> bytes:
    """The frame that asks a child to run a job."""
    header = {
        "job_id": request.job_id,
        "program_id": request.program_id,
        "target": request.target,
        "executor": request.executor,
        "limits": request.limits.model_dump(),
        "resources": asdict(request.resources),
        "attempt": request.attempt,
        "traceparent": request.traceparent,
        "log_level": request.log_level,
        "choice": None if request.choice is None else asdict(request.choice),
        "live": dict(request.live),
        "worth_from": dict(request.worth_from),
        "served": request.served,
        "cpu_limit_s": cpu_limit_s,
    }
    return encode_frame(header, request.params)


def decode_request(header: bytes, body: bytes) -> tuple[Request, float]:
    """The request in a frame, and the processor time it may use, seconds."""
    document = orjson.loads(header)
    request = Request(
        job_id=document["job_id"],
        program_id=document["program_id"],
        target=document["target"],
        executor=document["executor"],
        params=body,
        # The parent has validated them; doing it again costs more than a small parse.
        limits=ProgramLimits.model_construct(**document["limits"]),
        resources=Resources(**document["resources"]),
        attempt=document["attempt"],
        traceparent=document["traceparent"],
        log_level=document["log_level"],
        choice=document["choice"] and Choice(**document["choice"]),
        live=document["live"],
        worth_from=document["worth_from"],
        served=tuple(document["served"]),
    )
    return request, document["cpu_limit_s"]


def encode_reply(reply: Reply, condition: Condition) -> bytes:
    """The frame that answers a request."""
    header = {
        "failure": None if reply.failure is None else asdict(reply.failure),
        "hand_over": None if reply.hand_over is None else asdict(reply.hand_over),
        "metadata": reply.metadata,
        "rss_bytes": condition.rss_bytes,
    }
    return encode_frame(header, reply.result or b"")


def decode_reply(header: bytes, body: bytes, *, output: str) -> tuple[Reply, Condition]:
    """The reply in a frame.

    Raises:
        MalformedFrame: it is none.
    """
    try:
        document = orjson.loads(header)
        failure = document["failure"]
        decoded = None if failure is None else _failure(failure)
        choice = document["hand_over"]
        hand_over = None if choice is None else _choice(choice)
        _require(isinstance(document["metadata"], dict), "metadata")
        _require(isinstance(document["rss_bytes"], int), "rss_bytes")
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise MalformedFrame(f"{type(exc).__name__} in a reply") from exc
    reply = Reply(
        result=body if decoded is None and hand_over is None else None,
        failure=decoded,
        metadata=document["metadata"],
        output=output,
        hand_over=hand_over,
    )
    return reply, Condition(rss_bytes=document["rss_bytes"])


def _failure(document: dict[str, Any]) -> Failure:
    code, message, details = (document[name] for name in ("code", "message", "details"))
    _require(isinstance(code, str) and isinstance(message, str), "failure")
    _require(isinstance(details, dict), "details")
    return Failure(code=code, message=message, details=details)


def _choice(document: dict[str, Any]) -> Choice:
    executor, because = document["executor"], document["because"]
    _require(isinstance(executor, str) and isinstance(because, str), "hand_over")
    return Choice(executor=executor, because=because[:CHOICE_CHARS])


def _require(condition: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not condition:
        raise TypeError(what)


def readable(output: Iterable[bytes]) -> str:
    """Text of what a job wrote, without control characters."""
    text = b"".join(output).decode(errors="replace")
    return "".join(char for char in text if char.isprintable() or char in "\n\t")
