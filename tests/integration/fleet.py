"""A real fleet to break: Valkey, gateway and workers as processes of their own, faults by pid."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import redis

from app.local.addresses import free_port
from app.local.valkey import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Published = TypeVar("Published")

BELL = 'OPENQASM 3.0; include "stdgates.inc"; qubit[2] q; bit[2] c; h q[0]; cx q[0], q[1]; c = measure q;'
#: Never ends: the bit never becomes 1.
ENDLESS = (
    'OPENQASM 3.0; include "stdgates.inc"; qubit q; bit c;'
    " c = measure q; while (c == 0) { reset q; c = measure q; }"
)


def runs_long() -> str:
    """Work that grows with the shots, up to 64: what is measured decides what is done next."""
    layer = "h q; t q; cx q[0:14], q[1:15];"
    decisions = " ".join(
        f"c[{i}] = measure q[{i}]; if (c[{i}] == 1) {{ x q[{i}]; }} {layer}" for i in range(6)
    )
    return (
        'OPENQASM 3.0; include "stdgates.inc"; qubit[16] q; bit[16] c;'
        f" {layer} {decisions} c = measure q;"
    )


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Return as soon as the condition holds; fail with what was waited for."""
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        pause.wait(0.02)


class Fleet:
    """Processes of one fleet; every one of them is gone when it is closed."""

    def __init__(
        self, *, folder: Path, valkey: EmbeddedValkey, python: str = sys.executable, **settings: str
    ) -> None:
        self.folder = folder
        self.valkey = valkey
        self.port = free_port()
        self.workers: list[subprocess.Popen[bytes]] = []
        #: port → the gateway there; the first one listens on ``port``.
        self.gateways: dict[int, subprocess.Popen[bytes]] = {}
        #: process id → what it said.
        self.logs: dict[int, Path] = {}
        self._python = python
        self._logs = 0
        self.environment = (
            os.environ
            | {
                "QFLEET_REDIS_URL": valkey.url,
                "QFLEET_PORT": str(self.port),
                "QFLEET_EXECUTORS": "aer",
                "QFLEET_SLOTS": "2",
                "QFLEET_LEASE_S": "3",
                "QFLEET_BEAT_S": "0.5",
                "QFLEET_DRAIN_S": "5",
                "QFLEET_SANDBOX__TIME_LIMIT_S": "60",
            }
            | settings
        )

    @property
    def gateway(self) -> subprocess.Popen[bytes] | None:
        """The first gateway."""
        return self.gateways.get(self.port)

    # --- starting ---------------------------------------------------------------------------------

    def _start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        self._logs += 1
        path = self.folder / f"{self._logs:03}-{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.logs[process.pid] = path
        return process

    def start_valkey(self) -> None:
        self.valkey.start()

    def start_gateway(self, port: int | None = None, *, wait: bool = True) -> int:
        """Start a gateway, the first one unless told otherwise; gives its port."""
        port = port or self.port
        command = [self._python, "-m", "app", "serve"]
        self.gateways[port] = self._start("gateway", command, QFLEET_PORT=str(port))
        if wait:
            wait_until(lambda: self.gateway_answers(port), 30, "the gateway answers")
        return port

    def gateway_answers(self, port: int) -> bool:
        try:
            return self.request("GET", "/health/live", port=port)[0] == 200
        except OSError:
            return False

    def start_worker(self, *, wait: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        worker = self._start("worker", [self._python, "-m", "app", "worker"], **environment)
        self.workers.append(worker)
        if wait:
            wait_until(lambda: self.is_serving(worker), 60, f"worker {worker.pid} beats")
        return worker

    def is_serving(self, worker: subprocess.Popen[bytes]) -> bool:
        """Whether the worker has reported itself."""
        assert worker.poll() is None, "the worker ended by itself"
        with self.redis() as client:
            names = client.zrange("workers", 0, -1)
            reports = client.mget([f"worker:{name}" for name in names]) if names else []
        return any(json.loads(report)["pid"] == worker.pid for report in reports if report)

    # --- talking ----------------------------------------------------------------------------------

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(
            self.valkey.url, decode_responses=True, socket_timeout=5, socket_connect_timeout=1
        )

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        port: int | None = None,
        timeout_s: float = 70,
        **headers: str,
    ) -> tuple[int, Any]:
        address = ("127.0.0.1", port or self.port)
        connection = http.client.HTTPConnection(*address, timeout=timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            fields = {"Content-Type": "application/json"} if content else {}
            fields |= {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, content, fields)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def submit(self, circuit: str = BELL, **fields: object) -> str:
        status, answer = self.request("POST", "/tasks", {"circuit": circuit, **fields})
        assert status == 200, answer
        return str(answer["task_id"])

    def submit_stubbornly(self, key: str, circuit: str, **fields: object) -> str:
        """Repeat with one Idempotency-Key until it is accepted, as a careful client does."""
        pause = threading.Event()
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                body = {"circuit": circuit, **fields}
                status, answer = self.request("POST", "/tasks", body, Idempotency_Key=key)
                if status == 200:
                    return str(answer["task_id"])
            assert time.monotonic() < end, f"{key} was never accepted"
            pause.wait(0.05)

    def wait(self, task_id: str, timeout_s: float = 60) -> dict[str, Any]:
        """The task when it is final."""
        end = time.monotonic() + timeout_s
        while True:
            left = max(end - time.monotonic(), 0)
            _, answer = self.request("GET", f"/tasks/{task_id}?wait={min(left, 60):.3f}")
            if answer["status"] != "pending":
                return dict(answer)
            assert left > 0, f"{task_id} is not final after {timeout_s:g} s: {answer}"

    def job(self, task_id: str) -> dict[str, str]:
        with self.redis() as client:
            return client.hgetall(f"job:{task_id}")

    def wait_running(self, task_id: str) -> dict[str, str]:
        wait_until(lambda: self.job(task_id)["status"] == "Running", 30, f"{task_id} runs")
        return self.job(task_id)

    # --- breaking ---------------------------------------------------------------------------------

    def kill_valkey(self) -> None:
        assert self.valkey.process is not None
        self.valkey.process.kill()
        self.valkey.process.wait()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        if process in self.workers:
            self.workers.remove(process)

    def stop(self, worker: subprocess.Popen[bytes], timeout_s: float = 20) -> int:
        """SIGTERM, and wait until it is gone; gives its exit status."""
        worker.send_signal(signal.SIGTERM)
        status = worker.wait(timeout=timeout_s)
        self.workers.remove(worker)
        return status

    @staticmethod
    def freeze(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGSTOP)

    def freeze_with_a_message(
        self, worker: subprocess.Popen[bytes], queue: str, publish: Callable[[], Published]
    ) -> Published:
        """Freeze the only worker so that Redis hands it a message which it never reads.

        A worker listens for a second at a time. When it happened to be frozen between two times,
        the message stays in the queue: then it is thawed, runs it, and is tried again.

        Args:
            worker: the only one that listens.
            queue: where the message goes.
            publish: makes a message.

        Returns:
            What ``publish`` gave for the message that is in the frozen worker's socket now.
        """
        with self.redis() as client:
            for _ in range(30):
                wait_until(lambda: client.info("clients")["blocked_clients"] > 0, 30, "it listens")
                self.freeze(worker)
                published = publish()
                if client.llen(queue) == 0:
                    return published
                self.thaw(worker)
                wait_until(lambda: client.llen(queue) == 0, 30, "the thawed worker goes on")
        raise AssertionError("the worker was never frozen while it listened")

    @staticmethod
    def thaw(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGCONT)

    @staticmethod
    def sandbox_children(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The children of the worker's zygote."""
        with contextlib.suppress(psutil.NoSuchProcess):
            zygotes = psutil.Process(worker.pid).children()
            return [child for zygote in zygotes for child in zygote.children()]
        return []

    def close(self) -> None:
        for process in (*self.workers, *self.gateways.values()):
            if process.poll() is None:
                process.kill()
                process.wait()
        self.valkey.stop()


@contextlib.contextmanager
def fleet_in(folder: Path, **settings: str) -> Iterator[Fleet]:
    """A fleet whose Valkey runs, with every acknowledged write on the disk; nothing outlives it."""
    valkey = EmbeddedValkey(folder=folder / "valkey", fsync="always")
    fleet = Fleet(folder=folder, valkey=valkey, **settings)
    try:
        fleet.start_valkey()
        yield fleet
    finally:
        fleet.close()
