"""How is an observable measured? Terms that share a measurement basis are read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import InvalidProgram
from app.executors.circuits.lowering import Step

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.executors.samples import Samples
    from app.primitives.programs import Observable

#: character → basis it is measured in, its value where the outcome is 0, and where it is 1.
_CHARACTERS = {
    "X": ("X", 1.0, -1.0),
    "+": ("X", 1.0, 0.0),
    "-": ("X", 0.0, 1.0),
    "Y": ("Y", 1.0, -1.0),
    "r": ("Y", 1.0, 0.0),
    "l": ("Y", 0.0, 1.0),
    "Z": ("Z", 1.0, -1.0),
    "0": ("Z", 1.0, 0.0),
    "1": ("Z", 0.0, 1.0),
}

#: projector → the Pauli, and its sign, that it is half of, besides half of the identity.
_PROJECTORS = {
    character: (basis, one_sign)
    for character, (basis, zero, one) in _CHARACTERS.items()
    if (one_sign := zero - one) and 0.0 in (zero, one)
}
#: Most terms that one term with projectors is written out as.
_MOST_TERMS = 4096

#: basis → gates, and their angles, that turn it into Z.
Rotations = Mapping[str, Sequence[tuple[str, tuple[float, ...]]]]

ROTATIONS: Rotations = {"X": (("h", ()),), "Y": (("sdg", ()), ("h", ())), "Z": ()}


@dataclass(kw_only=True)
class Group:
    """Terms that commute qubit by qubit."""

    #: qubit → ``X``, ``Y`` or ``Z``, what it is measured in.
    bases: dict[int, str] = field(default_factory=dict)
    #: coefficient, and qubit → character, of every term.
    terms: list[tuple[float, dict[int, str]]] = field(default_factory=list)
    #: bit ``i`` is set where qubit ``i`` is measured in X or Y, and in Z or Y.
    flips: int = 0
    phases: int = 0

    def takes(self, flips: int, phases: int) -> bool:
        """Whether a term with these bits is in the same basis on all qubits that both read."""
        both = (self.flips | self.phases) & (flips | phases)
        return not both & ((self.flips ^ flips) | (self.phases ^ phases))

    def rotations(self, places: Mapping[int, int], gates: Rotations = ROTATIONS) -> list[Step]:
        """Gates before the measurement of the qubits in ``places``, each renamed as there."""
        return [
            Step(gate, (place,), params=angles)
            for qubit, place in places.items()
            for gate, angles in gates[self.bases[qubit]]
        ]

    def paulis(self, most: int) -> dict[frozenset[int], float] | None:
        """Write the sum of all terms in Paulis: the qubits that each reads → its coefficient.

        Each qubit is read in its basis here.

        Args:
            most: Paulis; None is given if there are more.
        """
        written: dict[frozenset[int], float] = {}
        for coefficient, term in self.terms:
            if 2 ** sum(character in _PROJECTORS for character in term.values()) > most:
                return None
            parts = {frozenset[int](): coefficient}
            for qubit, character in term.items():
                one = frozenset((qubit,))
                if character in _PROJECTORS:
                    _, sign = _PROJECTORS[character]
                    halves = {read: weight / 2 for read, weight in parts.items()}
                    parts = halves | {read | one: sign * half for read, half in halves.items()}
                else:
                    parts = {read | one: weight for read, weight in parts.items()}
            for read, weight in parts.items():
                written[read] = written.get(read, 0.0) + weight
            if len(written) > most:
                return None
        return written

    def moments(
        self, parts: Sequence[Samples], *, sets: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Estimate the mean of the sum of all terms, and the variance of that mean.

        Args:
            parts: independent samples of some qubits, whose clbits are named like the qubits; the
                other qubits gave 0.
            sets: parameter sets.
            rng: puts the shots of several parts side by side.

        Returns:
            mean and unbiased variance (0 from a single shot), each of shape ``(sets,)``.
        """
        if len(parts) == 1:
            values = self._values(parts, [np.arange(len(parts[0].outcomes))])
            weights = parts[0].occurrences
        else:
            values = self._values(parts, [part.in_random_order(rng) for part in parts])
            weights = np.ones((sets, values.shape[-1]), dtype=np.int64)
        shots = weights.sum(axis=1)
        means = (weights * values).sum(axis=1) / shots
        squares = (weights * (values - means[:, np.newaxis]) ** 2).sum(axis=1)
        return means, squares / np.maximum(shots - 1, 1) / shots

    def _values(
        self, parts: Sequence[Samples], rows: Sequence[npt.NDArray[np.integer[Any]]]
    ) -> npt.NDArray[np.float64]:
        """Give the sum of all terms where every part had the outcomes ``rows`` of it."""
        columns = [dict(zip(part.clbits, part.outcomes.T, strict=True)) for part in parts]
        total = np.zeros(rows[0].shape if rows else (1, 1))
        for coefficient, term in self.terms:
            value = np.full(total.shape, coefficient)
            for part, chosen in zip(columns, rows, strict=True):
                factors = [factor(term[qubit], part[qubit]) for qubit in term if qubit in part]
                if factors:
                    value *= np.prod(factors, axis=0)[chosen]
            unread = (term[q] for q in term if not any(q in part for part in columns))
            total += value * prod(_CHARACTERS[character][1] for character in unread)
        return total


def factor(character: str, bits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Give what a character of a term is for some outcomes of its qubit."""
    _, zero, one = _CHARACTERS[character]
    return np.where(bits, one, zero)


def pauli_terms(observable: Observable) -> Observable:
    """Write out the projectors of an observable in Paulis.

    Raises:
        InvalidProgram: that would be too many terms.
    """
    written: Observable = {}
    for characters, coefficient in observable.items():
        projectors = sum(character in _PROJECTORS for character in characters)
        if 2**projectors > _MOST_TERMS:
            message = f"{projectors} projectors in one term; in Paulis that is 2^{projectors} terms"
            raise InvalidProgram("projectors", message)
        choices = [
            (("I", 0.5), (_PROJECTORS[each][0], 0.5 * _PROJECTORS[each][1]))
            if each in _PROJECTORS
            else ((each, 1.0),)
            for each in characters
        ]
        for choice in product(*choices):
            term = "".join(character for character, _ in choice)
            share = coefficient * prod(weight for _, weight in choice)
            written[term] = written.get(term, 0.0) + share
    return written


def grouped(
    observable: Observable, places: Sequence[int] | None = None
) -> tuple[float, list[Group]]:
    """Give the sum of the coefficients of the identity, and groups of all other terms.

    A term joins the first group that it commutes with qubit by qubit, the largest terms first.

    Args:
        observable: its terms.
        places: qubit of the circuit that each qubit of the observable is; the same if None.
    """
    constant = 0.0
    groups: list[Group] = []
    for characters, coefficient in sorted(observable.items(), key=lambda term: -abs(term[1])):
        term = {
            qubit if places is None else places[qubit]: character
            for qubit, character in enumerate(reversed(characters))
            if character != "I"
        }
        if not term:
            constant += coefficient
            continue
        bases = {qubit: _CHARACTERS[character][0] for qubit, character in term.items()}
        flips = sum(1 << qubit for qubit, basis in bases.items() if basis != "Z")
        phases = sum(1 << qubit for qubit, basis in bases.items() if basis != "X")
        group = next((group for group in groups if group.takes(flips, phases)), None)
        if group is None:
            groups.append(group := Group())
        group.bases.update(bases)
        group.terms.append((coefficient, term))
        group.flips |= flips
        group.phases |= phases
    return constant, groups
