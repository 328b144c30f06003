"""A driver for Qfleet: a small simulated device that is slow, fails and is calibrated on demand.

What goes wrong stands in the file that ``faults`` of its configuration names, one a line:
``OPERATION FAULT`` or ``OPERATION DEVICE FAULT``. Each call reads it. There are the operations
``initialize``, ``execute``, ``status``, ``calibrate``, ``health``, and the faults ``raise``,
``unavailable``, ``hang``, ``die``, ``leak``, ``lie``, ``forget``, ``offline``, ``unhealthy``.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.drivers.driver import Circuit, Device, DeviceState, DeviceUnavailable, InvalidCircuit


class LabDriver:
    """Simulates circuits of a few qubits with Qiskit Aer, after the latency that it was told."""

    version = "1.0"

    def initialize(self, config: Mapping[str, Any]) -> None:
        """Take the configuration: ``faults``, ``latency_s``, ``qubits``, ``devices``."""
        self._faults = Path(config["faults"]) if "faults" in config else None
        self._latency_s = float(config.get("latency_s", 0.0))
        self._qubits = int(config.get("qubits", 5))
        self._names = config.get("devices", ["lab_a", "lab_b"])
        self._calibrations = 0
        self._leaked: list[bytearray] = []
        self._misbehave("initialize")

    def get_devices(self) -> Sequence[Device]:
        """Devices whose qubits stand in a line."""
        line = tuple(pair for q in range(self._qubits - 1) for pair in ((q, q + 1), (q + 1, q)))
        return [
            Device(
                id=name,
                name=f"{name}, a simulated device",
                num_qubits=self._qubits,
                provider="lab",
                backend_type="qpu",
                coupling_map=line,
                capabilities={"technology": "none"},
            )
            for name in self._names
        ]

    def execute_circuit(
        self, device_id: str, circuit: Circuit, shots: int, options: Mapping[str, str]
    ) -> Mapping[str, int]:
        """Sample the circuit."""
        self._misbehave("execute", device_id)
        time.sleep(self._latency_s)
        if circuit.num_qubits > self._qubits:
            message = f"{circuit.num_qubits} qubits, but there are {self._qubits}"
            raise InvalidCircuit(message)
        match self._fault("execute", device_id):
            case "lie":
                return {"2": shots}
            case "forget":
                return {"0" * circuit.num_clbits: shots - 1}
        from qiskit_aer import AerSimulator

        seed = int(options["seed"]) if "seed" in options else None
        simulator = AerSimulator(max_parallel_threads=1)
        run = simulator.run(circuit.to_qiskit(), shots=shots, seed_simulator=seed)
        return run.result().get_counts()

    def get_device_status(self, device_id: str) -> DeviceState:
        """Online, unless the fault says otherwise."""
        offline = self._fault("status", device_id) == "offline"
        return DeviceState.OFFLINE if offline else DeviceState.ONLINE

    def calibrate_device(self, device_id: str) -> str:
        """Do nothing, and give it a name."""
        self._misbehave("calibrate", device_id)
        self._calibrations += 1
        return f"{device_id}-{os.getpid()}-{self._calibrations}"

    def healthcheck(self) -> bool:
        """Whether this instance may be used again."""
        return self._fault("health") != "unhealthy"

    def _misbehave(self, operation: str, device_id: str = "") -> None:
        match self._fault(operation, device_id):
            case "raise":
                message = "the control software has a bug"
                raise RuntimeError(message)
            case "unavailable":
                message = f"{device_id} does not answer"
                raise DeviceUnavailable(message)
            case "hang":
                time.sleep(3600)
            case "die":
                os._exit(3)
            case "leak":
                while True:
                    self._leaked.append(bytearray(1 << 24))

    def _fault(self, operation: str, device_id: str = "") -> str:
        """The fault of this call, or nothing."""
        if self._faults is None or not self._faults.exists():
            return ""
        for line in self._faults.read_text().splitlines():
            words = line.split()
            if words[:-1] in ([operation], [operation, device_id]):
                return words[-1]
        return ""


#: What the manager makes when this file lies in one of its folders.
DRIVER = LabDriver
