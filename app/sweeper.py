"""What does the clock ask of a worker? Heartbeats, leases, recovery, and news of cancelled jobs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import redis
import structlog

from app.errors import Unavailable
from app.jobs.claims import REAP_MOST
from app.lua.keys import CANCEL_CHANNEL

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from pathlib import Path

    from app.jobs.claims import ClaimStore
    from app.jobs.job import WorkerReport
    from app.runner import Runner

log = structlog.get_logger()

RECONNECT_S = 0.5
#: A silent subscription is asked for a word this often; without one for so long, it is made again.
LISTEN_S = 1.0
SILENCE_S = 5.0


class Sweeper:
    """Keeps one worker's claims alive and everybody's queues moving."""

    def __init__(
        self,
        *,
        claims: ClaimStore,
        client: redis.Redis,
        runner: Runner,
        report: WorkerReport,
        wakeups: Mapping[str, str],
        beat_s: float,
        heartbeat_file: Path | None,
    ) -> None:
        """Make the sweeper.

        Args:
            claims: the store.
            client: for the subscription to cancellations.
            runner: whose jobs are kept and killed.
            report: what this worker says of itself.
            wakeups: executor → message that wakes a worker of it.
            beat_s: time between two ticks.
            heartbeat_file: touched with every tick, for a liveness probe.
        """
        self._claims = claims
        self._client: Any = client
        self._runner = runner
        self._report = report
        self._wakeups = wakeups
        self._beat_s = beat_s
        self._heartbeat_file = heartbeat_file

    def tick(self) -> None:
        """Beat, kill what is no longer ours, reap.

        Raises:
            Unavailable: Redis does not answer; the next tick makes up for it.
        """
        busy = self._runner.busy()
        report = replace(self._report, busy=len(busy))
        for stale in self._claims.beat(report=report, busy=busy):
            # Its slot may have it again by now.
            if self._runner.kill(stale.slot, stale.job_id, stale.attempt):
                log.info("job_stopped", job_id=stale.job_id, reason="no longer ours")
        self._runner.learn(self._claims.live(), self._claims.worth_from())
        self._reap(until=time.monotonic() + self._beat_s)

    def _reap(self, *, until: float) -> None:
        """Reap all there is; a busy fleet has more than one go of final jobs to delete."""
        while True:
            reaped = self._claims.reap(wakeups=self._wakeups)
            if reaped.given_back:
                log.warning("leases_reaped", jobs=reaped.given_back)
            if reaped.deleted < REAP_MOST or time.monotonic() > until:
                return

    def tell(self, report: WorkerReport) -> None:
        """Say this of the worker with every tick from now on."""
        self._report = report

    def keep(self, stop: threading.Event) -> None:
        """Tick until told to stop."""
        while True:
            try:
                self.tick()
            except Unavailable as exc:
                log.warning("beat_missed", error=exc.message)
            self._touch()
            if stop.wait(self._beat_s):
                return

    def _touch(self) -> None:
        if self._heartbeat_file is None:
            return
        try:
            self._heartbeat_file.touch()
        except OSError as exc:
            # The probe will say that we are dead; the jobs here need their leases all the same.
            log.warning("heartbeat_file_not_written", error=str(exc))

    def listen(self, stop: threading.Event) -> None:
        """Kill jobs as they are cancelled, until told to stop. ``tick`` catches what is missed."""
        while not stop.is_set():
            try:
                self._listen(stop)
            except (redis.RedisError, OSError) as exc:
                log.warning("subscription_lost", channel=CANCEL_CHANNEL, error=type(exc).__name__)
                stop.wait(RECONNECT_S)

    def _listen(self, stop: threading.Event) -> None:
        with self._client.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(CANCEL_CHANNEL)
            heard = time.monotonic()
            while not stop.is_set():
                message = subscription.get_message(timeout=LISTEN_S)
                if message is None:
                    if time.monotonic() - heard > SILENCE_S:
                        raise redis.ConnectionError("nothing came, nor an answer to a ping")
                    subscription.ping()
                    continue
                heard = time.monotonic()
                if message["type"] != "message":
                    continue
                holder, job_id = message["data"].decode().split(" ")
                worker, _, slot = holder.partition(":")
                if worker == self._report.id and self._runner.kill(slot, job_id):
                    log.info("job_stopped", job_id=job_id, reason="cancelled")
