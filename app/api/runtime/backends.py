"""What do Qiskit clients learn about backends? Which there are, what they can do, how they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response

from app.api.dependencies import Services, Shared, principal_of
from app.backends.catalog import Backend
from app.backends.documents import Document
from app.jobs.snapshot import Fleet

router = APIRouter(
    prefix="/backends", tags=["runtime: backends"], dependencies=[Depends(principal_of)]
)

#: The version of the API in which the list holds names and nothing else; also when none is named.
NAMES_ONLY = "2024-01-01"

#: What changes of the entry of a device that takes no circuits, without its opening brace.
OFFLINE = b'"status":{"name":"paused","reason":"offline"},"queue_length":0}'

Calibration = Annotated[str | None, Query(max_length=128)]
IfNoneMatch = Annotated[str | None, Header()]


@router.get("")
async def list_backends(
    services: Shared,
    *,
    include_mocks: bool = False,
    version: Annotated[str, Header(alias="IBM-API-Version", max_length=32)] = NAMES_ONLY,
) -> Response:
    """Every backend, and whether something runs its jobs at this moment."""
    fleet = await services.dispatcher.fleet()
    backends = services.catalog.backends(fleet.queued, fleet.max_qubits, fleet.devices)
    shown = [backend for backend in backends if include_mocks or not backend.is_mock]
    body = (
        orjson.dumps({"devices": [backend.name for backend in shown]})
        if version == NAMES_ONLY
        else _listed(shown, fleet)
    )
    return Response(body, media_type="application/json")


@router.get("/{name}/configuration")
async def configuration(
    services: Shared,
    name: str,
    calibration_id: Calibration = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """What does not change of a backend: its qubits, its gates, its couplings."""
    backend, _ = await _resolve(services, name, calibration_id)
    return _document(services.catalog.configuration(backend), if_none_match)


@router.get("/{name}/properties")
async def properties(
    services: Shared,
    name: str,
    calibration_id: Calibration = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """What was measured of a backend: errors, durations, coherence times.

    There is one calibration of each, and ``updated_before`` changes nothing: to the client,
    properties that are missing are those of an ideal device.
    """
    backend, _ = await _resolve(services, name, calibration_id)
    return _document(services.catalog.properties(backend), if_none_match)


@router.get("/{name}/status")
async def status(services: Shared, name: str) -> Response:
    """Whether something runs the backend's jobs at this moment, and how many wait for it.

    Without a live worker, jobs are accepted all the same: they wait for one.
    """
    backend, fleet = await _resolve(services, name, None)
    is_served = backend.executor in fleet.live
    is_live = is_served and backend.is_online
    message = "" if is_live else f"no worker serves {backend.executor!r} at this moment"
    if is_served and not is_live:
        message = f"driver {backend.executor!r} says that the device takes no circuits"
    document = {
        "state": is_live,
        "status": "active" if is_live else "paused",
        "message": message,
        "length_queue": fleet.queued[backend.executor],
        "backend_version": backend.version,
    }
    return Response(orjson.dumps(document), media_type="application/json")


async def _resolve(
    services: Services, name: str, calibration_id: str | None
) -> tuple[Backend, Fleet]:
    fleet = await services.dispatcher.fleet()
    backend = services.catalog.resolve(name, fleet.queued, fleet.max_qubits, fleet.devices)
    services.catalog.check_calibration(name, calibration_id)
    return backend, fleet


def _listed(backends: Iterable[Backend], fleet: Fleet) -> bytes:
    """The list of backends: clients ask for it again and again, so only what changes is encoded."""
    changing = {
        executor: orjson.dumps(
            {
                "status": {"name": "online", "reason": "available"}
                if executor in fleet.live
                else {"name": "paused", "reason": "no worker"},
                "queue_length": queued,
            }
        )[1:]
        for executor, queued in fleet.queued.items()
    }
    entries = (
        backend.entry + b"," + (changing[backend.executor] if backend.is_online else OFFLINE)
        for backend in backends
    )
    return b'{"devices":[%b]}' % b",".join(entries)


def _document(document: Document, if_none_match: str | None) -> Response:
    """The document, unless the caller has it already."""
    known = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    headers = {"ETag": document.etag, "Cache-Control": "private, no-cache"}
    if document.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(document.body, headers=headers, media_type="application/json")
