"""What does the gateway serve? The application: its routes, its guard, its description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import app
from app.api import docs, errors, health, identity, metrics, root, tasks
from app.api.body import SCHEMAS
from app.api.dependencies import Services, Waiters
from app.api.hosts import CatalogHost
from app.api.middleware import Guard
from app.api.runtime import account, backends, sessions
from app.api.runtime import jobs as runtime_jobs
from app.api.runtime.errors import MOUNTS, REFUSAL_SCHEMA, REFUSALS
from app.auth.rates import RequestRates
from app.telemetry.metrics import HttpMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from starlette.types import ASGIApp

    from app.auth.identity import Identity
    from app.backends.catalog import Catalog
    from app.config import Settings
    from app.dispatcher import Dispatcher

DESCRIPTION = """Runs quantum circuits on a fleet of workers.

Post OpenQASM 3 to `/tasks`, read the counts at `/tasks/{task_id}`; or let the Qiskit client use
`/api/v1`. Every refusal is a problem document (RFC 9457) with a stable `code` and the `request_id`
that the logs know it by; those of `/api/v1` have the shape that the Qiskit client reads."""

#: What pages of other origins may send and read, beside what they always may.
ASKED_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Service-CRN", "X-Request-ID")
TOLD_HEADERS = ("Location", "Retry-After", "X-Request-ID", "uber-trace-id")

RUNTIME_ROUTERS = (backends.router, runtime_jobs.router, sessions.router, account.router)
ROUTERS = (root.router, tasks.router, identity.router, health.router, metrics.router, docs.router)


class Gateway(FastAPI):
    """FastAPI with the guard around everything, its answers to bugs included."""

    def __init__(self, services: Services, **options: Any) -> None:
        """Make it; what the routes share hangs on ``state``."""
        super().__init__(**options)
        self.state.services = services

    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI's own layers, with the guard outside of them."""
        services: Services = self.state.services
        inside: ASGIApp = CatalogHost(super().build_middleware_stack())
        cors = None
        if services.settings.cors_origins:
            inside = cors = CORSMiddleware(
                inside,
                allow_origins=services.settings.cors_origins,
                allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
                allow_headers=ASKED_HEADERS,
                expose_headers=TOLD_HEADERS,
            )
        return Guard(
            inside,
            limits=services.settings.http,
            metrics=services.metrics,
            cors=cors,
        )

    def openapi(self) -> dict[str, Any]:
        """The description, with the schemas that routes name but FastAPI does not see."""
        document = super().openapi()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = errors.Problem.model_json_schema()
        schemas["Refusal"] = REFUSAL_SCHEMA
        _, bodies = msgspec.json.schema_components(
            (runtime_jobs.JobRequest, runtime_jobs.TagRequest, *sessions.REQUESTS),
            ref_template=SCHEMAS + "{name}",
        )
        schemas |= bodies
        return document


def create_app(
    *,
    settings: Settings,
    dispatcher: Dispatcher,
    catalog: Catalog,
    identity: Identity,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any] | None]],
) -> FastAPI:
    """The HTTP application.

    Args:
        settings: limits and defaults.
        dispatcher: what callers can do.
        catalog: the backends.
        identity: who they are.
        lifespan: what runs as long as the application serves; gives what the server may call.
    """
    services = Services(
        settings=settings,
        dispatcher=dispatcher,
        catalog=catalog,
        identity=identity,
        metrics=HttpMetrics(),
        waiters=Waiters(settings.http.waiters),
        rates=RequestRates(settings.http.requests_per_minute),
    )
    gateway = Gateway(
        services,
        title="Qfleet",
        version=app.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    errors.install(gateway)
    for router in ROUTERS:
        gateway.include_router(router)
    for mount in MOUNTS:
        for router in RUNTIME_ROUTERS:
            # Described once: all mounts are the same.
            gateway.include_router(
                router, prefix=mount, responses=REFUSALS, include_in_schema=mount == MOUNTS[0]
            )
    return gateway
