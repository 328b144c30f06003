"""How available is the driver manager while things break?

``python -m benchmarks.drivers_availability``. Availability is the share of ExecuteCircuit calls
that are answered with the right counts within their deadline. Calls come at a fixed rate, whatever
became of those before, and nobody asks twice. Every circuit has one possible outcome, another one
than the circuits beside it.

All the while, every ``KILL_S`` a process of a driver, picked at random, is killed; for ``DOWN_S``
of every ``FLAP_S`` two devices do not answer; every ``RELOAD_S`` both drivers are loaded again. Of
the steady and of the flapping devices, one has fallbacks and one has none. The rest of the
configuration is as it comes, but for pools of four.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil

from benchmarks.drivers import is_online, running
from tests.drivers.manager import Refusal, circuit_for, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

KILL_S = 5.0
FLAP_S = 30.0
DOWN_S = 3.0
RELOAD_S = 60.0
DEADLINE_S = 10.0
SHOTS = 100
QUBITS = 8
SEED = 7
#: What the service was first described with.
TARGET = 0.999
#: device → what it stands for, and whether the target is meant for it.
DEVICES = {
    "steady_b": ("steady, fallbacks", True),
    "steady_a": ("steady, no fallback", True),
    "flap_b": ("flapping, fallbacks", True),
    "flap_a": ("flapping, no fallback", False),
}
CONFIG = """
drivers:
  lab: {config: {devices: [steady_a, steady_b, flap_a, flap_b], down: DOWN}}
  spare: {config: {devices: [spare_a]}}
pool: {max_size: 4}
fallback_devices:
  steady_b: [spare_a, "simulator@aer"]
  flap_b: [spare_a, "simulator@aer"]
"""
#: Runs circuits of X gates, exactly, in 50 ms.
DRIVER = r"""
import re
import time
from pathlib import Path

from app.drivers.driver import Device, DeviceState, DeviceUnavailable


class FlipDriver:
    version = "0"

    def initialize(self, config):
        self._names = config["devices"]
        self._down = Path(config["down"]) if "down" in config else None

    def get_devices(self):
        return [Device(id=name, num_qubits=8) for name in self._names]

    def execute_circuit(self, device_id, circuit, shots, options):
        if self._down is not None and device_id.startswith("flap") and self._down.exists():
            raise DeviceUnavailable(f"{device_id} does not answer")
        time.sleep(0.05)
        flipped = {int(qubit) for qubit in re.findall(r"^x \w+\[(\d+)\];", circuit.qasm3, re.M)}
        bits = ["01"[place in flipped] for place in range(circuit.num_clbits)]
        return {"".join(reversed(bits)): shots}

    def get_device_status(self, device_id):
        return DeviceState.ONLINE

    def calibrate_device(self, device_id):
        return "none"


DRIVER = FlipDriver
"""


@dataclass(frozen=True, kw_only=True)
class Call:
    """How one call ended."""

    device: str
    took_s: float
    #: ``right``, ``wrong``, or the status.
    outcome: str


class Faults:
    """What breaks, all the time, until it is stopped."""

    def __init__(self, folder: Path, manager: subprocess.Popen[bytes]) -> None:
        """Prepare; ``folder`` is the manager's."""
        self._folder = folder
        self._manager = psutil.Process(manager.pid)
        self._stop = threading.Event()
        self._random = random.Random(SEED)
        self.done: Counter[str] = Counter()
        every = {KILL_S: self._kill, FLAP_S - DOWN_S: self._flap, RELOAD_S: self._reload}
        self._threads = [
            threading.Thread(target=self._repeat, args=entry, daemon=True)
            for entry in every.items()
        ]

    def start(self) -> None:
        """Break things from now on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Break nothing more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, period_s: float, what: Callable[[], None]) -> None:
        while not self._stop.wait(period_s):
            what()

    def _kill(self) -> None:
        victims = [child for child in self._manager.children() if _is_of_a_driver(child)]
        if victims:
            self._random.choice(victims).kill()
            self.done["processes killed"] += 1

    def _flap(self) -> None:
        down = self._folder / "down"
        down.touch()
        self._stop.wait(DOWN_S)
        down.unlink()
        self.done["flaps"] += 1

    def _reload(self) -> None:
        self.done["reloads"] += 1
        code = DRIVER.replace('version = "0"', f'version = "{self.done["reloads"]}"')
        for name in ("lab", "spare"):
            new = self._folder / f"{name}.new"
            new.write_text(code)
            new.replace(self._folder / f"plugins/{name}.py")


def _is_of_a_driver(process: psutil.Process) -> bool:
    try:
        return "app.drivers.child" in " ".join(process.cmdline())
    except psutil.Error:
        # It has ended meanwhile.
        return False


def main() -> int:
    """Measure; 1 when an answer was wrong, or the target was missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=32.0, help="calls a second, of all devices")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = CONFIG.replace("DOWN", str(folder / "down"))
        with running(folder, {"lab": DRIVER, "spare": DRIVER}, config) as (stub, manager):
            for device in ("flap_b", "spare_a"):
                wait_until(lambda device=device: is_online(stub, device), f"{device} is online")
            stub.ExecuteCircuit(circuit_for("steady_a", circuit(0)), timeout=60)
            faults = Faults(folder, manager)
            faults.start()
            calls = call_all(stub, seconds=asked.seconds, rate=asked.rate)
            faults.stop()
    return show(calls, faults.done)


def call_all(stub: Any, *, seconds: float, rate: float) -> list[Call]:
    """Call at that rate for that time; gives what became of every call."""
    calls: list[Call] = []
    number = round(seconds * rate)
    began = time.monotonic()
    for at in range(number):
        time.sleep(max(began + at / rate - time.monotonic(), 0))
        _call(stub, [*DEVICES][at % len(DEVICES)], at % (1 << QUBITS), calls.append)
    wait_until(lambda: len(calls) == number, "every call has ended")
    return calls


def _call(stub: Any, device: str, value: int, tell: Callable[[Call], None]) -> None:
    request = circuit_for(device, circuit(value), shots=SHOTS)
    sent = time.monotonic()

    def done(call: Any) -> None:
        took_s = time.monotonic() - sent
        tell(Call(device=device, took_s=took_s, outcome=outcome(call, value)))

    stub.ExecuteCircuit.future(request, timeout=DEADLINE_S).add_done_callback(done)


def circuit(value: int) -> str:
    """A circuit whose only outcome is this number."""
    flips = "".join(f"x q[{bit}]; " for bit in range(QUBITS) if value >> bit & 1)
    return (
        f'OPENQASM 3.0; include "stdgates.inc"; qubit[{QUBITS}] q; bit[{QUBITS}] c; {flips}'
        "c = measure q;"
    )


def outcome(call: Any, value: int) -> str:
    """What became of a call that has ended."""
    try:
        counts = dict(call.result().counts)
    except grpc.RpcError as exc:
        refusal = Refusal(exc)
        return f"{refusal.code.name}: {refusal.message[:90]}"
    return "right" if counts == {f"{value:0{QUBITS}b}": SHOTS} else "wrong"


def show(calls: list[Call], faults: Counter[str]) -> int:
    """Print a line for each device, and how its calls failed."""
    print(", ".join(f"{number} {what}" for what, number in sorted(faults.items())))
    missed = any(call.outcome == "wrong" for call in calls)
    for device, (name, is_meant) in DEVICES.items():
        its = [call for call in calls if call.device == device]
        right = [call.took_s * 1000 for call in its if call.outcome == "right"]
        share = len(right) / len(its)
        missed |= is_meant and share < TARGET
        cuts = statistics.quantiles(right, n=100)
        print(
            f"{name:22} {len(its):6} calls  {share:8.3%} available"
            f"  p50 {cuts[49]:6.0f} ms  p99 {cuts[98]:6.0f} ms  max {max(right):6.0f} ms"
        )
        failed = Counter(call.outcome for call in its if call.outcome != "right")
        for what, number in failed.most_common():
            print(f"  {number:6}  {what}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
