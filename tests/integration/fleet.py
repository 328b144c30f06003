"""A real fleet to break: Valkey, gateway and workers as processes of their own, faults by pid."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BELL = 'OPENQASM 3.0; include "stdgates.inc"; qubit[2] q; bit[2] c; h q[0]; cx q[0], q[1]; c = measure q;'
#: Never ends: the bit never becomes 1.
ENDLESS = (
    'OPENQASM 3.0; include "stdgates.inc"; qubit q; bit c;'
    " c = measure q; while (c == 0) { reset q; c = measure q; }"
)


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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

    def __init__(self, *, folder: Path, valkey_command: list[str], valkey_port: int) -> None:
        self.folder = folder
        self.valkey_port = valkey_port
        self.url = f"redis://127.0.0.1:{valkey_port}/0"
        self.port = free_port()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.gateway: subprocess.Popen[bytes] | None = None
        self._valkey_command = valkey_command
        self._valkey: subprocess.Popen[bytes] | None = None
        self._logs = 0
        self.environment = os.environ | {
            "QFLEET_REDIS_URL": self.url,
            "QFLEET_PORT": str(self.port),
            "QFLEET_EXECUTORS": "aer",
            "QFLEET_SLOTS": "2",
            "QFLEET_LEASE_S": "3",
            "QFLEET_BEAT_S": "0.5",
            "QFLEET_DRAIN_S": "5",
            "QFLEET_SANDBOX__TIME_LIMIT_S": "60",
        }

    # --- starting ---------------------------------------------------------------------------------

    def _start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        self._logs += 1
        with (self.folder / f"{self._logs:03}-{name}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_valkey(self) -> None:
        self._valkey = self._start("valkey", self._valkey_command)
        wait_until(self._valkey_answers, 20, "Valkey answers")

    def _valkey_answers(self) -> bool:
        try:
            with self.redis() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def start_gateway(self) -> None:
        self.gateway = self._start("gateway", [sys.executable, "-m", "app", "serve"])
        wait_until(self._gateway_answers, 30, "the gateway answers")

    def _gateway_answers(self) -> bool:
        try:
            return self.request("GET", "/health/live")[0] == 200
        except OSError:
            return False

    def start_worker(self, *, wait: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        worker = self._start("worker", [sys.executable, "-m", "app", "worker"], **environment)
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
        return redis.Redis(
            port=self.valkey_port, decode_responses=True, socket_timeout=5, socket_connect_timeout=1
        )

    def request(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=70)
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
        assert self._valkey is not None
        self._valkey.kill()
        self._valkey.wait()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        if process in self.workers:
            self.workers.remove(process)

    @staticmethod
    def freeze(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGSTOP)

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
        processes = [*self.workers, self.gateway, self._valkey]
        for process in processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def opened(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet with its Valkey and gateway running, and no worker yet."""
    try:
        fleet.start_valkey()
        fleet.start_gateway()
        yield fleet
    finally:
        fleet.close()
