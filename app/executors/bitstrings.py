"""How is an outcome written? Whole bitstrings, as ``Result.get_counts`` of Qiskit prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qiskit import QuantumCircuit


class Bitstrings:
    """Bitstrings of one circuit: highest clbit leftmost, one space between two registers."""

    def __init__(self, circuit: QuantumCircuit) -> None:
        self._clbits: int = circuit.num_clbits
        self._pieces = _pieces(circuit)

    @property
    def width(self) -> int:
        """Characters of one bitstring."""
        return self._clbits + len(self._pieces) - 1

    def counts(self, outcomes: Mapping[int, int], clbits: Iterable[int]) -> dict[str, int]:
        """Write outcomes out.

        Args:
            outcomes: outcome as an integer → occurrences.
            clbits: the clbit that each bit of an outcome stands for, least significant first;
                the others are 0.
        """
        places = list(clbits)
        whole = places == list(range(self._clbits))
        return {
            self._spaced(outcome if whole else _spread(outcome, places)): occurrences
            for outcome, occurrences in outcomes.items()
        }

    def _spaced(self, outcome: int) -> str:
        bits = format(outcome, f"0{self._clbits}b")
        return " ".join([bits[piece] for piece in self._pieces])


def _spread(outcome: int, places: list[int]) -> int:
    return sum((outcome >> bit & 1) << place for bit, place in enumerate(places))


def _pieces(circuit: QuantumCircuit) -> list[slice]:
    """Where a bitstring is cut: between registers, if these are the clbits in order."""
    bits = [bit for register in circuit.cregs for bit in register]
    if bits != list(circuit.clbits):
        return [slice(None)]
    pieces: list[slice] = []
    start = 0
    for register in reversed(circuit.cregs):
        pieces.append(slice(start, start + register.size))
        start += register.size
    return pieces
