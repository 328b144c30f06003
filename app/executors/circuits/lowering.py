"""How does a circuit become a flat list of operations that Aer knows?

Aer looks at an operation's name only, so a user's gate called ``h`` would run as Aer's own. Here an
operation is taken for what its class says: Qiskit's own gates keep their name, everything else is
replaced by its definition. Control flow becomes jumps and marks, ``for`` loops are unrolled.

This is done here and not by ``qiskit.transpile`` (51 ms for a Bell circuit) or Aer's own compiler,
which leaves conditions on the bits of an inner block unmapped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from qiskit.circuit import (
    CASE_DEFAULT,
    AnnotatedOperation,
    Barrier,
    BoxOp,
    BreakLoopOp,
    ContinueLoopOp,
    ControlFlowOp,
    Delay,
    ForLoopOp,
    IfElseOp,
    Measure,
    ParameterExpression,
    QuantumCircuit,
    Reset,
    Store,
    SwitchCaseOp,
    WhileLoopOp,
)
from qiskit.circuit.classical import expr
from qiskit.circuit.exceptions import CircuitError
from qiskit.circuit.library import Initialize, MCPhaseGate, MCXGate, UnitaryGate
from qiskit.transpiler.passes import HighLevelSynthesis

from app.errors import ExecutionError
from app.executors.circuits.angles import Angles
from app.executors.circuits.conditions import Condition, Expression, bits_equal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from qiskit.circuit import (
        CircuitInstruction,
        ClassicalRegister,
        Clbit,
        Operation,
        Parameter,
        Qubit,
    )

#: classes outside Qiskit's standard gates that Aer runs under this name.
_NATIVE_CLASSES = {"mcx": MCXGate, "mcphase": MCPhaseGate, "unitary": UnitaryGate}

MEASURE = "measure"
RESET = "reset"
DELAY = "delay"
INITIALIZE = "initialize"
JUMP = "jump"
MARK = "mark"
STORE = "store"


class Step(NamedTuple):
    """One operation in Aer's vocabulary; its bits are indices into the whole circuit."""

    #: gate name, or one of ``MEASURE``, ``RESET``, ``DELAY``, ``INITIALIZE``, ``JUMP``, ``MARK``,
    #: ``STORE``.
    name: str
    qubits: tuple[int, ...] = ()
    clbits: tuple[int, ...] = ()
    #: angles, or slots of them; the matrix of a ``unitary``; the amplitudes of an initialize, shape
    #: ``(2 ** qubits,)``; the label of a jump or mark; the
    #: length of a delay, and its unit; where a store writes, and what, both as ``Expression``.
    params: tuple[Any, ...] = ()
    #: of a jump: taken only if it holds.
    condition: Condition | None = None
    #: the name that noise knows a gate or delay by, if it is another.
    label: str | None = None


class _Scope(NamedTuple):
    """What the names inside a block or definition mean outside of it."""

    qubits: Mapping[Qubit, int]
    clbits: Mapping[Clbit, int]
    #: values of loop variables.
    bindings: Mapping[Parameter, float]
    loop: _Loop | None


@dataclass(kw_only=True)
class _Loop:
    """Where ``break`` and ``continue`` go; the labels are made when first needed."""

    break_label: str | None = None
    continue_label: str | None = None


def delay_label(duration: float, unit: str) -> str:
    """Give the name under which a simulator knows a delay, so that it can have an error."""
    return f"{DELAY} {duration} {unit}"


def lower(
    circuit: QuantumCircuit,
    gates: frozenset[str],
    angles: Angles | None = None,
    *,
    keep_idling: bool = False,
    keep_labels: bool = False,
    stores: bool = False,
) -> list[Step]:
    """Flatten ``circuit``; barriers and global phases, which nothing sees, disappear.

    Args:
        circuit: the circuit; its names need not be trusted.
        gates: names of the gates that may appear in the answer; others are decomposed.
        angles: where angles that depend on parameters get their slots; without it, a parameter
            has no value.
        keep_idling: whether ``id`` gates and delays are kept, because they are noisy.
        keep_labels: whether noise knows a gate by its label, where it has one, and an
            ``initialize`` as a whole.
        stores: whether assignments to classical variables may appear; otherwise they are refused.

    Raises:
        ExecutionError: an operation has no definition, a parameter no value, or a condition
            cannot be evaluated.
    """
    lowering = _Lowering(
        gates,
        angles or Angles(),
        keep_idling=keep_idling,
        keep_labels=keep_labels,
        stores=stores,
    )
    qubits = {qubit: index for index, qubit in enumerate(circuit.qubits)}
    clbits = {clbit: index for index, clbit in enumerate(circuit.clbits)}
    lowering.block(circuit, _Scope(qubits=qubits, clbits=clbits, bindings={}, loop=None))
    return lowering.steps


class _Lowering:
    def __init__(
        self,
        gates: frozenset[str],
        angles: Angles,
        *,
        keep_idling: bool,
        keep_labels: bool,
        stores: bool,
    ) -> None:
        self.steps: list[Step] = []
        self._gates = gates
        self._angles = angles
        self._keep_idling = keep_idling
        self._keep_labels = keep_labels
        self._stores = stores
        self._labels = count()

    def block(self, circuit: QuantumCircuit, scope: _Scope) -> None:
        for instruction in circuit.data:
            # A standard gate lives in Qiskit's Rust core: its name cannot be chosen by a user.
            if instruction.is_standard_gate() and instruction.name in self._gates:
                self._gate(instruction.name, instruction, instruction.params, scope)
            else:
                self._other(instruction, scope)

    def _gate(
        self, name: str, instruction: CircuitInstruction, params: Sequence[Any], scope: _Scope
    ) -> None:
        if name == "id" and not self._keep_idling:
            return
        qubits = tuple(scope.qubits[qubit] for qubit in instruction.qubits)
        values = tuple(_angle(param, scope.bindings, self._angles) for param in params)
        label = instruction.label if self._keep_labels else None
        self.steps.append(Step(name, qubits, params=values, label=label))

    def _other(self, instruction: CircuitInstruction, scope: _Scope) -> None:
        operation = instruction.operation
        if isinstance(operation, Barrier) or not (
            instruction.qubits
            or instruction.clbits
            or isinstance(operation, (ControlFlowOp, Store))
        ):
            return
        if isinstance(operation, Delay):
            if self._keep_idling:
                self._delay(instruction, operation, scope)
            return
        if isinstance(operation, Measure):
            qubit, clbit = scope.qubits[instruction.qubits[0]], scope.clbits[instruction.clbits[0]]
            self.steps.append(Step(MEASURE, (qubit,), (clbit,)))
        elif isinstance(operation, Reset):
            self.steps.append(Step(RESET, (scope.qubits[instruction.qubits[0]],)))
        elif isinstance(operation, (BreakLoopOp, ContinueLoopOp)) and scope.loop is not None:
            self._leave(operation, scope.loop)
        elif isinstance(operation, ControlFlowOp):
            self._control_flow(instruction, operation, scope)
        elif isinstance(operation, Store):
            self._store(operation, scope)
        elif self._keep_labels and (amplitudes := _amplitudes(operation)) is not None:
            # To Aer it is one operation, and the errors of gates are not in it.
            qubits = tuple(scope.qubits[qubit] for qubit in instruction.qubits)
            self.steps.append(Step(INITIALIZE, qubits, params=(amplitudes,)))
        elif self._is_native(operation):
            self._gate(operation.name, instruction, operation.params, scope)
        else:
            self._definition(instruction, operation, scope)

    def _delay(self, instruction: CircuitInstruction, operation: Delay, scope: _Scope) -> None:
        qubits = tuple(scope.qubits[qubit] for qubit in instruction.qubits)
        duration = _angle(operation.duration, scope.bindings, self._angles)
        label = (operation.label or DELAY) if self._keep_labels else None
        self.steps.append(Step(DELAY, qubits, params=(duration, operation.unit), label=label))

    def _store(self, operation: Store, scope: _Scope) -> None:
        if not self._stores:
            message = (
                "the circuit assigns to classical variables or bits, which cannot be simulated "
                "with noise; run it on a backend …@aer"
            )
            raise ExecutionError(message, operation=operation.name)
        target = Expression(operation.lvalue, scope.clbits)
        value = Expression(operation.rvalue, scope.clbits)
        self.steps.append(Step(STORE, clbits=tuple(target.places), params=(target, value)))

    def _is_native(self, operation: Operation) -> bool:
        # The name of a gate with open controls ends in ``_o…``, so it is none of these.
        name = operation.name
        return name in self._gates and isinstance(operation, _NATIVE_CLASSES.get(name, ()))

    def _definition(
        self, instruction: CircuitInstruction, operation: Operation, scope: _Scope
    ) -> None:
        if isinstance(operation, AnnotatedOperation):
            definition = self._synthesised(operation)
        else:
            definition = getattr(operation, "definition", None)
        if definition is None:
            message = f"operation {operation.name[:40]!r} cannot be simulated: it has no definition"
            raise ExecutionError(message, operation=operation.name[:40])
        self.block(definition, _inner(definition, instruction, scope, scope.loop))

    def _synthesised(self, operation: AnnotatedOperation) -> QuantumCircuit:
        """Replace the modifiers of a gate (``ctrl @``, ``inv @``, ``pow @``) by gates."""
        circuit = QuantumCircuit(operation.num_qubits)
        circuit.append(operation, circuit.qubits)
        return HighLevelSynthesis(basis_gates=sorted(self._gates))(circuit)

    def _control_flow(
        self, instruction: CircuitInstruction, operation: ControlFlowOp, scope: _Scope
    ) -> None:
        if isinstance(operation, IfElseOp):
            self._if_else(instruction, operation, scope)
        elif isinstance(operation, WhileLoopOp):
            self._while(instruction, operation, scope)
        elif isinstance(operation, ForLoopOp):
            self._for(instruction, operation, scope)
        elif isinstance(operation, SwitchCaseOp):
            self._switch(instruction, operation, scope)
        elif isinstance(operation, BoxOp):
            self.block(operation.body, _inner(operation.body, instruction, scope, scope.loop))
        else:
            message = f"operation {operation.name[:40]!r} cannot be simulated here"
            raise ExecutionError(message, operation=operation.name[:40])

    def _if_else(self, instruction: CircuitInstruction, operation: IfElseOp, scope: _Scope) -> None:
        true_body, false_body = operation.params
        then, end = self._label(), self._label()
        self._jump(then, _condition(operation.condition, scope))
        if false_body is not None:
            self.block(false_body, _inner(false_body, instruction, scope, scope.loop))
        self._jump(end)
        self._mark(then)
        self.block(true_body, _inner(true_body, instruction, scope, scope.loop))
        self._mark(end)

    def _while(
        self, instruction: CircuitInstruction, operation: WhileLoopOp, scope: _Scope
    ) -> None:
        (body,) = operation.params
        again, start, end = self._label(), self._label(), self._label()
        loop = _Loop(break_label=end, continue_label=again)
        self._mark(again)
        self._jump(start, _condition(operation.condition, scope))
        self._jump(end)
        self._mark(start)
        self.block(body, _inner(body, instruction, scope, loop))
        self._jump(again)
        self._mark(end)

    def _for(self, instruction: CircuitInstruction, operation: ForLoopOp, scope: _Scope) -> None:
        indices, variable, body = operation.params
        loop = _Loop()
        inner = _inner(body, instruction, scope, loop)
        for index in indices:
            if variable is not None:
                inner = inner._replace(bindings={**scope.bindings, variable: float(index)})
            loop.continue_label = None
            self.block(body, inner)
            if loop.continue_label is not None:
                self._mark(loop.continue_label)
        if loop.break_label is not None:
            self._mark(loop.break_label)

    def _switch(
        self, instruction: CircuitInstruction, operation: SwitchCaseOp, scope: _Scope
    ) -> None:
        end = self._label()
        cases = [(self._label(), values, body) for values, body in operation.cases_specifier()]
        default = end
        for label, values, _ in cases:
            for value in values:
                if value is CASE_DEFAULT:
                    default = label
                else:
                    self._jump(label, _case(operation.target, value, scope))
        self._jump(default)
        for label, _, body in cases:
            self._mark(label)
            self.block(body, _inner(body, instruction, scope, scope.loop))
            self._jump(end)
        self._mark(end)

    def _leave(self, operation: BreakLoopOp | ContinueLoopOp, loop: _Loop) -> None:
        if isinstance(operation, BreakLoopOp):
            loop.break_label = loop.break_label or self._label()
            self._jump(loop.break_label)
        else:
            loop.continue_label = loop.continue_label or self._label()
            self._jump(loop.continue_label)

    def _label(self) -> str:
        return str(next(self._labels))

    def _jump(self, label: str, condition: Condition | None = None) -> None:
        self.steps.append(Step(JUMP, params=(label,), condition=condition))

    def _mark(self, label: str) -> None:
        self.steps.append(Step(MARK, params=(label,)))


def _inner(
    body: QuantumCircuit, instruction: CircuitInstruction, scope: _Scope, loop: _Loop | None
) -> _Scope:
    """Give the scope inside a block or definition, whose bits stand for those of ``instruction``.

    Bits of the outer scope stay known, because a condition inside may name a register that the
    block does not list.
    """
    qubits = {
        inner: scope.qubits[outer]
        for inner, outer in zip(body.qubits, instruction.qubits, strict=True)
    }
    renamed = {
        inner: scope.clbits[outer]
        for inner, outer in zip(body.clbits, instruction.clbits, strict=True)
        if inner not in scope.clbits or scope.clbits[inner] != scope.clbits[outer]
    }
    clbits = {**scope.clbits, **renamed} if renamed else scope.clbits
    return _Scope(qubits=qubits, clbits=clbits, bindings=scope.bindings, loop=loop)


def _angle(param: Any, bindings: Mapping[Parameter, float], angles: Angles) -> Any:
    if not isinstance(param, ParameterExpression):
        return param
    unbound = sorted(
        each.name
        for each in param.parameters
        if each not in bindings and each not in angles.parameters
    )
    if unbound:
        message = f"the program has parameters without a value: {', '.join(unbound)[:200]}"
        raise ExecutionError(message)
    values = {each: bindings[each] for each in param.parameters if each in bindings}
    try:
        partly = param.bind(values) if values else param
        if partly.parameters:
            return angles.slot(partly)
        value = float(partly)
    except (ArithmeticError, CircuitError) as exc:
        message = (
            "an angle has no value for every turn of its loop: it divides by zero or overflows"
        )
        raise ExecutionError(message) from exc
    if not isfinite(value):
        raise ExecutionError("an angle is not a finite number for every turn of its loop")
    return value


def _amplitudes(operation: Operation) -> npt.NDArray[np.complex128] | None:
    """Give the state that an ``initialize`` is written with; None if it is written otherwise."""
    if not isinstance(operation, Initialize):
        return None
    params = operation.params
    if len(params) != 2**operation.num_qubits or any(isinstance(each, str) for each in params):
        return None
    return np.array(params, dtype=np.complex128)


def _condition(condition: expr.Expr | tuple[Any, int], scope: _Scope) -> Condition:
    if isinstance(condition, expr.Expr):
        return Expression(condition, scope.clbits)
    bits, value = condition
    return bits_equal(bits, int(value), scope.clbits)


def _case(target: Clbit | ClassicalRegister | expr.Expr, value: int, scope: _Scope) -> Condition:
    if isinstance(target, expr.Expr):
        return Expression(expr.equal(target, value), scope.clbits)
    return bits_equal(target, int(value), scope.clbits)
