"""The gateway as it is wired, in this process, on a real Valkey."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import httpx2

from app.bootstrap import build_gateway
from app.config import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

API = "/api/v1"


@asynccontextmanager
async def gateway(
    redis_url: str, *, address: str = "127.0.0.1", **settings: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a gateway; it comes from that address."""
    # Logs stay those of the tests.
    with patch("app.telemetry.logs.configure_logging"):
        app = build_gateway(Settings(_env_file=None, redis_url=redis_url, **settings))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False, client=(address, 1))
    async with app.router.lifespan_context(app):
        client = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        async with client:
            yield client


def runtime_job(**changes: Any) -> dict[str, Any]:
    """The body of ``POST /jobs``; params are looked at by a worker only."""
    return {"program_id": "sampler", "backend": "simulator@aer", "params": {"pubs": []}} | changes
