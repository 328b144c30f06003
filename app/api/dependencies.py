"""Who calls, and what serves them? What routes ask FastAPI for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.auth.principal import LOCAL, Principal
from app.config import Settings
from app.dispatcher import Dispatcher
from app.telemetry.metrics import HttpMetrics


class Waiters:
    """Counts the requests that wait, and says when there is no room for another."""

    def __init__(self, limit: int) -> None:
        """Nobody waits yet."""
        self._limit = limit
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Whether as many wait as may."""
        return self._count >= self._limit

    def __enter__(self) -> None:
        """Wait."""
        self._count += 1

    def __exit__(self, *_: object) -> None:
        """Stop waiting."""
        self._count -= 1


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes of one application share."""

    settings: Settings
    dispatcher: Dispatcher
    metrics: HttpMetrics
    waiters: Waiters


async def services_of(request: Request) -> Services:
    """What the application was made with."""
    services: Services = request.app.state.services
    return services


async def principal_of() -> Principal:
    """Everybody is the same caller, as long as the service does not ask for a key."""
    return LOCAL


Shared = Annotated[Services, Depends(services_of)]
Caller = Annotated[Principal, Depends(principal_of)]
