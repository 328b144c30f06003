"""What can be scraped?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from app.api import metrics as module
from app.api.metrics import preferred
from app.errors import Unavailable
from app.telemetry.metrics import METRICS
from tests.api.fakes import histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from fastapi import FastAPI

    from tests.api.fakes import FakeDispatcher

pytestmark = pytest.mark.anyio

#: What Prometheus sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture(autouse=True)
def counted(dispatcher: FakeDispatcher) -> None:
    dispatcher.counters = {
        ("jobs_submitted_total", ("qasm3", "simulator@aer")): 130,
        ("jobs_finished_total", ("Completed", "aer")): 120,
        ("jobs_finished_total", ("Completed", "noisy")): 4,
        ("jobs_finished_total", ("Failed", "aer")): 1,
        ("jobs_finished_total", ("Cancelled", "aer")): 5,
        ("jobs_requeued_total", ("lost",)): 2,
        ("jobs_handed_over_total", ("noisy",)): 3,
        ("jobs_dead_total", ()): 1,
        ("wakeups_pushed_total", ("aer",)): 9,
        ("wakeups_topped_up_total", ("aer",)): 3,
    }
    dispatcher.histograms = {
        ("job_queue_seconds", ("aer",)): histogram(first=2, second=1, last=4),
        ("job_run_seconds", ("aer",)): histogram(first=1, second=0, last=0),
    }


def figures(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_default_is_prometheus_text(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/metrics")

    found = figures(answer.text)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    aer = (("executor", "aer"),)
    assert found["qfleet_jobs_queued", aer] == 3
    assert found["qfleet_jobs_running", aer] == 2
    assert found["qfleet_job_oldest_queued_seconds", aer] == 1.5
    assert found["qfleet_wakeups", aer] == 1
    assert found["qfleet_workers", aer] == 1
    assert found["qfleet_slots", aer] == 4
    assert found["qfleet_redis_memory_bytes", ()] == 1_258_291
    assert found["qfleet_redis_memory_limit_bytes", ()] == 4_194_304
    assert found["qfleet_jobs_finished_total", (*aer, ("status", "Completed"))] == 120
    assert found["qfleet_jobs_dead_total", ()] == 1
    assert found["qfleet_finishes_fenced_total", ()] == 0


async def test_buckets_are_cumulative_and_end_with_all(client: httpx2.AsyncClient) -> None:
    found = figures((await client.get("/metrics")).text)

    def bucket(bound: str) -> float:
        return found["qfleet_job_queue_seconds_bucket", (("executor", "aer"), ("le", bound))]

    assert [bucket("0.001"), bucket("0.0025"), bucket("300.0"), bucket("+Inf")] == [2, 3, 3, 7]
    assert found["qfleet_job_queue_seconds_count", (("executor", "aer"),)] == 7
    assert found["qfleet_job_queue_seconds_sum", (("executor", "aer"),)] == 7.5


async def test_what_is_scraped_is_what_is_declared(client: httpx2.AsyncClient) -> None:
    await client.get("/")
    families = text_string_to_metric_families((await client.get("/metrics")).text)

    found = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {tuple(sorted(set(sample.labels) - {"le"})) for sample in family.samples},
            family.documentation,
        )
        for family in families
    }
    declared = {metric.full_name: metric for metric in METRICS}
    assert set(found) == set(declared)
    for name, (kind, labels, text) in found.items():
        assert kind == declared[name].kind
        assert labels == {tuple(sorted(declared[name].labels))}
        assert text == declared[name].help


async def test_requests_are_counted_by_route_and_status(client: httpx2.AsyncClient) -> None:
    await client.get("/tasks/one")
    await client.get("/tasks/two")
    await client.request("BREW", "/pot")

    found = figures((await client.get("/metrics")).text)
    task = (("method", "GET"), ("route", "/tasks/{task_id}"), ("status", "404"))
    other = (("method", "OTHER"), ("route", "unmatched"), ("status", "404"))
    assert found["qfleet_http_requests_total", task] == 2
    assert found["qfleet_http_requests_total", other] == 1
    assert found["qfleet_http_request_seconds_count", (("route", "/tasks/{task_id}"),)] == 2


async def test_two_applications_count_apart(
    make_app: Callable[..., FastAPI], connect: Callable[[FastAPI], httpx2.AsyncClient]
) -> None:
    async with connect(make_app()) as one, connect(make_app()) as other:
        await one.get("/nothing")
        text = (await other.get("/metrics")).text

    assert "unmatched" not in text


async def test_openmetrics_is_given_when_asked_for(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/metrics", headers={"accept": PROMETHEUS})

    names = {family.name for family in openmetrics_families(answer.text)}
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert names == {metric.full_name.removesuffix("_total") for metric in METRICS}


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/metrics", {"accept": "application/json"}), ("/metrics.json", {"accept": "text/html"})],
)
async def test_the_summary_has_real_numbers(
    client: httpx2.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    answer = await client.get(path, headers=headers)

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "queue_stats": {
            "pending_tasks": 3,
            "active_tasks": 3,
            "reserved_tasks": 0,
            "completed_tasks": 124,
        },
        "task_stats": {"total": 125, "completed": 124, "failed": 1, "success_rate": 99.2},
        "redis_stats": {
            "connected_clients": 4,
            "used_memory_human": "1.20M",
            "total_commands_processed": 8564,
        },
    }


async def test_nothing_ended_is_nothing_failed(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher
) -> None:
    dispatcher.counters = {}

    answer = await client.get("/metrics.json")

    assert answer.json()["task_stats"] == {
        "total": 0,
        "completed": 0,
        "failed": 0,
        "success_rate": 100.0,
    }


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/plain"),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json;q=0.1, text/plain", "text/plain"),
        ("application/json;q=0", "text/plain"),
        ("application/json;q=nonsense", "text/plain"),
        ("application/json;q=nan", "text/plain"),
        (PROMETHEUS, "application/openmetrics-text"),
        (";;,,;q=,", "text/plain"),
    ],
)
def test_the_accept_header_chooses(accept: str, media_type: str) -> None:
    assert preferred(accept) == media_type


@pytest.mark.parametrize("path", ["/metrics", "/metrics.json"])
async def test_a_scrape_sees_that_redis_is_down(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, path: str
) -> None:
    dispatcher.outage = Unavailable("Redis is away")

    answer = await client.get(path)

    assert answer.status_code == 503
    assert answer.json()["code"] == "unavailable"


async def test_a_scrape_does_not_wait_for_ever(
    client: httpx2.AsyncClient, dispatcher: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCRAPE_S", 0.01)
    dispatcher.hang = asyncio.Event()

    assert (await client.get("/metrics")).status_code == 503
