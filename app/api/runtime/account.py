"""What do Qiskit clients ask about themselves? Instance, usage, workloads, versions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.api.dependencies import Caller, Services, Shared
from app.api.runtime.documents import time_text, workload_of_job, workload_of_session
from app.auth.principal import Principal
from app.errors import InvalidRequest, NotFound
from app.jobs.session import Workload
from app.jobs.store import USAGE_DAYS

router = APIRouter(tags=["runtime: account"])

#: Versions of the API, as clients name them in ``IBM-API-Version``.
VERSIONS = ("2024-01-01", "2025-05-01", "2026-04-15")
MOST_WORKLOADS = 100
#: Workloads that one request looks at, for those that it shows.
LOOKED_AT = 1000


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
    """Jobs outside of sessions, and sessions. Reads on at ``next``, even from an empty page."""
    oldest_first = sort == "createdAt"
    lowest = "-inf" if created_after is None else str(round(created_after.timestamp() * 1e6))
    highest = "+inf" if created_before is None else str(round(created_before.timestamp() * 1e6))
    cursor = next or previous
    if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
        message = "this cursor is none that a list gave; leave it out to start anew"
        raise InvalidRequest(message)
    backwards = previous is not None and next is None
    ascending = oldest_first is not backwards
    if cursor is not None:
        lowest, highest = (f"({cursor}", highest) if ascending else (lowest, f"({cursor}")
    found, total = await services.dispatcher.workloads(
        caller, below=highest, above=lowest, oldest_first=ascending, limit=LOOKED_AT
    )

    def is_wanted(shown: dict[str, Any]) -> bool:
        return (
            (backend is None or shown["backend"] == backend)
            and (mode is None or shown["mode"] == mode)
            and (not status or shown["status"] in status)
            and set(tags) <= set(shown["tags"])
            and (search is None or search in shown["id"] or search in shown["backend"])
        )

    page: list[tuple[Workload, dict[str, Any]]] = []
    last: Workload | None = None
    for last in found:
        document = await _workload(services, caller, last)
        if document is not None and is_wanted(document):
            page.append((last, document))
        if len(page) == limit:
            break
    if backwards:
        page.reverse()
    more = last is not None and (len(page) == limit or len(found) == LOOKED_AT)
    answer: dict[str, Any] = {
        "workloads": [document for _, document in page],
        "total_count": total,
        "limit": limit,
    }
    if page and (cursor is not None):
        answer["previous"] = {"previous": str(page[0][0].arrival)}
    if more and last is not None:
        answer["next"] = {"next": str((page[-1][0] if page else last).arrival)}
    return _json(answer)


async def _workload(
    services: Services, caller: Principal, workload: Workload
) -> dict[str, Any] | None:
    """A workload's document; None when it has been deleted meanwhile."""
    crn = (await services.identity.instance(caller)).crn
    try:
        if workload.is_session:
            session = await services.dispatcher.session(caller, workload.id)
            return workload_of_session(session, crn)
        return workload_of_job(await services.dispatcher.read(caller, workload.id), crn)
    except NotFound:
        return None


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
