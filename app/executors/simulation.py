"""How are the components of a circuit sampled, each by the method that suits it?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from app.errors import ProgramTooLarge
from app.executors import stabilizers, statevectors
from app.executors.admission import AMPLITUDE_BYTES, shots_bytes, statevector_bytes, too_large
from app.executors.circuits.angles import bound
from app.executors.circuits.lowering import MEASURE, RESET, lower
from app.executors.circuits.methods import (
    COMMON_GATES,
    DENSITY_MATRIX,
    MATRIX_PRODUCT_STATE,
    NONE,
    STABILIZER,
    STATEVECTOR,
    STATEVECTOR_GATES,
    Method,
    choose,
    choose_noisy,
)
from app.executors.circuits.reduction import components, reduce
from app.executors.durations import Work
from app.executors.native import Run
from app.executors.observables import ROTATIONS
from app.executors.samples import Samples, counted, drawn, normalised

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    from qiskit import QuantumCircuit

    from app.executors import Resources
    from app.executors.circuits.angles import Angles
    from app.executors.circuits.lowering import Step
    from app.executors.circuits.reduction import Reduced
    from app.executors.noise.model import Noise
    from app.executors.observables import Rotations

#: Aer's seeds are signed 64-bit integers.
SEEDS = 2**63

#: Components up to this width are simulated at many parameter sets at once. Measured in ms per set,
#: with three layers of rotations and CX, in two threads, beside Aer with its parameters bound at
#: run time: 6 qubits 0.01 : 0.5, 10 qubits 0.13 : 1.0, 12 qubits 0.55 : 1.6, 13 qubits 1.1 : 2.3;
#: and a single set beside a run of Aer: 10 qubits 1.5 : 1.2, 13 qubits 3.6 : 3.4.
_VECTORISED_QUBITS = 13

#: Amplitudes of all parameter sets that are simulated at once. It shapes what a seed gives.
_AMPLITUDES_AT_ONCE = 2**19

#: Up to this width a state is kept and turned into one basis after another; beyond, each basis is a
#: run of its own. Measured in s, kept against run, for five bases after three layers of rotations
#: and CX: 12 qubits 0.01 : 0.02, 16 qubits 0.07 : 0.17, 20 qubits 1.1 : 2.8.
_KEPT_QUBITS = 24
#: Memory of a kept state in state vectors: itself, a copy in another basis, and what a gate or the
#: probabilities need for a moment; measured 3.6 with 22 qubits.
_KEPT_STATES = 4


class Core(Protocol):
    """Runs lowered steps: Aer's C++ core, or a state vector engine. ``Controller`` says what."""

    def probabilities(self, run: Run, qubits: Sequence[int]) -> npt.NDArray[np.float64]:
        """Probabilities of the outcomes of ``qubits``, the first the least significant bit."""
        ...

    def statevector(self, run: Run, /) -> npt.NDArray[np.complex128]:
        """Give the final state, shape ``(2 ** qubits,)``."""
        ...

    def counts(
        self, run: Run, *, shots: int, memory: int = 0, readout: Sequence[int] = ()
    ) -> dict[int, int]:
        """Outcome, as one integer → occurrences."""
        ...


class Simulation:
    """Samples circuits with what one run may use."""

    def __init__(
        self, *, controller: Core, resources: Resources, noise: Noise | None = None
    ) -> None:
        self._controller = controller
        self._resources = resources
        self._noise = noise
        #: methods that were used, in the order of their first use.
        self.methods: dict[str, None] = {}

    @property
    def is_noisy(self) -> bool:
        """Whether operations go wrong."""
        return self._noise is not None

    @property
    def array_qubits(self) -> int:
        """Up to this width all parameter sets are simulated at once, in arrays."""
        return _VECTORISED_QUBITS

    @property
    def rotations(self) -> Rotations:
        """Gates that turn a basis into Z."""
        return ROTATIONS if self._noise is None else self._noise.rotations

    def steps(self, circuit: QuantumCircuit, angles: Angles, shots: int) -> list[Step]:
        """Lower ``circuit`` to gates that whatever method it will need can run."""
        if self._noise is not None:
            # Errors are attached to the names of gates, so no gate is replaced by others.
            labels = self._noise.knows_labels
            return lower(circuit, STATEVECTOR_GATES, angles, keep_idling=True, keep_labels=labels)
        steps = lower(circuit, STATEVECTOR_GATES, angles, stores=True)
        # An estimator reads up to all qubits besides.
        outcomes = shots_bytes(shots, circuit.num_clbits + circuit.num_qubits)
        left = self._resources.memory_bytes - outcomes
        if _statevector_bytes(steps) <= left or all(
            _statevector_bytes(part) <= left for part in components(steps)
        ):
            return steps
        return lower(circuit, COMMON_GATES, angles, stores=True)

    def components(self, steps: list[Step]) -> list[list[Step]]:
        """Split a circuit into parts that share no bit, so that each is run alone."""
        return components(steps, fresh_read_zero=not self.is_noisy)

    def reduced(self, steps: list[Step]) -> Reduced:
        """Leave out what cannot be seen."""
        return reduce(steps, fresh_read_zero=not self.is_noisy)

    def vectorises(self, reduced: Reduced) -> bool:
        """Whether all parameter sets of a circuit can be simulated at once."""
        return (
            not self.is_noisy
            and reduced.readout is not None
            and reduced.qubits <= self.array_qubits
            and statevectors.runs(reduced.steps)
        )

    def sets_at_once(self, parts: Iterable[Reduced]) -> int:
        """Give how many parameter sets of circuits that ``vectorises`` to simulate at once."""
        widest = max((part.qubits for part in parts), default=0)
        return max(1, _AMPLITUDES_AT_ONCE >> widest)

    def keeps(self, reduced: Reduced) -> bool:
        """Whether the state of a circuit can be held, to be read in one basis after another."""
        return (
            not self.is_noisy
            and reduced.readout is not None
            and reduced.qubits <= _KEPT_QUBITS
            and statevector_bytes(reduced.qubits, _KEPT_STATES) <= self._resources.memory_bytes
        )

    def states(
        self, reduced: Reduced, angles: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.complex128]:
        """Give the states that a circuit without measurements ends in.

        Args:
            reduced: one that ``vectorises``, or any other for a single set.
            angles: shape ``(sets, slots)``.

        Returns:
            shape ``(2 ** qubits, sets)``; bit 0 of an index is qubit 0.
        """
        self.methods[STATEVECTOR] = None
        if self.vectorises(reduced):
            states = statevectors.zeros(reduced.qubits, len(angles))
            statevectors.evolve(states, reduced.steps, angles, threads=self._resources.threads)
            return states
        run = Run(
            steps=bound_at(reduced, angles[0]).steps,
            qubits=reduced.qubits,
            method=STATEVECTOR,
            seed=0,
        )
        try:
            return self._controller.statevector(run)[:, None]
        except ProgramTooLarge as exc:
            raise self._out_of_memory(STATEVECTOR, 1, reduced.qubits) from exc

    def samples(
        self,
        reduced: Reduced,
        angles: npt.NDArray[np.float64],
        *,
        clbits: int,
        shots: int,
        rng: np.random.Generator,
    ) -> Samples:
        """Sample a circuit.

        Args:
            reduced: one that ``vectorises``, or any other for a single set.
            angles: shape ``(sets, slots)``.
            clbits: one more than the highest clbit.
            shots: samples of every set.
            rng: where chance comes from.

        Raises:
            ProgramTooLarge: the simulator ran out of memory.
            ExecutionError: the circuit cannot be simulated.
        """
        if self.vectorises(reduced):
            readout = reduced.readout or {}
            qubits = list(dict.fromkeys(readout.values()))
            probabilities = self.probabilities(reduced, angles, qubits)
            bits = {clbit: qubits.index(qubit) for clbit, qubit in readout.items()}
            return drawn(probabilities, bits, shots=shots, rng=rng)
        single = bound_at(reduced, angles[0])
        seed = int(rng.integers(SEEDS))
        counts, places = self.counts(
            single, self.method(single, shots), clbits=clbits, shots=shots, seed=seed
        )
        return counted(counts, places)

    def probabilities(
        self, reduced: Reduced, angles: npt.NDArray[np.float64], qubits: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Probabilities of the outcomes of ``qubits``, the first the least significant bit.

        Args:
            reduced: one that ``vectorises``.
            angles: shape ``(sets, slots)``.
            qubits: which are read, each once.

        Returns:
            shape ``(sets, 2 ** len(qubits))``.
        """
        return statevectors.probabilities(self.states(reduced, angles), qubits)

    def method(self, reduced: Reduced, shots: int) -> Method:
        """Choose how a circuit without slots is simulated."""
        memory_bytes = self._resources.memory_bytes
        if self._noise is not None:
            noise = partial(self._noise.on, reduced)
            return choose_noisy(reduced, shots=shots, memory_bytes=memory_bytes, noise=noise)
        method = choose(reduced, shots=shots, memory_bytes=memory_bytes)
        if method.name == MATRIX_PRODUCT_STATE:
            return replace(method, steps=reduced.steps)
        return method

    def work(
        self, reduced: Reduced, angles: npt.NDArray[np.float64], *, sets: int, shots: int
    ) -> Work:
        """Estimate what it takes to sample a circuit.

        Args:
            reduced: a circuit.
            angles: shape ``(sets, slots)``; of the first set, the method is chosen for all.
            sets: parameter sets.
            shots: samples of every set.
        """
        if not sets or not reduced.written:
            return Work()
        if self.vectorises(reduced):
            return self.work_of_states(reduced, sets=sets) + Work(shots=float(sets) * shots)
        single = bound_at(reduced, angles[0])
        return self.work_of(single, self.method(single, shots), sets=sets, shots=shots)

    def work_of_states(self, reduced: Reduced, *, sets: int) -> Work:
        """Estimate what it takes to give the final states of a circuit that can be kept."""
        gates, amplitudes = len(reduced.steps), 2.0**reduced.qubits
        held = AMPLITUDE_BYTES << reduced.qubits
        if self.vectorises(reduced):
            at_once = min(sets << reduced.qubits, _AMPLITUDES_AT_ONCE)
            return Work(
                array_amplitudes=sets * gates * amplitudes,
                runs=1,
                gates=gates,
                state_bytes=AMPLITUDE_BYTES * at_once,
            )
        return Work(
            amplitudes=sets * gates * amplitudes,
            runs=sets,
            gates=float(sets) * gates,
            state_bytes=held * _KEPT_STATES,
        )

    def work_of(self, reduced: Reduced, method: Method, *, sets: int, shots: int) -> Work:
        """Estimate what a method takes, in a circuit without slots."""
        gates, sampled, times = len(method.steps), float(sets) * shots, float(sets)
        amplitudes, states = 2.0**reduced.qubits, method.states
        if method.name == NONE:
            return Work()
        if method.name == DENSITY_MATRIX:
            amplitudes *= amplitudes
        elif method.name == STABILIZER:
            # A gate changes a row of bits of the tableau, each measurement may change all of it.
            amplitudes, states = reduced.qubits / 8, 0
            measured = 1 + reduced.qubits**3 / 2500
            if reduced.readout is None or self.is_noisy:
                sampled *= measured
                times *= shots
            else:
                sampled = sampled * (1 + reduced.qubits**2 / 10_000) + sets * measured
        elif method.name != STATEVECTOR:
            return Work(is_unknown=True)
        elif states > 1:
            gates = _branching(method.steps, shots)
        elif reduced.readout is None or self.is_noisy:
            times *= shots
        return Work(
            amplitudes=times * gates * amplitudes,
            runs=sets,
            gates=times * gates,
            shots=sampled,
            state_bytes=int(AMPLITUDE_BYTES * amplitudes * states),
        )

    def counts(
        self, reduced: Reduced, method: Method, *, clbits: int, shots: int, seed: int
    ) -> tuple[Mapping[int, int], Sequence[int]]:
        """Give outcomes as integers, and the clbit that each of their bits stands for.

        Raises:
            ProgramTooLarge: the simulator ran out of memory.
            ExecutionError: the circuit cannot be simulated.
        """
        self.methods[method.name] = None
        if method.name == NONE:
            return {0: shots}, ()
        run = Run(
            steps=method.steps,
            # A circuit may have jumps and no qubits; Aer wants one.
            qubits=max(1, reduced.qubits),
            method=method.name,
            seed=seed,
            branching=method.states > 1,
            noise=None if self._noise is None else self._noise.on(reduced),
        )
        try:
            if reduced.readout is None:
                return self._controller.counts(run, shots=shots, memory=clbits), range(clbits)
            written = sorted(reduced.readout)
            qubits = [reduced.readout[clbit] for clbit in written]
            if method.name == STABILIZER and self._noise is None:
                flips = stabilizers.flips(method.steps, reduced.qubits)
                if flips is not None:
                    return self._drawn_from(flips, run, qubits, shots=shots), written
            if not method.draws:
                return self._controller.counts(run, shots=shots, readout=qubits), written
            distinct = list(dict.fromkeys(qubits))
            outcomes = _draw(self._controller.probabilities(run, distinct), shots, seed)
        except ProgramTooLarge as exc:
            raise self._out_of_memory(method.name, method.states, reduced.qubits) from exc
        if len(distinct) == len(qubits):
            return outcomes, written
        return _copied(outcomes, [distinct.index(qubit) for qubit in qubits]), written

    def _drawn_from(
        self, flips: npt.NDArray[np.uint8], run: Run, qubits: Sequence[int], *, shots: int
    ) -> dict[int, int]:
        """Draw the outcomes of a stabilizer state: 250 qubits take 4 µs a shot, with Aer 2 ms."""
        (one,) = self._controller.counts(run, shots=1, readout=qubits)
        rng = np.random.default_rng(run.seed)
        return stabilizers.sampled(one, stabilizers.columns(flips, qubits), shots=shots, rng=rng)

    def _out_of_memory(self, method: str, states: int, qubits: int) -> ProgramTooLarge:
        return too_large(
            statevector_bytes(qubits, states),
            self._resources,
            what=f"the run was out of memory as a {method}; {qubits} qubits in double "
            "precision as a state vector",
            remedy="Use fewer qubits or fewer entangling gates.",
        )


def _branching(steps: Sequence[Step], shots: int) -> int:
    """How often gates are applied, each to all branches there are by then; a loop turns once."""
    branches, applied = 1, 0
    for step in steps:
        applied += branches
        if step.name in (MEASURE, RESET):
            branches = min(2 * branches, shots)
    return applied


def _statevector_bytes(steps: list[Step]) -> int:
    return statevector_bytes(len({qubit for step in steps for qubit in step.qubits}))


def bound_at(reduced: Reduced, angles: npt.NDArray[np.float64]) -> Reduced:
    """Put the angles of one set, shape ``(slots,)``, in the place of their slots."""
    if not len(angles):
        return reduced
    steps = (step._replace(params=bound(step.params, angles)) for step in reduced.steps)
    return replace(reduced, steps=tuple(steps))


def _draw(probabilities: npt.NDArray[np.float64], shots: int, seed: int) -> dict[int, int]:
    """Draw ``shots`` outcomes at once: 0.01 ms, where Aer's own sampling takes 0.5 µs a shot."""
    occurrences = np.random.default_rng(seed).multinomial(shots, normalised(probabilities))
    (outcomes,) = occurrences.nonzero()
    return dict(zip(outcomes.tolist(), occurrences[outcomes].tolist(), strict=True))


def _copied(outcomes: dict[int, int], sources: list[int]) -> dict[int, int]:
    """Outcomes in which bit ``i`` is bit ``sources[i]``: several bits may read one qubit."""
    return {
        sum((outcome >> source & 1) << bit for bit, source in enumerate(sources)): occurrences
        for outcome, occurrences in outcomes.items()
    }
