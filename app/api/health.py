"""Is the service well? Each answer comes within 200 ms, whatever is down.

Workers are judged by their heartbeats in the store: no broadcast, nobody is asked.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeVar

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.api.dependencies import Shared
from app.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from app.dispatcher import Dispatcher
    from app.jobs.job import WorkerReport

#: How long a component may take to prove that it lives.
PROBE_S = 0.15

router = APIRouter(tags=["health"])

Found = TypeVar("Found")
Word = Literal["healthy", "unhealthy"]


class Health(BaseModel):
    """How the parts of the service are."""

    status: Literal["ok", "degraded"]
    components: dict[str, Word] = Field(
        examples=[{"api": "healthy", "celery": "healthy", "redis": "healthy"}]
    )
    reasons: dict[str, str] | None = Field(
        default=None, description="why a component is unhealthy; left out when none is"
    )


class Component(BaseModel):
    """How one part of the service is."""

    status: Word
    reason: str | None = Field(default=None, description="left out when healthy")


class WorkerHealth(BaseModel):
    """What a live worker said last."""

    id: str
    host: str
    pid: int
    executors: list[str]
    slots: int
    busy: int
    heartbeat_age_s: float
    versions: dict[str, str]


class Workers(Component):
    """The live workers."""

    workers: list[WorkerHealth]


class Life(BaseModel):
    """That the process answers."""

    status: Literal["alive"] = "alive"


class Sick(Exception):
    """Why a component is unhealthy."""


@router.head("/health", include_in_schema=False)
@router.get("/health", response_model=Health, responses={503: {"model": Health}})
@router.get("/health/", include_in_schema=False)
async def health(services: Shared) -> JSONResponse:
    """How each part is; 503 and `degraded` as soon as one is unhealthy."""
    redis, celery = await asyncio.gather(
        _reason(_redis(services.dispatcher)), _reason(_workers(services.dispatcher))
    )
    reasons = {name: reason for name, reason in (("celery", celery), ("redis", redis)) if reason}
    components: dict[str, Word] = {
        name: "unhealthy" if name in reasons else "healthy" for name in ("api", "celery", "redis")
    }
    return _answer(
        Health(
            status="degraded" if reasons else "ok",
            components=components,
            reasons=reasons or None,
        ),
        healthy=not reasons,
    )


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=Life)
async def live() -> JSONResponse:
    """That this process answers; nothing else is asked."""
    return _answer(Life(), healthy=True)


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", response_model=Component, responses={503: {"model": Component}})
async def ready(services: Shared) -> JSONResponse:
    """Whether jobs can be accepted: Redis answers and can be written."""
    return _component(await _reason(_redis(services.dispatcher)))


@router.head("/health/redis", include_in_schema=False)
@router.get("/health/redis", response_model=Component, responses={503: {"model": Component}})
async def redis_health(services: Shared) -> JSONResponse:
    """Whether Redis answers and can be written."""
    return _component(await _reason(_redis(services.dispatcher)))


@router.head("/health/celery", include_in_schema=False)
@router.get("/health/celery", response_model=Workers, responses={503: {"model": Workers}})
async def celery_health(services: Shared) -> JSONResponse:
    """The live workers: what they serve, how busy they are, what they run on."""
    try:
        found = await _workers(services.dispatcher)
    except Sick as exc:
        return _answer(Workers(status="unhealthy", reason=str(exc), workers=[]), healthy=False)
    return _answer(
        Workers(
            status="healthy",
            workers=[
                WorkerHealth(
                    id=worker.id,
                    host=worker.host,
                    pid=worker.pid,
                    executors=list(worker.executors),
                    slots=worker.slots,
                    busy=worker.busy,
                    heartbeat_age_s=worker.age_s,
                    versions=worker.versions,
                )
                for worker in found
            ],
        ),
        healthy=True,
    )


async def _redis(dispatcher: Dispatcher) -> None:
    await _in_time(dispatcher.check())


async def _workers(dispatcher: Dispatcher) -> tuple[WorkerReport, ...]:
    found = await _in_time(dispatcher.workers())
    if not found:
        message = "no worker has sent a heartbeat lately"
        raise Sick(message)
    return found


async def _in_time(probe: Awaitable[Found]) -> Found:
    try:
        async with asyncio.timeout(PROBE_S):
            return await probe
    except TimeoutError as exc:
        message = f"Redis did not answer within {PROBE_S * 1000:.0f} ms"
        raise Sick(message) from exc
    except Unavailable as exc:
        raise Sick(exc.message) from exc


async def _reason(probe: Awaitable[object]) -> str | None:
    """Why a probe failed; None when it did not."""
    try:
        await probe
    except Sick as exc:
        return str(exc)
    return None


def _component(reason: str | None) -> JSONResponse:
    word: Word = "unhealthy" if reason else "healthy"
    return _answer(Component(status=word, reason=reason), healthy=reason is None)


def _answer(document: BaseModel, *, healthy: bool) -> JSONResponse:
    return JSONResponse(
        document.model_dump(exclude_none=True),
        status_code=HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE,
    )
