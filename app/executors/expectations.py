"""How does an estimator's pub become expectation values where states can be read exactly?

The values are what shots would give, as on the CPU, without any being drawn: the exact value of
every basis, plus normal noise with exactly the variance that the mean of so many shots has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from app.errors import ExecutionError
from app.executors.circuits.angles import Angles
from app.executors.circuits.lowering import JUMP, MARK, MEASURE, RESET, STORE, Step, lower
from app.executors.circuits.reduction import components, reduce
from app.executors.durations import Work
from app.executors.engines.gates import GATES
from app.executors.engines.simulation import EngineSimulation
from app.executors.estimator import EstimatorRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from app.executors.circuits.reduction import Reduced
    from app.executors.observables import Group
    from app.executors.simulation import Simulation
    from app.primitives.programs import EstimatorPub, EstimatorPubResult

#: Where a basis, its square included, has more Paulis than that, it is read by shots.
_MOST_PAULIS = 2048
#: The same for all bases of a pub together, each counted by itself: writing them out takes time.
_MOST_OF_ALL = 2**17
#: bytes of a Pauli: its value at a parameter set, its places, and its string.
_PAULI_BYTES = 256
#: Values of Paulis that are held at once.
_VALUES_AT_ONCE = 2**20
_COLLAPSES = frozenset((MEASURE, RESET, JUMP, MARK, STORE))

#: qubit and ``X``, ``Y`` or ``Z``, in the order of qubits.
_Pauli = tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True)
class _Basis:
    """The sum of the terms that are measured in one basis, and its square, in Paulis."""

    mean: dict[_Pauli, float]
    square: dict[_Pauli, float]

    @classmethod
    def of(cls, group: Group) -> _Basis | None:
        """Write out a group; None if that is too long."""
        terms = group.paulis(_MOST_PAULIS)
        if terms is None or len(terms) ** 2 > _MOST_PAULIS**2 // 8:
            return None
        square = {frozenset[int](): sum(weight**2 for weight in terms.values())}
        for (one, weight), (other, factor) in combinations(terms.items(), 2):
            # A qubit that both read is read in one basis, and its Pauli squared is 1.
            product = one ^ other
            square[product] = square.get(product, 0.0) + 2 * weight * factor
        if len(square) > _MOST_PAULIS:
            return None

        def named(written: dict[frozenset[int], float]) -> dict[_Pauli, float]:
            return {
                tuple((qubit, group.bases[qubit]) for qubit in sorted(read)): weight
                for read, weight in written.items()
            }

        return cls(mean=named(terms), square=named(square))


@dataclass(kw_only=True)
class _Part:
    """A component of the circuit, and what is asked of it."""

    reduced: Reduced
    #: qubit of the circuit → qubit of ``reduced``.
    places: dict[int, int]
    #: distinct Paulis over the qubits of ``reduced``, and where they are in the order of asking.
    asked: dict[_Pauli, int] = field(default_factory=dict)

    def index(self, pauli: _Pauli) -> int | None:
        """Give the place of what ``pauli`` reads of this part; None if nothing."""
        read = tuple(
            sorted((self.places[qubit], each) for qubit, each in pauli if qubit in self.places)
        )
        return self.asked.setdefault(read, len(self.asked)) if read else None


class ExactRun(EstimatorRun):
    """One pub that is to be estimated; by shots if it collapses the state, or is too long."""

    def __init__(self, pub: EstimatorPub) -> None:
        """Look at the pub.

        Raises:
            InvalidProgram: observables and parameter sets do not fit together.
            ExecutionError: the circuit cannot be simulated.
        """
        super().__init__(pub, None)
        self._slots = Angles(pub.circuit.parameters)
        self._gates = lower(pub.circuit, GATES, self._slots, stores=True)
        collapses = any(step.name in _COLLAPSES for step in self._gates)
        #: of every observable; None: shots are drawn.
        self._bases = None if collapses else self._written_out()

    @property
    def working_bytes(self) -> int:
        """Memory that the run needs besides its result and a simulation."""
        if self._bases is None:
            return super().working_bytes
        paulis = sum(len(basis.square) + len(basis.mean) for each in self._bases for basis in each)
        return _PAULI_BYTES * paulis + 16 * _VALUES_AT_ONCE

    def work(self, simulation: Simulation) -> Work:
        """Estimate what the run takes: unknown where an engine does it all."""
        return super().work(simulation) if self._bases is None else Work(is_unknown=True)

    def result(
        self, simulation: Simulation, rng: np.random.Generator
    ) -> tuple[EstimatorPubResult, dict[str, object]]:
        """Give the expectation values, and what was simulated."""
        if self._bases is None:
            return super().result(simulation, rng)
        if not isinstance(simulation, EngineSimulation):
            raise ExecutionError("exact expectation values need an engine")
        pub, parts = self._pub, self._components()
        angles = self._slots.at(
            pub.parameter_values.reshape(self._sets, pub.parameter_values.shape[-1])
        )
        means, variances = np.empty((2, prod(self._shape)))
        for chunk, pairs in self._chunks(self._sets_at_once(parts, simulation)):
            asked = (basis for index, _, _ in pairs for basis in self._bases[index])
            values = _values(parts, _distinct(asked), simulation, angles[chunk])
            for index, places, sets in pairs:
                constant, _ = self._observables[index]
                means[places], variances[places] = constant, 0.0
                for basis in self._bases[index]:
                    mean = sum(weight * values[pauli][sets] for pauli, weight in basis.mean.items())
                    square = sum(
                        weight * values[pauli][sets] for pauli, weight in basis.square.items()
                    )
                    means[places] += mean
                    variances[places] += np.maximum(square - mean**2, 0.0) / pub.shots
        errors = np.sqrt(variances)
        provenance = self._provenance([part.reduced for part in parts])
        noise = {"shot_noise": "normal, of the exact variance of every basis"}
        return self._result(rng.normal(means, errors), errors), provenance | noise

    def _written_out(self) -> list[list[_Basis]] | None:
        observables, written = [], 0
        for _, groups in self._observables:
            bases = []
            for group in groups:
                basis = _Basis.of(group)
                if basis is None or (written := written + len(basis.square)) > _MOST_OF_ALL:
                    return None
                bases.append(basis)
            observables.append(bases)
        return observables

    def _sets_at_once(self, parts: list[_Part], simulation: EngineSimulation) -> int:
        if not all(simulation.sweeps(part.reduced) for part in parts):
            return 1
        paulis = len(_distinct(basis for each in self._bases or () for basis in each))
        at_once = simulation.sets_at_once(part.reduced for part in parts)
        return max(1, min(at_once, _VALUES_AT_ONCE // max(1, paulis)))

    def _components(self) -> list[_Part]:
        read = {q for _, groups in self._observables for group in groups for q in group.bases}
        measured = [*self._gates, *(Step(MEASURE, (qubit,), (qubit,)) for qubit in sorted(read))]
        parts = []
        for component in components(measured, fresh_read_zero=False):
            reduced = reduce(component, fresh_read_zero=False)
            parts.append(_Part(reduced=reduced, places=dict(reduced.readout or {})))
        return parts


def _distinct(bases: Iterable[_Basis]) -> list[_Pauli]:
    return list(dict.fromkeys(pauli for basis in bases for pauli in (*basis.mean, *basis.square)))


def _values(
    parts: list[_Part],
    paulis: list[_Pauli],
    simulation: EngineSimulation,
    angles: npt.NDArray[np.float64],
) -> Mapping[_Pauli, npt.NDArray[np.float64]]:
    """Give the expectation value of every Pauli, an array of shape ``(sets,)``.

    It is the product of those of its parts, as these are not entangled.
    """
    for part in parts:
        part.asked.clear()
    indices = {pauli: [part.index(pauli) for part in parts] for pauli in paulis}
    read = [
        simulation.expectations(part.reduced, angles, [dict(each) for each in part.asked])
        if part.asked
        else None
        for part in parts
    ]
    ones = np.ones(len(angles))
    return {
        pauli: prod(
            (
                of[place]
                for of, place in zip(read, places, strict=True)
                if of is not None and place is not None
            ),
            start=ones,
        )
        for pauli, places in indices.items()
    }
