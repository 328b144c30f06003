"""Which part of a circuit can be seen in its result? The rest is not simulated."""

from __future__ import annotations

from dataclasses import dataclass

from app.executors.circuits.lowering import JUMP, MARK, MEASURE, RESET, STORE, Step


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A circuit without idle qubits and without operations that no classical bit depends on."""

    #: what is left; qubits are numbered 0 to ``qubits - 1``, clbits as in the circuit.
    steps: tuple[Step, ...]
    qubits: int
    #: clbit → qubit it reads, when every measurement is at the end; ``steps`` has no measurement
    #: then. None: measurements are among the steps.
    readout: dict[int, int] | None
    #: clbits that can be other than 0.
    written: frozenset[int]
    #: what number each of the qubits had before.
    origins: tuple[int, ...]


def reduce(steps: list[Step], *, fresh_read_zero: bool = True) -> Reduced:
    """Leave out what the classical bits do not depend on, and renumber the qubits.

    A circuit with jumps or stores keeps all its operations: what is read later may depend on them.

    Args:
        steps: a lowered circuit.
        fresh_read_zero: whether measuring a qubit that nothing acted on gives 0 for sure, which it
            does not where measurements are noisy.
    """
    if not _jumps(steps):
        steps = _visible(steps)
        if fresh_read_zero:
            steps = _without_fresh(steps)
        if _measures_at_the_end(steps):
            readout = {step.clbits[0]: step.qubits[0] for step in steps if step.name == MEASURE}
            return _renumbered([step for step in steps if step.name != MEASURE], readout)
    return _renumbered(steps, None)


def components(steps: list[Step], *, fresh_read_zero: bool = True) -> list[list[Step]]:
    """Split a circuit into parts that share no qubit and no clbit, so that each is run alone.

    What no clbit depends on belongs to none of them. A circuit with jumps or stores is one part.

    Args:
        steps: a lowered circuit.
        fresh_read_zero: as in ``reduce``.
    """
    if _jumps(steps):
        return [steps]
    steps = _visible(steps)
    if fresh_read_zero:
        steps = _without_fresh(steps)
    parts = _Parts()
    for step in steps:
        parts.join([*step.qubits, *(~clbit for clbit in step.clbits)])
    apart: dict[int, list[Step]] = {}
    for step in steps:
        apart.setdefault(parts.of(step.qubits[0]), []).append(step)
    return list(apart.values())


class _Parts:
    """Disjoint sets of bits, joined step by step; clbit ``i`` is ``~i``."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def of(self, bit: int) -> int:
        """Give the bit that stands for the set of ``bit``."""
        parent = self._parents.setdefault(bit, bit)
        while parent != bit:
            # Every second look-up is shorter for the next one.
            self._parents[bit] = self._parents[parent]
            bit = self._parents[bit]
            parent = self._parents[bit]
        return bit

    def join(self, bits: list[int]) -> None:
        """Make the sets of ``bits`` one."""
        first = self.of(bits[0])
        for bit in bits[1:]:
            self._parents[self.of(bit)] = first


def _jumps(steps: list[Step]) -> bool:
    return any(step.name in (JUMP, MARK, STORE) for step in steps)


def _visible(steps: list[Step]) -> list[Step]:
    """Walk backwards from the last measurements: only what acts on a qubit they read is kept."""
    kept: list[Step] = []
    qubits: set[int] = set()
    clbits: set[int] = set()
    for step in reversed(steps):
        if step.name == MEASURE and step.clbits[0] not in clbits:
            clbits.update(step.clbits)
            qubits.update(step.qubits)
            kept.append(step)
        elif not qubits.isdisjoint(step.qubits):
            if step.name == RESET:
                qubits.difference_update(step.qubits)
            else:
                qubits.update(step.qubits)
            kept.append(step)
    kept.reverse()
    return kept


def _without_fresh(steps: list[Step]) -> list[Step]:
    """Drop resets and measurements of qubits still in |0>: they change nothing and give 0."""
    writers: dict[int, int] = {}
    for step in steps:
        for clbit in step.clbits:
            writers[clbit] = writers.get(clbit, 0) + 1
    kept: list[Step] = []
    touched: set[int] = set()
    for step in steps:
        if touched.isdisjoint(step.qubits) and (
            step.name == RESET or (step.name == MEASURE and writers[step.clbits[0]] == 1)
        ):
            continue
        touched.update(step.qubits)
        kept.append(step)
    return kept


def _measures_at_the_end(steps: list[Step]) -> bool:
    measured: set[int] = set()
    for step in steps:
        if step.name == MEASURE:
            measured.update(step.qubits)
        elif step.name == RESET or not measured.isdisjoint(step.qubits):
            return False
    return True


def _renumbered(steps: list[Step], readout: dict[int, int] | None) -> Reduced:
    used = {qubit for step in steps for qubit in step.qubits}.union((readout or {}).values())
    place = {qubit: index for index, qubit in enumerate(sorted(used))}
    written = {clbit for step in steps for clbit in step.clbits}.union(readout or ())
    return Reduced(
        steps=tuple(
            step._replace(qubits=tuple(place[qubit] for qubit in step.qubits)) for step in steps
        ),
        qubits=len(place),
        readout=None if readout is None else {c: place[q] for c, q in readout.items()},
        written=frozenset(written),
        origins=tuple(place),
    )
