"""How does this process talk to Redis? Clients with bounded waits, one error for every fault."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.backoff import ConstantBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from app.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_TIMEOUT_S = 1.0
#: A script runs for microseconds; who waits longer waits for a server that is gone or stuck. With
#: the one repetition a caller has the answer 503 within two seconds.
GATEWAY_TIMEOUT_S = 0.9
WORKER_TIMEOUT_S = 10.0


class _EndsWhenCancelled(AbstractConnection):
    """A connection that loses no cancellation.

    redis-py sends inside ``asyncio.wait_for``, and that forgets in Python 3.11 that its task was
    cancelled if the sending ends in the same step: the task would go on, some for ever.
    """

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        await super().send_packed_command(*args, **kwargs)
        if task is not None and task.cancelling() > before:
            # Nobody reads the answer.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


def connect_gateway(url: str) -> redis.asyncio.Redis:
    """A client for the event loop: short waits, because a person waits behind it.

    One repetition covers a connection that was closed meanwhile; every script may be repeated.
    """
    pool = redis.asyncio.ConnectionPool.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=GATEWAY_TIMEOUT_S,
        socket_keepalive=True,
        max_connections=256,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        retry=redis.asyncio.retry.Retry(ConstantBackoff(0.05), 1),
    )
    # Over a socket, over TLS: the address says which.
    pool.connection_class = type("Connection", (_EndsWhenCancelled, pool.connection_class), {})
    return redis.asyncio.Redis.from_pool(pool)


def connect_worker(url: str) -> redis.Redis:
    """A client for worker threads: they can wait, their callers repeat until Redis is back."""
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=WORKER_TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(ConstantBackoff(0.05), 1),
    )


@contextmanager
def translated() -> Iterator[None]:
    """Turn every fault of Redis into ``Unavailable``.

    Raises:
        Unavailable: Redis does not answer, is loading, is full or refuses.
    """
    try:
        yield
    except redis.exceptions.OutOfMemoryError as exc:
        message = "Redis is full and takes no new jobs; try again when queued jobs have finished"
        raise Unavailable(message, component="redis") from exc
    except (redis.exceptions.NoPermissionError, redis.exceptions.AuthenticationError) as exc:
        message = f"Redis refuses this process: {exc}; see deploy/redis-users.conf"
        raise Unavailable(message, component="redis") from exc
    except redis.exceptions.ResponseError as exc:
        # MISCONF: its disk is full; READONLY, NOREPLICAS: it is not, or not alone, the primary.
        word = str(exc).partition(" ")[0]
        reason = word if word.isupper() else "see the log"
        message = f"Redis refuses: {reason}; try again when whoever runs this service has looked"
        raise Unavailable(message, component="redis") from exc
    except (redis.RedisError, OSError, TimeoutError) as exc:
        message = "Redis does not answer; try again in a few seconds"
        raise Unavailable(message, component="redis") from exc
