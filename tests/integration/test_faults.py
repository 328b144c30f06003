"""One fault at a time, on real processes: nothing is lost, nothing is doubled."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from .fleet import BELL, ENDLESS, Fleet, runs_long, wait_until

if TYPE_CHECKING:
    import subprocess


def bell_counts(answer: dict[str, object]) -> bool:
    result = answer.get("result")
    return isinstance(result, dict) and set(result) <= {"00", "11"} and sum(result.values()) == 1024


def test_a_wakeup_lost_with_its_worker_delays_a_job_and_loses_none(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    task = fleet.freeze_with_a_message(worker, "aer", fleet.submit)
    fleet.kill(worker)

    fleet.start_worker()

    assert bell_counts(fleet.wait(task))


def test_a_worker_killed_while_it_runs_a_job_gives_it_to_another(fleet: Fleet) -> None:
    doomed = fleet.start_worker()
    task = fleet.submit(runs_long(), shots=20)
    fleet.wait_running(task)
    fleet.kill(doomed)
    fleet.start_worker()

    answer = fleet.wait(task)

    assert answer["status"] == "completed"
    assert fleet.job(task)["attempt"] == "2"
    assert fleet.job(task)["commits"] == "1"


def test_a_frozen_worker_that_wakes_up_late_is_fenced(fleet: Fleet) -> None:
    frozen = fleet.start_worker()
    task = fleet.submit(runs_long(), shots=20)
    fleet.wait_running(task)
    fleet.freeze(frozen)
    fleet.start_worker()
    answer = fleet.wait(task)
    first = fleet.job(task)

    fleet.thaw(frozen)

    with fleet.redis() as client:
        wait_until(
            lambda: (
                int(client.hget("stats", "finishes_fenced_total") or 0) > 0
                or not fleet.sandbox_children(frozen)
            ),
            30,
            "the late finish is fenced, or the late sandbox is stopped",
        )
    assert answer["status"] == "completed"
    assert fleet.job(task) == first
    assert first["commits"] == "1"
    assert int(first["attempt"]) >= 2


def test_a_sandbox_that_dies_three_times_fails_its_job_and_spares_the_neighbour(
    fleet: Fleet,
) -> None:
    worker = fleet.start_worker(QFLEET_SLOTS="1")
    poison, neighbour = fleet.submit(ENDLESS), fleet.submit()
    for attempt in ("1", "2", "3"):
        wait_until(
            lambda expected=attempt: (
                fleet.job(poison)["attempt"] == expected
                and fleet.job(poison)["status"] == "Running"
                and bool(fleet.sandbox_children(worker))
            ),
            30,
            f"attempt {attempt} runs",
        )
        for child in fleet.sandbox_children(worker):
            child.kill()

    answer = fleet.wait(poison)

    assert (answer["status"], answer["code"]) == ("failed", "sandbox_crashed")
    assert fleet.job(poison)["crashes"] == "3"
    assert bell_counts(fleet.wait(neighbour))
    assert fleet.job(neighbour)["attempt"] == "1"
    assert worker.poll() is None


def test_a_cancelled_running_job_frees_its_slot_within_a_second(fleet: Fleet) -> None:
    worker = fleet.start_worker(QFLEET_SLOTS="1")
    endless = fleet.submit(ENDLESS)
    fleet.wait_running(endless)
    wait_until(lambda: bool(fleet.sandbox_children(worker)), 10, "a child runs it")
    (child,) = fleet.sandbox_children(worker)

    began = time.monotonic()
    status, _ = fleet.request("DELETE", f"/tasks/{endless}")
    gone, _ = psutil.wait_procs([child], timeout=1)

    assert status == 204
    assert gone
    assert time.monotonic() - began < 1
    assert fleet.wait(endless)["status"] == "cancelled"
    assert bell_counts(fleet.wait(fleet.submit()))


def test_a_job_that_runs_too_long_is_cancelled_with_reason_1305(fleet: Fleet) -> None:
    fleet.start_worker(QFLEET_SANDBOX__TIME_LIMIT_S="1")
    endless = fleet.submit(ENDLESS)

    answer = fleet.wait(endless)

    assert answer["status"] == "cancelled"
    assert "1 s" in answer["message"]
    assert fleet.job(endless)["reason_code"] == "1305"
    assert bell_counts(fleet.wait(fleet.submit()))


def test_jobs_outlive_a_killed_redis(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    running = fleet.submit(runs_long(), shots=20)
    fleet.wait_running(running)
    fleet.kill_valkey()
    status, answer = fleet.request("POST", "/tasks", {"circuit": BELL})
    assert (status, answer["code"]) == (503, "unavailable")
    assert fleet.request("GET", "/health/ready")[0] == 503
    assert fleet.request("GET", "/health/live")[0] == 200

    fleet.start_valkey()

    assert fleet.wait(running)["status"] == "completed"
    assert fleet.job(running)["attempt"] == "1"
    assert bell_counts(fleet.wait(fleet.submit()))
    assert worker.poll() is None


@pytest.mark.parametrize("load", ["idle", "loaded", "long"])
def test_sigterm_drains_and_loses_nothing(fleet: Fleet, load: str) -> None:
    leaving = fleet.start_worker(QFLEET_DRAIN_S="2")
    tasks: list[str] = []
    if load == "loaded":
        tasks = [fleet.submit() for _ in range(100)]
    if load == "long":
        tasks = [fleet.submit(ENDLESS), fleet.submit(ENDLESS), fleet.submit()]
        fleet.wait_running(tasks[0])

    leaving.send_signal(signal.SIGTERM)
    assert leaving.wait(timeout=20) == 0
    fleet.workers.remove(leaving)

    with fleet.redis() as client:
        assert client.zcard("leases") == 0
        assert client.zcard("workers") == 0
    for endless in tasks[:2] if load == "long" else ():
        assert fleet.job(endless)["status"] == "Queued"
        assert fleet.request("DELETE", f"/tasks/{endless}")[0] == 204
    fleet.start_worker()
    assert all(bell_counts(fleet.wait(task)) for task in tasks[2 if load == "long" else 0 :])


def test_a_killed_gateway_loses_and_doubles_nothing(fleet: Fleet) -> None:
    fleet.start_worker()
    stop = threading.Event()

    def kill_now_and_then() -> None:
        while not stop.wait(0.5):
            assert fleet.gateway is not None
            fleet.kill(fleet.gateway)
            fleet.start_gateway()

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            tasks = list(pool.map(lambda i: fleet.submit_stubbornly(f"key-{i}", BELL), range(300)))
    finally:
        stop.set()
        killer.join()

    assert len(set(tasks)) == 300
    with fleet.redis() as client:
        assert client.zcard("jobs:local:default") == 300
    assert all(bell_counts(fleet.wait(task)) for task in tasks)


def test_work_spreads_over_workers(fleet: Fleet) -> None:
    first, second = fleet.start_worker(), fleet.start_worker()
    tasks = [fleet.submit() for _ in range(200)]
    for task in tasks:
        fleet.wait(task)

    holders = {fleet.job(task)["holder"].split(":")[0] for task in tasks}

    assert len(holders) == 2
    assert {worker.poll() for worker in (first, second)} == {None}


def processes_of(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]


def test_nothing_survives_a_killed_worker(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    fleet.wait(fleet.submit())
    family = processes_of(worker)
    assert len(family) >= 3, "worker, zygote, child"

    fleet.kill(worker)

    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
