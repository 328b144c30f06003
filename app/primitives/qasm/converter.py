"""Which circuit does a syntax tree mean? ``qiskit_qasm3_import``, corrected.

What version 0.6.0 gets wrong, and is put right here: parameters of a gate are bound in order of
declaration, not of the alphabet; negative, reversed and open slices pick the bits the specification
names; integers are not divided as floats; a scalar bit is a register of one bit, so that counts
show it; slices and aliases of bits make no extra register, so that counts do not repeat them; a bit
can be compared with 0 and 1; user-defined gates get names that no simulator knows; every error has
a true place.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from openqasm3 import ast
from qiskit.circuit import ClassicalRegister, Clbit, Gate, Parameter, QuantumCircuit, Qubit
from qiskit.circuit.classical import expr
from qiskit_qasm3_import import expression, types
from qiskit_qasm3_import.converter import (
    _STDGATES,
    ConvertVisitor,
    GateBuilder,
    _escape_qasm2,
)
from qiskit_qasm3_import.data import Scope, Symbol
from qiskit_qasm3_import.exceptions import ConversionError, raise_from_node
from qiskit_qasm3_import.state import GateScope, LocalScope

from app.primitives.qasm.place import MESSAGE_CHARS, Place, Rejected
from app.primitives.sanitise import USER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qiskit_qasm3_import.state import State

_PLACED = re.compile(r"(\d+),(\d+): (.*)", re.DOTALL)
_COMPARISONS = {
    "==": expr.equal,
    "!=": expr.not_equal,
    "<": expr.less,
    "<=": expr.less_equal,
    ">": expr.greater,
    ">=": expr.greater_equal,
}
#: What is not read, in the words of the language; upstream names classes of the syntax tree.
_UNREAD = {
    "CalibrationDefinition": "calibrations (`defcal`)",
    "CalibrationGrammarDeclaration": "calibrations (`defcalgrammar`)",
    "CalibrationStatement": "calibrations (`cal`)",
    "ClassicalAssignment": "assignments other than of measurements",
    "EndStatement": "`end`",
    "ExternDeclaration": "`extern`",
    "Pragma": "pragmas",
    "SubroutineDefinition": "subroutines (`def`)",
    "SwitchStatement": "`switch` statements",
}
_UNREAD_NODE = re.compile(r"node of type (\w+) is not supported")
_UNKNOWN_GATE = re.compile(r"gate '(\w+)' is not defined\.")
_CONNECTIVES = {"&&": expr.logic_and, "||": expr.logic_or}


def convert(program: ast.Program) -> QuantumCircuit:
    """The circuit of a program that is within its budget.

    Raises:
        Rejected: it means nothing, or nothing that can be run.
    """
    try:
        state = _Converter().convert(program)
    except ConversionError as exc:
        raise _placed(exc, program) from exc
    if state.circuit.parameters:
        names = ", ".join(sorted(parameter.name[:32] for parameter in state.circuit.parameters))
        message = f"the program has inputs without a value: {names[:200]}; write the values instead"
        raise Rejected("unbound_input", message)
    return state.circuit


def _placed(error: ConversionError, program: ast.Program) -> Rejected:
    match = _PLACED.fullmatch(error.message)
    if match is None:
        return Rejected("semantic", _worded(error.message, program)[:MESSAGE_CHARS])
    place = Place(int(match[1]), int(match[2]) + 1)
    return Rejected("semantic", _worded(match[3], program)[:MESSAGE_CHARS], place)


def _worded(message: str, program: ast.Program) -> str:
    """What upstream says, in words that help."""
    unread = _UNREAD_NODE.fullmatch(message)
    if unread is not None:
        return (
            f"{_UNREAD.get(unread[1], unread[1])} cannot be read here: docs/reference/openqasm.md"
        )
    unknown = _UNKNOWN_GATE.fullmatch(message)
    if unknown is None:
        return message
    includes = any(isinstance(each, ast.Include) for each in program.statements)
    if unknown[1] in _STDGATES and not includes:
        return f"gate '{unknown[1]}' is not defined; `include \"stdgates.inc\";` brings it"
    return f"gate '{unknown[1]}' is not defined; define it before it is used"


class _Resolved(ast.Expression):  # type: ignore[misc]  # no types upstream
    """An expression whose value is known."""

    def __init__(self, value: Any, kind: Any) -> None:
        self.value = value
        self.type = kind


class _Values(expression.ValueResolver):  # type: ignore[misc]  # no types upstream
    """Values of expressions."""

    def visit_BinaryExpression(self, node: ast.BinaryExpression) -> tuple[Any, Any]:
        left, right = self.visit(node.lhs), self.visit(node.rhs)
        whole = (types.Int, types.Uint)
        if node.op.name == "/" and isinstance(left[1], whole) and isinstance(right[1], whole):
            # Upstream divides as floats do. What is constant has been divided by now.
            message = "an integer that is not constant is divided; divide by a float: 2.0"
            raise_from_node(node, message)
        # Upstream visits the two again: that would double with every level.
        known = ast.BinaryExpression(node.op, _Resolved(*left), _Resolved(*right))
        known.span = node.span
        value_and_type: tuple[Any, Any] = super().visit_BinaryExpression(known)
        return value_and_type

    def visit__Resolved(self, node: _Resolved) -> tuple[Any, Any]:
        return node.value, node.type

    def _index_collection(
        self, collection: Any, collection_type: Any, indexer: Any, base: ast.QASMNode
    ) -> tuple[Any, Any]:
        is_range = (
            not isinstance(indexer, ast.DiscreteSet)
            and len(indexer) == 1
            and isinstance(indexer[0], ast.RangeDefinition)
        )
        if not (is_range and isinstance(collection_type, (types.BitArray, types.QubitArray))):
            found: tuple[Any, Any] = super()._index_collection(
                collection, collection_type, indexer, base
            )
            return found
        start, end, step = self._range(indexer[0])
        chosen = _slice(len(collection), start, end, step, base)
        bits = [collection[i] for i in chosen]
        return bits, type(collection_type)(len(bits))

    def _range(self, node: ast.RangeDefinition) -> tuple[int | None, int | None, int | None]:
        values = []
        for part in (node.start, node.end, node.step):
            value, kind = (None, None) if part is None else self.visit(part)
            if kind is not None and not (isinstance(kind, (types.Int, types.Uint)) and kind.const):
                raise_from_node(node, "can only handle constant ranges")
            values.append(value)
        return values[0], values[1], values[2]


def _slice(
    length: int, start: int | None, end: int | None, step: int | None, node: ast.QASMNode
) -> range:
    """Indices of ``[start:step:end]``: both ends belong to it, negative ones count from the end."""
    step = 1 if step is None else step
    if step == 0:
        raise_from_node(node, "the step of a range is 0")
    first, last = (0, length - 1) if step > 0 else (length - 1, 0)
    start = first if start is None else start + length * (start < 0)
    end = last if end is None else end + length * (end < 0)
    chosen = range(start, end + (1 if step > 0 else -1), step)
    if chosen and not (0 <= chosen[0] < length and 0 <= chosen[-1] < length):
        raise_from_node(node, f"the range is outside of a register of {length} bits")
    return chosen


class _UserGate(GateBuilder):  # type: ignore[misc]  # no types upstream
    """Makes calls of a user-defined gate."""

    def __call__(self, *parameters: Any) -> Gate:
        if self._order:
            gate: Gate = super().__call__(*parameters)
            return gate
        if parameters:
            message = f"this gate takes no parameters; {len(parameters)} are given"
            raise ConversionError(message)
        # All calls share one definition: copies of copies would double with every level.
        gate = Gate(self._name, self._definition.num_qubits, [])
        gate.definition = self._definition
        return gate


class _Converter(ConvertVisitor):  # type: ignore[misc]  # no types upstream
    """The upstream visitor with its mistakes put right."""

    def visit(self, node: ast.QASMNode, context: State | None = None) -> Any:
        try:
            return super().visit(node, context)
        except (ConversionError, Rejected, RecursionError, MemoryError):
            raise
        except Exception as exc:
            # Whatever Qiskit says of wrong indices, operands or arities has no place of its own.
            message = str(exc).strip("'\"")[:MESSAGE_CHARS] or "this statement cannot be understood"
            raise Rejected("semantic", message, Place.of(node.span)) from exc

    def _resolve_generic(
        self,
        node: ast.Expression,
        context: State,
        strict: bool,  # noqa: FBT001 - upstream's signature
    ) -> tuple[Any, Any]:
        value: tuple[Any, Any] = _Values(context, strict).resolve(node)
        return value

    def _resolve_angle(self, node: ast.Expression, context: State) -> Any:
        value = super()._resolve_angle(node, context)
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise Rejected("not_finite", "this angle is not a finite number", Place.of(node.span))
        return value

    def _apply_gate_modifier(
        self, modifier: ast.QuantumGateModifier, gate: Gate, context: State
    ) -> Any:
        if modifier.modifier is not ast.GateModifierName.pow or modifier.argument is None:
            return super()._apply_gate_modifier(modifier, gate, context)
        power = self._resolve_constant_float(modifier.argument, context)
        if power != int(power):
            return super()._apply_gate_modifier(modifier, gate, context)
        return _repeated(gate, int(power))

    def visit_QuantumGateDefinition(self, node: ast.QuantumGateDefinition, context: State) -> State:
        with GateScope(context) as inner:
            # Their full names differ from those of any gate they are handed on to.
            parameters = [Parameter(f"{node.name.name}.{name.name}") for name in node.arguments]
            for name, parameter in zip(node.arguments, parameters, strict=True):
                symbol = Symbol(name.name, parameter, types.Angle(), Scope.GATE, node)
                inner.symbol_table.insert(symbol)
                inner.all_parameters.add(parameter)
            bits = [Qubit() for _ in node.qubits]
            inner.circuit.add_bits(bits)
            for name, bit in zip(node.qubits, bits, strict=True):
                symbol = Symbol(name.name, bit, types.Qubit(), Scope.GATE, node)
                inner.symbol_table.insert(symbol)
            for statement in node.body:
                self.visit(statement, inner)
        gate = node.name.name
        builder = _UserGate(USER_PREFIX + gate, inner.circuit, order=parameters)
        return self._define_gate(gate, builder, len(parameters), len(bits), node, context)

    def visit_ClassicalDeclaration(self, node: ast.ClassicalDeclaration, context: State) -> State:
        scalar = isinstance(node.type, ast.BitType) and node.type.size is None
        if context.scope is not Scope.GLOBAL or not scalar:
            return super().visit_ClassicalDeclaration(node, context)
        name, value = node.identifier.name, node.init_expression
        register = ClassicalRegister(1, name=_escape_qasm2(name))
        context.circuit.add_register(register)
        bit = register[0]
        context.symbol_table.insert(Symbol(name, bit, types.Bit(), context.scope, node))
        if value is not None:
            if not isinstance(value, ast.QuantumMeasurement):
                raise_from_node(value, "initialisation of classical bits is not supported")
            context.circuit.measure(self._resolve_qarg(value.qubit, context), bit)
        return context

    def visit_AliasStatement(self, node: ast.AliasStatement, context: State) -> State:
        bits, kind = self._resolve_generic(node.value, context, strict=True)
        if not isinstance(kind, types.BitArray):
            return super().visit_AliasStatement(node, context)
        symbol = Symbol(node.target.name, list(bits), kind, context.scope, node)
        context.symbol_table.insert(symbol)
        return context

    def visit_CompoundStatement(self, node: ast.CompoundStatement, context: State) -> State:
        if context.scope is Scope.GATE:
            # A local scope in there would see the qubits outside of the gate.
            for statement in node.statements:
                self.visit(statement, context)
            return context
        with LocalScope(context) as inner:
            for statement in node.statements:
                self.visit(statement, inner)
        return context

    def _resolve_condition(self, node: ast.Expression, context: State) -> Any:
        """A condition as Qiskit takes it: ``(bit, bool)``, ``(register, int)`` or an expression."""
        found = self._comparison(node, context)
        return found if isinstance(found, tuple) else _lifted(found)

    def _comparison(self, node: ast.Expression, context: State) -> Any:
        match node:
            case ast.BinaryExpression(op=op) if op.name in _CONNECTIVES:
                left = _lifted(self._comparison(node.lhs, context))
                right = _lifted(self._comparison(node.rhs, context))
                return _CONNECTIVES[op.name](left, right)
            case ast.BinaryExpression(op=op) if op.name in _COMPARISONS:
                return self._compared(node, context)
            case ast.UnaryExpression(op=op) if op.name in ("!", "~"):
                return _negated(self._comparison(node.expression, context))
        value, kind = _Values(context, strict=True).resolve(node)
        if not isinstance(kind, types.Bit):
            _not_a_condition(node)
        return (value, True)

    def _compared(self, node: ast.BinaryExpression, context: State) -> Any:
        values = _Values(context, strict=True)
        operator = node.op.name
        (bits, bits_type), (value, value_type) = values.resolve(node.lhs), values.resolve(node.rhs)
        if not isinstance(bits_type, (types.Bit, types.BitArray)):
            bits, bits_type, value, value_type = value, value_type, bits, bits_type
            mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
            operator = mirrored.get(operator, operator)
        number = (types.Int, types.Uint, types.Bool)
        if not (isinstance(value_type, number) and value_type.const):
            _not_a_condition(node)
        if isinstance(bits_type, types.Bit):
            return _bit_compared(bits, operator, int(value), node)
        if not isinstance(bits_type, types.BitArray):
            _not_a_condition(node)
        return _register_compared(bits, operator, int(value), node)


def _repeated(gate: Gate, times: int) -> Gate:
    """A gate to an integer power. Qiskit would compute its matrix: 4 GiB for fourteen qubits."""
    definition = QuantumCircuit(gate.num_qubits)
    factor = gate if times >= 0 else gate.inverse()
    for _ in range(abs(times)):
        definition.append(factor, definition.qubits)
    power = Gate(f"{USER_PREFIX}pow", gate.num_qubits, [])
    power.definition = definition
    return power


def _bit_compared(bit: Clbit, operator: str, value: int, node: ast.QASMNode) -> tuple[Clbit, bool]:
    if operator not in ("==", "!=") or value not in (0, 1):
        raise_from_node(node, "a bit can be compared with 0, 1, false and true, by == and !=")
    return (bit, bool(value) == (operator == "=="))


def _register_compared(
    bits: ClassicalRegister | Sequence[Clbit], operator: str, value: int, node: ast.QASMNode
) -> Any:
    if not 0 <= value < 1 << len(bits):
        message = (
            f"{len(bits)} bits cannot have the value {value}; 0 to {(1 << len(bits)) - 1} can be"
        )
        raise_from_node(node, message)
    if isinstance(bits, ClassicalRegister):
        if operator == "==":
            return (bits, value)
        return _COMPARISONS[operator](bits, value)
    if operator not in ("==", "!="):
        raise_from_node(node, "bits that are no whole register can be compared by == and != only")
    equal = None
    for i, bit in enumerate(bits):
        same = expr.lift(bit) if value >> i & 1 else expr.logic_not(bit)
        equal = same if equal is None else expr.logic_and(equal, same)
    if equal is None:
        raise_from_node(node, "no bits are compared")
    return equal if operator == "==" else expr.logic_not(equal)


def _lifted(condition: Any) -> expr.Expr:
    """A condition as an expression."""
    if not isinstance(condition, tuple):
        return condition
    bits, value = condition
    if isinstance(bits, Clbit):
        return expr.lift(bits) if value else expr.logic_not(bits)
    return expr.equal(bits, value)


def _negated(condition: Any) -> Any:
    if isinstance(condition, tuple) and isinstance(condition[0], Clbit):
        return (condition[0], not condition[1])
    return expr.logic_not(_lifted(condition))


def _not_a_condition(node: ast.QASMNode) -> NoReturn:
    message = (
        "a condition compares a bit or a register with a constant: (c), (!c), (c == 1), (reg == 3),"
        " or several of these with && and ||"
    )
    raise ConversionError(message, node)
