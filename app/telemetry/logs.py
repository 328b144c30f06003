"""What does a log line look like? One JSON object on stderr, from our code and from every library.

A line never holds a secret, a program or a result: fields with such names are blanked, credentials
in texts too, and no field is longer than a bound. The text is ASCII, so it cannot steer a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

#: Longest text of one field, and of a traceback.
FIELD_CHARS = 2048
TRACEBACK_CHARS = 16_384
#: Most values of a list or mapping, and how deep they may nest.
FIELD_ITEMS = 64
FIELD_DEPTH = 4

REDACTED = "[redacted]"
#: A field whose name holds one of these is blanked; ``-`` and ``_`` in the name do not count.
SECRETS = ("authorization", "token", "password", "secret", "apikey", "cookie", "credential")
#: So are the fields called exactly this.
PRIVATE = frozenset({"params", "result", "source", "body"})

_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
#: Credentials within a text: after the name of their scheme, our keys, and tokens (JWT).
_CREDENTIALS = re.compile(
    r"(?i:(?<=\bbearer )|(?<=\bapikey )|(?<=\bapikey=)|(?<=\bbasic ))[^\s'\",;&]+"
    r"|\bqf_[0-9A-Za-z]{20,}"
    r"|\beyJ[\w-]{2,1024}+\.[\w-]{2,4096}+\.[\w-]*+"
)


def configure_logging(
    *, level: str, environment: str, service: str, shape: Processor | None = None
) -> None:
    """Send every log event of this process to stderr.

    Args:
        level: least severe level that is written, e.g. ``INFO``.
        environment: name of the deployment, a field of every line.
        service: name of the process, a field of every line.
        shape: gives a line its last shape, if this process has one of its own.
    """
    deployment = {"service": service, "environment": environment}

    def add_deployment(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, **deployment}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_deployment,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    # Not sys.stderr: Celery replaces that with a logger, which would come back here.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                *([] if shape is None else [shape]),
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Celery speaks of every wake-up; what happened to jobs is said by the runner.
    logging.getLogger("celery").setLevel(max(logging.getLevelName(level), logging.WARNING))
    _take_over_uvicorn()


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blank what must not be logged, and bound the rest."""
    return {name: _field(name, value) for name, value in event.items()}


def _take_over_uvicorn() -> None:
    """Let uvicorn's events come to the root logger, but not its access log: the API has its own."""
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def _field(name: str, value: object) -> object:
    plain = name.lower().replace("-", "").replace("_", "")
    if plain in PRIVATE or any(secret in plain for secret in SECRETS):
        return REDACTED
    if name == "exception":
        return _text(str(value), TRACEBACK_CHARS)
    return _value(value, FIELD_DEPTH)


def _value(value: object, depth: int) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _text(value, FIELD_CHARS)
        case dict() if depth:
            items = list(value.items())[:FIELD_ITEMS]
            return {
                str(name): REDACTED
                if _field(str(name), None) == REDACTED
                else _value(item, depth - 1)
                for name, item in items
            }
        case list() | tuple() | set() | frozenset() if depth:
            return [_value(item, depth - 1) for item in list(value)[:FIELD_ITEMS]]
        case _:
            return _text(str(value), FIELD_CHARS)


def _text(text: str, limit: int) -> str:
    hidden = _URL_CREDENTIALS.sub(f"{REDACTED}@", text)
    hidden = _CREDENTIALS.sub(REDACTED, hidden)
    if len(hidden) <= limit:
        return hidden
    return f"{hidden[:limit]}… ({len(hidden) - limit} more)"
