"""How do a driver's jobs come to it? The manager is a worker of a queue that is called like it."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import structlog

from app.errors import Unavailable

if TYPE_CHECKING:
    from app.jobs.claims import ClaimStore
    from app.jobs.job import WorkerReport
    from app.runner import Runner
    from app.sweeper import Sweeper

log = structlog.get_logger()

#: How long a slot waits at the queue before it looks whether it shall stop.
WAIT_S = 1.0
#: Pause while Redis does not answer.
RETRY_S = 0.2
JOIN_S = 3.0


class DriverWorker:
    """Slots that serve one driver's queue, without Celery: a wake-up is taken from the list."""

    def __init__(
        self, *, driver: str, slots: int, claims: ClaimStore, runner: Runner, sweeper: Sweeper
    ) -> None:
        """Make it; ``announce`` first, then ``start`` serves."""
        self._driver = driver
        self._claims = claims
        self._runner = runner
        self._sweeper = sweeper
        self._stop = threading.Event()
        self._left = threading.Event()
        self._slots = [
            threading.Thread(target=self._serve, name=f"{driver}-{number}", daemon=True)
            for number in range(slots)
        ]
        self._loops = [
            threading.Thread(target=loop, args=(self._left,), name=name, daemon=True)
            for name, loop in (
                (f"{driver}-beat", sweeper.keep),
                (f"{driver}-cancel", sweeper.listen),
            )
        ]

    def announce(self) -> None:
        """The fleet knows of the driver when this returns, if Redis answers."""
        try:
            self._sweeper.tick()
        except Unavailable as exc:
            log.warning("beat_missed", error=exc.message)

    def start(self) -> None:
        """Serve from now on."""
        for thread in (*self._loops, *self._slots):
            thread.start()

    def report(self, report: WorkerReport) -> None:
        """Say this of the driver's devices from now on."""
        self._sweeper.tell(report)

    def stop(self, drain_s: float) -> None:
        """Claim nothing more, wait for what runs, give back what does not end, say goodbye."""
        self._stop.set()
        self._runner.drain(drain_s)
        self._left.set()
        for thread in (*self._loops, *self._slots):
            thread.join(JOIN_S)
        try:
            self._claims.leave()
        except Unavailable as exc:
            log.warning("goodbye_unheard", driver_name=self._driver, error=exc.message)

    def _serve(self) -> None:
        # Jobs may have waited for the driver to come.
        ready = True
        while not self._stop.is_set():
            try:
                if ready:
                    self._runner.serve(self._driver)
                woken = self._claims.await_wakeup(executors=(self._driver,), timeout_s=WAIT_S)
                ready = woken is not None
            except Unavailable:
                self._stop.wait(RETRY_S)
            except Exception:
                # The runner has given the job back; the slot goes on.
                log.exception("slot_failed", driver_name=self._driver)
        if ready:
            # A wake-up that came with the end is for others: the runner leaves one behind.
            with contextlib.suppress(Unavailable):
                self._runner.serve(self._driver)
