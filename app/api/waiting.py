"""How does a request wait for something? As long as its client does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.requests import Request

Answer = TypeVar("Answer")


async def while_connected(request: Request, wait: Coroutine[None, None, Answer]) -> Answer:
    """What comes, unless the client goes first.

    Raises:
        ClientDisconnect: it went; nobody waits any more.
    """
    answer = asyncio.ensure_future(wait)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        gone.result()
        raise ClientDisconnect
    finally:
        answer.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
