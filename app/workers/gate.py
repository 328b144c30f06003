"""When may a worker take another wake-up? When a slot is free to serve it, and not before.

Celery's ``worker_disable_prefetch`` asks the same question, but nothing wakes its event loop when a
task of the threads pool ends: it looks again when its poll times out, a second later. Measured with
two slots, eight clients and Bell circuits on a busy machine: 14 tasks/s, with this gate 123.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker.consumer.tasks import Tasks

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer


class WakeupGate:
    """Counts wake-ups that were taken and are not served yet."""

    def __init__(self, *, slots: int) -> None:
        """Let so many through at a time."""
        self._slots = slots
        self._taken = 0
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None

    @property
    def is_open(self) -> bool:
        """Whether another wake-up may be taken."""
        return self._taken < self._slots

    def attach(self, consumer: Consumer) -> None:
        """Stand before what this consumer takes from Redis, from its next connection on."""
        self._consumer = consumer
        quality = consumer.task_consumer.channel.qos
        can_consume = quality.can_consume
        quality.can_consume = lambda: self.is_open and can_consume()

    def take(self) -> None:
        """A wake-up has come."""
        with self._lock:
            self._taken += 1

    def release(self) -> None:
        """A wake-up has been served; the event loop looks for another at once."""
        with self._lock:
            self._taken -= 1
        if self._consumer is not None:
            self._consumer.hub.call_soon(_look_again)


def gate_step(gate: WakeupGate) -> type[bootsteps.StartStopStep]:
    """The step of Celery's consumer that attaches the gate, anew with every connection."""

    class Gate(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        requires = (Tasks,)

        def start(self, consumer: Any) -> None:
            gate.attach(consumer)

    return Gate


def _look_again() -> None:
    """Nothing: that it is called makes the loop turn."""
