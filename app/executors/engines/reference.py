"""What does a state vector do, in NumPy? The reference for every engine, and quick if small."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from app.executors import statevectors
from app.executors.admission import AMPLITUDE_BYTES, BASE_BYTES, require_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from app.executors import Resources
    from app.executors.engines import Gate, Kept, Pauli

#: the state, a copy while a gate is applied, and the numbers of its indices.
_COPIES = 3


class NumpyEngine:
    """A state vector in the memory of this process, in double precision."""

    name = "numpy"
    device = "CPU"
    precision = "double"

    def __init__(self, *, resources: Resources) -> None:
        self._resources = resources
        self._state = statevectors.zeros(0, 1)[:, 0]
        self._kept = 0

    @property
    def _qubits(self) -> int:
        return len(self._state).bit_length() - 1

    def start(self, qubits: int, kept: Kept | None = None) -> None:
        """Be |0…0>, or what was kept.

        Raises:
            ProgramTooLarge: there is no memory for it.
        """
        if kept is not None:
            self._state = cast("npt.NDArray[np.complex128]", kept)
            self._kept -= 1
            return
        self._kept = 0
        require_memory(
            BASE_BYTES + _COPIES * AMPLITUDE_BYTES * 2**qubits,
            self._resources,
            what=f"{qubits} qubits in double precision",
            remedy="Use fewer qubits that belong together.",
        )
        self._state = statevectors.zeros(qubits, 1)[:, 0]

    def apply(self, gate: Gate) -> None:
        """Multiply the state by a gate."""
        qubits, fixed = self._qubits, gate.controls
        where = tuple(1 if qubit in fixed else slice(None) for qubit in reversed(range(qubits)))
        part = self._state.reshape((2,) * qubits)[where]
        left = [qubit for qubit in reversed(range(qubits)) if qubit not in fixed]
        # An index of the matrix begins with its most significant bit.
        axes = [left.index(target) for target in reversed(gate.targets)]
        front = range(len(axes))
        moved = np.moveaxis(part, axes, front)
        columns = moved.reshape(2 ** len(axes), -1)
        if gate.matrix.ndim == 1:
            columns = gate.matrix[:, np.newaxis] * columns
        else:
            columns = gate.matrix @ columns
        part[...] = np.moveaxis(columns.reshape(moved.shape), front, axes)

    def probabilities(self, qubits: Sequence[int]) -> npt.NDArray[np.float64]:
        """Squared norms for all outcomes."""
        squares: npt.NDArray[np.float64]
        (squares,) = statevectors.probabilities(self._state[:, np.newaxis], qubits)
        return squares

    def sample(
        self, qubits: Sequence[int], points: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """Read qubits once for every point."""
        sums = np.cumsum(self._state.real**2 + self._state.imag**2)
        places = np.searchsorted(sums, points * sums[-1], side="right")
        indices = np.minimum(places, len(sums) - 1)
        outcomes = np.zeros(len(points), dtype=np.int64)
        for bit, qubit in enumerate(qubits):
            outcomes |= (indices >> qubit & 1) << bit
        return outcomes

    def expectations(self, paulis: Sequence[Pauli]) -> npt.NDArray[np.float64]:
        """Expectation value of every Pauli."""
        return statevectors.expectations(self._state[:, np.newaxis], paulis)[:, 0]

    def keep(self) -> Kept | None:
        """Put a copy of the state aside."""
        needed = BASE_BYTES + (self._kept + 1 + _COPIES) * self._state.nbytes
        if needed > self._resources.memory_bytes:
            return None
        self._kept += 1
        return self._state.copy()
