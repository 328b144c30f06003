"""Redis is away, stuck, or full: callers hear of it at once, and everything goes on by itself."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.integration.fleet import BELL, Fleet, fleet_in, runs_long, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    import redis

#: An answer that comes later is no answer: the caller's own time-out was quicker.
ANSWER_S = 2.0
#: What fits on the wire beside it.
SLACK_S = 0.3
#: Longer than the lease of the fleet: nobody may lose a job for it.
OUTAGE_S = 4.0
MIB = 1 << 20


def ask(fleet: Fleet, method: str, path: str, body: object = None) -> tuple[int, str | None, float]:
    """Status, Retry-After, and how long the answer took."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Retry-After"), time.monotonic() - began
    finally:
        connection.close()


def refused_at_once(fleet: Fleet, task: str) -> float:
    """Every kind of request is refused in time, many at once; gives the longest wait, seconds."""
    requests = [
        ("POST", "/tasks", {"circuit": BELL}),
        ("GET", f"/tasks/{task}", None),
        ("GET", f"/tasks/{task}?wait=30", None),
        ("DELETE", f"/tasks/{task}", None),
        ("GET", "/tasks", None),
        ("GET", "/api/v1/jobs", None),
        ("GET", f"/api/v1/jobs/{task}", None),
    ] * 4
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda request: ask(fleet, *request), requests))
    for request, (status, retry_after, took_s) in zip(requests, answers, strict=True):
        assert status == 503, request
        assert retry_after is not None, request
        assert int(retry_after) >= 1, request
        assert took_s < ANSWER_S + SLACK_S, (request, took_s)
    return max(took_s for _, _, took_s in answers)


def tells_that_it_is_not_ready(fleet: Fleet) -> None:
    for path, expected in (("/health/live", 200), ("/health/ready", 503), ("/health", 503)):
        status, _, took_s = ask(fleet, "GET", path)
        assert status == expected, path
        assert took_s < 0.2 + SLACK_S, path


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A gateway and a worker; every test leaves them well."""
    with fleet_in(tmp_path_factory.mktemp("outage"), QFLEET_SLOTS="1", QFLEET_DRAIN_S="1") as made:
        made.start_gateway()
        made.start_worker()
        yield made


def ends_what_it_runs(fleet: Fleet, worker: subprocess.Popen[bytes]) -> None:
    def is_idle() -> bool:
        children = fleet.sandbox_children(worker)
        return all(child.status() != psutil.STATUS_RUNNING for child in children)

    wait_until(is_idle, 20, "the worker ends what it runs")


def all_is_well(fleet: Fleet) -> float:
    """The next job runs, and health says so; gives how long it took from now, seconds."""
    began = time.monotonic()
    assert fleet.wait(fleet.submit_stubbornly(f"after {began}", BELL))["status"] == "completed"
    took_s = time.monotonic() - began
    wait_until(lambda: ask(fleet, "GET", "/health/ready")[0] == 200, 3, "it is ready again")
    wait_until(lambda: ask(fleet, "GET", "/health")[0] == 200, 5, "all is well again")
    return took_s


def test_a_killed_redis_delays_jobs_and_doubles_none(fleet: Fleet) -> None:
    (staying,) = fleet.workers
    leaving = fleet.start_worker()
    tasks = [fleet.submit(runs_long(), shots=20) for _ in range(2)]
    for task in tasks:
        fleet.wait_running(task)
    fleet.kill_valkey()

    longest_s = refused_at_once(fleet, tasks[0])
    tells_that_it_is_not_ready(fleet)
    # One worker stops meanwhile; the other's job ends, and waits for somebody to tell.
    assert fleet.stop(leaving) == 0
    ends_what_it_runs(fleet, staying)

    fleet.start_valkey()
    ran_s = all_is_well(fleet)
    assert [fleet.wait(task)["status"] for task in tasks] == ["completed"] * 2
    records = [fleet.job(task) for task in tasks]
    assert [record["commits"] for record in records] == ["1", "1"]
    # What ended in the outage was recorded; what was given up ran again.
    assert sorted(record["attempt"] for record in records) == ["1", "2"]
    assert staying.poll() is None
    sys.stderr.write(
        f"\nkilled: refused within {longest_s:.2f} s; a job was done {ran_s:.2f} s after the return\n"
    )
    # kombu by itself looks again after 2, 6, 12 and 20 s.
    assert ran_s < 2


def test_a_frozen_redis_delays_jobs_and_doubles_none(fleet: Fleet) -> None:
    (worker,) = fleet.workers
    task = fleet.submit(runs_long(), shots=20)
    fleet.wait_running(task)
    assert fleet.valkey.process is not None
    fleet.freeze(fleet.valkey.process)
    began = time.monotonic()

    longest_s = refused_at_once(fleet, task)
    tells_that_it_is_not_ready(fleet)
    ends_what_it_runs(fleet, worker)
    threading.Event().wait(max(OUTAGE_S - (time.monotonic() - began), 0))

    fleet.thaw(fleet.valkey.process)
    ran_s = all_is_well(fleet)
    assert fleet.wait(task)["status"] == "completed"
    record = fleet.job(task)
    assert (record["attempt"], record["commits"]) == ("1", "1"), "nobody lost it for an outage"
    assert worker.poll() is None
    sys.stderr.write(
        f"\nfrozen: refused within {longest_s:.2f} s; a job was done {ran_s:.2f} s after the return\n"
    )
    assert ran_s < 2


def everything(client: redis.Redis) -> dict[str, object]:
    """All that is stored, but for what workers and gateways say of themselves."""
    own = ("worker", "reaper:tick", "probe", "stats", "wakeup:sequence", "_kombu")
    return {
        key: client.dump(key)
        for key in sorted(client.scan_iter("*"))
        if not key.startswith(own) and key not in ("aer", "leases")
    }


def test_a_full_redis_refuses_new_jobs_and_ends_those_it_has(fleet: Fleet) -> None:
    done = fleet.submit()
    fleet.wait(done)
    running = fleet.submit(runs_long(), shots=20)
    fleet.wait_running(running)
    large = {
        "program_id": "sampler",
        "backend": "simulator@aer",
        "params": {"pubs": ["x" * (3 * MIB)]},
    }
    with fleet.redis() as client:
        before = everything(client)
        number = client.zcard("jobs:local:default")
        # Not a byte more than there is.
        client.config_set("maxmemory", "1mb")

        for path, body in (("/tasks", {"circuit": BELL}), ("/api/v1/jobs", large)):
            for _ in range(3):
                status, retry_after, took_s = ask(fleet, "POST", path, body)
                assert (status, took_s < ANSWER_S) == (503, True), path
                assert retry_after is not None
        refused = fleet.request("POST", "/tasks", {"circuit": BELL})[1]
        assert "full" in refused["detail"]
        assert ask(fleet, "GET", "/health/ready")[0] == 503
        assert ask(fleet, "GET", "/health/live")[0] == 200
        assert everything(client) == before, "nothing is half stored"

        # What is there is read, runs to its end, and can be deleted.
        assert fleet.request("GET", f"/tasks/{done}")[1]["status"] == "completed"
        assert fleet.wait(running)["status"] == "completed"
        assert fleet.request("DELETE", f"/api/v1/jobs/{done}")[0] == 204
        client.config_set("maxmemory", "0")

        all_is_well(fleet)
        assert client.zcard("jobs:local:default") == number, "one is deleted, one is new"


def test_a_redis_that_refuses_to_write_delays_jobs_and_ends_no_process(fleet: Fleet) -> None:
    """As it does when the disk is full, or when a replica that it needs is gone."""
    (worker,) = fleet.workers
    done = fleet.submit()
    fleet.wait(done)
    running = fleet.submit(runs_long(), shots=20)
    fleet.wait_running(running)
    idle = fleet.start_worker()
    with fleet.redis() as client:
        before = everything(client)
        client.config_set("min-replicas-to-write", "1")
        try:
            for _ in range(3):
                status, retry_after, took_s = ask(fleet, "POST", "/tasks", {"circuit": BELL})
                assert (status, took_s < ANSWER_S) == (503, True)
                assert retry_after is not None
            refused = fleet.request("POST", "/tasks", {"circuit": BELL})[1]
            assert "Redis refuses: NOREPLICAS" in refused["detail"]
            assert ask(fleet, "GET", "/health/ready")[0] == 503
            assert ask(fleet, "GET", "/health/live")[0] == 200
            assert fleet.request("GET", f"/tasks/{done}")[1]["status"] == "completed"
            ends_what_it_runs(fleet, worker)
            threading.Event().wait(OUTAGE_S)
            assert everything(client) == before, "nothing is half stored"
        finally:
            client.config_set("min-replicas-to-write", "0")

    ran_s = all_is_well(fleet)
    assert fleet.wait(running)["status"] == "completed"
    assert [worker.poll(), idle.poll()] == [None, None], "they have waited"
    assert fleet.stop(idle) == 0
    assert ran_s < 2
