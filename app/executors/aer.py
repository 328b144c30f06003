"""How does Aer run a program on the CPU? Ideal: no noise, all qubits connected."""

from __future__ import annotations

import secrets
from dataclasses import replace
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from app.errors import ExecutionError, InvalidProgram, ProgramTooLarge
from app.executors.admission import (
    BASE_BYTES,
    require_memory,
    require_result,
    shots_bytes,
    statevector_bytes,
    too_large,
)
from app.executors.bitstrings import Bitstrings
from app.executors.lowering import lower
from app.executors.methods import (
    MATRIX_PRODUCT_STATE,
    MATRIX_PRODUCT_STATE_GATES,
    NONE,
    STATEVECTOR,
    STATEVECTOR_GATES,
    Method,
    choose,
)
from app.executors.native import Controller, Run
from app.executors.reduction import Reduced, reduce
from app.primitives.programs import CountsResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from app.executors import Resources
    from app.primitives.programs import QasmProgram, Target

#: the only target so far: an ideal simulator.
_TARGET = "simulator"

#: A drawn seed goes back to the caller as a JSON number, which many readers hold as a double.
_SEED_BITS = 53
#: Aer's seeds are signed 64-bit integers.
_SEEDS = 2**63

#: Discarded weight at one cut of a matrix product state. Far above rounding noise, so bonds do not
#: grow by it, and even 200 000 operations change no probability by more than 2e-7.
_MPS_THRESHOLD = 1e-12

#: How far the probabilities of a state may add up to something other than 1.
_NORM_TOLERANCE = 1e-6


class AerExecutor:
    """Samples circuits with qiskit-aer's C++ core, which stays warm between runs."""

    def __init__(self, *, resources: Resources) -> None:
        self._resources = resources
        self._controller = Controller(
            threads=resources.threads,
            memory_bytes=resources.memory_bytes - BASE_BYTES,
            mps_threshold=_MPS_THRESHOLD,
        )
        self._versions = {name: version(name) for name in ("qiskit", "qiskit-aer")}

    def run(self, program: QasmProgram, target: Target) -> CountsResult:
        """Sample ``program.circuit``.

        Raises:
            InvalidProgram: the circuit has no classical bits.
            ProgramTooLarge: it would need more memory, or give more counts, than allowed.
            ExecutionError: the target is not known here, or Aer cannot run the circuit.
        """
        circuit = program.circuit
        if target.name != _TARGET:
            message = f"executor 'aer' simulates {_TARGET!r} only, not {target.name!r}"
            raise ExecutionError(message, target=target.name)
        if not circuit.num_clbits:
            message = "the program has no classical bits, so it has no result; add a measurement"
            raise InvalidProgram("no_classical_bits", message)
        seed = secrets.randbits(_SEED_BITS) if program.seed is None else program.seed

        reduced = reduce(lower(circuit, STATEVECTOR_GATES))
        method = choose(reduced, shots=program.shots, memory_bytes=self._resources.memory_bytes)
        if method.name == MATRIX_PRODUCT_STATE:
            reduced = reduce(lower(circuit, MATRIX_PRODUCT_STATE_GATES))
            method = replace(method, steps=reduced.steps)
        bitstrings = Bitstrings(circuit)
        self._admit(reduced, method, shots=program.shots, width=bitstrings.width)
        started = perf_counter()
        outcomes, clbits = self._sample(
            reduced, method, clbits=circuit.num_clbits, shots=program.shots, seed=seed % _SEEDS
        )
        time_taken_s = perf_counter() - started

        metadata: dict[str, object] = {
            "executor": "aer",
            "method": method.name,
            "device": "CPU",
            "precision": "double",
            "shots": program.shots,
            "seed": seed,
            "qubits_declared": circuit.num_qubits,
            "qubits_simulated": reduced.qubits,
            "threads": self._resources.threads,
            "time_taken_s": time_taken_s,
            "versions": dict(self._versions),
        }
        if method.name == MATRIX_PRODUCT_STATE:
            metadata["truncation_threshold"] = _MPS_THRESHOLD
        return CountsResult(counts=bitstrings.counts(outcomes, clbits), metadata=metadata)

    def _admit(self, reduced: Reduced, method: Method, *, shots: int, width: int) -> None:
        written = len(reduced.written)
        require_result(shots=shots, written=written, width=width, resources=self._resources)
        # A state vector was chosen because it fits.
        if method.name not in (STATEVECTOR, NONE):
            require_memory(
                BASE_BYTES + shots_bytes(shots, written),
                self._resources,
                what=f"{shots} shots of {written} bits",
                remedy="Ask for fewer shots.",
            )

    def _sample(
        self, reduced: Reduced, method: Method, *, clbits: int, shots: int, seed: int
    ) -> tuple[dict[int, int], Sequence[int]]:
        """Give outcomes as integers, and the clbit that each of their bits stands for."""
        if method.name == NONE:
            return {0: shots}, ()
        run = Run(
            steps=method.steps,
            # A circuit may have jumps and no qubits; Aer wants one.
            qubits=max(1, reduced.qubits),
            method=method.name,
            seed=seed,
            branching=method.states > 1,
        )
        try:
            if reduced.readout is None:
                return self._controller.counts(run, shots=shots, memory=clbits), range(clbits)
            written = sorted(reduced.readout)
            qubits = [reduced.readout[clbit] for clbit in written]
            if not method.draws:
                return self._controller.counts(run, shots=shots, readout=qubits), written
            distinct = list(dict.fromkeys(qubits))
            drawn = _draw(self._controller.probabilities(run, distinct), shots, seed)
        except ProgramTooLarge as exc:
            raise self._out_of_memory(method, reduced.qubits) from exc
        if len(distinct) == len(qubits):
            return drawn, written
        return _copied(drawn, [distinct.index(qubit) for qubit in qubits]), written

    def _out_of_memory(self, method: Method, qubits: int) -> ProgramTooLarge:
        return too_large(
            statevector_bytes(qubits, method.states),
            self._resources,
            what=f"the run was out of memory as a {method.name}; {qubits} qubits in double "
            "precision as a state vector",
            remedy="Use fewer qubits or fewer entangling gates.",
        )


def _draw(probabilities: npt.NDArray[np.float64], shots: int, seed: int) -> dict[int, int]:
    """Draw ``shots`` outcomes at once: 0.01 ms, where Aer's own sampling takes 0.5 µs a shot."""
    total = float(probabilities.sum())
    if not abs(total - 1) < _NORM_TOLERANCE:
        message = f"the probabilities of all outcomes add up to {total}, not to 1"
        raise ExecutionError(message, total=str(total))
    occurrences = np.random.default_rng(seed).multinomial(shots, probabilities / total)
    (outcomes,) = occurrences.nonzero()
    return dict(zip(outcomes.tolist(), occurrences[outcomes].tolist(), strict=True))


def _copied(outcomes: dict[int, int], sources: list[int]) -> dict[int, int]:
    """Outcomes in which bit ``i`` is bit ``sources[i]``: several bits may read one qubit."""
    return {
        sum((outcome >> source & 1) << bit for bit, source in enumerate(sources)): occurrences
        for outcome, occurrences in outcomes.items()
    }
