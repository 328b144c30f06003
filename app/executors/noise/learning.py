"""Which noise do layers and boxes have? In a simulation it is known: rates are exact.

On a device a learner repeats a layer between twirls and fits the decay of Pauli expectation
values. Here the same rates are computed from the noise that the run has, with errors of 0; where
there is no noise, they are 0.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from math import log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit.library import get_standard_gate_name_mapping
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import Clifford
from samplomatic import Twirl
from samplomatic.transpiler import generate_boxing_pass_manager
from samplomatic.utils import get_annotation, undress_box

from app.errors import InvalidProgram
from app.executors.locations import located
from app.executors.noise.gates import readout_flips
from app.executors.noise.layers import noise_of_run
from app.primitives.programs import (
    LearnedBox,
    LearnedLayer,
    LearningProtocol,
    PauliLindbladError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from qiskit.circuit import BoxOp, CircuitInstruction, Operation, Qubit

    from app.executors.noise.model import Noise
    from app.primitives.programs import BoxesProgram, LayersProgram

_PAULIS = "XYZ"
_GATES = get_standard_gate_name_mapping()

Generator = tuple[str, tuple[int, ...]]
_Rates = dict[Generator, float]
#: An entangling gate and its qubits on the device.
_Placed = tuple["Operation", tuple[int, ...]]


class _Gate(NamedTuple):
    """An entangling gate of a layer, on qubits of a device."""

    name: str
    params: tuple[float, ...]
    qubits: tuple[int, ...]


class _Layer(NamedTuple):
    """Gates that happen at the same time, and all qubits that are twirled then."""

    gates: frozenset[_Gate]
    qubits: tuple[int, ...]


def learn_layers(program: LayersProgram, noise: Noise | None) -> tuple[LearnedLayer, ...]:
    """Learn the layers of two-qubit gates in circuits for a device.

    Returns:
        those that occur most often, and of these first those with most gates.

    Raises:
        InvalidProgram: a circuit cannot be split into layers, or has none that noise leaves.
    """
    strategy = program.options["twirling_strategy"].replace("-", "_")
    found: Counter[_Layer] = Counter()
    for index, circuit in enumerate(program.circuits):
        with located(f"circuits[{index}]"):
            conforming = circuit if noise is None else noise.conforming(circuit)[0]
            found.update(_layers(conforming, strategy))
    ordered = sorted(found, key=lambda layer: (-found[layer], -len(layer.gates)))
    couplings = {frozenset(gate.qubits) for layer in found for gate in layer.gates}
    return tuple(
        LearnedLayer(
            circuit=_circuit(layer),
            qubits=layer.qubits,
            error=_error(
                tuple(_local(layer.qubits, couplings)),
                _rates(
                    [(_operation(gate), gate.qubits) for gate in layer.gates], layer.qubits, noise
                ),
            ),
        )
        for layer in ordered[: program.options["max_layers_to_learn"]]
    )


def learn_boxes(program: BoxesProgram, noise: Noise | None) -> tuple[LearnedBox, ...]:
    """Learn twirled boxes, each with a layer of gates or with measurements.

    Raises:
        InvalidProgram: a box is neither, or has gates that the device does not have there.
    """
    numbers = dict(zip(program.circuit.qubits, program.qubits, strict=True))
    protocols = []
    entangling = []
    for index, instruction in enumerate(program.circuit.data):
        with located(f"instructions[{index}]"):
            protocols.append(_protocol(instruction))
            entangling.append(_entangling(instruction, numbers, noise))
    couplings = {frozenset(qubits) for gates in entangling for _, qubits in gates}
    boxes = []
    for instruction, protocol, gates in zip(
        program.circuit.data, protocols, entangling, strict=True
    ):
        qubits = sorted(numbers[qubit] for qubit in instruction.qubits)
        names: tuple[Generator, ...]
        if protocol is LearningProtocol.TREX:
            names = tuple(("X", (place,)) for place in range(len(qubits)))
            rates = _flip_rates(qubits, noise)
        else:
            names = tuple(_local(qubits, couplings))
            rates = _rates(gates, qubits, noise)
        boxes.append(
            LearnedBox(protocol=protocol, num_qubits=len(qubits), error=_error(names, rates))
        )
    return tuple(boxes)


def _error(names: tuple[Generator, ...], rates: Mapping[Generator, float]) -> PauliLindbladError:
    return PauliLindbladError(
        generators=names,
        rates=np.array([rates.get(name, 0.0) for name in names]),
        stds=np.zeros(len(names)),
    )


def _rates(gates: Sequence[_Placed], qubits: Sequence[int], noise: Noise | None) -> _Rates:
    """Give the rates of a layer, by generators on places among its ``qubits``."""
    if noise is None:
        return {}
    rates = {}
    for characters, acting, rate in noise_of_run(gates, qubits, noise):
        pairs = sorted(zip(map(qubits.index, acting), characters, strict=True))
        generator = ("".join(each for _, each in pairs), tuple(place for place, _ in pairs))
        rates[generator] = rate
    return rates


def _flip_rates(qubits: Sequence[int], noise: Noise | None) -> _Rates:
    """Give the rates at which twirled readout is flipped, qubit by qubit."""
    if noise is None:
        return {}
    rates: _Rates = {}
    for place, qubit in enumerate(qubits):
        flips = readout_flips(qubit, noise)
        if flips >= 0.5:
            message = f"the readout of qubit {qubit} says nothing"
            raise InvalidProgram("layer_noise", message)
        # As of any Pauli channel: a fidelity of 1 - 2p is exp(-2 * rate).
        rates["X", (place,)] = -log(1 - 2 * flips) / 2
    return rates


def _entangling(
    instruction: CircuitInstruction, numbers: Mapping[Qubit, int], noise: Noise | None
) -> list[_Placed]:
    """Give the gates on two qubits of a box, and their qubits on the device."""
    body = instruction.operation.body
    outer = dict(zip(body.qubits, instruction.qubits, strict=True))
    gates = [
        (inner.operation, tuple(numbers[outer[qubit]] for qubit in inner.qubits))
        for inner in body.data
        if len(inner.qubits) == 2 and inner.name != "barrier"
    ]
    if noise is not None and gates:
        wide = QuantumCircuit(max(qubit for _, qubits in gates for qubit in qubits) + 1)
        for gate, qubits in gates:
            wide.append(gate, qubits)
        if noise.conforming(wide)[0] is not wide:
            asked = ", ".join(f"{gate.name} on {list(qubits)}" for gate, qubits in gates)
            message = f"the device does not have all of these gates: {asked}; transpile for it"
            raise InvalidProgram("not_native", message)
    return gates


def _local(qubits: Collection[int], couplings: Collection[frozenset[int]]) -> Iterator[Generator]:
    """Give the Paulis on single qubits and on pairs that some gate of the program couples."""
    for place in range(len(qubits)):
        for pauli in _PAULIS:
            yield pauli, (place,)
    for pair in combinations(enumerate(qubits), 2):
        if frozenset(number for _, number in pair) in couplings:
            for paulis in product(_PAULIS, repeat=2):
                yield "".join(paulis), tuple(place for place, _ in pair)


def _layers(circuit: QuantumCircuit, strategy: str) -> Iterator[_Layer]:
    """Give the layers of Clifford gates of a circuit, one after another."""
    boxing = generate_boxing_pass_manager(enable_measures=False, twirling_strategy=strategy)
    try:
        boxed = boxing.run(circuit)
    except (QiskitError, LookupError, TypeError, ValueError) as exc:
        message = f"the circuit cannot be split into layers: {str(exc)[:200]}"
        raise InvalidProgram("layers", message) from exc
    numbers = {qubit: number for number, qubit in enumerate(boxed.qubits)}
    for instruction in boxed.data:
        if instruction.name != "box":
            continue
        body = undress_box(instruction.operation).body
        outer = dict(zip(body.qubits, instruction.qubits, strict=True))
        gates = [inner for inner in body.data if len(inner.qubits) == 2]
        if gates and _is_clifford(body):
            yield _Layer(
                gates=frozenset(
                    _Gate(
                        name=gate.name,
                        params=tuple(float(param) for param in gate.params),
                        qubits=tuple(numbers[outer[qubit]] for qubit in gate.qubits),
                    )
                    for gate in gates
                ),
                qubits=tuple(sorted(numbers[qubit] for qubit in instruction.qubits)),
            )


def _circuit(layer: _Layer) -> QuantumCircuit:
    circuit = QuantumCircuit(len(layer.qubits))
    places = {number: place for place, number in enumerate(layer.qubits)}
    for gate in sorted(layer.gates):
        circuit.append(_operation(gate), [places[number] for number in gate.qubits])
    return circuit


def _operation(gate: _Gate) -> Operation:
    operation: Operation = _GATES[gate.name].base_class(*gate.params)
    return operation


def _protocol(instruction: CircuitInstruction) -> LearningProtocol:
    """Find how a box is learned, as the client's ``find_learning_protocol`` does.

    Raises:
        InvalidProgram: it is not twirled, or nothing can learn it.
    """
    box: BoxOp = instruction.operation
    if get_annotation(box, Twirl) is None:
        raise InvalidProgram("not_twirled", "the box is not annotated to be twirled")
    body = undress_box(box).body
    active = [q for inner in body.data if inner.name != "barrier" for q in inner.qubits]
    if len(active) == len(set(active)):
        if _is_clifford(box.body):
            return LearningProtocol.LINDBLAD
        measures = all(inner.name in ("measure", "barrier") for inner in body.data)
        if measures and len(active) == len(instruction.qubits):
            return LearningProtocol.TREX
    message = (
        "the box has neither one layer of Clifford gates on one or two qubits nor one measurement "
        "of each of its qubits"
    )
    raise InvalidProgram("not_learnable", message)


def _is_clifford(circuit: QuantumCircuit) -> bool:
    if not all(
        inner.name == "barrier" or (inner.is_standard_gate() and len(inner.qubits) <= 2)
        for inner in circuit.data
    ):
        return False
    try:
        Clifford(circuit)
    except QiskitError:
        return False
    return True
