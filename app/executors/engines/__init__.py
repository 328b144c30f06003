"""What holds a state vector? The interface of every engine: matrices go in, numbers come out.

Bit ``i`` of an index of a state vector is qubit ``i``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from app.executors.circuits.lowering import Step

#: qubit → ``X``, ``Y`` or ``Z``; all others have the identity.
Pauli = Mapping[int, str]


class Gate(NamedTuple):
    """A matrix on some qubits where others have certain values; it need not be unitary."""

    #: ``complex128``, row by row, shape ``(2 ** k, 2 ** k)``; of shape ``(2 ** k,)``, a diagonal.
    matrix: npt.NDArray[np.complex128]
    #: the first is the least significant bit of an index of the matrix.
    targets: Sequence[int]
    controls: Sequence[int] = ()


class Kept(Protocol):
    """A state that was put aside; only the engine that did it knows what it is."""


class StateVectorEngine(Protocol):
    """One state vector. Not thread-safe; works may be queued until a number is asked for."""

    #: for the metadata of results: what computes, on what, and ``single`` or ``double``.
    name: str
    device: str
    precision: str

    def start(self, qubits: int, kept: Kept | None = None) -> None:
        """Be |0…0> of so many qubits, or else the state of ``kept``, which is used up by this.

        Raises:
            ProgramTooLarge: there is no memory for it.
        """
        ...

    def apply(self, gate: Gate) -> None:
        """Multiply the state by a gate."""
        ...

    def probabilities(self, qubits: Sequence[int]) -> npt.NDArray[np.float64]:
        """Squared norms for all outcomes of ``qubits``, the first the least significant bit.

        Returns:
            shape ``(2 ** len(qubits),)``; the sum is the squared norm of the state.
        """
        ...

    def sample(
        self, qubits: Sequence[int], points: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """Read ``qubits``, the first the least significant bit, once for every point.

        Args:
            qubits: which are read, each once.
            points: random numbers from [0, 1), shape ``(shots,)``; each is looked up among the
                summed squares of the amplitudes, in the order of their indices.

        Returns:
            shape ``(shots,)``.
        """
        ...

    def expectations(self, paulis: Sequence[Pauli]) -> npt.NDArray[np.float64]:
        """Expectation value of every Pauli, all in one pass of the engine's own; shape ``(n,)``."""
        ...

    def keep(self) -> Kept | None:
        """Put a copy of the state aside; None where there is no memory for another."""
        ...


@runtime_checkable
class Batches(Protocol):
    """What an engine has besides, if it can run one circuit at many parameter sets at once."""

    def batch_probabilities(
        self,
        steps: Sequence[Step],
        qubits: int,
        angles: npt.NDArray[np.float64],
        read: Sequence[int],
    ) -> npt.NDArray[np.float64]:
        """Probabilities of the outcomes of some qubits at every parameter set.

        Args:
            steps: gates of ``statevectors`` only.
            qubits: width of the circuit.
            angles: shape ``(sets, slots)``.
            read: the qubits, each once, the first the least significant bit.

        Returns:
            shape ``(sets, 2 ** len(read))``.

        Raises:
            ProgramTooLarge: there is no memory for all states.
        """
        ...

    def batch_expectations(
        self,
        steps: Sequence[Step],
        qubits: int,
        angles: npt.NDArray[np.float64],
        paulis: Sequence[Pauli],
    ) -> npt.NDArray[np.float64]:
        """Expectation value of every Pauli at every parameter set, shape ``(paulis, sets)``.

        The arguments and errors are those of ``batch_probabilities``.
        """
        ...
