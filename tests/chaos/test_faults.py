"""One fault at a time, on real processes: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.integration.fleet import BELL, ENDLESS, Fleet, fleet_in, runs_long, wait_until

from .poison import Death

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
LEASE_S = 1.0
TIME_LIMIT_S = 5.0
#: Shots with which ``runs_long`` takes a second.
SHOTS = 20


def bell_counts(answer: dict[str, object]) -> bool:
    result = answer.get("result")
    return isinstance(result, dict) and set(result) <= {"00", "11"} and sum(result.values()) == 1024


# --- a worker is hit --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet without workers."""
    with fleet_in(tmp_path_factory.mktemp("faults")) as made:
        made.start_gateway()
        yield made


@pytest.fixture
def fleet(gateway: Fleet) -> Iterator[Fleet]:
    """Workers are the test's to start and to break; none is left, and no job."""
    yield gateway
    with gateway.redis() as client:
        assert client.zcard("leases") == client.zcard("arrivals:aer") == 0
    for worker in list(gateway.workers):
        gateway.kill(worker)


def test_a_wakeup_lost_with_its_worker_delays_a_job_and_loses_none(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    task = fleet.freeze_with_a_message(worker, "aer", fleet.submit)
    fleet.kill(worker)

    fleet.start_worker()

    assert bell_counts(fleet.wait(task))


def test_a_killed_worker_leaves_its_job_to_another_and_no_process_behind(fleet: Fleet) -> None:
    doomed = fleet.start_worker()
    task = fleet.submit(runs_long(), shots=SHOTS)
    fleet.wait_running(task)
    wait_until(lambda: bool(fleet.sandbox_children(doomed)), 10, "a child runs it")
    family = [psutil.Process(doomed.pid), *psutil.Process(doomed.pid).children(recursive=True)]
    assert len(family) >= 3, "worker, zygote, child"

    fleet.kill(doomed)

    assert psutil.wait_procs(family, timeout=5)[1] == []
    fleet.start_worker()
    assert fleet.wait(task)["status"] == "completed"
    assert fleet.job(task)["attempt"] == "2"
    assert fleet.job(task)["commits"] == "1"


def test_a_frozen_worker_that_wakes_up_late_is_fenced(fleet: Fleet) -> None:
    frozen = fleet.start_worker()
    task = fleet.submit(runs_long(), shots=SHOTS)
    fleet.wait_running(task)
    fleet.freeze(frozen)
    fleet.start_worker()
    answer = fleet.wait(task)
    first = fleet.job(task)

    with fleet.redis() as client:
        refused = int(client.hget("stats", "finishes_fenced_total") or 0)
        fleet.thaw(frozen)
        wait_until(
            lambda: (
                int(client.hget("stats", "finishes_fenced_total") or 0) > refused
                or not fleet.sandbox_children(frozen)
            ),
            30,
            "the late finish is fenced, or the late sandbox is stopped",
        )
    assert answer["status"] == "completed"
    assert fleet.job(task) == first
    assert first["commits"] == "1"
    assert int(first["attempt"]) >= 2


def test_a_stopping_worker_gives_back_what_does_not_end_in_time(fleet: Fleet) -> None:
    leaving = fleet.start_worker(QFLEET_DRAIN_S="1")
    endless = [fleet.submit(ENDLESS), fleet.submit(ENDLESS)]
    waiting = fleet.submit()
    for task in endless:
        fleet.wait_running(task)

    assert fleet.stop(leaving) == 0

    with fleet.redis() as client:
        assert client.zcard("leases") == 0
        reports = [json.loads(client.get(name)) for name in client.scan_iter("worker:*")]
        assert leaving.pid not in {report["pid"] for report in reports}
    for task in endless:
        assert fleet.job(task)["status"] == "Queued"
        assert fleet.job(task)["crashes"] == "0"
        assert fleet.request("DELETE", f"/tasks/{task}")[0] == 204
    fleet.start_worker()
    assert bell_counts(fleet.wait(waiting))


# --- a job is hit: one fleet that all of this leaves as it was --------------------------------------


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory, poisonous_python: str) -> Iterator[Fleet]:
    """A gateway and a worker that has the executor ``poison``."""
    with fleet_in(
        tmp_path_factory.mktemp("steady"),
        python=poisonous_python,
        QFLEET_EXECUTORS="aer,poison",
        QFLEET_LEASE_S=str(LEASE_S),
        QFLEET_SANDBOX__TIME_LIMIT_S=str(TIME_LIMIT_S),
        QFLEET_SANDBOX__MEMORY_BYTES=str(512 * MIB),
    ) as made:
        made.start_gateway()
        worker = made.start_worker()
        yield made
        assert worker.poll() is None, "the worker has ended"


@pytest.mark.parametrize(
    ("death", "told"),
    [
        (Death.KILL, "SIGKILL"),
        (Death.SEGFAULT, "SIGSEGV"),
        (Death.ABORT, "SIGABRT"),
        (Death.EXIT, "exit code 3"),
    ],
)
def test_a_job_that_kills_its_sandbox_fails_after_three_tries_and_spares_its_neighbour(
    steady: Fleet, death: Death, told: str
) -> None:
    poison = steady.submit(BELL, seed=int(death), backend="simulator@poison")
    neighbour = steady.submit()

    answer = steady.wait(poison)

    assert (answer["status"], answer["code"]) == ("failed", "sandbox_crashed")
    assert told in answer["message"]
    record = steady.job(poison)
    assert (record["attempt"], record["crashes"], record["commits"]) == ("3", "3", "1")
    assert bell_counts(steady.wait(neighbour))
    assert steady.job(neighbour)["attempt"] == "1"
    with steady.redis() as client:
        assert poison in client.lrange("dead", 0, -1)


def test_a_job_that_eats_all_memory_fails_once_and_says_so(steady: Fleet) -> None:
    hungry = steady.submit(BELL, seed=int(Death.HUNGER), backend="simulator@poison")

    answer = steady.wait(hungry)

    assert (answer["status"], answer["code"]) == ("failed", "memory_limit_reached")
    assert "512 MiB" in answer["message"]
    record = steady.job(hungry)
    assert (record["attempt"], record["crashes"], record["commits"]) == ("1", "0", "1")
    assert bell_counts(steady.wait(steady.submit()))


def test_a_job_may_run_longer_than_its_lease_and_no_broker_waits_for_it(steady: Fleet) -> None:
    """And when its own time is over it is cancelled, with the protocol's reason."""
    endless = steady.submit(ENDLESS)
    steady.wait_running(endless)
    with steady.redis() as client:
        # There is nothing that a time-out of the broker could deliver again; a wake-up too many is
        # taken by the other slot.
        wait_until(lambda: not client.exists("aer", "unacked", "unacked_index"), 10, "nothing lies")
    began = time.monotonic()

    answer = steady.wait(endless)

    assert time.monotonic() - began > 2 * LEASE_S
    assert answer["status"] == "cancelled"
    assert "5 s" in answer["message"]
    record = steady.job(endless)
    assert (record["attempt"], record["commits"]) == ("1", "1")
    assert record["reason_code"] == "1305"
    assert bell_counts(steady.wait(steady.submit()))
