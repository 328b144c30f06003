"""What did sampling one component of a circuit give, and how is it drawn?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

#: How far the probabilities of a state may add up to something other than 1.
_NORM_TOLERANCE = 1e-6

#: From this many outcomes a shot on, each shot is looked up among the summed probabilities: a
#: multinomial draw costs 50 ns an outcome, looking up 100 ns a shot.
_LOOKED_UP_OUTCOMES_PER_SHOT = 16


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Outcomes of some clbits at some parameter sets."""

    #: the clbits, in the order of the columns of ``outcomes``.
    clbits: tuple[int, ...]
    #: ``uint8`` of 0 and 1, shape ``(outcomes, len(clbits))``.
    outcomes: npt.NDArray[np.uint8]
    #: how often each was seen, shape ``(sets, outcomes)``.
    occurrences: npt.NDArray[np.int64]

    def in_random_order(self, rng: np.random.Generator) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Give every shot its outcome, shape ``(sets, shots)``, as rows of ``outcomes``.

        Shots are independent, so any order of the same outcomes is as likely as any other.
        """
        sets, outcomes = self.occurrences.shape
        # One byte for a qubit or two: an observable may have one part for every qubit.
        rows = np.tile(np.arange(outcomes, dtype=np.min_scalar_type(outcomes)), sets)
        ordered = np.repeat(rows, self.occurrences.ravel()).reshape(sets, -1)
        return rng.permuted(ordered, axis=1)

    def of(self, names: Mapping[int, int]) -> Samples:
        """Keep only the clbits in ``names``, and call them what they are called there."""
        kept = [column for column, clbit in enumerate(self.clbits) if clbit in names]
        return replace(
            self,
            clbits=tuple(names[self.clbits[column]] for column in kept),
            outcomes=self.outcomes[:, kept],
        )


def drawn(
    probabilities: npt.NDArray[np.float64],
    clbits: Mapping[int, int],
    *,
    shots: int,
    rng: np.random.Generator,
) -> Samples:
    """Draw samples.

    Args:
        probabilities: shape ``(sets, 2 ** bits)``.
        clbits: clbit → the bit of an outcome it reads; several may read one.
        shots: samples of every set.
        rng: where chance comes from.

    Raises:
        ExecutionError: the probabilities of one set do not add up to 1.
    """
    probabilities = normalised(probabilities)
    sets, outcomes = probabilities.shape
    if sets == 1 and outcomes > _LOOKED_UP_OUTCOMES_PER_SHOT * shots:
        places = probabilities[0].cumsum().searchsorted(rng.random(shots), side="right")
        seen, once = np.unique(np.minimum(places, outcomes - 1), return_counts=True)
        occurrences = once[np.newaxis]
    else:
        occurrences = rng.multinomial(shots, probabilities)
        seen = np.flatnonzero(occurrences.any(axis=0))
        occurrences = occurrences[:, seen]
    bits = np.fromiter(clbits.values(), dtype=np.int64, count=len(clbits))
    return Samples(
        clbits=tuple(clbits),
        outcomes=(seen[:, np.newaxis] >> bits & 1).astype(np.uint8),
        occurrences=occurrences,
    )


def counted(counts: Mapping[int, int], clbits: Sequence[int]) -> Samples:
    """Samples of one set from counts; bit ``i`` of an outcome is that of ``clbits[i]``."""
    size = (len(clbits) + 7) // 8
    packed = b"".join(outcome.to_bytes(size, "little") for outcome in counts)
    rows = np.frombuffer(packed, dtype=np.uint8).reshape(len(counts), size)
    return Samples(
        clbits=tuple(clbits),
        outcomes=np.unpackbits(rows, axis=1, count=len(clbits), bitorder="little"),
        occurrences=np.array([list(counts.values())], dtype=np.int64),
    )


def normalised(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divide every row by its sum.

    Raises:
        ExecutionError: a sum is not 1 but for rounding.
    """
    totals = probabilities.sum(axis=-1, keepdims=True)
    if not (abs(totals - 1) < _NORM_TOLERANCE).all():
        worst = float(totals.flat[abs(totals - 1).argmax()])
        message = f"the probabilities of all outcomes add up to {worst}, not to 1"
        raise ExecutionError(message, total=str(worst))
    divided: npt.NDArray[np.float64] = probabilities / totals
    return divided
