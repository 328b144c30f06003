"""How long does a job wait? Measured: what the last jobs took, times those that wait."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.jobs.job import WorkerReport
    from app.jobs.snapshot import Snapshot

#: How long a measurement is believed.
FRESH_S = 2.0
#: Run times of this time count, if any job ended in it.
WINDOW_S = 60.0
MOST_S = 2**31 - 1
RUN_SECONDS = "job_run_seconds"


class Waits:
    """Estimates for every executor, from the figures of the whole fleet."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Awaitable[Snapshot]],
        workers: Callable[[], Awaitable[tuple[WorkerReport, ...]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it; asks when it is asked."""
        self._snapshot = snapshot
        self._workers = workers
        self._clock = clock
        self._taken = -math.inf
        self._measuring = asyncio.Lock()
        #: time → executor → jobs that ended and seconds that they ran, since ever.
        self._history: list[tuple[float, dict[str, tuple[int, float]]]] = []
        self._slots: dict[str, int] = {}

    async def of(self, executor: str, queued: int) -> int:
        """Seconds that a job would wait, rounded up; 0 when none waits, or none has ever run."""
        if not queued:
            return 0
        await self._measure()
        mean_s = self._mean_s(executor)
        return min(math.ceil(queued * mean_s / max(self._slots.get(executor, 1), 1)), MOST_S)

    async def _measure(self) -> None:
        # One measurement at a time: who comes meanwhile waits for it.
        async with self._measuring:
            if self._clock() - self._taken >= FRESH_S:
                await self._take()

    async def _take(self) -> None:
        now = self._clock()
        snapshot = await self._snapshot()
        totals = {
            labels[0]: (sum(histogram.buckets), histogram.sum_s)
            for (name, labels), histogram in snapshot.histograms.items()
            if name == RUN_SECONDS
        }
        recent = [entry for entry in self._history if entry[0] >= now - WINDOW_S]
        slots: dict[str, int] = {}
        for worker in await self._workers():
            for name in worker.executors:
                slots[name] = slots.get(name, 0) + worker.slots
        self._slots = slots
        self._history = [*(recent or self._history[-1:]), (now, totals)]
        self._taken = now

    def _mean_s(self, executor: str) -> float:
        jobs, seconds = self._history[-1][1].get(executor, (0, 0.0))
        before, before_s = self._history[0][1].get(executor, (0, 0.0))
        if jobs > before:
            return (seconds - before_s) / (jobs - before)
        return seconds / jobs if jobs else 0.0
