"""How is a flat list of operations run by Aer's C++ core?

``AerSimulator.run`` would do the same with a thread, a job object and a conversion of every option
around it. This file is the only one that knows the core's own interface, which has no promise of
stability: qiskit-aer is pinned, and the tests compare every gate with Qiskit's matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit_aer.backends.backend_utils import LIBRARY_DIR
from qiskit_aer.backends.controller_wrappers import AerCircuit, AerConfig, aer_controller_execute

from app.errors import ExecutionError, ProgramTooLarge
from app.executors.circuits.conditions import BitsEqual, Expression
from app.executors.circuits.lowering import (
    DELAY,
    INITIALIZE,
    JUMP,
    MARK,
    MEASURE,
    RESET,
    Step,
    delay_label,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from qiskit_aer.noise import NoiseModel

#: Aer's way to say that an operation is unconditional.
_ALWAYS = -1
_PROBABILITIES = "probabilities"
_STATE = "state"
#: Noise models that are kept as the core reads them; the largest has some 100 kB.
_KEPT_DOCUMENTS = 16
#: parts of Aer's status texts that mean it ran out of memory.
_OUT_OF_MEMORY = ("Insufficient memory", "Cannot allocate memory", "bad_alloc")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One simulation to be done."""

    steps: Sequence[Step]
    qubits: int
    method: str
    #: 0 to 2⁶³ - 1.
    seed: int
    #: whether all branches that mid-circuit measurements open are held at the same time.
    branching: bool = False
    #: of every operation; None: there is no noise.
    noise: NoiseModel | None = None


class Controller:
    """Aer's core, with the resources it may use."""

    def __init__(self, *, threads: int, memory_bytes: int, mps_threshold: float) -> None:
        self._controller = aer_controller_execute()
        self._threads = threads
        self._memory_mb = max(1, memory_bytes >> 20)
        self._mps_threshold = mps_threshold
        self._documents: dict[int, tuple[NoiseModel, dict[str, Any]]] = {}

    def probabilities(self, run: Run, qubits: Sequence[int]) -> npt.NDArray[np.float64]:
        """Probabilities of the outcomes of ``qubits``, the first the least significant bit.

        Returns:
            shape ``(2 ** len(qubits),)``.
        """
        circuit = _circuit(run, memory=0)
        circuit.save_state(list(qubits), "save_probabilities", "average", _PROBABILITIES)
        saved: npt.NDArray[np.float64] = self._data(circuit, run, shots=1)[_PROBABILITIES]
        return saved

    def statevector(self, run: Run) -> npt.NDArray[np.complex128]:
        """Give the final state, shape ``(2 ** qubits,)``; bit 0 of an index is qubit 0."""
        circuit = _circuit(run, memory=0)
        circuit.save_state(list(range(run.qubits)), "save_statevector", "single", _STATE)
        return np.asarray(self._data(circuit, run, shots=1)[_STATE])

    def counts(
        self, run: Run, *, shots: int, memory: int = 0, readout: Sequence[int] = ()
    ) -> dict[int, int]:
        """Outcome, as one integer over the classical bits → occurrences.

        Args:
            run: the simulation.
            shots: samples.
            memory: how many classical bits the measurements among the steps write; bit 0 is the
                least significant of an outcome.
            readout: qubits to measure after the steps instead, the first into bit 0.
        """
        circuit = _circuit(run, memory=memory or len(readout))
        for bit, qubit in enumerate(readout):
            circuit.measure((qubit,), (bit,), ())
        counts: Mapping[str, int] = self._data(circuit, run, shots=shots)["counts"]
        return {int(outcome, 16): occurrences for outcome, occurrences in counts.items()}

    def _data(self, circuit: AerCircuit, run: Run, *, shots: int) -> dict[str, Any]:
        config = self._config(run)
        config.shots = shots
        config.memory_slots = circuit.num_memory
        config.library_dir = LIBRARY_DIR
        noise = {} if run.noise is None else self._document(run.noise)
        output = self._controller.execute([circuit], noise, config)
        if not output["success"]:
            raise _failure(output["status"])
        data: dict[str, Any] = output["results"][0]["data"]
        return data

    def _document(self, noise: NoiseModel) -> dict[str, Any]:
        """Write a noise model out for the core: 10 ms, half of the run of a twirled circuit."""
        kept = self._documents.get(id(noise))
        if kept is None or kept[0] is not noise:
            if len(self._documents) == _KEPT_DOCUMENTS:
                del self._documents[next(iter(self._documents))]
            # The model is kept too, so that no other gets its id.
            kept = self._documents[id(noise)] = noise, noise.to_dict(serializable=True)
        return kept[1]

    def _config(self, run: Run) -> AerConfig:
        config = AerConfig()
        config.n_qubits = run.qubits
        config.method = run.method
        config.seed_simulator = run.seed
        config.max_parallel_threads = self._threads
        config.max_parallel_experiments = 1
        # Every shot that runs beside another holds its own copy of the state.
        config.max_parallel_shots = 1
        config.max_memory_mb = self._memory_mb
        config.matrix_product_state_truncation_threshold = self._mps_threshold
        # What cannot be seen was already left out. Aer's own truncation also drops marks after
        # which nothing is measured, and then does not find where a jump leads.
        config.enable_truncation = False
        config.shot_branching_enable = run.branching
        config.shot_branching_sampling_enable = run.branching
        return config


def _circuit(run: Run, *, memory: int) -> AerCircuit:
    circuit = AerCircuit()
    circuit.num_qubits = run.qubits
    circuit.num_memory = memory
    circuit.global_phase_angle = 0.0
    everywhere = tuple(range(run.qubits))
    for step in run.steps:
        if step.name == MEASURE:
            # Conditions read a second copy of the classical bits, the "registers".
            circuit.measure(step.qubits, step.clbits, step.clbits)
        elif step.name == RESET:
            circuit.reset(step.qubits, _ALWAYS)
        elif step.name == DELAY:
            label = step.label or delay_label(*step.params)
            circuit.gate("id", step.qubits, (), (), _ALWAYS, None, label)
        elif step.name == JUMP:
            _jump(circuit, step, everywhere, flag=memory)
        elif step.name == MARK:
            circuit.mark(everywhere, step.params)
        elif step.name == INITIALIZE:
            circuit.initialize(step.qubits, step.params[0])
        elif step.name == "unitary":
            label = step.label or step.name
            circuit.unitary(step.qubits, step.params[0], _ALWAYS, None, label)
        else:
            label = step.label or step.name
            circuit.gate(step.name, step.qubits, step.params, (), _ALWAYS, None, label)
    return circuit


def _jump(circuit: AerCircuit, step: Step, qubits: Sequence[int], *, flag: int) -> None:
    # A jump names all qubits, so that gate fusion moves no gate across it.
    match step.condition:
        case None:
            circuit.jump(qubits, step.params, _ALWAYS, None)
        case BitsEqual(mask, value):
            circuit.bfunc(f"{mask:#x}", f"{value:#x}", "==", flag)
            circuit.jump(qubits, step.params, flag, None)
        case Expression():
            circuit.jump(qubits, step.params, _ALWAYS, step.condition.native)


def _failure(status: str) -> ProgramTooLarge | ExecutionError:
    """Aer's status, in our words: its own text names files, limits and units of its own."""
    if any(words in status for words in _OUT_OF_MEMORY):
        return ProgramTooLarge(
            "the simulator ran out of memory during the run; use fewer qubits, fewer entangling "
            "gates or fewer shots"
        )
    if "invalid instructions" in status.lower():
        return ExecutionError("the program has an operation that the simulator does not know")
    return ExecutionError("the simulator could not run the program; it gave no result")
