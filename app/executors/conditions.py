"""How is a condition of a circuit put to Aer?"""

from __future__ import annotations

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
    from collections.abc import Iterable, Mapping

    from qiskit.circuit import ClassicalRegister

#: Aer computes with unsigned 64-bit integers; a wider register would be cut without a word.
_WIDEST = 64

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


class BitsEqual(NamedTuple):
    """Holds if the classical bits of ``mask``, read as one integer, are ``value``."""

    mask: int
    value: int


class AerExpression(NamedTuple):
    """Holds if an expression of Aer's own is true; its bits are indices into the whole circuit."""

    native: Any


Condition = BitsEqual | AerExpression


def bits_equal(of: Clbit | ClassicalRegister, value: int, clbits: Mapping[Clbit, int]) -> BitsEqual:
    """Compare one bit, or a register whose first bit is the least significant, with ``value``."""
    indices = _indices(of, clbits)
    if value >> len(indices):
        return BitsEqual(mask=0, value=1)
    return BitsEqual(
        mask=sum(1 << index for index in indices),
        value=sum((value >> place & 1) << index for place, index in enumerate(indices)),
    )


def aer_expression(condition: expr.Expr, clbits: Mapping[Clbit, int]) -> AerExpression:
    """Translate an expression over classical bits and registers.

    Raises:
        ExecutionError: it uses something Aer cannot evaluate.
    """
    return AerExpression(_native(condition, clbits))


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
    kind = getattr(getattr(node, "op", None), "name", type(node).__name__).lower()
    message = (
        f"a condition uses {kind!r}, which cannot be evaluated here; comparisons and logic of "
        "classical bits and registers can"
    )
    raise ExecutionError(message, expression=kind)


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
