"""What can be scraped? The declared metrics as text for Prometheus, and a short summary as JSON."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field

from app.api.dependencies import Services, Shared
from app.api.errors import problem_responses
from app.errors import Unavailable
from app.jobs.job import JobStatus
from app.lua.keys import BUCKETS_S
from app.telemetry.metrics import FLEET_METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from app.jobs.job import WorkerReport
    from app.jobs.snapshot import Histogram, Snapshot
    from app.telemetry.metrics import Metric

#: How long the store may take; a scrape is better refused than late.
SCRAPE_S = 2.0

#: Media types of a scrape, the one to give in doubt first.
TEXT, OPENMETRICS, JSON = "text/plain", "application/openmetrics-text", "application/json"

Labels = tuple[str, ...]
Figure = TypeVar("Figure")

router = APIRouter(tags=["metrics"])


class QueueStats(BaseModel):
    """Tasks by where they are."""

    pending_tasks: int = Field(description="queued")
    active_tasks: int = Field(description="running")
    reserved_tasks: int = Field(description="always 0: a worker takes a task when it starts it")
    completed_tasks: int


class TaskStats(BaseModel):
    """Tasks that ran to an end; cancelled ones are neither completed nor failed."""

    total: int = Field(description="completed and failed")
    completed: int
    failed: int
    success_rate: float = Field(description="percent of the total; 100 when none has ended yet")


class RedisStats(BaseModel):
    """What Redis says of itself."""

    connected_clients: int
    used_memory_human: str
    total_commands_processed: int


class Summary(BaseModel):
    """The figures in short."""

    queue_stats: QueueStats
    task_stats: TaskStats
    redis_stats: RedisStats


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "by the Accept header: Prometheus text, OpenMetrics, or the summary",
            "content": {
                TEXT: {"schema": {"type": "string"}},
                OPENMETRICS: {"schema": {"type": "string"}},
                JSON: {"schema": {"$ref": "#/components/schemas/Summary"}},
            },
        },
        **problem_responses(HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
async def metrics(services: Shared, accept: Annotated[str, Header()] = "") -> Response:
    """The declared metrics; 503 while the store does not answer."""
    if preferred(accept) == JSON:
        return await summary_json(services)
    snapshot, workers = await _scrape(services)
    registry = CollectorRegistry()
    registry.register(Fleet(snapshot, workers))
    registry.register(services.metrics.registry)
    wanted = accept if preferred(accept) == OPENMETRICS else ""
    encode, media_type = choose_encoder(wanted)
    return Response(encode(registry), media_type=media_type)


@router.get(
    "/metrics.json",
    response_model=Summary,
    responses=problem_responses(HTTPStatus.SERVICE_UNAVAILABLE),
)
async def summary_json(services: Shared) -> JSONResponse:
    """The figures in short."""
    snapshot, _ = await _scrape(services)
    return JSONResponse(summary_of(snapshot).model_dump())


def summary_of(snapshot: Snapshot) -> Summary:
    """A snapshot in short."""
    finished = {status: _finished(snapshot, status) for status in JobStatus if status.is_final}
    completed, failed = finished[JobStatus.COMPLETED], finished[JobStatus.FAILED]
    total = completed + failed
    return Summary(
        queue_stats=QueueStats(
            pending_tasks=sum(queue.queued for queue in snapshot.queues.values()),
            active_tasks=sum(queue.running for queue in snapshot.queues.values()),
            reserved_tasks=0,
            completed_tasks=completed,
        ),
        task_stats=TaskStats(
            total=total,
            completed=completed,
            failed=failed,
            success_rate=round(100 * completed / total, 2) if total else 100.0,
        ),
        redis_stats=RedisStats(
            connected_clients=snapshot.redis.connected_clients,
            used_memory_human=snapshot.redis.used_memory_human,
            total_commands_processed=snapshot.redis.total_commands_processed,
        ),
    )


def preferred(accept: str) -> str:
    """Which media type of a scrape an Accept header likes best; text when it does not say."""
    best, best_quality = TEXT, 0.0
    for item in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = _quality(parameters)
        if media_type in (TEXT, OPENMETRICS, JSON) and quality > best_quality:
            best, best_quality = media_type, quality
    return best


class Fleet(Collector):
    """The figures of one moment, as Prometheus reads them."""

    def __init__(self, snapshot: Snapshot, workers: Sequence[WorkerReport]) -> None:
        """Hold what was just read."""
        self._snapshot = snapshot
        self._gauges = _gauges(snapshot, workers)

    def collect(self) -> Iterator[Family]:
        """Every metric of the fleet, whether it has counted yet or not."""
        for metric in FLEET_METRICS:
            match metric.kind:
                case "counter":
                    yield _counter(metric, _named(self._snapshot.counters, metric.name))
                case "histogram":
                    yield _histogram(metric, _named(self._snapshot.histograms, metric.name))
                case "gauge":
                    yield _gauge(metric, self._gauges[metric.name])


async def _scrape(services: Services) -> tuple[Snapshot, tuple[WorkerReport, ...]]:
    try:
        async with asyncio.timeout(SCRAPE_S):
            return (
                await services.dispatcher.snapshot(),
                await services.dispatcher.workers(),
            )
    except TimeoutError as exc:
        message = f"the store did not answer within {SCRAPE_S:g} s; try again"
        raise Unavailable(message, component="redis") from exc


def _quality(parameters: Sequence[str]) -> float:
    """The ``q`` of a media range; 1 when there is none, 0 when it is no number."""
    given = [
        value for name, _, value in (item.partition("=") for item in parameters) if name == "q"
    ]
    try:
        return float(given[0]) if given else 1.0
    except ValueError:
        return 0.0


def _finished(snapshot: Snapshot, status: JobStatus) -> int:
    return sum(
        count
        for (name, labels), count in snapshot.counters.items()
        if name == "jobs_finished_total" and labels[0] == status
    )


def _gauges(snapshot: Snapshot, workers: Sequence[WorkerReport]) -> dict[str, dict[Labels, float]]:
    """Name of a gauge → label values → figure."""
    queues = {(executor,): queue for executor, queue in snapshot.queues.items()}
    serving = {
        (executor,): [worker for worker in workers if executor in worker.executors]
        for executor in {*snapshot.queues, *(name for found in workers for name in found.executors)}
    }
    return {
        "jobs_queued": {labels: queue.queued for labels, queue in queues.items()},
        "jobs_running": {labels: queue.running for labels, queue in queues.items()},
        "job_oldest_queued_seconds": {
            labels: queue.oldest_queued_s for labels, queue in queues.items()
        },
        "wakeups": {labels: queue.wakeups for labels, queue in queues.items()},
        "workers": {labels: len(found) for labels, found in serving.items()},
        "slots": {
            labels: sum(worker.slots for worker in found) for labels, found in serving.items()
        },
        "redis_memory_bytes": {(): snapshot.redis.used_memory_bytes},
        "redis_memory_limit_bytes": {(): snapshot.redis.max_memory_bytes},
    }


def _named(figures: dict[tuple[str, Labels], Figure], name: str) -> dict[Labels, Figure]:
    return {labels: figure for (found, labels), figure in figures.items() if found == name}


def _counter(metric: Metric, counts: dict[Labels, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    # A counter without labels exists before it first counts, so that its rate is known.
    for labels, count in (counts if metric.labels else {(): 0} | counts).items():
        family.add_metric(labels, count)
    return family


def _gauge(metric: Metric, values: dict[Labels, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, found: dict[Labels, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)
    bounds = [*map(str, BUCKETS_S), "+Inf"]
    for labels, histogram in found.items():
        buckets = list(zip(bounds, accumulate(histogram.buckets), strict=True))
        family.add_metric(labels, buckets, histogram.sum_s)
    return family
