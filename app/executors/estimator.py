"""How does an estimator's pub become expectation values?

Every group of terms is sampled: the values have the noise, and the standard errors, of the shots
that the precision stands for. Terms of one group share their shots.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from app.errors import InvalidProgram
from app.executors import statevectors
from app.executors.admission import counts_bytes
from app.executors.circuits.angles import Angles
from app.executors.circuits.lowering import MEASURE, Step
from app.executors.circuits.reduction import components, reduce
from app.executors.durations import Work
from app.executors.observables import Group, grouped
from app.executors.samples import Samples, drawn
from app.primitives.programs import EstimatorPubResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt
    from qiskit import QuantumCircuit

    from app.executors.circuits.reduction import Reduced
    from app.executors.noise.model import Noise
    from app.executors.simulation import Simulation
    from app.primitives.programs import EstimatorPub, Observable

#: shots that are held at once when many parameter sets are.
_SHOTS_AT_ONCE = 2**20
#: bytes of the value of a shot: it, a term of it, their factors, and its distance from the mean.
_VALUE_BYTES = 40


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A component of the circuit, and the qubits of it that some term reads."""

    #: numbered as in the circuit; without the measurements that the estimator adds.
    steps: list[Step]
    #: the same with measurements of all qubits that any term reads.
    reduced: Reduced
    qubits: frozenset[int]
    #: whether the state is kept, to be turned into one basis after another.
    keeps: bool

    def read_by(self, group: Group) -> list[int]:
        """Give the qubits that a group reads, in order."""
        return sorted(self.qubits.intersection(group.bases))

    def tells(self, group: Group) -> bool:
        """Whether the qubits that a group reads could give anything but 0."""
        bases = {group.bases[qubit] for qubit in self.read_by(group)}
        untouched = self.keeps and not self.reduced.steps
        return bool(bases - {"Z"} if untouched else bases)


class EstimatorRun:
    """One pub that is to be estimated."""

    def __init__(self, pub: EstimatorPub, noise: Noise | None) -> None:
        """Look at the pub.

        Raises:
            InvalidProgram: observables and parameter sets do not fit together.
        """
        self._pub = pub
        self._sets = prod(pub.parameter_values.shape[:-1])
        self._shape = require_broadcast(pub)
        circuit, places = (pub.circuit, None) if noise is None else noise.conforming(pub.circuit)
        self._circuit: QuantumCircuit = circuit
        observables: list[Observable] = pub.observables.ravel().tolist()
        self._observables = [grouped(observable, places) for observable in observables]
        read = {q for _, groups in self._observables for group in groups for q in group.bases}
        first = circuit.num_clbits
        self._kept: tuple[list[_Part], npt.NDArray[np.float64]] | None = None
        #: qubit that some term reads → the clbit it is read into.
        self._clbits = {qubit: first + index for index, qubit in enumerate(sorted(read))}

    @property
    def result_bytes(self) -> int:
        """Size of the result, before it is encoded: three arrays of doubles."""
        return 24 * prod(self._shape)

    @property
    def working_bytes(self) -> int:
        """Memory that the run needs besides its result and a simulation."""
        shots = self._pub.shots * min(self._sets, max(1, _SHOTS_AT_ONCE // self._pub.shots))
        # Each qubit that is read may be a part of its own, whose shots are one byte each.
        return shots * (_VALUE_BYTES + len(self._clbits)) + counts_bytes(
            self._pub.shots, self._circuit.num_clbits + len(self._clbits)
        )

    def work(self, simulation: Simulation) -> Work:
        """Estimate what the run takes."""
        parts, values = self._prepared(simulation)
        each = self._broadcast(self._pub.observables.shape)
        groups = sum(len(self._observables[observable][1]) for observable in each.tolist())
        total, shots = Work(), self._pub.shots
        for part in parts:
            if part.keeps:
                # Turning a copy of the state into another basis takes some gates.
                amplitudes = 2.0 * part.reduced.qubits * groups * 2.0**part.reduced.qubits
                total += simulation.work_of_states(part.reduced, sets=self._sets)
                # Only the shots of several parts are put side by side one by one.
                drawn = shots if len(parts) > 1 else min(shots, 2**part.reduced.qubits) / 8
                total += Work(array_amplitudes=amplitudes, shots=groups * drawn)
            else:
                total += simulation.work(part.reduced, values, sets=groups, shots=shots)
        return total

    @property
    def description(self) -> str:
        """Size of the run in words."""
        return f"{prod(self._shape)} expectation values from {self._pub.shots} shots each"

    def result(
        self, simulation: Simulation, rng: np.random.Generator
    ) -> tuple[EstimatorPubResult, dict[str, object]]:
        """Give the expectation values, and what was simulated."""
        parts, values = self._prepared(simulation)

        means, variances = np.empty((2, prod(self._shape)))
        for chunk, pairs in self._chunks(self._at_once(parts, simulation)):
            states = [
                (part, simulation.states(part.reduced, values[chunk]) if part.keeps else None)
                for part in parts
            ]
            for observable, places, sets in pairs:
                constant, groups = self._observables[observable]
                means[places], variances[places] = constant, 0.0
                for group in groups:
                    samples = [
                        self._run(part, group, values[chunk], simulation, rng)
                        if state is None
                        else self._read(part, group, state.take(sets, axis=1), rng)
                        for part, state in states
                        if part.tells(group)
                    ]
                    mean, variance = group.moments(samples, sets=len(sets), rng=rng)
                    means[places] += mean
                    variances[places] += variance
        provenance = self._provenance([part.reduced for part in parts])
        return self._result(means, np.sqrt(variances)), provenance

    def _result(
        self, means: npt.NDArray[np.float64], errors: npt.NDArray[np.float64]
    ) -> EstimatorPubResult:
        pub = self._pub
        return EstimatorPubResult(
            shape=self._shape,
            values={
                "evs": means.reshape(self._shape),
                "stds": errors.reshape(self._shape),
                "ensemble_standard_error": errors.reshape(self._shape),
            },
            metadata={
                "shots": pub.shots,
                "target_precision": pub.precision,
                "circuit_metadata": pub.circuit.metadata or {},
                "resilience": {},
            },
        )

    def _provenance(self, parts: list[Reduced]) -> dict[str, object]:
        return {
            "shots": self._pub.shots,
            "qubits_declared": self._pub.circuit.num_qubits,
            "qubits_simulated": sum(part.qubits for part in parts),
            "component_qubits": [part.qubits for part in parts],
            "measurement_bases": sum(len(groups) for _, groups in self._observables),
        }

    def _at_once(self, parts: list[_Part], simulation: Simulation) -> int:
        if not all(part.keeps and simulation.vectorises(part.reduced) for part in parts):
            return 1
        at_once = simulation.sets_at_once(part.reduced for part in parts)
        return max(1, min(at_once, _SHOTS_AT_ONCE // self._pub.shots))

    def _prepared(self, simulation: Simulation) -> tuple[list[_Part], npt.NDArray[np.float64]]:
        """Give the parts of the circuit, and the angles of their slots at every set.

        They are kept: what is estimated is what is run.
        """
        if self._kept is None:
            pub, angles = self._pub, Angles(self._pub.circuit.parameters)
            parts = self._parts(simulation.steps(self._circuit, angles, pub.shots), simulation)
            values = pub.parameter_values.reshape(self._sets, pub.parameter_values.shape[-1])
            self._kept = parts, angles.at(values)
        return self._kept

    def _parts(self, steps: list[Step], simulation: Simulation) -> list[_Part]:
        parts: list[_Part] = []
        measured = [*steps, *self._measurements(self._clbits)]
        # A qubit that nothing acted on gives 0 only if it is read in Z.
        for component in components(measured, fresh_read_zero=False):
            own = [step for step in component if not self._is_added(step)]
            reduced = reduce(component, fresh_read_zero=False)
            parts.append(
                _Part(
                    steps=own,
                    reduced=reduced,
                    qubits=frozenset(step.qubits[0] for step in component if self._is_added(step)),
                    keeps=not any(step.name == MEASURE for step in own)
                    and simulation.keeps(reduced),
                )
            )
        return parts

    def _is_added(self, step: Step) -> bool:
        return step.name == MEASURE and step.clbits[0] >= self._circuit.num_clbits

    def _measurements(self, qubits: Iterable[int]) -> list[Step]:
        return [Step(MEASURE, (qubit,), (self._clbits[qubit],)) for qubit in qubits]

    def _chunks(
        self, at_once: int
    ) -> Iterator[tuple[slice, list[tuple[int, npt.NDArray[np.intp], npt.NDArray[np.intp]]]]]:
        """Give parameter sets to simulate together, and what is to be estimated of them.

        That is, for every observable: its index, places in the result, and sets within the chunk.
        """
        observables = self._broadcast(self._pub.observables.shape)
        sets = self._broadcast(self._pub.parameter_values.shape[:-1])
        for start in range(0, self._sets, at_once):
            inside = np.flatnonzero((sets >= start) & (sets < start + at_once))
            inside = inside[observables[inside].argsort(kind="stable")]
            borders = np.flatnonzero(np.diff(observables[inside]))
            pairs = [
                (int(observables[places[0]]), places, sets[places] - start)
                for places in np.split(inside, borders + 1)
                if len(places)
            ]
            yield slice(start, start + at_once), pairs

    def _broadcast(self, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Give, for every place of the result, the index into an array of ``shape``."""
        indices = np.arange(prod(shape)).reshape(shape)
        return np.broadcast_to(indices, self._shape).ravel()

    def _read(
        self,
        part: _Part,
        group: Group,
        states: npt.NDArray[np.complex128],
        rng: np.random.Generator,
    ) -> Samples:
        """Turn states of a part, in place, into the basis of a group, and read the qubits of it."""
        readout = part.reduced.readout or {}
        places = {qubit: readout[self._clbits[qubit]] for qubit in part.read_by(group)}
        no_slots = np.empty((states.shape[1], 0))
        statevectors.evolve(states, group.rotations(places), no_slots)
        probabilities = statevectors.probabilities(states, list(places.values()))
        bits = {qubit: bit for bit, qubit in enumerate(places)}
        return drawn(probabilities, bits, shots=self._pub.shots, rng=rng)

    def _run(
        self,
        part: _Part,
        group: Group,
        angles: npt.NDArray[np.float64],
        simulation: Simulation,
        rng: np.random.Generator,
    ) -> Samples:
        """Run a part with the measurements of a group, for a single parameter set."""
        qubits = part.read_by(group)
        rotations = group.rotations({qubit: qubit for qubit in qubits}, simulation.rotations)
        samples = simulation.samples(
            simulation.reduced([*part.steps, *rotations, *self._measurements(qubits)]),
            angles,
            clbits=self._circuit.num_clbits + len(self._clbits),
            shots=self._pub.shots,
            rng=rng,
        )
        return samples.of({self._clbits[qubit]: qubit for qubit in qubits})


def require_broadcast(pub: EstimatorPub) -> tuple[int, ...]:
    """Give the shape of a pub.

    Raises:
        InvalidProgram: observables and parameter sets do not fit together.
    """
    try:
        return pub.shape
    except ValueError as exc:
        message = (
            f"observables of shape {pub.observables.shape} and parameter values of shape "
            f"{pub.parameter_values.shape[:-1]} cannot be broadcast together"
        )
        raise InvalidProgram("broadcast", message) from exc
