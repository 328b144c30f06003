"""Which noise do layers and boxes have? Where there is none, exactly none: every shot agrees.

A learner repeats a layer between twirls and fits the decay of Pauli expectation values. Without
noise these are 1 at every depth and in every shot, so the fit gives rates of 0 with errors of 0.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit.library import get_standard_gate_name_mapping
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import Clifford
from samplomatic import Twirl
from samplomatic.transpiler import generate_boxing_pass_manager
from samplomatic.utils import get_annotation, undress_box

from app.errors import ExecutionError, InvalidProgram
from app.executors.locations import located
from app.primitives.programs import (
    LearnedBox,
    LearnedLayer,
    LearningProtocol,
    PauliLindbladError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from qiskit.circuit import BoxOp, CircuitInstruction

    from app.executors.noise import Noise
    from app.primitives.programs import BoxesProgram, LayersProgram

_PAULIS = "XYZ"
_GATES = get_standard_gate_name_mapping()

Generator = tuple[str, tuple[int, ...]]


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
        InvalidProgram: a circuit cannot be split into layers.
        ExecutionError: there is noise.
    """
    _require_silence(noise)
    strategy = program.options["twirling_strategy"].replace("-", "_")
    found: Counter[_Layer] = Counter()
    for index, circuit in enumerate(program.circuits):
        with located(f"circuits[{index}]"):
            found.update(_layers(circuit, strategy))
    ordered = sorted(found, key=lambda layer: (-found[layer], -len(layer.gates)))
    couplings = {frozenset(gate.qubits) for layer in found for gate in layer.gates}
    return tuple(
        LearnedLayer(
            circuit=_circuit(layer),
            qubits=layer.qubits,
            error=_silent(_local(layer.qubits, couplings)),
        )
        for layer in ordered[: program.options["max_layers_to_learn"]]
    )


def learn_boxes(program: BoxesProgram, noise: Noise | None) -> tuple[LearnedBox, ...]:
    """Learn twirled boxes, each with a layer of gates or with measurements.

    Raises:
        InvalidProgram: a box is neither.
        ExecutionError: there is noise.
    """
    _require_silence(noise)
    numbers = dict(zip(program.circuit.qubits, program.qubits, strict=True))
    protocols = []
    couplings: set[frozenset[int]] = set()
    for index, instruction in enumerate(program.circuit.data):
        with located(f"instructions[{index}]"):
            protocols.append(_protocol(instruction))
        outer = dict(zip(instruction.operation.body.qubits, instruction.qubits, strict=True))
        couplings |= {
            frozenset(numbers[outer[qubit]] for qubit in inner.qubits)
            for inner in instruction.operation.body.data
            if len(inner.qubits) == 2
        }
    boxes = []
    for instruction, protocol in zip(program.circuit.data, protocols, strict=True):
        qubits = sorted(numbers[qubit] for qubit in instruction.qubits)
        if protocol is LearningProtocol.TREX:
            generators: Iterable[Generator] = [("X", (place,)) for place in range(len(qubits))]
        else:
            generators = _local(qubits, couplings)
        boxes.append(
            LearnedBox(protocol=protocol, num_qubits=len(qubits), error=_silent(generators))
        )
    return tuple(boxes)


def _require_silence(noise: Noise | None) -> None:
    if noise is not None:
        message = (
            "this executor does not learn the noise that it simulates; the NoiseLearnerV3 of "
            "qiskit_ibm_runtime.executor_noise_learner learns it from samples"
        )
        raise ExecutionError(message)


def _silent(generators: Iterable[Generator]) -> PauliLindbladError:
    names = tuple(generators)
    rates = np.zeros(len(names))
    return PauliLindbladError(generators=names, rates=rates, stds=rates)


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
        operation = _GATES[gate.name].base_class(*gate.params)
        circuit.append(operation, [places[number] for number in gate.qubits])
    return circuit


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
