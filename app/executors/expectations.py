"""How does an estimator's pub become expectation values where states can be read exactly?

As Qiskit's ``StatevectorEstimator`` does it: the exact value, plus normal noise with the precision
that was asked for as its standard deviation. All Paulis of a parameter set are one call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from app.errors import ExecutionError
from app.executors.angles import Angles
from app.executors.engines.gates import GATES
from app.executors.engines.simulation import EngineSimulation
from app.executors.estimator import EstimatorRun, require_broadcast
from app.executors.lowering import JUMP, MARK, MEASURE, RESET, STORE, Step, lower
from app.executors.observables import pauli_terms
from app.executors.reduction import components, reduce
from app.primitives.programs import EstimatorPubResult

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.executors.reduction import Reduced
    from app.executors.simulation import Simulation
    from app.primitives.programs import EstimatorPub

#: bytes of a term at a parameter set, of its indices, and of its string.
_TERM_BYTES = 64
_COLLAPSES = frozenset((MEASURE, RESET, JUMP, MARK, STORE))


@dataclass(kw_only=True)
class _Part:
    """A component of the circuit, and what is asked of it."""

    reduced: Reduced
    #: qubit of the circuit → qubit of ``reduced``.
    places: dict[int, int]
    #: distinct Paulis over the qubits of ``reduced``, and where they are in the order of asking.
    asked: dict[tuple[tuple[int, str], ...], int] = field(default_factory=dict)

    def index(self, term: dict[int, str]) -> int | None:
        """Give the place of what ``term`` reads of this part; None if nothing."""
        read = tuple(
            sorted(
                (self.places[qubit], each) for qubit, each in term.items() if qubit in self.places
            )
        )
        return self.asked.setdefault(read, len(self.asked)) if read else None


class ExactRun:
    """One pub that is to be estimated."""

    def __init__(self, pub: EstimatorPub) -> None:
        """Look at the pub.

        Raises:
            InvalidProgram: observables and parameter sets do not fit together, or a term has too
                many projectors.
            ExecutionError: the circuit cannot be simulated.
        """
        self._pub = pub
        #: what runs it when measurements are among its gates: those need shots.
        self._sampled = EstimatorRun(pub, None)
        self._shape = require_broadcast(pub)
        self._sets = prod(pub.parameter_values.shape[:-1])
        self._observables = [
            [
                (
                    coefficient,
                    {q: each for q, each in enumerate(reversed(characters)) if each != "I"},
                )
                for characters, coefficient in pauli_terms(observable).items()
            ]
            for observable in pub.observables.ravel().tolist()
        ]
        self._terms = sum(map(len, self._observables))
        self._angles = Angles(pub.circuit.parameters)
        self._steps = lower(pub.circuit, GATES, self._angles, stores=True)
        self._collapses = any(step.name in _COLLAPSES for step in self._steps)

    @property
    def result_bytes(self) -> int:
        """Size of the result, before it is encoded."""
        return self._sampled.result_bytes

    @property
    def working_bytes(self) -> int:
        """Memory that the run needs besides its result and a simulation."""
        sampled = self._sampled.working_bytes if self._collapses else 0
        return sampled + _TERM_BYTES * self._terms

    @property
    def description(self) -> str:
        """Size of the run in words."""
        return f"{prod(self._shape)} expectation values of {self._terms} terms"

    def result(
        self, simulation: Simulation, rng: np.random.Generator
    ) -> tuple[EstimatorPubResult, dict[str, object]]:
        """Give the expectation values, and what was simulated."""
        if not isinstance(simulation, EngineSimulation):
            raise ExecutionError("exact expectation values need an engine")
        pub = self._pub
        if self._collapses:
            return self._sampled.result(simulation, rng)
        parts = self._parts(self._steps)
        # For every observable and term, where its factors are found.
        wanted = [
            [
                (coefficient, [part.index(term) for part in parts])
                for coefficient, term in observable
            ]
            for observable in self._observables
        ]
        values = self._angles.at(
            pub.parameter_values.reshape(self._sets, pub.parameter_values.shape[-1])
        )
        exact = np.empty((len(wanted), self._sets))
        for index in range(self._sets):
            read = [
                simulation.expectations(part.reduced, values[index], [dict(p) for p in part.asked])
                if part.asked
                else np.empty(0)
                for part in parts
            ]
            exact[:, index] = [
                sum(
                    coefficient
                    * prod(of[p] for of, p in zip(read, places, strict=True) if p is not None)
                    for coefficient, places in terms
                )
                for terms in wanted
            ]
        return self._result(self._paired(exact), rng), self._provenance(parts)

    def _parts(self, steps: list[Step]) -> list[_Part]:
        read = {qubit for terms in self._observables for _, term in terms for qubit in term}
        measured = [*steps, *(Step(MEASURE, (qubit,), (qubit,)) for qubit in sorted(read))]
        parts = []
        for component in components(measured, fresh_read_zero=False):
            reduced = reduce(component, fresh_read_zero=False)
            parts.append(_Part(reduced=reduced, places=reduced.readout or {}))
        return parts

    def _paired(self, exact: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Pick the values of the pub's shape from all observables at all parameter sets."""
        pub = self._pub
        observables = np.arange(len(exact)).reshape(pub.observables.shape)
        sets = np.arange(self._sets).reshape(pub.parameter_values.shape[:-1])
        picked: npt.NDArray[np.float64] = exact[np.broadcast_arrays(observables, sets)[0:2]]
        return picked

    def _result(
        self, exact: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> EstimatorPubResult:
        pub = self._pub
        errors = np.full(self._shape, pub.precision)
        return EstimatorPubResult(
            shape=self._shape,
            values={
                "evs": rng.normal(exact, errors),
                "stds": errors,
                "ensemble_standard_error": errors,
            },
            metadata={
                "shots": pub.shots,
                "target_precision": pub.precision,
                "circuit_metadata": pub.circuit.metadata or {},
                "resilience": {},
            },
        )

    def _provenance(self, parts: list[_Part]) -> dict[str, object]:
        return {
            "shots": 0,
            "noise": "exact values, and normal noise of the target precision",
            "qubits_declared": self._pub.circuit.num_qubits,
            "qubits_simulated": sum(part.reduced.qubits for part in parts),
            "component_qubits": [part.reduced.qubits for part in parts],
            "paulis": sum(len(part.asked) for part in parts),
        }
