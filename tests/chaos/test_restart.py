"""A rolling restart under load: every gateway and worker is replaced, and nobody notices."""

from __future__ import annotations

import http.client
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from app.local.addresses import free_port
from tests.integration.fleet import BELL, Fleet, fleet_in, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

CLIENTS = 4
#: A job that somebody dropped waits for half of this at least; that is what "delayed" means here.
LEASE_S = 15.0
LONGEST_S = LEASE_S / 2


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task as its client saw it."""

    id: str
    #: from the submission to the result, seconds.
    took_s: float
    status: str


class Load:
    """Clients of two gateways, as behind a load balancer: who refuses the connection is passed by."""

    def __init__(self, fleet: Fleet) -> None:
        self.tasks: list[Task] = []
        self.faults: list[str] = []
        #: requests that came in the very moment in which a gateway closed: not one was read.
        self.resets = 0
        self._fleet = fleet
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.02):
            began = time.monotonic()
            answer = self._ask("POST", "/tasks", {"circuit": BELL, "shots": 100})
            task = str(answer["task_id"])
            answer = self._ask("GET", f"/tasks/{task}?wait=30")
            took_s = time.monotonic() - began
            self.tasks.append(Task(id=task, took_s=took_s, status=answer["status"]))

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, str]:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for port in list(self._fleet.gateways):
                try:
                    status, answer = self._fleet.request(method, path, body, port=port)
                except ConnectionRefusedError:
                    continue
                except ConnectionResetError:
                    self.resets += 1
                    continue
                except (OSError, http.client.HTTPException) as exc:
                    self.faults.append(f"{method} {path}: {exc!r}")
                    continue
                if status == 200:
                    return dict(answer)
                self.faults.append(f"{method} {path}: {status} {answer}")
        raise AssertionError(f"no gateway took {method} {path}")


def replace_worker(fleet: Fleet, old: subprocess.Popen[bytes]) -> None:
    fleet.start_worker()
    assert fleet.stop(old) == 0


def replace_gateway(fleet: Fleet, port: int) -> None:
    old = fleet.gateways[port]
    old.terminate()
    # uvicorn, when it has ended everything, gives the signal to itself once more.
    assert old.wait(20) == -signal.SIGTERM
    fleet.start_gateway(port)
    wait_until(lambda: fleet.request("GET", "/health/ready", port=port)[0] == 200, 5, "ready")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path, QFLEET_LEASE_S=str(LEASE_S)) as made:
        made.start_gateway()
        yield made


@pytest.mark.timeout(120)
def test_a_rolling_restart_loses_and_delays_nothing(fleet: Fleet) -> None:
    second = fleet.start_gateway(free_port(), wait=False)
    before = [fleet.start_worker(wait=False), fleet.start_worker(wait=False)]
    for worker in before:
        wait_until(lambda worker=worker: fleet.is_serving(worker), 60, "it serves")
    wait_until(lambda: fleet.gateway_answers(second), 20, "the second gateway answers")
    load = Load(fleet)
    try:
        wait_until(lambda: len(load.tasks) > 50, 30, "the load is on")
        calm = len(load.tasks)
        for worker in before:
            replace_worker(fleet, worker)
        for port in list(fleet.gateways):
            replace_gateway(fleet, port)
        replaced = len(load.tasks)
        wait_until(lambda: len(load.tasks) > replaced + 50, 30, "all goes on")
    finally:
        load.end()

    assert load.faults == []
    assert load.resets <= CLIENTS * len(fleet.gateways)
    assert {task.status for task in load.tasks} == {"completed"}
    records = [fleet.job(task.id) for task in load.tasks]
    assert {record["attempt"] for record in records} == {"1"}, "nothing was run again"
    holders = {record["holder"].split(":")[0] for record in records}
    assert len(holders) == 4, "the old and the new workers had their part"
    longest = {
        "before": max(task.took_s for task in load.tasks[:calm]),
        "meanwhile": max(task.took_s for task in load.tasks[calm:replaced]),
    }
    with fleet.redis() as client:
        assert client.zcard("jobs:local:default") == len(load.tasks), (
            "none twice, and none of a reset"
        )
    sys.stderr.write(
        f"\n{len(load.tasks)} tasks, {replaced - calm} during the restart; the longest took"
        f" {longest['meanwhile']:.2f} s, {longest['before']:.2f} s before; {load.resets} resets\n"
    )
    assert longest["meanwhile"] < LONGEST_S
