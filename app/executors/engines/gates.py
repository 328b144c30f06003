"""Which matrix is a step of a circuit?"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from app.executors import statevectors
from app.executors.circuits.angles import Slot
from app.executors.engines import Gate

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.executors.circuits.lowering import Step

#: gates with any number of controls, the target being the last qubit.
_CONTROLLED_X, _CONTROLLED_PHASE = "mcx", "mcphase"
_UNITARY = "unitary"

#: what may be among the steps of a circuit for an engine; every other gate is decomposed.
GATES = statevectors.GATES | {_CONTROLLED_X, _CONTROLLED_PHASE, _UNITARY}

#: relabels qubits, and is never applied.
SWAP = "swap"

_X = np.array([[0, 1], [1, 0]], dtype=np.complex128)
#: what turns the basis of a Pauli into that of Z.
TO_Z = {
    "X": np.array([[1, 1], [1, -1]], dtype=np.complex128) / np.sqrt(2),
    "Y": np.array([[1, -1j], [1, 1j]], dtype=np.complex128) / np.sqrt(2),
}
_NO_ANGLES = np.empty((0, 1))


def gate_of(step: Step) -> Gate:
    """Give the matrix of a gate without slots."""
    if step.name == _CONTROLLED_X:
        return Gate(_X, step.qubits[-1:], step.qubits[:-1])
    if step.name == _CONTROLLED_PHASE:
        phase = np.array([1, np.exp(1j * step.params[0])])
        return Gate(phase, step.qubits[-1:], step.qubits[:-1])
    if step.name == _UNITARY:
        return Gate(_diagonal_or_all(np.asarray(step.params[0])), step.qubits)
    if not step.params:
        return Gate(_constant(step.name), step.qubits)
    return Gate(_matrix(step), step.qubits)


def projector(qubit: int, outcome: int, probability: float) -> Gate:
    """Keep the part of a state where ``qubit`` has this outcome, and make its norm 1 again."""
    diagonal = np.zeros(2, dtype=np.complex128)
    diagonal[outcome] = probability**-0.5
    return Gate(diagonal, (qubit,))


def flip(qubit: int) -> Gate:
    """An X gate."""
    return Gate(_X, (qubit,))


def gates_at(step: Step, angles: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    """Give the dense matrices of a gate at every parameter set.

    Args:
        step: a gate of ``statevectors``.
        angles: shape ``(sets, slots)``.

    Returns:
        shape ``(sets, 2 ** k, 2 ** k)``; ``(1, 2 ** k, 2 ** k)`` where all sets have the same.
    """
    rows = statevectors.matrix(step, angles.T)
    size = len(rows)
    sets = len(angles) if any(isinstance(param, Slot) for param in step.params) else 1
    matrices = np.empty((sets, size, size), dtype=np.complex128)
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            matrices[:, i, j] = entry
    return matrices


@cache
def parities(bits: int) -> npt.NDArray[np.float64]:
    """Give 1 for every outcome with an even number of ones, -1 for the others."""
    signs = np.ones(1)
    for _ in range(bits):
        signs = np.concatenate((signs, -signs))
    return signs


@cache
def _constant(name: str) -> npt.NDArray[np.complex128]:
    return _diagonal_or_all(np.array(statevectors.constant(name)))


def _matrix(step: Step) -> npt.NDArray[np.complex128]:
    rows = statevectors.matrix(step, _NO_ANGLES)
    # A gate with angles that is diagonal has zeros elsewhere, written as such.
    if all(entry == 0 for i, row in enumerate(rows) for j, entry in enumerate(row) if i != j):
        return np.array([row[i] for i, row in enumerate(rows)], dtype=np.complex128)
    return np.array(rows, dtype=np.complex128)


def _diagonal_or_all(matrix: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    diagonal = matrix.diagonal()
    if np.count_nonzero(matrix) == np.count_nonzero(diagonal):
        matrix = diagonal
    return np.ascontiguousarray(matrix, dtype=np.complex128)
