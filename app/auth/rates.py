"""How many requests may one key make? Counted in this process; each gateway counts for itself.

A sliding window of a minute, from two counters: those of the last full minute weigh as much as they
still reach into the window. ``limits`` has the same on a memory of its own; it took 9 µs a request
and a thread, or 160 µs with a thousand keys, where this takes less than one.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from app.errors import RateExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_S = 60
#: Keys that are remembered; those that are silent are forgotten first.
MOST_KEYS = 10_000


class RequestRates:
    """Counts requests by key."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Count from zero.

        Args:
            per_minute: requests of one key in any minute; 0: as many as come.
            clock: gives seconds that only grow.
        """
        self._most = per_minute
        self._clock = clock
        #: key → number of its minute, requests in it, requests in the one before.
        self._counts: dict[str, tuple[int, int, int]] = {}

    def count(self, key: str) -> None:
        """Count a request of this key.

        Raises:
            RateExceeded: there were too many; this one is not counted.
        """
        if not self._most:
            return
        minute, elapsed_s = divmod(self._clock(), WINDOW_S)
        of, here, before = self._counts.get(key, (0, 0, 0))
        if of != minute:
            here, before = 0, here if of == minute - 1 else 0
        if before * (1 - elapsed_s / WINDOW_S) + here + 1 > self._most:
            message = (
                f"more than {self._most} requests in a minute came with this key; send fewer, or"
                " wait for results with ?wait= instead of asking often"
            )
            wait_s = max(math.ceil(self._wait_s(here, before, elapsed_s)), 1)
            raise RateExceeded(message, allowed=self._most, retry_after_s=wait_s)
        if key not in self._counts and len(self._counts) >= MOST_KEYS:
            self._forget(int(minute))
        self._counts[key] = (int(minute), here + 1, before)

    def _wait_s(self, here: int, before: int, elapsed_s: float) -> float:
        """How long until one more is allowed."""
        if here < self._most:
            return WINDOW_S * (1 - (self._most - 1 - here) / before) - elapsed_s
        return WINDOW_S - elapsed_s + WINDOW_S * (1 - (self._most - 1) / here)

    def _forget(self, minute: int) -> None:
        self._counts = {key: found for key, found in self._counts.items() if found[0] >= minute - 1}
        while len(self._counts) >= MOST_KEYS:
            del self._counts[next(iter(self._counts))]
