"""Is a circuit safe to simulate? Known operations only, bounded, with harmless names."""

from __future__ import annotations

import cmath
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.circuit import (
    AnnotatedOperation,
    ControlFlowOp,
    ControlledGate,
    ControlModifier,
    ForLoopOp,
    Gate,
    Instruction,
    ParameterExpression,
    PowerModifier,
    QuantumCircuit,
    SwitchCaseOp,
)
from qiskit.circuit.classical import expr

from app.primitives.qasm.place import Rejected

if TYPE_CHECKING:
    import numpy.typing as npt
    from qiskit.circuit import CircuitInstruction, Parameter

    from app.config import ProgramLimits

#: Stands in front of every user-defined operation's name: simulators look at names.
USER_PREFIX = "user__"

#: Operations of Qiskit that are no standard gates and are known to every executor.
_KNOWN = frozenset(
    (
        "Measure",
        "Reset",
        "Barrier",
        "Delay",
        "Store",
        "BreakLoopOp",
        "ContinueLoopOp",
        "UnitaryGate",
        "MCXGate",
        "MCPhaseGate",
    )
)
#: Where the classes of Qiskit's library of circuits are; they are what their definitions say.
_LIBRARY = "qiskit.circuit.library."
#: Entries of a matrix in a circuit: eight qubits.
_MATRIX_ENTRIES = 1 << 16
#: Qubits beyond which the cost of a matrix is not estimated any more: it is over every limit.
_MATRIX_QUBITS = 8
#: Nesting of an expression in a condition.
_EXPRESSION_DEPTH = 64


def sanitise(circuit: QuantumCircuit, limits: ProgramLimits) -> QuantumCircuit:
    """Check a circuit and rename its user-defined operations, in place.

    A user-defined operation is what its definition says, whatever its name, its class or the gate
    it claims to control.

    Raises:
        Rejected: an operation is not known, or there is too much of something.
    """
    _Sanitiser(limits, set(circuit.parameters)).circuit(circuit, depth=0)
    return circuit


class _Sanitiser:
    def __init__(self, limits: ProgramLimits, parameters: set[Parameter]) -> None:
        self._limits = limits
        #: those that have a value when the circuit runs.
        self._parameters = parameters
        #: definition → operations it expands to; the object is kept so that its id stays its own.
        self._seen: dict[int, tuple[int, QuantumCircuit]] = {}

    def circuit(self, circuit: QuantumCircuit, *, depth: int) -> int:
        """Operations that a circuit expands to."""
        limits = self._limits
        if depth > limits.gate_depth:
            message = (
                f"definitions and blocks nest deeper than the {limits.gate_depth} levels allowed"
            )
            raise Rejected("too_deep", message)
        if circuit.num_qubits > limits.qubits:
            message = f"{circuit.num_qubits} qubits; {limits.qubits} are allowed"
            raise Rejected("too_many_qubits", message)
        if circuit.num_clbits > limits.clbits:
            message = f"{circuit.num_clbits} classical bits; {limits.clbits} are allowed"
            raise Rejected("too_many_bits", message)
        _check_parameter(circuit.global_phase)
        total = 0
        for i, instruction in enumerate(circuit.data):
            for param in instruction.params:
                _check_parameter(param)
            if instruction.is_standard_gate():
                total += 1
            else:
                total += self._other(circuit, i, instruction, depth)
            if total > limits.operations:
                message = (
                    f"the circuit expands to more than the {limits.operations} operations allowed"
                )
                raise Rejected("too_many_operations", message)
        return total

    def _other(
        self, circuit: QuantumCircuit, i: int, instruction: CircuitInstruction, depth: int
    ) -> int:
        operation = instruction.operation
        if isinstance(operation, ControlFlowOp):
            return self._control_flow(operation, depth)
        if isinstance(operation, AnnotatedOperation):
            operations, replaced = self._annotated(operation, depth)
            circuit.data[i] = instruction.replace(operation=replaced)
            return operations
        kind = getattr(operation, "base_class", type(operation))
        if kind.__name__ in _KNOWN and kind.__module__.startswith("qiskit."):
            size = sum(_expression_size(param) for param in instruction.params)
            if kind.__name__ == "UnitaryGate":
                _check_unitary(operation.params[0])
                return int(4 ** min(len(instruction.qubits), _MATRIX_QUBITS))
            return 8 * len(instruction.qubits) + 1 + size
        if kind not in (Gate, Instruction, ControlledGate) and not (
            issubclass(kind, Instruction) and kind.__module__.startswith(_LIBRARY)
        ):
            raise Rejected("operation", f"operations of class {kind.__name__[:64]} are not allowed")
        definition, operations = self._definition(operation, depth)
        if kind in (Gate, Instruction) or isinstance(operation, ControlledGate):
            replaced = _user_operation(operation, definition)
            circuit.data[i] = instruction.replace(operation=replaced)
        return 1 + operations

    def _definition(self, operation: Instruction, depth: int) -> tuple[QuantumCircuit, int]:
        if len(operation.params) > _MATRIX_ENTRIES:
            message = f"operation {operation.name[:64]!r} has too many parameters"
            raise Rejected("operation", message)
        definition = operation.definition
        if definition is None:
            message = (
                f"operation {operation.name[:64]!r} has no definition; if it is one of Qiskit's, "
                "transpile the circuit for the backend before it is submitted"
            )
            raise Rejected("operation", message)
        seen = self._seen.get(id(definition))
        if seen is None:
            unbound = set(definition.parameters) - self._parameters
            if unbound:
                names = ", ".join(sorted(repr(parameter.name[:32]) for parameter in unbound))
                message = (
                    f"operation {operation.name[:64]!r} is defined with parameters that the "
                    f"circuit does not have: {names[:200]}"
                )
                raise Rejected("unbound_parameter", message)
            seen = (self.circuit(definition, depth=depth + 1), definition)
            self._seen[id(definition)] = seen
        return definition, seen[0]

    def _annotated(
        self, operation: AnnotatedOperation, depth: int
    ) -> tuple[int, AnnotatedOperation]:
        limits = self._limits
        base = QuantumCircuit(operation.base_op.num_qubits, operation.base_op.num_clbits)
        base.append(operation.base_op, base.qubits, base.clbits)
        operations = self.circuit(base, depth=depth + 1)
        for modifier in operation.modifiers:
            if isinstance(modifier, ControlModifier):
                controls = modifier.num_ctrl_qubits
                if controls > limits.controls:
                    message = f"{controls} controls on one gate; {limits.controls} are allowed"
                    raise Rejected("too_many_controls", message)
                operations *= 8 * controls + 1
            elif isinstance(modifier, PowerModifier):
                _check_parameter(modifier.power)
                power = abs(modifier.power)
                if power > limits.power:
                    message = f"a power of {modifier.power}; {limits.power} is the largest allowed"
                    raise Rejected("power_too_large", message)
                if power != int(power) and operation.num_qubits > limits.power_qubits:
                    message = (
                        f"a fractional power of a gate on {operation.num_qubits} qubits; "
                        f"{limits.power_qubits} are allowed"
                    )
                    raise Rejected("power_too_wide", message)
                operations *= max(1, int(power))
        return operations, AnnotatedOperation(base.data[0].operation, operation.modifiers)

    def _control_flow(self, operation: ControlFlowOp, depth: int) -> int:
        turns, size = 1, 1
        if isinstance(operation, ForLoopOp):
            turns = self._turns(operation)
            variable = operation.params[1]
            if variable is not None:
                self._parameters.add(variable)
        elif isinstance(operation, SwitchCaseOp):
            size += _expression_size(operation.target)
            size += sum(len(labels) for labels, _ in operation.cases_specifier())
        else:
            size += _expression_size(getattr(operation, "condition", None))
        return size + turns * sum(
            self.circuit(block, depth=depth + 1) for block in operation.blocks
        )

    def _turns(self, operation: ForLoopOp) -> int:
        indices, most = operation.params[0], self._limits.loop_iterations
        # A range may be longer than the largest integer that len() gives.
        turns = len(indices[: most + 1])
        if turns > most:
            raise Rejected("loop_too_long", f"a loop of more than the {most} turns allowed")
        return turns


def _user_operation(operation: Instruction, definition: QuantumCircuit) -> Instruction:
    """An operation that is its definition and nothing else."""
    name = operation.name
    if not name.startswith(USER_PREFIX):
        name = USER_PREFIX + name
    # What has no value yet must be known to the circuit; other parameters are in the definition.
    params = [param for param in operation.params if isinstance(param, ParameterExpression)]
    if isinstance(operation, Gate):
        plain = Gate(name, operation.num_qubits, params)
    else:
        plain = Instruction(name, operation.num_qubits, operation.num_clbits, params)
    plain.definition = definition
    return plain


def _expression_size(expression: Any) -> int:
    """Number of nodes of a classical expression; 0 for anything else."""
    level = [expression] if isinstance(expression, expr.Expr) else []
    size = 0
    for _ in range(_EXPRESSION_DEPTH):
        size += len(level)
        level = [
            part
            for node in level
            for name in ("operand", "left", "right", "target", "index")
            if isinstance(part := getattr(node, name, None), expr.Expr)
        ]
        if not level:
            return size
    message = f"an expression nests deeper than the {_EXPRESSION_DEPTH} levels allowed"
    raise Rejected("too_deep", message)


def _check_unitary(matrix: npt.NDArray[np.complex128]) -> None:
    _check_parameter(matrix)
    if not np.allclose(matrix @ matrix.conj().T, np.eye(len(matrix))):
        raise Rejected("not_unitary", "the matrix of a gate is not unitary")


def _check_parameter(param: Any) -> None:
    if isinstance(param, ParameterExpression):
        if not param.parameters:
            _check_parameter(complex(param))
    elif isinstance(param, (bool, int)):
        return
    elif isinstance(param, (float, np.floating)):
        if not math.isfinite(param):
            raise Rejected("not_finite", "an angle is not a finite number")
    elif isinstance(param, (complex, np.complexfloating)):
        if not cmath.isfinite(param):
            raise Rejected("not_finite", "a parameter is not a finite number")
    elif isinstance(param, np.ndarray) and (
        param.size > _MATRIX_ENTRIES or not np.isfinite(param).all()
    ):
        raise Rejected("not_finite", "a matrix is too large, or not all of its entries are finite")
