"""How much has a program used of what it may? Counted over all of its pubs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.config import ProgramLimits
    from app.primitives.runtime.document import Node

#: limit → what is counted, in words.
_COUNTED = {
    "circuit_bytes": "bytes of decompressed circuits",
    "samplex_bytes": "bytes of samplexes",
    "array_bytes": "bytes of decompressed arrays",
    "parameter_sets": "parameter sets",
    "observables": "observables",
    "terms": "terms of observables",
    "total_shots": "shots",
}


class Budget:
    """What one program has used so far."""

    def __init__(self, limits: ProgramLimits) -> None:
        self.limits = limits
        self._spent: Counter[str] = Counter()

    def left(self, limit: str) -> int:
        """How much is left of a limit."""
        allowed: int = getattr(self.limits, limit)
        return allowed - self._spent[limit]

    def spend(self, node: Node, limit: str, amount: int) -> None:
        """Count what a value asks for.

        Raises:
            InvalidProgram: the program then has more than it may.
        """
        if amount > self.left(limit):
            allowed = getattr(self.limits, limit)
            message = (
                f"with this, the program has more than the {allowed} {_COUNTED[limit]} allowed"
            )
            raise node.refused(f"too_many_{limit}", message)
        self._spent[limit] += amount
