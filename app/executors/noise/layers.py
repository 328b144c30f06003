"""How noisy is a layer of entangling gates? As the caller has learned, or as this run has it.

Noise is written as a Pauli-Lindblad map: https://arxiv.org/abs/2201.09866.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qiskit.quantum_info import PauliLindbladMap

from app.errors import InvalidProgram
from app.executors.noise.gates import generators

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from qiskit import QuantumCircuit
    from qiskit.circuit import Operation

    from app.executors.mitigation.boxes import Layer
    from app.executors.noise.model import Noise

#: Name and qubits of every entangling gate.
_Gates = frozenset[tuple[str, tuple[int, ...]]]
#: Gates whose qubits may be named in any order.
_SYMMETRIC = frozenset(("cz", "rzz", "swap", "iswap"))


def noise_maps(
    layers: Sequence[Layer],
    qubits: Sequence[int],
    *,
    learned: Sequence[dict[str, Any]],
    noise: Noise,
) -> dict[str, PauliLindbladMap]:
    """Give the noise of layers.

    Args:
        layers: of a circuit.
        qubits: number that each qubit of the circuit has on the device.
        learned: layers and their noise, as in ``resilience.layer_noise_model``; others are taken
            for noiseless, as IBM's schemas say. If there are none, the noise of the run is taken.
        noise: of the run.

    Returns:
        reference of a layer → its noise, whose qubits are those of the layer, ascending.

    Raises:
        InvalidProgram: there are layers, and the noise of none of them is known.
    """
    different = {layer.reference: layer for layer in layers}
    if not learned:
        return {name: _of_run(layer, qubits, noise) for name, layer in different.items()}
    known = {
        _gates(layer["circuit"], layer["qubits"]): layer
        for layer in learned
        if layer["error"] is not None
    }
    matches = {
        name: known.get(
            frozenset(
                _gate(gate.name, tuple(qubits[qubit] for qubit in places))
                for gate, places in layer.gates
            )
        )
        for name, layer in different.items()
    }
    if different and not any(matches.values()):
        message = "resilience.layer_noise_model has none of the layers of the circuit"
        raise InvalidProgram("layer_noise", message)
    return {
        name: _map(match, [qubits[qubit] for qubit in different[name].qubits])
        if match
        else PauliLindbladMap.identity(len(different[name].qubits))
        for name, match in matches.items()
    }


def _gates(circuit: QuantumCircuit, qubits: Sequence[int]) -> _Gates:
    numbers = dict(zip(circuit.qubits, qubits, strict=True))
    return frozenset(
        _gate(instruction.name, tuple(numbers[qubit] for qubit in instruction.qubits))
        for instruction in circuit.data
        if len(instruction.qubits) > 1 and instruction.is_standard_gate()
    )


def _gate(name: str, qubits: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    return name, tuple(sorted(qubits)) if name in _SYMMETRIC else qubits


def _of_run(layer: Layer, qubits: Sequence[int], noise: Noise) -> PauliLindbladMap:
    places = {qubits[qubit]: place for place, qubit in enumerate(layer.qubits)}
    gates = [(gate, tuple(qubits[each] for each in acted_on)) for gate, acted_on in layer.gates]
    return PauliLindbladMap.from_sparse_list(
        [
            (characters, [places[qubit] for qubit in acting], rate)
            for characters, acting, rate in noise_of_run(gates, list(places), noise)
        ],
        num_qubits=len(layer.qubits),
    )


def noise_of_run(
    gates: Iterable[tuple[Operation, tuple[int, ...]]], qubits: Iterable[int], noise: Noise
) -> Iterator[tuple[str, list[int], float]]:
    """Give the noise that a layer has in this run.

    Args:
        gates: entangling ones, and their qubits on the device; no qubit has two.
        qubits: of the layer, on the device; to those without a gate random gates happen only.
        noise: of the run.

    Yields:
        Pauli characters, the qubit of the device of each of them, and their rate.

    Raises:
        InvalidProgram: the noise leaves nothing of some Pauli.
    """
    acted_on = [*gates]
    idle = set(qubits).difference(*(places for _, places in acted_on))
    alone: list[tuple[Operation | None, tuple[int, ...]]] = [(None, (each,)) for each in idle]
    for gate, places in [*acted_on, *alone]:
        for characters, acting, rate in generators(gate, places, noise):
            yield characters, [places[index] for index in acting], rate


def _map(learned: dict[str, Any], qubits: list[int]) -> PauliLindbladMap:
    """Noise on ``qubits`` only: what happens to others is not seen."""
    places = {qubit: place for place, qubit in enumerate(qubits)}
    rates: dict[tuple[str, tuple[int, ...]], float] = {}
    error = learned["error"]
    for characters, rate in zip(error["generators"], error["rates"], strict=True):
        acting = [
            (character, places[qubit])
            for character, qubit in zip(reversed(characters), learned["qubits"], strict=True)
            if character != "I" and qubit in places
        ]
        if acting:
            generator = ("".join(each for each, _ in acting), tuple(place for _, place in acting))
            rates[generator] = rates.get(generator, 0.0) + float(rate)
    return PauliLindbladMap.from_sparse_list(
        [(characters, list(acting), rate) for (characters, acting), rate in rates.items()],
        num_qubits=len(qubits),
    )
