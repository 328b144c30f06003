"""Who runs a circuit that computes? Aer, and where its expressions end, a state vector of ours.

Aer compares classical bits and registers. It has no arithmetic, shifts or single bits of an
integer, and a variable of the circuit ends its process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.executors.circuits.conditions import is_native
from app.executors.circuits.lowering import JUMP, STORE
from app.executors.engines.branching import EngineCore
from app.executors.engines.reference import NumpyEngine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from app.executors import Resources
    from app.executors.circuits.lowering import Step
    from app.executors.native import Controller, Run


class ClassicalCore:
    """Aer's core, except for circuits whose classical part Aer cannot evaluate."""

    def __init__(self, *, aer: Controller, resources: Resources) -> None:
        self._aer = aer
        self._resources = resources

    def probabilities(self, run: Run, qubits: Sequence[int]) -> npt.NDArray[np.float64]:
        """Probabilities of the outcomes of ``qubits``, the first the least significant bit."""
        return self._aer.probabilities(run, qubits)

    def statevector(self, run: Run, /) -> npt.NDArray[np.complex128]:
        """Give the final state, shape ``(2 ** qubits,)``."""
        return self._aer.statevector(run)

    def counts(
        self, run: Run, *, shots: int, memory: int = 0, readout: Sequence[int] = ()
    ) -> dict[int, int]:
        """Outcome, as one integer → occurrences; every measurement outcome once, if not by Aer.

        Raises:
            ProgramTooLarge: there is no memory for the state.
            ExecutionError: neither can run the circuit.
        """
        # Noise is Aer's: what it cannot evaluate then is refused.
        if run.noise is None and any(map(_computes, run.steps)):
            own = EngineCore(NumpyEngine(resources=self._resources))
            return own.counts(run, shots=shots, memory=memory, readout=readout)
        return self._aer.counts(run, shots=shots, memory=memory, readout=readout)


def _computes(step: Step) -> bool:
    return step.name == STORE or (step.name == JUMP and not is_native(step.condition))
