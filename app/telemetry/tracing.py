"""How does a trace go on from one process to the next? As W3C ``traceparent``, with OpenTelemetry.

Without the package, or without a provider that somebody has set up, nothing is recorded and nothing
is sent, and a caller's ``traceparent`` is passed on all the same.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TRACEPARENT = "traceparent"
#: W3C Trace Context, version 00: https://www.w3.org/TR/trace-context/
_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
NAME = "qfleet"


@cache
def _opentelemetry() -> tuple[Any, Any] | None:
    """Its modules ``propagate`` and ``trace``, loaded for the first call that is traced."""
    try:
        return import_module("opentelemetry.propagate"), import_module("opentelemetry.trace")
    except ImportError:
        return None


def trace_id_of(traceparent: str) -> str:
    """The trace's id, 32 hexadecimal digits; empty when this is no ``traceparent``."""
    match = _FORM.fullmatch(traceparent)
    return match.group(1) if match else ""


@contextmanager
def server_span(name: str, carrier: Mapping[str, str]) -> Iterator[str]:
    """A span for a call from outside, in the trace of its metadata.

    Returns:
        The ``traceparent`` to pass on; empty when there is no trace.
    """
    came = carrier.get(TRACEPARENT, "")
    came = came if trace_id_of(came) else ""
    found = _opentelemetry()
    if found is None:
        yield came
        return
    propagate, trace = found
    context = propagate.extract({TRACEPARENT: came})
    tracer = trace.get_tracer(NAME)
    with tracer.start_as_current_span(name, context=context, kind=trace.SpanKind.SERVER):
        yield _current(propagate, came)


@contextmanager
def job_span(traceparent: str, **attributes: str) -> Iterator[str]:
    """A span for one run of a job that is traced; gives the ``traceparent`` of the run."""
    found = _opentelemetry() if traceparent else None
    if found is None:
        yield traceparent
        return
    propagate, trace = found
    context = propagate.extract({TRACEPARENT: traceparent})
    tracer = trace.get_tracer(NAME)
    with tracer.start_as_current_span(
        "job/run", context=context, kind=trace.SpanKind.CONSUMER, attributes=attributes
    ):
        yield _current(propagate, traceparent)


def record_stages(traceparent: str, began_s: float, stages: Mapping[str, object]) -> None:
    """Note how long the stages of a run took, one after another, as the sandbox measured them.

    Args:
        traceparent: of the run.
        began_s: when the run began, seconds since 1970.
        stages: name → seconds.
    """
    found = _opentelemetry() if traceparent else None
    if found is None:
        return
    propagate, trace = found
    context = propagate.extract({TRACEPARENT: traceparent})
    tracer = trace.get_tracer(NAME)
    start = began_s
    for name, seconds in stages.items():
        if not isinstance(seconds, float):
            continue
        span = tracer.start_span(f"sandbox/{name}", context=context, start_time=_ns(start))
        start = min(start + seconds, time.time())
        span.end(end_time=_ns(start))


def _current(propagate: Any, otherwise: str) -> str:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get(TRACEPARENT, otherwise)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
