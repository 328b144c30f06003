"""Is a circuit safe to simulate? Known operations only, bounded, with harmless names."""

from __future__ import annotations

import cmath
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.circuit import (
    ControlFlowOp,
    ControlledGate,
    ForLoopOp,
    Gate,
    Instruction,
    ParameterExpression,
)

from app.primitives.qasm.converter import USER_PREFIX
from app.primitives.qasm.place import Rejected

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import CircuitInstruction

    from app.config import ProgramLimits

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
        "AnnotatedOperation",
    )
)
#: Entries of a matrix in a circuit: eight qubits.
_MATRIX_ENTRIES = 1 << 16
#: Qubits beyond which the cost of a matrix is not estimated any more: it is over every limit.
_MATRIX_QUBITS = 8


def sanitise(circuit: QuantumCircuit, limits: ProgramLimits) -> QuantumCircuit:
    """Check a circuit and rename its user-defined operations, in place.

    Raises:
        Rejected: an operation is not known, or there is too much of something.
    """
    _Sanitiser(limits).circuit(circuit, depth=0)
    return circuit


class _Sanitiser:
    def __init__(self, limits: ProgramLimits) -> None:
        self._limits = limits
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
            turns = self._turns(operation)
            return 1 + turns * sum(
                self.circuit(block, depth=depth + 1) for block in operation.blocks
            )
        kind = getattr(operation, "base_class", type(operation))
        if kind.__name__ in _KNOWN and kind.__module__.startswith("qiskit."):
            if kind.__name__ != "UnitaryGate":
                return 8 * len(instruction.qubits) + 1
            return int(4 ** min(len(instruction.qubits), _MATRIX_QUBITS))
        if isinstance(operation, ControlledGate):
            # A controlled gate of Qiskit's library, or of a user's: what counts is what it does.
            operations = self._definition(operation, depth)
        elif kind in (Gate, Instruction):
            operations = self._definition(operation, depth)
        else:
            raise Rejected("operation", f"operations of class {kind.__name__[:64]} are not allowed")
        if not operation.name.startswith(USER_PREFIX):
            renamed = (
                operation.to_mutable() if hasattr(operation, "to_mutable") else operation.copy()
            )
            renamed.name = USER_PREFIX + operation.name
            circuit.data[i] = instruction.replace(operation=renamed)
        return 1 + operations

    def _definition(self, operation: Instruction, depth: int) -> int:
        definition = operation.definition
        if definition is None:
            raise Rejected("operation", f"operation {operation.name[:64]!r} has no definition")
        seen = self._seen.get(id(definition))
        if seen is None:
            seen = (self.circuit(definition, depth=depth + 1), definition)
            self._seen[id(definition)] = seen
        return seen[0]

    def _turns(self, operation: ControlFlowOp) -> int:
        if not isinstance(operation, ForLoopOp):
            return 1
        turns, most = len(operation.params[0]), self._limits.loop_iterations
        if turns > most:
            raise Rejected("loop_too_long", f"a loop of {turns} turns; {most} are allowed")
        return turns


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
