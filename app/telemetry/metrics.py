"""Which figures can an operator scrape? Every metric, declared once, and those that HTTP keeps.

The figures of jobs are counted by the store's scripts, so they are exact across the fleet; those of
HTTP are counted by each gateway process for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

#: Stands in front of every name.
PREFIX = "qfleet_"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: what it is called, what it counts, what it is split by."""

    #: without the prefix; counters end in ``_total``, times in ``_seconds``.
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    #: in the order in which label values are given.
    labels: tuple[str, ...] = ()
    help: str

    @property
    def full_name(self) -> str:
        """As it is scraped."""
        return PREFIX + self.name


HTTP_REQUESTS = Metric(
    name="http_requests_total",
    kind="counter",
    labels=("method", "route", "status"),
    help="Requests that this gateway process answered.",
)
HTTP_SECONDS = Metric(
    name="http_request_seconds",
    kind="histogram",
    labels=("route",),
    help="Time from the head of a request to the end of its answer; waiting is part of it.",
)

#: Of the store: all jobs, all workers.
FLEET_METRICS: tuple[Metric, ...] = (
    Metric(
        name="jobs_submitted_total",
        kind="counter",
        labels=("primitive", "backend"),
        help="Jobs accepted.",
    ),
    Metric(
        name="jobs_finished_total",
        kind="counter",
        labels=("status", "executor"),
        help="Jobs that reached a final state.",
    ),
    Metric(
        name="jobs_requeued_total",
        kind="counter",
        labels=("kind",),
        help="Claims given back because the worker was lost or the sandbox crashed.",
    ),
    Metric(
        name="jobs_handed_over_total",
        kind="counter",
        labels=("executor",),
        help="Jobs that `auto` gave to the queue of this executor.",
    ),
    Metric(
        name="jobs_dead_total",
        kind="counter",
        help="Jobs that failed because their worker or sandbox died too often.",
    ),
    Metric(
        name="finishes_fenced_total",
        kind="counter",
        help="Results refused because they came from an attempt that was over.",
    ),
    Metric(name="leases_reaped_total", kind="counter", help="Leases of silent workers ended."),
    Metric(
        name="claims_handed_back_total",
        kind="counter",
        help="Claims given to the same slot again because the first answer was lost.",
    ),
    Metric(
        name="wakeups_pushed_total",
        kind="counter",
        labels=("executor",),
        help="Wake-ups pushed with a new job.",
    ),
    Metric(
        name="wakeups_topped_up_total",
        kind="counter",
        labels=("executor",),
        help="Wake-ups pushed because jobs were ready and too few lay in the queue.",
    ),
    Metric(
        name="job_queue_seconds",
        kind="histogram",
        labels=("executor",),
        help="Time from a job's creation to its first claim.",
    ),
    Metric(
        name="job_run_seconds",
        kind="histogram",
        labels=("executor",),
        help="Time from a job's last claim to its end.",
    ),
    Metric(
        name="jobs_queued", kind="gauge", labels=("executor",), help="Jobs that wait for a slot."
    ),
    Metric(name="jobs_running", kind="gauge", labels=("executor",), help="Jobs that run."),
    Metric(
        name="job_oldest_queued_seconds",
        kind="gauge",
        labels=("executor",),
        help="Age of the job that waits longest; 0 when none waits.",
    ),
    Metric(
        name="wakeups",
        kind="gauge",
        labels=("executor",),
        help="Wake-ups that lie in the Celery queue.",
    ),
    Metric(name="workers", kind="gauge", labels=("executor",), help="Live workers that serve it."),
    Metric(
        name="slots",
        kind="gauge",
        labels=("executor",),
        help="Slots of those workers; a worker of several executors counts for each.",
    ),
    Metric(name="redis_memory_bytes", kind="gauge", help="Memory that Redis uses."),
    Metric(
        name="redis_memory_limit_bytes",
        kind="gauge",
        help="Memory at which Redis refuses new jobs; 0: the machine's.",
    ),
)

METRICS = (*FLEET_METRICS, HTTP_REQUESTS, HTTP_SECONDS)

#: Upper bounds of the buckets of ``http_request_seconds``, up to the longest ``?wait=``.
HTTP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0)

#: Other methods count as ``OTHER``: a label must not grow with what strangers send.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """What one gateway process counts of its own requests."""

    def __init__(self) -> None:
        """Start at zero, in a registry of its own."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            HTTP_REQUESTS.full_name,
            HTTP_REQUESTS.help,
            HTTP_REQUESTS.labels,
            registry=self.registry,
        )
        self._seconds = Histogram(
            HTTP_SECONDS.full_name,
            HTTP_SECONDS.help,
            HTTP_SECONDS.labels,
            registry=self.registry,
            buckets=HTTP_BUCKETS_S,
        )

    def count(self, *, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one request.

        Args:
            method: of HTTP.
            route: the template, e.g. ``/tasks/{task_id}``; never a path that a caller made up.
            status: of the answer.
            duration_s: seconds from the head of the request to the end of the answer.
        """
        known = method if method in METHODS else "OTHER"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(duration_s)
