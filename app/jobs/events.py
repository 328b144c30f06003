"""How does a waiting caller learn that a job is final? One subscription per gateway, no polling."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import redis.asyncio
import structlog

from app.lua.keys import DONE_CHANNEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = structlog.get_logger()

#: Pause before a broken subscription is made again.
RECONNECT_S = 0.5


class JobEvents:
    """Wakes waiters when their job becomes final.

    Pub/sub loses what is said while the connection is down, so every new connection wakes
    everybody: they read the store again. A waiter therefore first watches, then reads, then waits.
    """

    def __init__(self, *, client: redis.asyncio.Redis) -> None:
        """Make it; ``run`` starts listening."""
        self._client = client
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextlib.asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """An event, set when the job may have become final. Clear it before reading again."""
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._waiting[job_id]
            waiting.discard(event)
            if not waiting:
                del self._waiting[job_id]

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen()
            except (redis.RedisError, OSError) as exc:
                log.warning("subscription_lost", channel=DONE_CHANNEL, error=type(exc).__name__)
                await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        async with self._client.pubsub() as subscription:
            await subscription.subscribe(DONE_CHANNEL)
            while True:
                # The time-out makes redis-py send its health check on a silent connection.
                message = await subscription.get_message(timeout=5.0)
                if message is None:
                    await subscription.ping()
                elif message["type"] == "subscribe":
                    self._wake_all()
                elif message["type"] == "message":
                    self._wake(message["data"].decode())

    def _wake(self, job_id: str) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()

    def _wake_all(self) -> None:
        for job_id in list(self._waiting):
            self._wake(job_id)
