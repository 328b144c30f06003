"""What do Qiskit clients ask about themselves? Instance, usage, workloads, versions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.api.dependencies import Caller, Services, Shared
from app.api.runtime.documents import time_text, workload_of_job, workload_of_session
from app.auth.principal import Principal
from app.errors import InvalidRequest
from app.jobs.job import Job
from app.jobs.session import Session
from app.jobs.store import USAGE_DAYS

router = APIRouter(tags=["runtime: account"])

#: Versions of the API, as clients name them in ``IBM-API-Version``.
VERSIONS = ("2024-01-01", "2025-05-01", "2026-04-15")
MOST_WORKLOADS = 100
#: Workloads that one request looks at, for those that it shows.
LOOKED_AT = 1000
READ_AT_ONCE = 100


@router.get("/instances/usage")
async def usage(services: Shared, caller: Caller) -> Response:
    """How long the jobs of the instance have run."""
    now = datetime.now(tz=UTC)
    start = (now - timedelta(days=USAGE_DAYS - 1)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    used = await services.dispatcher.usage(caller)
    instance = await services.identity.instance(caller)
    document: dict[str, Any] = {
        "instance_id": instance.crn,
        "plan_id": instance.plan,
        "usage_consumed_seconds": round(used.used_s),
        "usage_limit_reached": used.is_exhausted,
        "usage_period": {"start_time": time_text(start), "end_time": time_text(now)},
    }
    if used.allowed_s is not None:
        document["usage_limit_seconds"] = used.allowed_s
        document["usage_remaining_seconds"] = max(used.allowed_s - round(used.used_s), 0)
    return _json(document)


@router.get("/instance")
async def instance(services: Shared, caller: Caller) -> Response:
    """The instance of the caller."""
    found = await services.identity.instance(caller)
    return _json({"instance_id": found.crn, "name": found.name, "plan_id": found.plan})


@router.get("/versions")
async def versions() -> Response:
    """The versions of the API."""
    return _json({"versions": list(VERSIONS)})


@router.get("/workloads")
async def workloads(
    services: Shared,
    caller: Caller,
    *,
    limit: Annotated[int, Query(ge=1, le=MOST_WORKLOADS)] = 25,
    sort: Literal["createdAt", "-createdAt"] = "-createdAt",
    previous: Annotated[str | None, Query(max_length=20)] = None,
    next: Annotated[str | None, Query(max_length=20)] = None,  # noqa: A002 - the protocol's word
    backend: Annotated[str | None, Query(max_length=128)] = None,
    search: Annotated[str | None, Query(max_length=128)] = None,
    mode: Literal["job", "session", "batch"] | None = None,
    status: Annotated[list[str], Query(max_length=8)] = [],  # noqa: B006 - FastAPI copies it
    tags: Annotated[list[str], Query(max_length=8)] = [],  # noqa: B006 - FastAPI copies it
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Response:
    """Jobs outside of sessions, and sessions. Reads on at ``next``, even from an empty page.

    ``total_count`` counts what matches on all pages; where more than times narrows the list, among
    the first thousand workloads.
    """
    oldest_first = sort == "createdAt"
    lowest = "-inf" if created_after is None else str(round(created_after.timestamp() * 1e6))
    highest = "+inf" if created_before is None else str(round(created_before.timestamp() * 1e6))
    whole = _Span(below=highest, above=lowest)
    cursor = next or previous
    if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
        message = "this cursor is none that a list gave; leave it out to start anew"
        raise InvalidRequest(message)
    backwards = previous is not None and next is None
    ascending = oldest_first is not backwards
    wanted = _Wanted(
        backend=backend,
        search=search,
        mode=mode,
        statuses=frozenset(status),
        tags=frozenset(tags),
    )
    page: list[tuple[int, dict[str, Any]]] = []
    last: int | None = None
    looked_at = 0
    span = whole if cursor is None else whole.behind(cursor, oldest_first=ascending)
    async for last, document in _looked_at(services, caller, wanted, span, oldest_first=ascending):
        looked_at += 1
        if document is not None:
            page.append((last, document))
        if len(page) == limit:
            break
    if backwards:
        page.reverse()
    answer: dict[str, Any] = {
        "workloads": [document for _, document in page],
        "total_count": await _count(services, caller, wanted, whole, oldest_first=oldest_first),
        "limit": limit,
    }
    if page and (cursor is not None):
        answer["previous"] = {"previous": str(page[0][0])}
    if last is not None and (len(page) == limit or looked_at == LOOKED_AT):
        answer["next"] = {"next": str(page[-1][0] if page else last)}
    return _json(answer)


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Arrivals from a lowest to a highest, as a sorted set's range names them."""

    below: str
    above: str

    def behind(self, cursor: str, *, oldest_first: bool) -> _Span:
        """What comes behind a workload, in this order."""
        if oldest_first:
            return replace(self, above=f"({cursor}")
        return replace(self, below=f"({cursor}")


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What narrows a list, beside times."""

    backend: str | None = None
    search: str | None = None
    mode: str | None = None
    statuses: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()

    def has(self, shown: dict[str, Any]) -> bool:
        """Whether a workload's document is wanted."""
        texts = (shown["id"], shown["backend"], *shown["tags"])
        return (
            (self.backend is None or shown["backend"] == self.backend)
            and (self.search is None or any(self.search in text for text in texts))
            and (self.mode is None or shown["mode"] == self.mode)
            and (not self.statuses or shown["status"] in self.statuses)
            and self.tags <= set(shown["tags"])
        )


async def _looked_at(
    services: Services, caller: Principal, wanted: _Wanted, span: _Span, *, oldest_first: bool
) -> AsyncIterator[tuple[int, dict[str, Any] | None]]:
    """The first ``LOOKED_AT``: arrivals, and documents of those that are wanted and still there."""
    crn = (await services.identity.instance(caller)).crn
    for _ in range(LOOKED_AT // READ_AT_ONCE):
        found = await services.dispatcher.workloads(
            caller,
            below=span.below,
            above=span.above,
            oldest_first=oldest_first,
            limit=READ_AT_ONCE,
        )
        for workload in found:
            document = _document(workload.of, crn)
            is_shown = document is not None and wanted.has(document)
            yield workload.arrival, document if is_shown else None
        if len(found) < READ_AT_ONCE:
            return
        span = span.behind(str(found[-1].arrival), oldest_first=oldest_first)


async def _count(
    services: Services, caller: Principal, wanted: _Wanted, span: _Span, *, oldest_first: bool
) -> int:
    """How many are wanted, of all; or else of those that are looked at."""
    if wanted == _Wanted():
        return await services.dispatcher.count_workloads(caller, below=span.below, above=span.above)
    found = _looked_at(services, caller, wanted, span, oldest_first=oldest_first)
    return sum([document is not None async for _, document in found])


def _document(of: Job | Session | None, crn: str) -> dict[str, Any] | None:
    if of is None:
        return None
    return workload_of_session(of, crn) if isinstance(of, Session) else workload_of_job(of, crn)


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
