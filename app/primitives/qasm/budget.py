"""How large would the circuit become? A bound on the syntax tree, before anything is built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from openqasm3 import ast

from app.primitives.qasm.place import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.config import ProgramLimits

_PHYSICAL = re.compile(r"\$(\d+)")
#: How often a while loop is counted: its real number of turns is not known before the run.
_WHILE_TURNS = 64
#: A fractional power is computed from the gate's matrix.
_MATRIX_OPERATIONS = 4096
#: What a control makes of one operation, and of a gate that has a closed form for many controls.
_CONTROL_FACTOR = 6
_CONTROL_CLOSED = 64
_CLOSED_CONTROLS = 4


@dataclass(frozen=True)
class _Gate:
    operations: int
    depth: int
    qubits: int


#: Of any gate that the program does not define: a standard gate.
_STANDARD = _Gate(operations=1, depth=0, qubits=1)


def check_budget(program: ast.Program, limits: ProgramLimits) -> None:
    """Refuse a program that would become too large; its constants are literals by now.

    Raises:
        Rejected: it asks for more than a limit; the message names both.
    """
    budget = _Budget(limits)
    total = 0
    for statement in program.statements:
        total += budget.operations(statement)
        if total > limits.operations:
            message = f"the program expands to more than the {limits.operations} operations allowed"
            _reject(statement, "too_many_operations", message)


def _whole(expression: ast.Expression) -> int | None:
    """Value of a literal that is a whole number; None for anything else."""
    match expression:
        case ast.IntegerLiteral(value=value):
            return int(value)
        case ast.FloatLiteral(value=value) if float(value).is_integer():
            return int(value)
    return None


class _Budget:
    """What the program has declared so far."""

    def __init__(self, limits: ProgramLimits) -> None:
        self._limits = limits
        self._gates: dict[str, _Gate] = {}
        self._sizes: dict[str, int] = {}
        self._qubits = 0
        self._clbits = 0
        self._user_operations = 0

    def operations(self, node: ast.Statement) -> int:
        """Operations that a statement expands to, at most."""
        match node:
            case ast.QubitDeclaration():
                return self._declare_qubits(node)
            case ast.ClassicalDeclaration(type=ast.BitType()):
                return self._declare_clbits(node)
            case ast.QuantumGateDefinition():
                return self._define(node)
            case ast.QuantumGate() | ast.QuantumPhase():
                return self._call(node)
            case ast.ForInLoop():
                return 1 + _turns(node) * self._block(node.block)
            case ast.WhileLoop():
                return 1 + _WHILE_TURNS * self._block(node.block)
            case ast.BranchingStatement():
                blocks = (node.if_block, node.else_block)
                return 1 + sum(self._block(block) for block in blocks)
            case ast.CompoundStatement():
                return self._block(node.statements)
            case ast.Box():
                return 1 + self._block(node.body)
            case ast.Include():
                if node.filename != "stdgates.inc":
                    _reject(node, "include", "only 'stdgates.inc' can be included")
                return 0
            case ast.AliasStatement():
                name = node.target.name
                # Inside of a block it may hide a larger register, which is back behind the block.
                self._sizes[name] = max(self._sizes.get(name, 0), self._width_of(node.value))
                return 0
            case ast.QuantumMeasurementStatement():
                return self._broadcast([node.measure.qubit])
            case ast.QuantumReset():
                return self._broadcast([node.qubits])
            case ast.QuantumBarrier() | ast.DelayInstruction():
                return self._broadcast(node.qubits)
        return 1

    def _block(self, statements: Sequence[ast.Statement]) -> int:
        return sum(self.operations(statement) for statement in statements)

    def _declare_qubits(self, node: ast.QubitDeclaration) -> int:
        size = self._size(node, node.size, "qubit")
        self._sizes[node.qubit.name] = size
        self._qubits += size
        if self._qubits > self._limits.qubits:
            message = f"{self._qubits} qubits; {self._limits.qubits} are allowed"
            _reject(node, "too_many_qubits", message)
        return 0

    def _declare_clbits(self, node: ast.ClassicalDeclaration) -> int:
        size = self._size(node, node.type.size, "bit")
        self._sizes[node.identifier.name] = size
        self._clbits += size
        if self._clbits > self._limits.clbits:
            message = f"{self._clbits} classical bits; {self._limits.clbits} are allowed"
            _reject(node, "too_many_bits", message)
        return size

    def _size(self, node: ast.Statement, expression: ast.Expression | None, what: str) -> int:
        size = 1 if expression is None else _whole(expression)
        if size is None or size < 0:
            message = f"the size of a {what} register must be a number that is not negative"
            _reject(node, "bad_size", message)
        return size

    def _define(self, node: ast.QuantumGateDefinition) -> int:
        limits = self._limits
        if len(self._gates) >= limits.gate_definitions:
            message = f"more than the {limits.gate_definitions} gate definitions allowed"
            _reject(node, "too_many_gates", message)
        operations, depth = 1, 0
        for statement in node.body:
            operations += self.operations(statement)
            if isinstance(statement, ast.QuantumGate):
                depth = max(depth, self._gates.get(statement.name.name, _STANDARD).depth)
        name = node.name.name[:64]
        if operations > limits.gate_operations:
            most = limits.gate_operations
            message = f"gate '{name}' expands to more than the {most} operations allowed"
            _reject(node, "gate_too_large", message)
        if depth + 1 > limits.gate_depth:
            message = f"gate definitions nest deeper than the {limits.gate_depth} levels allowed"
            _reject(node, "gate_too_deep", message)
        self._gates[node.name.name] = _Gate(operations, depth + 1, len(node.qubits))
        return 0

    def _call(self, node: ast.QuantumGate | ast.QuantumPhase) -> int:
        gate = _Gate(operations=1, depth=0, qubits=0)
        if isinstance(node, ast.QuantumGate):
            gate = self._gates.get(node.name.name, _STANDARD)
        operations = self._modified(node, gate) * self._broadcast(node.qubits)
        if gate.depth:
            self._user_operations += operations
            most = self._limits.user_operations
            if self._user_operations > most:
                message = (
                    f"calls of user-defined gates expand to more than the {most} operations allowed"
                )
                _reject(node, "too_many_operations", message)
        return operations

    def _modified(self, node: ast.QuantumGate | ast.QuantumPhase, gate: _Gate) -> int:
        limits, operations, controls = self._limits, gate.operations, 0
        for modifier in node.modifiers:
            name, argument = modifier.modifier.name, modifier.argument
            value = 1 if argument is None else _whole(argument)
            if name in ("ctrl", "negctrl"):
                if value is None or not 1 <= value <= limits.controls:
                    message = f"the number of controls must be 1 to {limits.controls}"
                    _reject(node, "too_many_controls", message)
                controls += value
                if controls > limits.controls:
                    message = f"{controls} controls on one gate; {limits.controls} are allowed"
                    _reject(node, "too_many_controls", message)
                closed = not gate.depth and value >= _CLOSED_CONTROLS
                operations *= _CONTROL_CLOSED * value**2 if closed else _CONTROL_FACTOR**value
            elif name == "pow" and value is None:
                if gate.qubits + controls > limits.power_qubits:
                    message = (
                        f"a fractional power of a gate on {gate.qubits + controls} qubits;"
                        f" {limits.power_qubits} are allowed"
                    )
                    _reject(node, "power_too_wide", message)
                operations = operations * 8 + _MATRIX_OPERATIONS
            elif name == "pow" and value is not None:
                if abs(value) > limits.power:
                    message = f"a power of {value}; -{limits.power} to {limits.power} are allowed"
                    _reject(node, "power_too_large", message)
                operations *= max(1, abs(value))
            if operations > limits.operations:
                message = (
                    f"one gate expands to more than the {limits.operations} operations allowed"
                )
                _reject(node, "too_many_operations", message)
        return operations

    def _broadcast(self, operands: Sequence[ast.Expression]) -> int:
        """How often an operation is repeated over its registers."""
        return max([1, *(self._width(operand) for operand in operands)])

    def _width(self, operand: ast.Expression) -> int:
        if isinstance(operand, ast.IndexedIdentifier):
            indices = operand.indices[0]
            if isinstance(indices, ast.DiscreteSet):
                return len(indices.values)
            if len(indices) == 1 and not isinstance(indices[0], ast.RangeDefinition):
                return 1
            return self._width(operand.name)
        if isinstance(operand, ast.Identifier):
            self._check_physical(operand)
            return self._sizes.get(operand.name, 1)
        return 1

    def _check_physical(self, node: ast.Identifier) -> None:
        physical = _PHYSICAL.fullmatch(node.name)
        if physical is not None and int(physical[1]) >= self._limits.qubits:
            message = (
                f"physical qubit {node.name[:32]}; $0 to ${self._limits.qubits - 1} are allowed"
            )
            _reject(node, "too_many_qubits", message)

    def _width_of(self, value: ast.Expression) -> int:
        """Qubits or bits of an alias, at most."""
        match value:
            case ast.Concatenation():
                return self._width_of(value.lhs) + self._width_of(value.rhs)
            case ast.Identifier():
                return self._sizes.get(value.name, 1)
            case ast.IndexExpression(collection=ast.Identifier(name=name), index=index):
                if isinstance(index, ast.DiscreteSet):
                    return len(index.values)
                return self._sizes.get(name, self._limits.qubits)
        return self._limits.qubits


def _turns(node: ast.ForInLoop) -> int:
    """Turns of a loop, whose bounds are literals by now."""
    values = node.set_declaration
    if isinstance(values, ast.DiscreteSet):
        return len(values.values)
    start, end, step = (
        getattr(part, "value", 0) for part in (values.start, values.end, values.step)
    )
    return max(0, (end - start) // step + 1)


def _reject(node: ast.QASMNode, reason: str, message: str) -> NoReturn:
    raise Rejected.at(node, reason, message)
