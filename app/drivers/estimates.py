"""How is an estimator's pub measured on a device? A circuit for every basis; values from counts.

Runs in the sandbox only. Terms are grouped, and values and errors computed, as where the service
simulates: ``app.executors.observables``. Nothing is mitigated.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.transpiler import PassManager
from qiskit.transpiler.passes import Optimize1qGatesDecomposition

from app.errors import InvalidProgram
from app.executors.estimator import require_broadcast
from app.executors.observables import ROTATIONS, Group, grouped
from app.executors.samples import counted
from app.primitives.programs import EstimatorPubResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.executors.samples import Samples
    from app.primitives.programs import EstimatorPub


class PubCircuits:
    """The circuits of one pub."""

    def __init__(self, pub: EstimatorPub, gates: tuple[str, ...]) -> None:
        """Look at the pub.

        Args:
            pub: what is to be estimated.
            gates: of the device.

        Raises:
            InvalidProgram: observables and parameter sets do not fit together.
        """
        self._pub = pub
        self._gates = gates
        self._shape = require_broadcast(pub)
        self._observables = pub.observables.ravel().tolist()
        self._groups = [grouped(observable)[1] for observable in self._observables]
        sets = prod(pub.parameter_values.shape[:-1])
        self._values = pub.parameter_values.reshape(sets, pub.circuit.num_parameters)
        #: parameter set, and bases of the qubits that are read → number of the circuit.
        self._numbers: dict[tuple[int, tuple[tuple[int, str], ...]], int] = {}
        self._places = [
            [observable, [self._number(values, group) for group in self._groups[observable]]]
            for observable, values in zip(
                self._broadcast(pub.observables.shape),
                self._broadcast(pub.parameter_values.shape[:-1]),
                strict=True,
            )
        ]

    @property
    def number(self) -> int:
        """How many there are: what is read twice in one basis is measured once."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[QuantumCircuit]:
        """Give the circuits; the bits that are added are the last ones."""
        for values, bases in self._numbers:
            circuit = self._pub.circuit.assign_parameters(
                self._values[values].tolist(), inplace=False
            )
            taken = {register.name for register in circuit.cregs}
            name = "observables"
            while name in taken:
                name += "_"
            register = ClassicalRegister(len(bases), name)
            circuit.add_register(register)
            for (qubit, basis), clbit in zip(bases, register, strict=True):
                circuit.compose(_rotation(basis, self._gates), [qubit], inplace=True)
                circuit.measure(qubit, clbit)
            yield circuit

    @property
    def layout(self) -> dict[str, Any]:
        """What ``estimated`` needs to know, as JSON."""
        return {
            "shape": self._shape,
            "shots": self._pub.shots,
            "precision": self._pub.precision,
            "metadata": self._pub.circuit.metadata or {},
            "observables": self._observables,
            #: observable and circuits of every place of the result.
            "places": self._places,
            #: qubits that each circuit reads, in the order of its last bits.
            "qubits": [[qubit for qubit, _ in bases] for _, bases in self._numbers],
            "first_clbit": self._pub.circuit.num_clbits,
        }

    def _number(self, values: int, group: Group) -> int:
        key = (values, tuple(sorted(group.bases.items())))
        return self._numbers.setdefault(key, len(self._numbers))

    def _broadcast(self, shape: tuple[int, ...]) -> list[int]:
        """For every place of the result, the index into an array of ``shape``."""
        indices = np.arange(prod(shape)).reshape(shape)
        places: list[int] = np.broadcast_to(indices, self._shape).ravel().tolist()
        return places


def estimated(
    layout: dict[str, Any], counts: Iterator[dict[str, int]], rng: np.random.Generator
) -> EstimatorPubResult:
    """The result of a pub.

    Args:
        layout: of its circuits.
        counts: of its circuits, in order; leftmost character: the highest clbit.
        rng: as ``Group.moments`` wants one.
    """
    samples = [_samples(next(counts), qubits, layout["first_clbit"]) for qubits in layout["qubits"]]
    means, variances = np.zeros((2, len(layout["places"])))
    for place, (observable, circuits) in enumerate(layout["places"]):
        means[place], groups = grouped(layout["observables"][observable])
        for group, circuit in zip(groups, circuits, strict=True):
            mean, variance = group.moments([samples[circuit]], sets=1, rng=rng)
            means[place] += mean[0]
            variances[place] += variance[0]
    shape = tuple(layout["shape"])
    errors = np.sqrt(variances).reshape(shape)
    return EstimatorPubResult(
        shape=shape,
        values={
            "evs": means.reshape(shape),
            "stds": errors,
            "ensemble_standard_error": errors.copy(),
        },
        metadata={
            "shots": layout["shots"],
            "target_precision": layout["precision"],
            "circuit_metadata": layout["metadata"],
            "resilience": {},
        },
    )


def _samples(counts: dict[str, int], qubits: Sequence[int], first_clbit: int) -> Samples:
    """What the qubits read, whatever other bits there are; clbits are named like the qubits."""
    read: dict[int, int] = {}
    for text, times in counts.items():
        outcome = int(text, 2) >> first_clbit
        read[outcome] = read.get(outcome, 0) + times
    return counted(read, qubits)


@lru_cache(maxsize=64)
def _rotation(basis: str, gates: tuple[str, ...]) -> QuantumCircuit:
    """What turns a basis into Z, in gates of the device.

    Raises:
        InvalidProgram: that cannot be made of them.
    """
    circuit = QuantumCircuit(1)
    for name, _ in ROTATIONS[basis]:
        getattr(circuit, name)(0)
    made = PassManager([Optimize1qGatesDecomposition(basis=list(gates))]).run(circuit)
    missing = {instruction.operation.name for instruction in made.data} - set(gates)
    if missing:
        message = (
            f"the device cannot measure in {basis}: its gates {', '.join(gates)} make no"
            f" {', '.join(sorted(missing))}; use observables of I and Z, or a sampler"
        )
        raise InvalidProgram("measurement_basis", message)
    return made
