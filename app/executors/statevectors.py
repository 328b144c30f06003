"""What states does one small circuit reach at many parameter sets?

All sets run at once: an array operation per gate, where Aer costs 0.1 ms or more per set.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.circuit import Gate
from qiskit.circuit.library import get_standard_gate_name_mapping

from app.executors.circuits.angles import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from app.executors.circuits.lowering import Step

#: an entry of a gate's matrix: a number, or one number per parameter set.
Entry = Any
Matrix = list[list[Entry]]

#: wider ``unitary`` gates go to Aer.
_WIDEST_UNITARY = 3

#: From so many sets on, those of one amplitude lie side by side in memory, so that the innermost
#: loop is long for a circuit of any width; fewer sets lie one behind the other. Measured in ms per
#: set, side by side against behind: 12 qubits, 2 sets 3.4 : 2.0, 16 sets 1.1 : 1.5.
_SIDE_BY_SIDE_SETS = 8
#: Amplitudes of the sets that one thread changes at once: they stay in its cache.
_PIECE_AMPLITUDES = 2**17


def runs(steps: Iterable[Step]) -> bool:
    """Whether every step is a gate that is known here."""
    return all(
        step.name in GATES or (step.name == "unitary" and len(step.qubits) <= _WIDEST_UNITARY)
        for step in steps
    )


def zeros(qubits: int, sets: int) -> npt.NDArray[np.complex128]:
    """Give |0…0> for every set, shape ``(2 ** qubits, sets)``; bit 0 of an index is qubit 0."""
    side_by_side = sets >= _SIDE_BY_SIDE_SETS
    states = np.zeros((2**qubits, sets), dtype=np.complex128, order="C" if side_by_side else "F")
    states[0] = 1
    return states


def evolve(
    states: npt.NDArray[np.complex128],
    steps: Sequence[Step],
    angles: npt.NDArray[np.float64],
    *,
    threads: int = 1,
) -> None:
    """Apply ``steps`` in place.

    Args:
        states: shape ``(2 ** qubits, sets)``, as ``zeros`` makes them.
        steps: gates only.
        angles: shape ``(sets, slots)``.
        threads: among which the sets may be divided; the states do not depend on it.
    """
    pieces = min(states.size // _PIECE_AMPLITUDES, states.shape[1])
    if pieces < 2:
        _evolve(states, steps, angles)
        return

    def change(piece: npt.NDArray[np.complex128], its: npt.NDArray[np.float64]) -> None:
        # Gaps of a power of two between its rows would leave most of a cache unused.
        packed = piece.copy()
        _evolve(packed, steps, its)
        piece[...] = packed

    with ThreadPoolExecutor(threads) as pool:
        for done in [
            pool.submit(change, piece, its)
            for piece, its in zip(
                np.array_split(states, pieces, axis=1), np.array_split(angles, pieces), strict=True
            )
        ]:
            done.result()


def _evolve(
    states: npt.NDArray[np.complex128], steps: Iterable[Step], angles: npt.NDArray[np.float64]
) -> None:
    qubits = len(states).bit_length() - 1
    tensor = states.reshape((2,) * qubits + states.shape[1:])
    columns = np.ascontiguousarray(angles.T)
    for step in steps:
        _apply(tensor, matrix(step, columns), step.qubits)


def probabilities(
    states: npt.NDArray[np.complex128], qubits: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Probabilities of the outcomes of ``qubits``, the first the least significant bit.

    Args:
        states: shape ``(2 ** n, sets)``.
        qubits: which are read, each once.

    Returns:
        shape ``(sets, 2 ** len(qubits))``.
    """
    width = len(states).bit_length() - 1
    squares = (states.real**2 + states.imag**2).reshape((2,) * width + states.shape[1:])
    unread = tuple(width - 1 - qubit for qubit in range(width) if qubit not in qubits)
    marginal = squares.sum(axis=unread)
    left = sorted(qubits, reverse=True)
    order = [left.index(qubit) for qubit in reversed(qubits)]
    return np.ascontiguousarray(
        marginal.transpose(*order, len(order)).reshape(2 ** len(qubits), -1).T
    )


def expectations(
    states: npt.NDArray[np.complex128], paulis: Iterable[Mapping[int, str]]
) -> npt.NDArray[np.float64]:
    """Expectation values of Paulis.

    Args:
        states: shape ``(2 ** n, sets)``.
        paulis: qubit → ``X``, ``Y`` or ``Z``.

    Returns:
        shape ``(paulis, sets)``.
    """
    indices = np.arange(len(states))
    values = []
    for pauli in paulis:
        # A Pauli takes amplitude ``i ^ flips`` to ``i``, times this factor.
        flips, factors = 0, np.ones((len(states), 1), dtype=np.complex128)
        for qubit, character in pauli.items():
            bits = (indices >> qubit & 1)[:, np.newaxis]
            if character in "XY":
                flips |= 1 << qubit
            if character in "YZ":
                factors *= 1 - 2 * bits
            if character == "Y":
                factors *= -1j
        values.append((states.conj() * factors * states[indices ^ flips]).sum(axis=0).real)
    return np.array(values).reshape(-1, states.shape[1])


def _apply(tensor: npt.NDArray[np.complex128], rows: Matrix, qubits: Sequence[int]) -> None:
    width = tensor.ndim - 1
    parts = []
    for index in range(len(rows)):
        where: list[int | slice] = [slice(None)] * width
        for bit, qubit in enumerate(qubits):
            where[width - 1 - qubit] = index >> bit & 1
        parts.append(tensor[tuple(where)])
    changed = [
        (part, _combined(row, parts))
        for index, (part, row) in enumerate(zip(parts, rows, strict=True))
        if not _is_unit(row, index)
    ]
    for part, new in changed:
        part[...] = new


def _combined(
    row: list[Entry], parts: list[npt.NDArray[np.complex128]]
) -> npt.NDArray[np.complex128]:
    terms = [
        part.copy() if _is_number(entry, 1) else entry * part
        for entry, part in zip(row, parts, strict=True)
        if not _is_number(entry, 0)
    ]
    total = terms[0]
    for term in terms[1:]:
        total += term
    return total


def _is_unit(row: list[Entry], index: int) -> bool:
    return all(_is_number(entry, int(place == index)) for place, entry in enumerate(row))


def _is_number(entry: Entry, number: int) -> bool:
    return not isinstance(entry, np.ndarray) and bool(entry == number)


def matrix(step: Step, columns: npt.NDArray[np.float64]) -> Matrix:
    """Give the matrix of a gate, the first qubit the least significant bit of its index.

    Args:
        step: a gate that is known here.
        columns: angles of the slots, shape ``(slots, sets)``.
    """
    if step.name in _PARAMETRISED:
        build = _PARAMETRISED[step.name]
        params = (
            columns[param.column] if isinstance(param, Slot) else param for param in step.params
        )
        return build(*params)
    if step.name == "unitary":
        rows: Matrix = np.asarray(step.params[0]).tolist()
        return rows
    return constant(step.name)


def constant(name: str) -> Matrix:
    """Give the matrix of a standard gate without angles."""
    return _constants()[name]


@cache
def _constants() -> dict[str, Matrix]:
    """Matrices of the standard gates without angles."""
    return {
        name: gate.to_matrix().tolist()
        for name, gate in get_standard_gate_name_mapping().items()
        if isinstance(gate, Gate) and gate.num_qubits and not gate.params
    }


def _p(angle: Entry) -> Matrix:
    return [[1, 0], [0, np.exp(1j * angle)]]


def _rx(angle: Entry) -> Matrix:
    c, s = np.cos(angle / 2), -1j * np.sin(angle / 2)
    return [[c, s], [s, c]]


def _ry(angle: Entry) -> Matrix:
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    return [[c, -s], [s, c]]


def _rz(angle: Entry) -> Matrix:
    phase = np.exp(0.5j * angle)
    return [[np.conj(phase), 0], [0, phase]]


def _r(angle: Entry, axis: Entry) -> Matrix:
    c, s = np.cos(angle / 2), -1j * np.sin(angle / 2)
    turn = np.exp(1j * axis)
    return [[c, s * np.conj(turn)], [s * turn, c]]


def _u(theta: Entry, phi: Entry, lam: Entry) -> Matrix:
    c, s = np.cos(theta / 2), np.sin(theta / 2)
    left, right = np.exp(1j * phi), np.exp(1j * lam)
    return [[c, -right * s], [left * s, left * right * c]]


def _u2(phi: Entry, lam: Entry) -> Matrix:
    return _u(np.pi / 2, phi, lam)


def _cu(theta: Entry, phi: Entry, lam: Entry, gamma: Entry) -> Matrix:
    phase = np.exp(1j * gamma)
    return _controlled([[phase * entry for entry in row] for row in _u(theta, phi, lam)])


def _rxx(angle: Entry) -> Matrix:
    c, s = np.cos(angle / 2), -1j * np.sin(angle / 2)
    return [[c, 0, 0, s], [0, c, s, 0], [0, s, c, 0], [s, 0, 0, c]]


def _ryy(angle: Entry) -> Matrix:
    c, s = np.cos(angle / 2), 1j * np.sin(angle / 2)
    return [[c, 0, 0, s], [0, c, -s, 0], [0, -s, c, 0], [s, 0, 0, c]]


def _rzz(angle: Entry) -> Matrix:
    phase = np.exp(0.5j * angle)
    back = np.conj(phase)
    return [[back, 0, 0, 0], [0, phase, 0, 0], [0, 0, phase, 0], [0, 0, 0, back]]


def _rzx(angle: Entry) -> Matrix:
    c, s = np.cos(angle / 2), 1j * np.sin(angle / 2)
    return [[c, 0, -s, 0], [0, c, 0, s], [-s, 0, c, 0], [0, s, 0, c]]


def _controlled(matrix: Matrix) -> Matrix:
    """Control by the first qubit, the least significant bit."""
    (a, b), (c, d) = matrix
    return [[1, 0, 0, 0], [0, a, 0, b], [0, 0, 1, 0], [0, c, 0, d]]


#: gates with angles: their matrices, the first qubit the least significant bit, as in Qiskit.
_PARAMETRISED: dict[str, Callable[..., Matrix]] = {
    "p": _p,
    "u1": _p,
    "rx": _rx,
    "ry": _ry,
    "rz": _rz,
    "r": _r,
    "u": _u,
    "u3": _u,
    "u2": _u2,
    "rxx": _rxx,
    "ryy": _ryy,
    "rzz": _rzz,
    "rzx": _rzx,
    "cp": lambda angle: _controlled(_p(angle)),
    "cu1": lambda angle: _controlled(_p(angle)),
    "crx": lambda angle: _controlled(_rx(angle)),
    "cry": lambda angle: _controlled(_ry(angle)),
    "crz": lambda angle: _controlled(_rz(angle)),
    "cu3": lambda theta, phi, lam: _controlled(_u(theta, phi, lam)),
    "cu": _cu,
}
#: names of all gates that are known here, but for ``unitary``.
GATES = frozenset((*_PARAMETRISED, *_constants()))
