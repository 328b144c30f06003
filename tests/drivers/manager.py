"""A driver manager in a thread of this process, on a database of its own, with drivers to break."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from app.bootstrap import build_driver_manager
from app.config import SandboxLimits, Settings
from app.drivers.proto import driver_manager_pb2 as pb
from app.drivers.proto import driver_manager_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.drivers.loaded import LoadedDriver
    from app.drivers.server import DriverManager

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples/driver_plugin/qfleet_lab.py"
BELL = 'OPENQASM 3.0; include "stdgates.inc"; qubit[2] q; bit[2] c; h q[0]; cx q[0], q[1]; c = measure q;'

CONFIG = """
driver_paths: [drivers]
entry_points: false
drivers:
  lab:
    config: {faults: FAULTS, devices: [lab_a, lab_b]}
    memory_bytes: 1500000000
    call_timeout_s: 1.0
    pool: {max_size: 2, wait_s: 0.5, health_check_after_s: 0.0}
  spare:
    config: {faults: FAULTS, devices: [spare_a]}
    pool: {max_size: 1, wait_s: 1.0}
resilience:
  retry: {attempts: 3, first_wait_s: 0.01, max_wait_s: 0.02}
  breaker: {fail_max: 4, reset_timeout_s: 0.5}
  restart_first_s: 0.1
  restart_max_s: 0.5
  drain_s: 10
monitoring: {probe_s: 0.1}
caches: {metadata_ttl_s: 0.05}
fallback_devices:
  lab_b: [spare_a, "simulator@aer"]
"""


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 40) -> None:
    """Return as soon as the condition holds; fail with what was waited for."""
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {what}"
        pause.wait(0.02)


class Manager:
    """A manager that runs."""

    def __init__(self, folder: Path, redis_url: str, **settings: Any) -> None:
        self.folder = folder
        self.faults = folder / "faults"
        self.drivers = folder / "drivers"
        self.drivers.mkdir()
        self.config = folder / "driver_manager.yaml"
        self.config.write_text(CONFIG.replace("FAULTS", str(self.faults)))
        for name in ("lab", "spare"):
            shutil.copy(PLUGIN, self.drivers / f"{name}.py")
        values: dict[str, Any] = {
            "driver_config": self.config,
            "slots": 2,
            "beat_s": 0.2,
            "sandbox": SandboxLimits(time_limit_s=10.0),
        }
        values |= settings
        self.settings = Settings(redis_url=redis_url, grpc_port=0, driver_metrics_port=0, **values)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.manager: DriverManager
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)
        self._thread.start()
        assert self._started.wait(30)
        if self._failure is not None:
            raise self._failure
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.manager.port}")
        self.stub = pb_grpc.DriverManagerServiceStub(self.channel)

    def _run(self) -> None:
        async def serve() -> None:
            self.manager = build_driver_manager(self.settings)
            self._loop = asyncio.get_running_loop()
            running = asyncio.create_task(self.manager.run(signals=False))
            ready = asyncio.create_task(self.manager.ready.wait())
            await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
            self._started.set()
            await running

        try:
            asyncio.run(serve())
        except BaseException as exc:  # noqa: BLE001 - the fixture raises it
            self._failure = exc
            self._started.set()

    def end(self) -> None:
        """Ask it to stop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.manager.stop)

    def close(self) -> None:
        self.channel.close()
        self.end()
        self._thread.join(40)
        assert not self._thread.is_alive()

    @property
    def registry(self) -> Any:
        return self.manager._registry

    def loaded(self, name: str) -> LoadedDriver:
        return self.registry.driver(name)

    def info(self, name: str) -> Any:
        drivers = self.stub.ListDrivers(pb.ListDriversRequest(), timeout=10).drivers
        return next((driver for driver in drivers if driver.name == name), None)

    def is_ready(self, *names: str) -> bool:
        infos = [self.info(name) for name in names]
        return all(info is not None and info.state == "ready" for info in infos)

    def wait_ready(self, *names: str) -> None:
        wait_until(lambda: self.is_ready(*names), f"{names} are ready")

    def fault(self, *lines: str) -> None:
        """What the drivers do wrong from now on."""
        new = self.faults.with_suffix(".new")
        new.write_text("\n".join(lines))
        new.replace(self.faults)

    def heal(self) -> None:
        """Nothing is wrong any more: no faults, closed breakers, ready drivers."""
        self.fault()
        for name in ("lab", "spare"):
            wait_until(lambda name=name: self.is_ready(name), f"{name} is ready")
            self.stub.ResetBreaker(pb.ResetBreakerRequest(driver=name), timeout=10)

    def execute(self, device: str, source: str = BELL, timeout: float = 30, **fields: Any) -> Any:
        return self.stub.ExecuteCircuit(circuit_for(device, source, **fields), timeout=timeout)

    def wait_running(self, job_id: str) -> str:
        """Wait until a job runs; gives the id that the store has given it."""
        found: list[str] = []

        def runs() -> bool:
            try:
                events = self.stub.StreamExecution(
                    pb.StreamExecutionRequest(job_id=job_id), timeout=10
                )
                event = next(events)
                events.cancel()
            except grpc.RpcError:
                return False
            found.append(event.job_id)
            return bool(event.state == "Running")

        wait_until(runs, f"{job_id} runs")
        return found[-1]

    def http(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.manager.metrics_port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def health(self) -> tuple[int, Any]:
        status, text = self.http("/healthz")
        return status, json.loads(text)

    def metric(self, line: str) -> float:
        """The value of a line of /metrics; 0 when it is not there."""
        _, text = self.http("/metrics")
        for found in text.splitlines():
            if found.startswith(line + " "):
                return float(found.rpartition(" ")[2])
        return 0.0


def circuit_for(device: str, source: str = BELL, *, shots: int = 100, **fields: Any) -> Any:
    """A request to run OpenQASM 3."""
    payload = pb.CircuitPayload(format=pb.QASM3_TEXT, data=source.encode())
    return pb.ExecuteCircuitRequest(device_id=device, payload=payload, shots=shots, **fields)


class Refusal:
    """A failed call, taken apart."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code = error.code()
        self.message = error.details()
        self.details: dict[str, Any] = {}
        status = rpc_status.from_call(error)
        for packed in status.details if status else ():
            for kind in ("ErrorInfo", "RetryInfo", "BadRequest", "ResourceInfo"):
                message = getattr(error_details_pb2, kind)()
                if packed.Unpack(message):
                    self.details[kind] = MessageToDict(message)

    @property
    def reason(self) -> str:
        return str(self.details["ErrorInfo"]["reason"])

    @property
    def fields(self) -> list[str]:
        violations = self.details["BadRequest"]["fieldViolations"]
        return [violation["field"] for violation in violations]


def refused(call: Callable[[], Any]) -> Refusal:
    """How a call fails."""
    try:
        answer = call()
    except grpc.RpcError as exc:
        return Refusal(exc)
    raise AssertionError(f"it was not refused: {answer}")
