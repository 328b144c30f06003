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
#: After this time without a word the other side is asked for one; after as much again it is gone.
SILENCE_S = 5.0


class JobEvents:
    """Wakes waiters when their job becomes final.

    Pub/sub loses what is said while the connection is down, so every new connection wakes
    everybody: they read the store again. A waiter therefore first watches, then reads, then waits.
    """

    def __init__(self, *, client: redis.asyncio.Redis) -> None:
        """Make it; ``run`` starts listening."""
        self._client = client
        #: the process ends: nobody shall wait any more.
        self.has_let_go = False
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

    def let_go(self) -> None:
        """End every wait, those to come too: whoever waits gets the job as it is."""
        self.has_let_go = True
        self._wake_all()

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
            was_silent = False
            while True:
                message = await subscription.get_message(timeout=SILENCE_S)
                if message is None:
                    if was_silent:
                        raise redis.ConnectionError("nothing came, nor an answer to a ping")
                    await subscription.ping()
                    was_silent = True
                    continue
                was_silent = False
                if message["type"] == "subscribe":
                    self._wake_all()
                elif message["type"] == "message":
                    self._wake(message["data"].decode())

    def _wake(self, job_id: str) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()

    def _wake_all(self) -> None:
        for job_id in list(self._waiting):
            self._wake(job_id)
