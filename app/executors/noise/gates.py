"""What does the noise of a run do to a twirled gate, and to twirled readout? Exactly.

Where a noise learner would estimate the Pauli-Lindblad model of https://arxiv.org/abs/2201.09866
from samples, here the noise is known: its Pauli fidelities are computed, and from them the rates.
"""

from __future__ import annotations

from itertools import product
from math import log
from typing import TYPE_CHECKING

import numpy as np
from qiskit import QuantumCircuit
from qiskit.quantum_info import PTM, Operator, SuperOp
from qiskit_aer import AerSimulator

from app.errors import ExecutionError, InvalidProgram
from app.executors.circuits.lowering import lower
from app.executors.circuits.methods import STATEVECTOR_GATES
from app.executors.circuits.reduction import Reduced

if TYPE_CHECKING:
    import numpy.typing as npt
    from qiskit.circuit import Operation

    from app.executors.noise.model import Noise

#: Paulis, the number of qubit 0 first, and their rate.
Generator = tuple[str, list[int], float]
#: Rates below this are rounding errors.
_LEAST_RATE = 1e-12
#: A fidelity from which no rate can be told.
_LEAST_FIDELITY = 1e-6
_MEASURE = "measure"


def generators(gate: Operation | None, qubits: tuple[int, ...], noise: Noise) -> list[Generator]:
    """Give the noise of a gate and of the random gates before it.

    Args:
        gate: acts on all of ``qubits``; None: there are random gates only.
        qubits: of the device.
        noise: of the run.

    Returns:
        Pauli characters, the places among ``qubits`` of each of them, and their rate.

    Raises:
        InvalidProgram: the noise leaves nothing of some Pauli.
    """
    # Noise knows qubits in ascending order.
    ascending = sorted(qubits)
    places = [ascending.index(qubit) for qubit in qubits]
    circuit = QuantumCircuit(len(qubits))
    for place in (*places, *places):
        # A random gate is two of these, and rotations about Z.
        circuit.sx(place)
    if gate is not None:
        circuit.append(gate, places)
    fidelities = _fidelities(circuit, tuple(ascending), noise)
    paulis = ["".join(characters) for characters in product("IXYZ", repeat=len(qubits))][1:]
    if fidelities.min() < _LEAST_FIDELITY:
        message = f"the noise on qubits {list(qubits)} leaves nothing that could be amplified"
        raise InvalidProgram("layer_noise", message)
    anticommute = np.array([[_anticommute(one, other) for other in paulis] for one in paulis])
    rates = np.linalg.solve(anticommute, [-log(fidelity) / 2 for fidelity in fidelities])
    return [
        (
            "".join(character for character in pauli if character != "I"),
            [
                qubits.index(ascending[-1 - index])
                for index, character in enumerate(pauli)
                if character != "I"
            ],
            float(rate),
        )
        for pauli, rate in zip(paulis, rates, strict=True)
        if abs(rate) > _LEAST_RATE
    ]


def readout_flips(qubit: int, noise: Noise) -> float:
    """Give the probability that twirled readout of a qubit of the device is wrong.

    Twirled, readout is as often wrong about 0 as about 1: the mean of both is taken.

    Raises:
        ExecutionError: readings are wrong in another way than by readout errors.
    """
    alone = Reduced(steps=(), qubits=1, readout=None, written=frozenset(), origins=(qubit,))
    flips = 0.0
    for error in noise.on(alone).to_dict()["errors"]:
        if error["type"] == "roerror":
            (_, one), (zero, _) = error["probabilities"]
            flips = (one + zero) / 2
        elif _MEASURE in error["operations"]:
            message = "errors of measurements other than readout errors are not learned"
            raise ExecutionError(message)
    return flips


def _fidelities(
    circuit: QuantumCircuit, qubits: tuple[int, ...], noise: Noise
) -> npt.NDArray[np.float64]:
    """Give the fidelity of every Pauli but the identity, ordered as words of I, X, Y and Z."""
    reduced = Reduced(
        steps=tuple(lower(circuit, STATEVECTOR_GATES, keep_idling=True)),
        qubits=len(qubits),
        readout=None,
        written=frozenset(),
        origins=qubits,
    )
    actual = circuit.copy()
    actual.save_superop()
    simulator = AerSimulator(method="superop", noise_model=noise.on(reduced), fusion_enable=False)
    channel = SuperOp(simulator.run(actual, shots=1).result().data()["superop"])
    error = channel.dot(SuperOp(Operator(circuit).adjoint()))
    diagonal: npt.NDArray[np.float64] = PTM(error).data.diagonal().real[1:]
    return diagonal


def _anticommute(one: str, other: str) -> bool:
    different = sum("I" not in pair and pair[0] != pair[1] for pair in zip(one, other, strict=True))
    return different % 2 == 1
