"""What goes wrong on a device? The noise that its recorded properties stand for.

It is the model that Aer makes of recorded properties, as the client's local mode does: relaxation
over the length of every operation, then as much depolarisation as the gate's error asks for, and
readout errors of 0 and of 1. Aer makes it for the whole device, which takes 6 s for 127 qubits;
here an error is made when a circuit first needs it.
"""

from __future__ import annotations

from functools import lru_cache
from math import pi
from typing import TYPE_CHECKING, Any

import msgspec
from qiskit.circuit import Delay, Parameter
from qiskit.circuit.library import get_standard_gate_name_mapping
from qiskit.transpiler import InstructionProperties, QubitProperties, Target
from qiskit_aer.noise import NoiseModel, ReadoutError
from qiskit_aer.noise.device import basic_device_gate_errors

from app.errors import ExecutionError, InvalidProgram
from app.executors.circuits.lowering import DELAY, delay_label
from app.executors.noise.model import conformed

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit_aer.noise import QuantumError

    from app.executors.circuits.reduction import Reduced
    from app.executors.observables import Rotations
    from app.primitives.programs import DeviceFiles

#: Models that are kept; one holds a few kB for every gate that its circuit has.
_KEPT_MODELS = 16
_MEASURE = "measure"
#: Properties of a qubit: how likely a reading is wrong.
_READ_1_IN_0 = "prob_meas1_prep0"
_READ_0_IN_1 = "prob_meas0_prep1"
#: What circuits may hold besides gates and blocks.
_NO_GATES = frozenset(
    (_MEASURE, "reset", "delay", "barrier", "store", "break_loop", "continue_loop")
)
#: Both letters that look like a µ are used.
_SECONDS = {
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ns": 1e-9,
    "ps": 1e-12,
}

#: What turns X and Y into Z on a device that has these gates, up to rotations about Z.
_ROTATIONS: dict[str, Rotations] = {
    "sx": {"X": (("rz", (pi / 2,)), ("sx", ())), "Y": (("sx", ()),), "Z": ()},
    "u2": {"X": (("u2", (0.0, pi)),), "Y": (("u2", (0.0, pi / 2)),), "Z": ()},
}


class _Item(msgspec.Struct):
    name: str
    value: float
    unit: str

    @property
    def seconds(self) -> float:
        return self.value * _SECONDS[self.unit]


class _GateProperties(msgspec.Struct):
    gate: str
    qubits: tuple[int, ...]
    parameters: list[_Item]


class _Properties(msgspec.Struct):
    last_update_date: str
    qubits: list[list[_Item]]
    gates: list[_GateProperties]


class _Gate(msgspec.Struct):
    name: str
    coupling_map: list[tuple[int, ...]] = []


class _Configuration(msgspec.Struct):
    n_qubits: int
    basis_gates: list[str]
    gates: list[_Gate]
    coupling_map: list[tuple[int, int]]
    #: nanoseconds.
    dt: float | None = None


class DeviceNoise:
    """The noise of one recorded device."""

    knows_labels = False

    def __init__(self, *, name: str, recording: DeviceFiles) -> None:
        """Read what the device ``name`` said of itself."""
        self._name = name
        self._configuration = msgspec.json.decode(
            recording.configuration.read_bytes(), type=_Configuration
        )
        recorded = msgspec.json.decode(recording.properties.read_bytes(), type=_Properties)
        self._qubits = [{item.name: item for item in items} for items in recorded.qubits]
        self._gates = {
            (gate.gate, gate.qubits): {item.name: item for item in gate.parameters}
            for gate in recorded.gates
        }
        self.unmet: dict[str, str] = {}
        self.source = f"properties of {name}, recorded {recorded.last_update_date}"
        self._places = {
            (gate.name, qubits)
            for gate in self._configuration.gates
            for qubits in gate.coupling_map
        }
        self._error = lru_cache(maxsize=None)(self._make_error)
        self._readout = lru_cache(maxsize=None)(self._make_readout)
        self._model = lru_cache(maxsize=_KEPT_MODELS)(self._make_model)

    @property
    def rotations(self) -> Rotations:
        """Gates of the device that turn a basis into Z."""
        return next(
            gates for name, gates in _ROTATIONS.items() if name in self._configuration.basis_gates
        )

    def conforming(self, circuit: QuantumCircuit) -> tuple[QuantumCircuit, list[int] | None]:
        """Give ``circuit`` in the gates of the device and along its couplings.

        A circuit that the device can run stays as it is.

        Returns:
            the circuit, and where each of its qubits ends; None if where it was.

        Raises:
            InvalidProgram: the device has too few qubits.
        """
        if circuit.num_qubits > self._configuration.n_qubits:
            message = (
                f"{circuit.num_qubits} qubits; {self._name} has {self._configuration.n_qubits}"
            )
            raise InvalidProgram("too_many_qubits", message)
        if self._runs(circuit, range(circuit.num_qubits)):
            return circuit, None
        return conformed(
            circuit,
            basis_gates=self._configuration.basis_gates,
            coupling_map=[list(pair) for pair in self._configuration.coupling_map],
            seed=0,
        )

    def on(self, reduced: Reduced) -> NoiseModel:
        """Give the noise of a circuit whose qubits are numbered anew."""
        operations = frozenset(
            (step.name, step.qubits, step.params if step.name == DELAY else ())
            for step in reduced.steps
        )
        return self._model(reduced.origins, operations)

    def _runs(self, circuit: QuantumCircuit, places: Any) -> bool:
        """Whether every gate is one of the device, where the circuit has it."""
        numbers = dict(zip(circuit.qubits, places, strict=True))
        for instruction in circuit.data:
            qubits = tuple(numbers[qubit] for qubit in instruction.qubits)
            blocks = getattr(instruction.operation, "blocks", ())
            if blocks:
                if not all(self._runs(block, qubits) for block in blocks):
                    return False
            elif instruction.name not in _NO_GATES and (
                not instruction.is_standard_gate() or (instruction.name, qubits) not in self._places
            ):
                return False
        return True

    def _make_model(
        self, origins: tuple[int, ...], operations: frozenset[tuple[str, tuple[int, ...], Any]]
    ) -> NoiseModel:
        model = NoiseModel()
        for place, qubit in enumerate(origins):
            readout = self._readout(qubit)
            if readout is not None:
                model.add_readout_error(readout, [place])
        for name, places, params in operations:
            qubits = tuple(origins[place] for place in places)
            duration_s = self._seconds(*params) if name == DELAY else None
            error = self._error(name, qubits, duration_s)
            if error is not None:
                label = delay_label(*params) if name == DELAY else name
                model.add_quantum_error(error, label, places, warnings=False)
        return model

    def _make_error(
        self, name: str, qubits: tuple[int, ...], duration_s: float | None
    ) -> QuantumError | None:
        recorded = self._gates.get((name, qubits))
        if recorded is None and duration_s is None:
            return None
        recorded = recorded or {}
        if duration_s is None and "gate_length" in recorded:
            duration_s = recorded["gate_length"].seconds
        error = recorded["gate_error"].value if "gate_error" in recorded else None
        properties = InstructionProperties(duration=duration_s, error=error)
        errors = basic_device_gate_errors(target=self._target(name, qubits, properties))
        return errors[0][2] if errors else None

    def _make_readout(self, qubit: int) -> ReadoutError | None:
        recorded = self._qubits[qubit]
        # Read in 1, most devices are wrong more often than in 0; ``readout_error`` is the mean.
        if _READ_1_IN_0 in recorded and _READ_0_IN_1 in recorded:
            wrong = recorded[_READ_1_IN_0].value, recorded[_READ_0_IN_1].value
        elif "readout_error" in recorded:
            wrong = recorded["readout_error"].value, recorded["readout_error"].value
        else:
            return None
        if not any(wrong):
            return None
        return ReadoutError([[1 - wrong[0], wrong[0]], [wrong[1], 1 - wrong[1]]])

    def _target(
        self, name: str, qubits: tuple[int, ...], properties: InstructionProperties
    ) -> Target:
        """Give a device that has this operation only: what Aer makes an error of."""
        target = Target(
            num_qubits=len(qubits),
            qubit_properties=[
                QubitProperties(t1=self._time("T1", qubit), t2=self._time("T2", qubit))
                for qubit in qubits
            ],
        )
        operation = Delay(Parameter("t")) if name == DELAY else _OPERATIONS[name]
        target.add_instruction(operation, {tuple(range(len(qubits))): properties})
        return target

    def _time(self, name: str, qubit: int) -> float | None:
        item = self._qubits[qubit].get(name)
        return None if item is None else item.seconds

    def _seconds(self, duration: float, unit: str) -> float:
        if unit == "dt":
            if self._configuration.dt is None:
                message = f"a delay counts dt, and {self._name} does not say how long that is"
                raise ExecutionError(message)
            return duration * self._configuration.dt * _SECONDS["ns"]
        if unit not in _SECONDS:
            raise ExecutionError("the length of a delay is computed while the circuit runs")
        return duration * _SECONDS[unit]


_OPERATIONS = get_standard_gate_name_mapping()
