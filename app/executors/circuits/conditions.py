"""What does a condition of a circuit say? Put to Aer, or worked out here."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

from qiskit.circuit import Clbit
from qiskit.circuit.classical import expr, types
from qiskit_aer.backends.controller_wrappers import (
    AerBinaryExpr,
    AerBinaryOp,
    AerBool,
    AerBoolValue,
    AerCast,
    AerUint,
    AerUintValue,
    AerUnaryExpr,
    AerUnaryOp,
    AerVar,
)

from app.errors import ExecutionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qiskit.circuit import ClassicalRegister

#: Aer computes with unsigned 64-bit integers; a wider register would be cut without a word.
_WIDEST = 64
#: Bits of the widest register that a program may have.
_WIDEST_SHIFT = 1 << 16

_UNARY = {
    expr.Unary.Op.BIT_NOT: AerUnaryOp.BitNot,
    expr.Unary.Op.LOGIC_NOT: AerUnaryOp.LogicNot,
}
_BINARY = {
    expr.Binary.Op.BIT_AND: AerBinaryOp.BitAnd,
    expr.Binary.Op.BIT_OR: AerBinaryOp.BitOr,
    expr.Binary.Op.BIT_XOR: AerBinaryOp.BitXor,
    expr.Binary.Op.LOGIC_AND: AerBinaryOp.LogicAnd,
    expr.Binary.Op.LOGIC_OR: AerBinaryOp.LogicOr,
    expr.Binary.Op.EQUAL: AerBinaryOp.Equal,
    expr.Binary.Op.NOT_EQUAL: AerBinaryOp.NotEqual,
    expr.Binary.Op.LESS: AerBinaryOp.Less,
    expr.Binary.Op.LESS_EQUAL: AerBinaryOp.LessEqual,
    expr.Binary.Op.GREATER: AerBinaryOp.Greater,
    expr.Binary.Op.GREATER_EQUAL: AerBinaryOp.GreaterEqual,
}
_OPERATORS: Mapping[expr.Binary.Op, Callable[[Any, Any], float]] = {
    expr.Binary.Op.BIT_AND: operator.and_,
    expr.Binary.Op.BIT_OR: operator.or_,
    expr.Binary.Op.BIT_XOR: operator.xor,
    expr.Binary.Op.LOGIC_AND: lambda left, right: left and right,
    expr.Binary.Op.LOGIC_OR: lambda left, right: left or right,
    expr.Binary.Op.EQUAL: operator.eq,
    expr.Binary.Op.NOT_EQUAL: operator.ne,
    expr.Binary.Op.LESS: operator.lt,
    expr.Binary.Op.LESS_EQUAL: operator.le,
    expr.Binary.Op.GREATER: operator.gt,
    expr.Binary.Op.GREATER_EQUAL: operator.ge,
    expr.Binary.Op.ADD: operator.add,
    expr.Binary.Op.SUB: operator.sub,
    expr.Binary.Op.MUL: operator.mul,
    expr.Binary.Op.DIV: operator.floordiv,
    # No type is wider, and a huge shift would take the memory that it asks for.
    expr.Binary.Op.SHIFT_LEFT: lambda left, right: left << right if right < _WIDEST_SHIFT else 0,
    expr.Binary.Op.SHIFT_RIGHT: operator.rshift,
}


class BitsEqual(NamedTuple):
    """Holds if the classical bits of ``mask``, read as one integer, are ``value``."""

    mask: int
    value: int

    def holds(self, bits: int) -> bool:
        """Whether it does where the classical bits are ``bits``."""
        return bits & self.mask == self.value


class Expression(NamedTuple):
    """Holds if an expression is true."""

    node: expr.Expr
    #: what the classical bits in it are in the whole circuit.
    clbits: Mapping[Clbit, int]

    @property
    def native(self) -> Any:
        """The same as an expression of Aer's own.

        Raises:
            ExecutionError: it uses something Aer cannot evaluate.
        """
        return _native(self.node, self.clbits)

    def value(self, bits: int, variables: Mapping[expr.Var, float]) -> float:
        """Work it out; true is 1.

        Args:
            bits: all classical bits of the circuit, bit ``i`` is clbit ``i``.
            variables: what the variables of the circuit are.

        Raises:
            ExecutionError: it divides by zero, or uses something that has no value here.
        """
        return _value(self.node, bits, self.clbits, variables)

    @property
    def places(self) -> list[int]:
        """Clbits that this is a name of, or a part of, least significant first."""
        named = self.node.target if isinstance(self.node, expr.Index) else self.node
        if isinstance(named, expr.Var) and not named.standalone:
            return _indices(named.var, self.clbits)
        return []


Condition = BitsEqual | Expression


def is_native(condition: Condition | None) -> bool:
    """Whether Aer can evaluate a condition."""
    if isinstance(condition, Expression):
        try:
            _ = condition.native
        except ExecutionError:
            return False
    return True


def bits_equal(of: Clbit | ClassicalRegister, value: int, clbits: Mapping[Clbit, int]) -> BitsEqual:
    """Compare one bit, or a register whose first bit is the least significant, with ``value``."""
    indices = _indices(of, clbits)
    if value >> len(indices):
        return BitsEqual(mask=0, value=1)
    return BitsEqual(
        mask=sum(1 << index for index in indices),
        value=sum((value >> place & 1) << index for place, index in enumerate(indices)),
    )


def _native(node: expr.Expr, clbits: Mapping[Clbit, int]) -> Any:
    match node:
        case expr.Var(standalone=False):
            return AerVar(_aer_type(node.type), _indices(node.var, clbits))
        case expr.Value(type=types.Uint()):
            return AerUintValue(_width(node.type), node.value)
        case expr.Value(type=types.Bool()):
            return AerBoolValue(node.value)
        case expr.Cast():
            return AerCast(_aer_type(node.type), _native(node.operand, clbits))
        case expr.Unary(op=op) if op in _UNARY:
            return AerUnaryExpr(_UNARY[op], _native(node.operand, clbits))
        case expr.Binary(op=op) if op in _BINARY:
            return AerBinaryExpr(
                _BINARY[op], _native(node.left, clbits), _native(node.right, clbits)
            )
    raise _unknown(
        node, "in a noisy run; comparisons and logic of classical bits and registers can"
    )


def _value(
    node: expr.Expr, bits: int, clbits: Mapping[Clbit, int], variables: Mapping[expr.Var, float]
) -> float:
    def value(inner: expr.Expr) -> Any:
        return _value(inner, bits, clbits, variables)

    match node:
        case expr.Var(standalone=True) if node in variables:
            return variables[node]
        case expr.Var(standalone=False):
            places = _indices(node.var, clbits)
            return sum((bits >> place & 1) << index for index, place in enumerate(places))
        case expr.Value(type=types.Uint() | types.Bool() | types.Float()):
            return _fitted(node.value, node.type)
        case expr.Cast(type=types.Uint() | types.Bool() | types.Float()):
            return _fitted(value(node.operand), node.type)
        case expr.Index():
            return int(value(node.target)) >> int(value(node.index)) & 1
        case expr.Unary(op=expr.Unary.Op.LOGIC_NOT):
            return int(not value(node.operand))
        case expr.Unary(op=expr.Unary.Op.BIT_NOT):
            return _fitted(~value(node.operand), node.type)
        case expr.Binary(op=op, type=types.Float()) if op == expr.Binary.Op.DIV:
            return _computed(operator.truediv, value(node.left), value(node.right), node.type)
        case expr.Binary(op=op) if op in _OPERATORS:
            return _computed(_OPERATORS[op], value(node.left), value(node.right), node.type)
    raise _unknown(node, "here; bits, registers, and variables that are integers or floats can")


def _computed(
    function: Callable[[Any, Any], float], left: float, right: float, to: types.Type
) -> float:
    try:
        return _fitted(function(left, right), to)
    except ZeroDivisionError as exc:
        raise ExecutionError("a classical expression divides by zero") from exc


def _fitted(value: float, to: types.Type) -> float:
    """Give what a type can hold of a value: its lowest bits, or whether it is not 0.

    Raises:
        ExecutionError: an integer is too wide, or a float has none: it is not finite.
    """
    if isinstance(to, types.Float):
        return float(value)
    if not isinstance(to, types.Uint):
        return int(bool(value))
    width: int = to.width
    if width > _WIDEST_SHIFT:
        message = (
            f"an integer of {width} bits in an expression; at most {_WIDEST_SHIFT} are allowed"
        )
        raise ExecutionError(message, allowed=_WIDEST_SHIFT)
    try:
        return int(value) & ((1 << width) - 1)
    except (OverflowError, ValueError) as exc:
        raise ExecutionError("a float that is not finite is cast to an integer") from exc


def _unknown(node: expr.Expr, otherwise: str) -> ExecutionError:
    kind = getattr(getattr(node, "op", None), "name", type(node).__name__).lower()
    message = f"an expression uses {kind!r}, which cannot be evaluated {otherwise}"
    return ExecutionError(message, expression=kind)


def _indices(of: Clbit | ClassicalRegister, clbits: Mapping[Clbit, int]) -> list[int]:
    bits: Iterable[Clbit] = (of,) if isinstance(of, Clbit) else of
    return [clbits[bit] for bit in bits]


def _aer_type(of: types.Type) -> Any:
    return AerUint(_width(of)) if isinstance(of, types.Uint) else AerBool()


def _width(of: types.Uint) -> int:
    if of.width > _WIDEST:
        message = f"a condition reads {of.width} bits at once; at most {_WIDEST} are allowed"
        raise ExecutionError(message, allowed=_WIDEST)
    return int(of.width)
