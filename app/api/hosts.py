"""Which of IBM's hosts is asked? Names in a DNS of one's own may all lead here.

Clients that are given no address of our own derive ``iam.``, ``quantum.``, ``REGION.quantum.``,
``api.global-search-tagging.``, ``globalcatalog.`` and ``resource-controller.`` from one host name.
Their paths are ours as they are, but for the catalog's: it lies where the runtime API does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

CATALOG_HOST = b"globalcatalog."
_ENTRY = re.compile(r"/api/v1/([^/]+)")


class CatalogHost:
    """Serves ``/api/v1/ID`` of the catalog's host at ``/catalog/ID``; all else as it comes."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand around an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] == "http" and _host(scope).startswith(CATALOG_HOST):
            entry = _ENTRY.fullmatch(scope["path"])
            if entry is not None:
                # In place: the guard reads the route, which the router notes in the same scope.
                scope["path"] = f"/catalog/{entry[1]}"
                scope["raw_path"] = scope["path"].encode()
        await self._app(scope, receive, send)


def _host(scope: Scope) -> bytes:
    return next((value.lower() for name, value in scope["headers"] if name == b"host"), b"")
