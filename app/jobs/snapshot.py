"""What does the store know of the whole fleet, for health and metrics? Values only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """A distribution that the store's scripts count."""

    #: observations per bucket of ``app.lua.keys.BUCKETS_S``, not cumulative; the last: beyond all.
    buckets: tuple[int, ...]
    #: sum of all observations, seconds.
    sum_s: float


@dataclass(frozen=True, kw_only=True)
class RedisFigures:
    """What Redis says of itself."""

    connected_clients: int
    used_memory_bytes: int
    used_memory_human: str
    #: 0: no limit.
    max_memory_bytes: int
    total_commands_processed: int


@dataclass(frozen=True, kw_only=True)
class QueueFigures:
    """One executor's queue."""

    queued: int
    running: int
    #: wake-ups that lie in the Celery queue.
    wakeups: int
    #: age of the longest waiting job, seconds; 0 when none waits.
    oldest_queued_s: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The fleet at one moment."""

    #: counter name and label values → count; names and label names: ``app/telemetry/metrics.py``.
    counters: dict[tuple[str, tuple[str, ...]], int]
    #: histogram name and label values → distribution.
    histograms: dict[tuple[str, tuple[str, ...]], Histogram]
    #: executor → its queue.
    queues: dict[str, QueueFigures]
    redis: RedisFigures


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What can run jobs at this moment."""

    #: executors with a live worker.
    live: frozenset[str]
    #: executor → jobs that wait; of every executor that is known.
    queued: dict[str, int]
    #: qubits of the largest state vector that a live worker can hold; None: nobody knows.
    max_qubits: int | None
    #: executors that are drivers → their devices, as ``WorkerReport.devices`` has them.
    devices: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How much of the machines a scope has used in the usage period, and what it keeps."""

    used_s: float
    #: what its plan allows; None: it has no limit.
    allowed_s: int | None
    #: what its jobs take until they are deleted.
    kept_bytes: int
    #: what its plan allows of that; None: as much as of the owner is kept.
    allowed_bytes: int | None

    @property
    def is_exhausted(self) -> bool:
        """Whether no new job is taken for now."""
        return self.allowed_s is not None and self.used_s >= self.allowed_s
