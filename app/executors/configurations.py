"""At which parameter sets, and in which bases, is a circuit measured for all of its observables?"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from app.executors.observables import grouped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from app.primitives.programs import Observable


@dataclass(frozen=True, kw_only=True)
class PlacedTerm:
    """A term of an observable, and where it is read."""

    coefficient: float
    #: qubit → character; empty for the identity.
    characters: dict[int, str]
    #: which of the configurations.
    configuration: int


class Configurations:
    """Pairs of a parameter set and a basis; terms of all observables share them."""

    def __init__(
        self,
        observables: npt.NDArray[np.object_],
        sets: tuple[int, ...],
        qubits: Sequence[int],
    ) -> None:
        """Choose them.

        Args:
            observables: broadcast against the parameter sets.
            sets: shape of the array of parameter sets.
            qubits: number that each qubit of the observables has in the circuit, any that is not
                read.
        """
        self._qubits = qubits
        self.shape = np.broadcast_shapes(observables.shape, sets)
        self._observables: list[Observable] = observables.ravel().tolist()
        self._observable_at = _broadcast(observables.shape, self.shape)
        self._set_at = _broadcast(sets, self.shape)
        #: parameter set of every configuration, and the basis of each qubit that is read.
        self.sets: list[int] = []
        self.bases: list[dict[int, str]] = []
        #: parameter set, and a term's characters → where it is read.
        self._where: dict[tuple[int, frozenset[tuple[int, str]]], int] = {}
        self._choose(prod(sets))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.sets)

    def terms(self) -> Iterator[list[PlacedTerm]]:
        """Give the terms at every place of the result."""
        for observable, number in zip(self._observable_at, self._set_at, strict=True):
            yield [
                PlacedTerm(
                    coefficient=coefficient,
                    characters=term,
                    configuration=self._where.get((number, frozenset(term.items())), 0),
                )
                for characters, coefficient in self._observables[observable].items()
                for term in [self._term(characters)]
            ]

    def _term(self, characters: str) -> dict[int, str]:
        return {
            self._qubits[qubit]: character
            for qubit, character in enumerate(reversed(characters))
            if character != "I"
        }

    def _choose(self, sets: int) -> None:
        wanted: list[dict[str, float]] = [{} for _ in range(sets)]
        for observable, number in zip(self._observable_at, self._set_at, strict=True):
            for characters, coefficient in self._observables[observable].items():
                largest = max(abs(coefficient), wanted[number].get(characters, 0.0))
                wanted[number][characters] = largest
        for number, terms in enumerate(wanted):
            _, groups = grouped(terms, self._qubits)
            for group in groups:
                for _, term in group.terms:
                    self._where[number, frozenset(term.items())] = len(self.sets)
                self.sets.append(number)
                self.bases.append(group.bases)


def _broadcast(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[int]:
    indices: list[int] = (
        np.broadcast_to(np.arange(prod(shape)).reshape(shape), wanted).ravel().tolist()
    )
    return indices
