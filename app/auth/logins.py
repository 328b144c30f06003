"""From which addresses do wrong keys come? Counted in Redis by all gateways; refused for a while.

Nobody guesses a key: this bounds what trying costs us. Who is refused costs no look into Redis, and
credentials that were valid when a gateway looked them up last are not asked about here at all.
"""

from __future__ import annotations

import ipaddress
import math
import time
from typing import TYPE_CHECKING, Any

import redis.asyncio
import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from app.errors import LoginsRefused

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

#: Who is refused has to wait this long after the wrong key that was one too many, seconds.
REFUSED_S = 60
#: Addresses that are refused at the same time; the oldest go first.
MOST_REFUSED = 10_000
#: Networks of one subscriber: an IPv6 address costs nothing, a network does.
_IPV6_PREFIX = 64
#: What the keys in Redis begin with.
KEY_PREFIX = "failed_logins"


class FailedLogins:
    """Counts wrong credentials by address."""

    def __init__(
        self,
        *,
        client: redis.asyncio.Redis,
        per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count; connects with the first failure.

        Args:
            client: the connection whose pool is shared.
            per_minute: failures of one address in any minute, at least 1.
            clock: gives seconds that only grow.
        """
        options: dict[str, Any] = {"connection_pool": client.connection_pool}
        # The URL says which kind of server it is; connections come from the pool.
        storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=KEY_PREFIX, **options
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._limit = RateLimitItemPerMinute(per_minute, namespace="address")
        self._clock = clock
        #: address → until when it is refused; in the order in which that ends.
        self._refused: dict[str, float] = {}

    def check(self, address: str) -> None:
        """Refuse an address from which too many wrong credentials came.

        Raises:
            LoginsRefused: it has to wait.
        """
        name = network_of(address)
        until = self._refused.get(name)
        if until is None:
            return
        left_s = until - self._clock()
        if left_s <= 0:
            del self._refused[name]
            return
        raise self._refusal(left_s)

    async def count(self, address: str) -> None:
        """Count a wrong credential from this address.

        Raises:
            LoginsRefused: it was one too many.
        """
        name = network_of(address)
        try:
            is_allowed = await self._limiter.hit(self._limit, name)
        except (redis.RedisError, OSError, TimeoutError) as exc:
            # The answer is a refusal anyway; it must not become an error of ours.
            log.warning("failed_login_not_counted", error=str(exc))
            return
        if is_allowed:
            log.info("login_failed", address=name)
            return
        log.warning("logins_refused", address=name)
        while len(self._refused) >= MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused.pop(name, None)
        self._refused[name] = self._clock() + REFUSED_S
        raise self._refusal(REFUSED_S)

    def _refusal(self, left_s: float) -> LoginsRefused:
        most, wait_s = self._limit.amount, math.ceil(left_s)
        message = (
            f"more than {most} wrong keys or tokens in a minute came from your address; correct the"
            f" key, and try again in {wait_s} seconds"
        )
        return LoginsRefused(message, allowed=most, retry_after_s=wait_s)


def network_of(address: str) -> str:
    """The address, or the network it stands for, as a word without colons."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        network = ipaddress.ip_network((found, _IPV6_PREFIX), strict=False)
        return network.network_address.exploded.replace(":", "-")
    return str(found)
