"""How are the components of a circuit sampled on a state vector engine, whatever they are?"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from app.errors import ProgramTooLarge
from app.executors import statevectors
from app.executors.circuits.lowering import lower
from app.executors.circuits.methods import NONE, Method, draws_from_probabilities
from app.executors.durations import Work
from app.executors.engines import Batches
from app.executors.engines.branching import EngineCore
from app.executors.engines.gates import GATES
from app.executors.native import Run
from app.executors.simulation import Simulation, bound_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    from qiskit import QuantumCircuit

    from app.executors import Resources
    from app.executors.circuits.angles import Angles
    from app.executors.circuits.lowering import Step
    from app.executors.circuits.reduction import Reduced
    from app.executors.engines import Pauli, StateVectorEngine

#: Wider circuits go to the engine, though Aer would leave them to arrays: a single set of 10 qubits
#: takes these 1.5 ms. Not measured on a GPU yet.
_ARRAY_QUBITS = 10
#: States up to this width are simulated side by side, one for each parameter set, from so many sets
#: on. Not measured yet: CUDA-Q, on the same library, does so up to 20 qubits and from 4 states on.
_BATCHED_QUBITS = 16
_FEWEST_SETS = 4
#: Outcomes are drawn on the host, which takes 50 ns for each possible one: 0.4 ms a set.
_DRAWN_QUBITS = 13
#: Amplitudes of states side by side. In double precision 64 MiB: more than the caches of a GPU.
_AMPLITUDES_AT_ONCE = 2**22


class EngineSimulation(Simulation):
    """Samples on an engine; small components with many parameter sets, all at once in NumPy.

    Among the methods, the name of the engine stands for what ran on it.
    """

    def __init__(self, *, engine: StateVectorEngine, resources: Resources) -> None:
        self._core = EngineCore(engine)
        self._engine = engine
        super().__init__(controller=self._core, resources=resources)

    @property
    def array_qubits(self) -> int:
        """Up to this width all parameter sets are simulated at once, in arrays of NumPy."""
        return min(super().array_qubits, _ARRAY_QUBITS)

    def steps(self, circuit: QuantumCircuit, angles: Angles, shots: int) -> list[Step]:  # noqa: ARG002
        """Lower ``circuit`` to gates that the engine has matrices of."""
        return lower(circuit, GATES, angles, stores=True)

    def keeps(self, _reduced: Reduced) -> bool:
        """Give False: a state stays on the engine."""
        return False

    def method(self, reduced: Reduced, shots: int) -> Method:
        """Choose how a circuit without slots is simulated: on the engine, if anything is read."""
        if not reduced.written:
            return Method(name=NONE, steps=())
        draws = draws_from_probabilities(reduced, shots)
        return Method(name=self._engine.name, steps=reduced.steps, draws=draws)

    def vectorises(self, reduced: Reduced) -> bool:
        """Whether all parameter sets of a circuit can be simulated at once, here or there."""
        if super().vectorises(reduced):
            return True
        drawn = set((reduced.readout or {}).values())
        return self._batches(reduced) and len(drawn) <= _DRAWN_QUBITS

    def sweeps(self, reduced: Reduced) -> bool:
        """Whether the states of all parameter sets can be there at once, here or there."""
        return super().vectorises(reduced) or self._batches(reduced)

    def sets_at_once(self, parts: Iterable[Reduced]) -> int:
        """Give how many parameter sets of circuits that ``vectorises`` to simulate at once."""
        circuits = list(parts)
        if all(super(EngineSimulation, self).vectorises(each) for each in circuits):
            return super().sets_at_once(circuits)
        return max(1, _AMPLITUDES_AT_ONCE >> max(each.qubits for each in circuits))

    def probabilities(
        self, reduced: Reduced, angles: npt.NDArray[np.float64], qubits: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Probabilities of the outcomes of ``qubits``, shape ``(sets, 2 ** len(qubits))``.

        Raises:
            ProgramTooLarge: the engine has not enough memory.
        """
        if super().vectorises(reduced):
            return super().probabilities(reduced, angles, qubits)
        self.methods[self._engine.name] = None
        if len(angles) >= _FEWEST_SETS and isinstance(self._engine, Batches):
            # Where others have filled the GPU, one state may still fit.
            with suppress(ProgramTooLarge):
                return self._engine.batch_probabilities(
                    reduced.steps, reduced.qubits, angles, qubits
                )
        runs = (self._run(reduced, each) for each in angles)
        return np.array([self._core.probabilities(run, qubits) for run in runs])

    def work(
        self, reduced: Reduced, angles: npt.NDArray[np.float64], *, sets: int, shots: int
    ) -> Work:
        """Estimate what it takes: unknown on an engine, as nobody has measured one."""
        if super().vectorises(reduced):
            return super().work(reduced, angles, sets=sets, shots=shots)
        return Work(is_unknown=bool(reduced.written))

    def counts(
        self, reduced: Reduced, method: Method, *, clbits: int, shots: int, seed: int
    ) -> tuple[Mapping[int, int], Sequence[int]]:
        """Give outcomes as integers, and the clbit that each of their bits stands for.

        Raises:
            ProgramTooLarge: the engine has not enough memory.
            ExecutionError: the circuit cannot be simulated.
        """
        try:
            return super().counts(reduced, method, clbits=clbits, shots=shots, seed=seed)
        except ProgramTooLarge as exc:
            # The engine's own refusal says more than that of a run which was out of memory.
            raise (exc.__cause__ if isinstance(exc.__cause__, ProgramTooLarge) else exc) from None

    def expectations(
        self, reduced: Reduced, angles: npt.NDArray[np.float64], paulis: Sequence[Pauli]
    ) -> npt.NDArray[np.float64]:
        """Exact expectation values in the states that a circuit without measurements ends in.

        Args:
            reduced: the circuit.
            angles: shape ``(sets, slots)``.
            paulis: over the qubits of ``reduced``.

        Returns:
            shape ``(paulis, sets)``.

        Raises:
            ProgramTooLarge: the engine has not enough memory.
        """
        if super().vectorises(reduced):
            return statevectors.expectations(super().states(reduced, angles), paulis)
        self.methods[self._engine.name] = None
        if (
            len(angles) >= _FEWEST_SETS
            and isinstance(self._engine, Batches)
            and self._batches(reduced)
        ):
            # Where others have filled the GPU, one state may still fit.
            with suppress(ProgramTooLarge):
                return self._engine.batch_expectations(
                    reduced.steps, reduced.qubits, angles, paulis
                )
        runs = (self._run(reduced, each) for each in angles)
        return np.array([self._core.expectations(run, paulis) for run in runs]).T

    def _run(self, reduced: Reduced, angles: npt.NDArray[np.float64]) -> Run:
        return Run(
            steps=bound_at(reduced, angles).steps,
            qubits=max(1, reduced.qubits),
            method=self._engine.name,
            seed=0,
        )

    def _batches(self, reduced: Reduced) -> bool:
        return (
            isinstance(self._engine, Batches)
            and reduced.readout is not None
            and 0 < reduced.qubits <= _BATCHED_QUBITS
            and statevectors.runs(reduced.steps)
        )
