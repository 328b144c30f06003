"""How are the steps of a circuit run on an engine? Every measurement outcome once, not every shot.

A static circuit is applied and sampled. In any other, a measurement or reset splits the shots
between its outcomes, binomially, and each part goes on with a state of its own: 1024 shots of a
teleported state are eight simulations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from qiskit.circuit.classical import expr

from app.errors import ExecutionError
from app.executors.circuits.conditions import BitsEqual, Expression
from app.executors.circuits.lowering import JUMP, MARK, MEASURE, RESET, STORE, Step
from app.executors.engines.gates import SWAP, flip, gate_of, projector

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from app.executors.engines import Kept, Pauli, StateVectorEngine
    from app.executors.native import Run

#: Where a state is this close to one outcome, the other one is rounding noise.
_NEVER = 1e-14


class EngineCore:
    """Runs steps on a state vector engine, as ``native.Controller`` does on Aer."""

    def __init__(self, engine: StateVectorEngine) -> None:
        self._engine = engine

    def probabilities(self, run: Run, qubits: Sequence[int]) -> npt.NDArray[np.float64]:
        """Probabilities of the outcomes of ``qubits``, the first the least significant bit.

        Returns:
            shape ``(2 ** len(qubits),)``.
        """
        wires = self._applied(run)
        squares = self._engine.probabilities([wires[qubit] for qubit in qubits])
        # In single precision they add up to 1 but for 1e-6 or so.
        total: float = squares.sum()
        return squares / total

    def statevector(self, _run: Run, /) -> npt.NDArray[np.complex128]:
        """Refuse: a state stays where it is."""
        raise ExecutionError("the state of a circuit does not leave the engine that holds it")

    def expectations(self, run: Run, paulis: Sequence[Pauli]) -> npt.NDArray[np.float64]:
        """Expectation value of every Pauli, shape ``(paulis,)``."""
        wires = self._applied(run)
        return self._engine.expectations(
            [{wires[qubit]: character for qubit, character in pauli.items()} for pauli in paulis]
        )

    def counts(
        self,
        run: Run,
        *,
        shots: int,
        memory: int = 0,  # noqa: ARG002 - Aer wants to know; here bits are an integer of any size
        readout: Sequence[int] = (),
    ) -> dict[int, int]:
        """Outcome, as one integer over the classical bits → occurrences.

        Args:
            run: the simulation.
            shots: samples.
            memory: how many classical bits the measurements among the steps write; bit 0 is the
                least significant of an outcome.
            readout: qubits to measure after the steps instead, the first into bit 0.
        """
        readings = (Step(MEASURE, (qubit,), (bit,)) for bit, qubit in enumerate(readout))
        program = _Program((*run.steps, *readings))
        branching = _Branching(self._engine, program, np.random.default_rng(run.seed))
        return dict(branching.outcomes(qubits=run.qubits, shots=shots))

    def _applied(self, run: Run) -> list[int]:
        """Apply gates from the start, and give the wire of every qubit."""
        self._engine.start(run.qubits)
        wires = list(range(run.qubits))
        for step in run.steps:
            _apply(self._engine, step, wires)
        return wires


def _apply(engine: StateVectorEngine, step: Step, wires: list[int]) -> None:
    """Apply a gate to the wires that its qubits are; a swap changes these instead."""
    if step.name == SWAP:
        first, second = step.qubits
        wires[first], wires[second] = wires[second], wires[first]
        return
    engine.apply(gate_of(step._replace(qubits=tuple(wires[qubit] for qubit in step.qubits))))


class _Program:
    """Steps, where their jumps lead, and where nothing but gates and readings is left."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.marks = {
            step.params[0]: place for place, step in enumerate(steps) if step.name == MARK
        }
        self.tail = _tail(steps)


def _tail(steps: Sequence[Step]) -> int:
    """Give the first place from which on all measurements can be made at the end."""
    touched: set[int] = set()
    written: set[int] = set()
    for place in range(len(steps) - 1, -1, -1):
        step = steps[place]
        if step.name in (JUMP, RESET, STORE):
            return place + 1
        if step.name == MEASURE:
            # A bit that is written again is that of the later measurement, which is sampled too.
            if not touched.isdisjoint(step.qubits) or not written.isdisjoint(step.clbits):
                return place + 1
            written.update(step.clbits)
        elif step.name != MARK:
            touched.update(step.qubits)
    return 0


@dataclass(kw_only=True)
class _Branch:
    """Shots that have seen the same outcomes up to some place."""

    shots: int
    #: wire of every qubit.
    wires: list[int]
    #: outcomes that the next measurements and resets have in this branch.
    known: tuple[int, ...] = ()
    #: those of the ones before.
    history: tuple[int, ...] = ()
    #: of the step that comes next.
    place: int = 0
    #: classical bits, bit ``i`` is clbit ``i``.
    bits: int = 0
    variables: dict[expr.Var, float] = field(default_factory=dict)
    #: its state; None: |0…0>.
    kept: Kept | None = None


class _Branching:
    """Follows one branch after another; the state of only one of them is worked on."""

    def __init__(
        self, engine: StateVectorEngine, program: _Program, rng: np.random.Generator
    ) -> None:
        self._engine = engine
        self._program = program
        self._rng = rng
        self._pending: list[_Branch] = []

    def outcomes(self, *, qubits: int, shots: int) -> Counter[int]:
        """Run all branches; outcome → occurrences."""
        found: Counter[int] = Counter()
        self._pending = [_Branch(shots=shots, wires=list(range(qubits)))]
        while self._pending:
            branch = self._pending.pop()
            self._engine.start(qubits, branch.kept)
            found.update(self._follow(branch))
        return found

    def _follow(self, branch: _Branch) -> dict[int, int]:
        """Take a branch to its end, and put aside the other part of every split."""
        steps = self._program.steps
        while branch.place < min(self._program.tail, len(steps)):
            step = steps[branch.place]
            if step.name in (MEASURE, RESET):
                self._read(branch, step)
            elif step.name == STORE:
                _store(branch, step)
            elif step.name not in (JUMP, MARK):
                _apply(self._engine, step, branch.wires)
            branch.place += 1
            if step.name == JUMP and _is_taken(step, branch):
                branch.place = self._program.marks[step.params[0]]
        return self._sampled(branch)

    def _read(self, branch: _Branch, step: Step) -> None:
        wire = branch.wires[step.qubits[0]]
        chances = self._engine.probabilities([wire])
        chances /= chances.sum()
        if not branch.known:
            branch.known = self._split(branch, float(chances[1]))
        outcome, *known = branch.known
        branch.known, branch.history = tuple(known), (*branch.history, outcome)
        if chances[1 - outcome] > _NEVER:
            self._engine.apply(projector(wire, outcome, float(chances[outcome])))
        if step.name == MEASURE:
            (clbit,) = step.clbits
            branch.bits = branch.bits & ~(1 << clbit) | outcome << clbit
        elif outcome:
            self._engine.apply(flip(wire))

    def _split(self, branch: _Branch, chance: float) -> tuple[int]:
        """Draw how many shots read 1; the outcome that the branch goes on with."""
        ones = int(self._rng.binomial(branch.shots, min(1.0, chance)))
        if ones in (0, branch.shots):
            return (int(ones > 0),)
        kept = self._engine.keep()
        if kept is None:
            # It is made once more from the start: twice the time, and no memory.
            known = (*branch.history, 1)
            qubits = len(branch.wires)
            aside = _Branch(shots=ones, wires=list(range(qubits)), known=known)
        else:
            wires, variables = list(branch.wires), dict(branch.variables)
            aside = replace(
                branch, shots=ones, wires=wires, variables=variables, known=(1,), kept=kept
            )
        self._pending.append(aside)
        branch.shots -= ones
        return (0,)

    def _sampled(self, branch: _Branch) -> dict[int, int]:
        """Apply the gates that are left, and read all that is read at the end."""
        places: dict[int, int] = {}
        for step in self._program.steps[branch.place :]:
            if step.name == MEASURE:
                places[step.clbits[0]] = branch.wires[step.qubits[0]]
            elif step.name != MARK:
                _apply(self._engine, step, branch.wires)
        if not places:
            return {branch.bits: branch.shots}
        for clbit in places:
            branch.bits &= ~(1 << clbit)
        wires = list(dict.fromkeys(places.values()))
        outcomes = self._engine.sample(wires, self._rng.random(branch.shots))
        shifts = [(wires.index(wire), clbit) for clbit, wire in places.items()]
        seen, times = np.unique(outcomes, return_counts=True)
        return {
            branch.bits | sum((outcome >> bit & 1) << clbit for bit, clbit in shifts): occurrences
            for outcome, occurrences in zip(seen.tolist(), times.tolist(), strict=True)
        }


def _is_taken(jump: Step, branch: _Branch) -> bool:
    match jump.condition:
        case BitsEqual():
            return jump.condition.holds(branch.bits)
        case Expression():
            return bool(jump.condition.value(branch.bits, branch.variables))
    return True


def _store(branch: _Branch, step: Step) -> None:
    """Assign to a variable, to classical bits, or to one bit of either."""
    target, source = step.params
    value = source.value(branch.bits, branch.variables)
    named = target.node
    if isinstance(named, expr.Index):
        bit = int(Expression(named.index, target.clbits).value(branch.bits, branch.variables))
        whole = int(Expression(named.target, target.clbits).value(branch.bits, branch.variables))
        value = whole & ~(1 << bit) | (int(value) & 1) << bit
        named = named.target
    if named.standalone:
        branch.variables[named] = value
        return
    for index, clbit in enumerate(step.clbits):
        branch.bits = branch.bits & ~(1 << clbit) | (int(value) >> index & 1) << clbit
