"""Who calls, and what serves them? What routes ask FastAPI for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import APIKeyHeader

from app.auth.identity import Identity
from app.auth.principal import Principal
from app.auth.rates import RequestRates
from app.backends.catalog import Catalog
from app.config import Settings, is_loopback
from app.dispatcher import Dispatcher
from app.errors import NotAuthorized
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
    catalog: Catalog
    identity: Identity
    metrics: HttpMetrics
    waiters: Waiters
    rates: RequestRates


async def services_of(request: Request) -> Services:
    """What the application was made with."""
    services: Services = request.app.state.services
    return services


Shared = Annotated[Services, Depends(services_of)]

#: Read as it comes; declared like this so that the description of the API names it.
Authorization = Annotated[
    str | None,
    Depends(
        APIKeyHeader(
            name="Authorization",
            scheme_name="key",
            description="`Bearer TOKEN` or `apikey KEY`, where the service asks for keys",
            auto_error=False,
        )
    ),
]


async def principal_of(
    request: Request,
    services: Shared,
    authorization: Authorization,
    service_crn: Annotated[
        str | None, Header(alias="Service-CRN", description="CRN or name of an instance")
    ] = None,
) -> Principal:
    """The caller.

    Raises:
        NotAuthorized: no valid credential came.
        LoginsRefused: too many that were not valid came from the same address.
        RateExceeded: too many requests came with this key.
        InstanceNotFound: the caller has no such instance.
    """
    settings = services.settings
    if settings.auth == "auto" and not settings.asks_for_keys and _came_from_outside(request):
        message = (
            "the gateway listens on an address that QFLEET_HOST does not name; set QFLEET_HOST to"
            " it and callers are asked for keys, or set QFLEET_AUTH to on or off"
        )
        raise NotAuthorized(message)
    caller = await services.identity.principal(
        authorization=authorization, instance=service_crn, address=address_of(request)
    )
    if caller.key:
        services.rates.count(caller.key)
    return caller


def address_of(request: Request) -> str:
    """Where a request comes from; empty when it comes by no network."""
    return request.client.host if request.client else ""


def _came_from_outside(request: Request) -> bool:
    """Whether the connection was not made to a loopback address.

    ``uvicorn app.main:app --host 0.0.0.0`` listens where no setting tells us.
    """
    host, port = request.scope.get("server") or ("", None)
    # Without a port it is no network address: a Unix socket, or no server at all.
    return port is not None and not is_loopback(host)


Caller = Annotated[Principal, Depends(principal_of)]
