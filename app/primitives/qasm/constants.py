"""What is a constant expression worth? Types and operators of the specification, exact and bounded.

An integer that its type cannot hold, a division by zero and a float that is not finite are refused:
the specification leaves open what they mean. ``int`` and ``uint`` without a size have 64 bits.
Nothing here grows: no integer is computed before its size is known.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NoReturn

from openqasm3 import ast

from app.primitives.qasm.place import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Bits of an integer or angle without a size, and the most that one may have.
MACHINE_BITS = 64
#: Longest constant of type ``bit[n]``.
_MOST_BITS = 4096
_FLOAT_FORMATS = {16: "e", 32: "f", 64: "d"}


class Kind(StrEnum):
    """Scalar types, by their names in the language."""

    BOOL = "bool"
    BIT = "bit"
    INT = "int"
    UINT = "uint"
    FLOAT = "float"
    ANGLE = "angle"
    DURATION = "duration"


_KINDS = {
    ast.BoolType: Kind.BOOL,
    ast.BitType: Kind.BIT,
    ast.IntType: Kind.INT,
    ast.UintType: Kind.UINT,
    ast.FloatType: Kind.FLOAT,
    ast.AngleType: Kind.ANGLE,
    ast.DurationType: Kind.DURATION,
}
_INTEGERS = (Kind.INT, Kind.UINT)
_TRUTHS = (Kind.BOOL, Kind.BIT)


@dataclass(frozen=True, slots=True)
class Type:
    """A scalar type; ``size`` in bits, None where the program gives none."""

    kind: Kind
    size: int | None = None

    def __str__(self) -> str:
        """As the program writes it."""
        return self.kind if self.size is None else f"{self.kind}[{self.size}]"

    @property
    def is_truth(self) -> bool:
        """``bool``, or one bit."""
        return self.kind in _TRUTHS and self.size is None

    @property
    def is_integer(self) -> bool:
        """``int`` or ``uint``."""
        return self.kind in _INTEGERS


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is known before the program runs."""

    type: Type
    #: an angle in units of 2π / 2^size; of bits the unsigned integer they spell.
    value: float
    #: of a duration.
    unit: ast.TimeUnit | None = None

    @property
    def number(self) -> float:
        """The value as Python has it; an angle in radians."""
        if self.type.kind is Kind.ANGLE:
            return math.tau * (int(self.value) / (1 << (self.type.size or MACHINE_BITS)))
        return self.value

    def literal(self, span: ast.Span | None) -> ast.Expression:
        """The constant as a literal that stands where its expression stood."""
        node = self._literal()
        node.span = span
        return node

    def _literal(self) -> ast.Expression:
        kind = self.type.kind
        if kind in _INTEGERS:
            return ast.IntegerLiteral(int(self.value))
        if kind in (Kind.FLOAT, Kind.ANGLE):
            return ast.FloatLiteral(float(self.number))
        if self.unit is not None:
            return ast.DurationLiteral(self.value, self.unit)
        if self.type.is_truth:
            return ast.BooleanLiteral(bool(self.value))
        return ast.BitstringLiteral(int(self.value), self.type.size or 1)


BOOL, INT, UINT, FLOAT = Type(Kind.BOOL), Type(Kind.INT), Type(Kind.UINT), Type(Kind.FLOAT)
_BIT, _ANGLE = Type(Kind.BIT), Type(Kind.ANGLE, MACHINE_BITS)

#: Constants of the language, of type ``float[64]``.
BUILT_IN = {
    **dict.fromkeys(("pi", "π"), Constant(FLOAT, math.pi)),
    **dict.fromkeys(("tau", "τ"), Constant(FLOAT, math.tau)),
    **dict.fromkeys(("euler", "ℇ"), Constant(FLOAT, math.e)),
}


def literal_value(node: ast.Expression) -> Constant | None:
    """Value of a literal; None for what is no literal, or an integer beyond 64 bits."""
    match node:
        case ast.IntegerLiteral(value=value):
            if value >= 1 << MACHINE_BITS:
                return None
            return Constant(INT if value < 1 << (MACHINE_BITS - 1) else UINT, value)
        case ast.FloatLiteral(value=value):
            return _finite(value, node)
        case ast.BooleanLiteral(value=value):
            return Constant(BOOL, value)
        case ast.BitstringLiteral(value=value, width=width):
            return Constant(Type(Kind.BIT, width), value)
        case ast.DurationLiteral(value=value, unit=unit):
            return Constant(Type(Kind.DURATION), value, unit)
    return None


def type_of(node: ast.ClassicalType, size: int | None) -> Type:
    """The scalar type that a declaration or cast names.

    Raises:
        Rejected: no constant can have it.
    """
    kind = _KINDS.get(type(node))
    if kind is None:
        name = type(node).__name__.removesuffix("Type").lower()
        raise Rejected.at(node, "constant_type", f"constants of type {name} cannot be read here")
    if kind is Kind.FLOAT and size is not None and size not in _FLOAT_FORMATS:
        sizes = ", ".join(f"float[{each}]" for each in _FLOAT_FORMATS)
        raise Rejected.at(
            node, "constant_type", f"float[{size}] cannot be read here; float and {sizes} can"
        )
    most = _MOST_BITS if kind is Kind.BIT else MACHINE_BITS
    if size is not None and not 1 <= size <= most:
        raise Rejected.at(node, "constant_type", f"{kind}[{size}]; a constant has 1 to {most} bits")
    return Type(kind, MACHINE_BITS if kind is Kind.ANGLE and size is None else size)


# --- conversions ----------------------------------------------------------------------------------


def promoted(constant: Constant, target: Type, node: ast.QASMNode) -> Constant:
    """A constant as what it is declared to be.

    Raises:
        Rejected: it cannot become that without a cast, or does not fit.
    """
    source = constant.type
    if target.kind in (Kind.INT, Kind.UINT, Kind.BIT) and source.kind in (Kind.FLOAT, Kind.ANGLE):
        message = f"a value of type {source} is no {target}"
        if source.kind is Kind.FLOAT:
            message += f"; write {target}(…) to cut off its fraction"
        raise Rejected.at(node, "constant_type", message)
    if target.is_integer and constant.type.is_integer:
        return _integer(int(constant.value), target, node)
    return cast(constant, target, node)


def cast(constant: Constant, target: Type, node: ast.QASMNode) -> Constant:
    """``type(value)``, by the specification's table of allowed casts.

    Raises:
        Rejected: there is no such cast, or the value does not fit.
    """
    source = constant.type
    if source == target:
        return constant
    if Kind.DURATION in (source.kind, target.kind):
        _no_cast(source, target, node)
    if target.kind is Kind.BOOL:
        return Constant(BOOL, bool(constant.value))
    if target.kind is Kind.BIT:
        return _as_bits(constant, target, node)
    if target.is_integer:
        return _as_integer(constant, target, node)
    if target.kind is Kind.ANGLE:
        return _as_angle(constant, target, node)
    if source.kind is Kind.ANGLE or (source.kind is Kind.BIT and source.size is not None):
        _no_cast(source, target, node)
    return _as_float(float(constant.value), target, node)


def _no_cast(source: Type, target: Type, node: ast.QASMNode) -> NoReturn:
    raise Rejected.at(node, "constant_type", f"a value of type {source} cannot become {target}")


def _as_bits(constant: Constant, target: Type, node: ast.QASMNode) -> Constant:
    source, value = constant.type, constant.value
    if target.size is None:
        if source.is_truth or (source.is_integer and value in (0, 1)):
            return Constant(target, int(value))
        raise Rejected.at(node, "constant_type", f"a bit is 0, 1, true or false, no {source}")
    if source.is_truth:
        return Constant(target, int(value))
    if source.kind is Kind.FLOAT or (source.size is not None and source.size != target.size):
        _no_cast(source, target, node)
    if source.kind is Kind.INT and value < 0:
        value = int(value) + (1 << target.size)
    if not 0 <= value < 1 << target.size:
        _too_large(int(constant.value), target, node)
    return Constant(target, int(value))


def _as_integer(constant: Constant, target: Type, node: ast.QASMNode) -> Constant:
    source, value = constant.type, int(constant.value)
    if source.kind is Kind.ANGLE:
        _no_cast(source, target, node)
    if source.kind is Kind.BIT and source.size not in (None, target.size or MACHINE_BITS):
        message = f"{source} can become {target.kind}[{source.size}], no {target}"
        raise Rejected.at(node, "constant_type", message)
    same_bits = source.size == target.size and source.kind in (Kind.INT, Kind.UINT, Kind.BIT)
    if same_bits:
        # As in C99, int[n] and uint[n] are two readings of the same bits.
        bits = target.size or MACHINE_BITS
        value %= 1 << bits
        if target.kind is Kind.INT and value >> (bits - 1):
            value -= 1 << bits
    return _integer(value, target, node)


def _as_angle(constant: Constant, target: Type, node: ast.QASMNode) -> Constant:
    source, size = constant.type, target.size or MACHINE_BITS
    turn = 1 << size
    if source.kind is Kind.ANGLE:
        return Constant(target, _rescaled(int(constant.value), source.size or MACHINE_BITS, size))
    if source.kind is Kind.BIT and source.size is not None:
        if source.size != size:
            _no_cast(source, target, node)
        return Constant(target, constant.value)
    if source.is_truth:
        _no_cast(source, target, node)
    # The remainder is exact; so is the rest of the arithmetic, but for one rounding.
    part = math.fmod(float(constant.value), math.tau) / math.tau
    numerator, denominator = part.as_integer_ratio()
    return Constant(target, _nearest(numerator * turn, denominator) % turn)


def _nearest(numerator: int, denominator: int) -> int:
    """The quotient, rounded to nearest, ties to even."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1))


def _rescaled(value: int, size: int, target: int) -> int:
    if target >= size:
        return value << (target - size)
    return _nearest(value, 1 << (size - target)) % (1 << target)


def _as_float(value: float, target: Type, node: ast.QASMNode) -> Constant:
    if target.size is not None:
        form = _FLOAT_FORMATS[target.size]
        try:
            (value,) = struct.unpack(form, struct.pack(form, value))
        except OverflowError as exc:
            raise Rejected.at(node, "not_finite", f"{value:g} does not fit {target}") from exc
    return Constant(target, _finite(value, node).value)


def _finite(value: float, node: ast.QASMNode) -> Constant:
    if not math.isfinite(value):
        raise Rejected.at(node, "not_finite", "the value of this expression is not a finite number")
    return Constant(FLOAT, value)


def _integer(value: int, target: Type, node: ast.QASMNode) -> Constant:
    bits = target.size or MACHINE_BITS
    least, most = (0, 1 << bits) if target.kind is Kind.UINT else (-1 << bits - 1, 1 << bits - 1)
    if not least <= value < most:
        _too_large(value, target, node)
    return Constant(target, value)


def _too_large(value: int | str, target: Type, node: ast.QASMNode) -> NoReturn:
    bits = target.size or MACHINE_BITS
    least, most = "0", f"2^{bits} - 1"
    if target.kind is Kind.INT:
        least, most = f"-2^{bits - 1}", f"2^{bits - 1} - 1"
    raise Rejected.at(
        node, "number_too_large", f"{value} does not fit {target}: {least} to {most} do"
    )


# --- operators ------------------------------------------------------------------------------------

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
_BITWISE: dict[str, Callable[[int, int], int]] = {
    "&": lambda left, right: left & right,
    "|": lambda left, right: left | right,
    "^": lambda left, right: left ^ right,
}


def negated(operator: str, operand: Constant, node: ast.QASMNode) -> Constant:
    """``-a``, ``!a`` or ``~a``."""
    type_, value = operand.type, operand.value
    if operator == "!" and type_.kind is not Kind.DURATION:
        return Constant(BOOL, not value)
    if operator == "-":
        if type_.is_integer or type_.is_truth:
            return _integer(-int(value), Type(Kind.INT, type_.size), node)
        if type_.kind is Kind.FLOAT:
            return Constant(type_, -value)
        if type_.kind is Kind.ANGLE:
            return Constant(type_, -int(value) % (1 << (type_.size or MACHINE_BITS)))
    if operator == "~":
        if type_.is_truth:
            return Constant(type_, not value)
        if type_.kind is Kind.INT:
            return Constant(type_, ~int(value))
        if type_.size is not None and type_.kind in (Kind.UINT, Kind.BIT):
            return Constant(type_, int(value) ^ ((1 << type_.size) - 1))
    raise Rejected.at(
        node, "constant_type", f"{operator} has no meaning for a value of type {type_}"
    )


def combined(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    """``left operator right``.

    Raises:
        Rejected: the types do not go together, or the result has no value of its type.
    """
    kinds = (left.type.kind, right.type.kind)
    if operator in ("&&", "||"):
        truth = bool(left.value), bool(right.value)
        return Constant(BOOL, all(truth) if operator == "&&" else any(truth))
    if Kind.DURATION in kinds:
        return _of_durations(operator, left, right, node)
    if operator in ("<<", ">>"):
        return _shifted(operator, left, right, node)
    if operator in _BITWISE:
        return _bitwise(operator, left, right, node)
    if Kind.ANGLE in kinds:
        return _of_angles(operator, left, right, node)
    if operator in _COMPARISONS:
        return Constant(BOOL, _COMPARISONS[operator](left.value, right.value))
    if any(each.type.kind is Kind.BIT and each.type.size is not None for each in (left, right)):
        _no_operator(operator, left, right, node)
    if Kind.FLOAT in kinds:
        return _of_floats(operator, left, right, node)
    return _of_integers(operator, left, right, node)


def _no_operator(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> NoReturn:
    message = f"{left.type} {operator} {right.type} has no meaning; cast one of the two"
    raise Rejected.at(node, "constant_type", message)


def _of_integers(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    a, b, target = int(left.value), int(right.value), _joined(left.type, right.type)
    match operator:
        case "+":
            value = a + b
        case "-":
            value = a - b
        case "*":
            value = a * b
        case "**":
            value = _power(a, b, target, node)
        case "/" | "%":
            value = _divided(a, b, node)[operator == "%"]
        case _:
            _no_operator(operator, left, right, node)
    return _integer(value, target, node)


def _joined(left: Type, right: Type) -> Type:
    """Type of the result: signed as soon as one of the two is, so that ``n - 2`` can be -1."""
    kind = Kind.UINT if left.kind is right.kind is Kind.UINT else Kind.INT
    if left.size is None or right.size is None or left.kind is not right.kind:
        return Type(kind)
    return Type(kind, max(left.size, right.size))


def _divided(a: int, b: int, node: ast.QASMNode) -> tuple[int, int]:
    """Quotient towards zero and remainder, as in C99."""
    if b == 0:
        raise Rejected.at(node, "division_by_zero", "division by zero")
    quotient = abs(a) // abs(b)
    quotient = quotient if (a < 0) == (b < 0) else -quotient
    return quotient, a - b * quotient


def _power(base: int, exponent: int, target: Type, node: ast.QASMNode) -> int:
    if exponent < 0:
        message = (
            f"{base} ** {exponent} of integers is no integer;"
            f" write {float(base)} ** {exponent} for a float"
        )
        raise Rejected.at(node, "constant_type", message)
    if (abs(base).bit_length() - 1) * exponent > MACHINE_BITS:
        _too_large(f"{base} ** {exponent}", target, node)
    return int(base**exponent)


def _of_floats(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    a, b = float(left.value), float(right.value)
    try:
        match operator:
            case "+":
                value = a + b
            case "-":
                value = a - b
            case "*":
                value = a * b
            case "/":
                value = a / b
            case "**":
                value = math.pow(a, b)
            case _:
                message = f"{operator} is for integers; mod(a, b) takes floats"
                raise Rejected.at(node, "constant_type", message)
    except ZeroDivisionError as exc:
        raise Rejected.at(node, "division_by_zero", "division by zero") from exc
    except OverflowError:
        value = math.inf
    except ValueError as exc:
        message = f"{a:g} ** {b:g} is no real number"
        raise Rejected.at(node, "constant_type", message) from exc
    sizes = left.type.size, right.type.size
    both = left.type.kind is right.type.kind is Kind.FLOAT and None not in sizes
    target = Type(Kind.FLOAT, max(size or 0 for size in sizes)) if both else FLOAT
    return _as_float(_finite(value, node).value, target, node)


def _of_angles(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    kinds = left.type.kind, right.type.kind
    sizes = [each.type.size or 0 for each in (left, right) if each.type.kind is Kind.ANGLE]
    target = Type(Kind.ANGLE, max(sizes))
    if operator in ("*", "/") and (left.type.is_integer or right.type.is_integer):
        return _scaled(operator, left, right, node)
    if operator not in ("+", "-", "/", *_COMPARISONS) or not all(
        kind in (Kind.ANGLE, Kind.FLOAT, Kind.INT, Kind.UINT) for kind in kinds
    ):
        _no_operator(operator, left, right, node)
    if operator == "/" and Kind.FLOAT in kinds:
        _no_operator(operator, left, right, node)
    a, b = int(cast(left, target, node).value), int(cast(right, target, node).value)
    if operator in _COMPARISONS:
        return Constant(BOOL, _COMPARISONS[operator](a, b))
    if operator == "/":
        return Constant(UINT, _divided(a, b, node)[0])
    turn = 1 << (target.size or MACHINE_BITS)
    return Constant(target, (a + b if operator == "+" else a - b) % turn)


def _scaled(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    """An angle times or divided by an integer: the arithmetic of its bits, as they wrap."""
    if operator == "*":
        angle, number = (right, left) if left.type.is_integer else (left, right)
        turn = 1 << (angle.type.size or MACHINE_BITS)
        return Constant(angle.type, int(angle.value) * int(number.value) % turn)
    if left.type.is_integer or right.value < 0:
        message = "an angle can be divided by an integer that is not negative, and by an angle"
        raise Rejected.at(node, "constant_type", message)
    return Constant(left.type, _divided(int(left.value), int(right.value), node)[0])


def _of_durations(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    """A duration times or divided by a number, or two of the same unit together."""
    duration, other = (right, left) if left.unit is None else (left, right)
    if other.unit is None and (operator == "*" or (operator == "/" and left is duration)):
        factors = Constant(FLOAT, duration.value), cast(other, FLOAT, node)
        return replace(duration, value=_of_floats(operator, *factors, node).value)
    if operator in ("+", "-") and left.unit is right.unit:
        terms = Constant(FLOAT, left.value), Constant(FLOAT, right.value)
        return replace(duration, value=_of_floats(operator, *terms, node).value)
    _no_operator(operator, left, right, node)


def _shifted(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    type_, value, places = left.type, int(left.value), right.value
    if not right.type.is_integer or places < 0:
        raise Rejected.at(
            node, "constant_type", f"a shift by {right.type} {places:g}; integers from 0 can be"
        )
    sized = type_.size is not None and type_.kind in (Kind.UINT, Kind.BIT)
    if not (sized or type_.is_integer):
        _no_operator(operator, left, right, node)
    # No integer here has more bits than that.
    places = min(int(places), _MOST_BITS)
    if operator == ">>":
        return Constant(type_, value >> places)
    value <<= places
    if sized:
        return Constant(type_, value % (1 << (type_.size or 1)))
    if value.bit_length() > MACHINE_BITS:
        _too_large(f"{left.value} << {right.value}", type_, node)
    return _integer(value, type_, node)


def _bitwise(operator: str, left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    value = _BITWISE[operator](int(left.value), int(right.value))
    if left.type.is_truth and right.type.is_truth:
        return Constant(left.type, value)
    if left.type.is_integer and right.type.is_integer:
        return _integer(value, _joined(left.type, right.type), node)
    if left.type == right.type and left.type.kind is Kind.BIT:
        return Constant(left.type, value)
    _no_operator(operator, left, right, node)


# --- functions ------------------------------------------------------------------------------------

_REAL: dict[str, Callable[[float], float]] = {
    "arccos": math.acos,
    "arcsin": math.asin,
    "arctan": math.atan,
    "ceiling": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
_OF_ANGLES = ("cos", "sin", "tan")
FUNCTIONS = (*_REAL, "mod", "popcount", "rotl", "rotr")


def called(name: str, arguments: Sequence[Constant], node: ast.QASMNode) -> Constant:
    """A function of the language, of constants.

    Raises:
        Rejected: the arguments are none that it takes, or it has no finite real value there.
    """
    wanted = 2 if name in ("mod", "rotl", "rotr") else 1
    if len(arguments) != wanted:
        raise Rejected.at(
            node, "function", f"{name} takes {wanted} arguments; {len(arguments)} are given"
        )
    first = arguments[0]
    match name:
        case "mod":
            return _mod(first, arguments[1], node)
        case "popcount":
            _check_bits(name, first, node)
            return Constant(UINT, int(first.value).bit_count())
        case "rotl" | "rotr":
            _check_bits(name, first, node)
            return _rotated(first, arguments[1], -1 if name == "rotr" else 1, node)
    is_angle = first.type.kind is Kind.ANGLE and name in _OF_ANGLES
    number = first.number if is_angle else cast(first, FLOAT, node).value
    try:
        return _finite(float(_REAL[name](number)), node)
    except ValueError as exc:
        raise Rejected.at(node, "function", f"{name}({number:g}) is no real number") from exc
    except OverflowError:
        return _finite(math.inf, node)


def _mod(left: Constant, right: Constant, node: ast.QASMNode) -> Constant:
    if all(each.type.is_integer or each.type.is_truth for each in (left, right)):
        rest = _divided(int(left.value), int(right.value), node)[1]
        return _integer(rest, _joined(left.type, right.type), node)
    a, b = (cast(each, FLOAT, node).value for each in (left, right))
    if b == 0:
        raise Rejected.at(node, "division_by_zero", "division by zero")
    return Constant(FLOAT, math.fmod(a, b))


def _check_bits(name: str, value: Constant, node: ast.QASMNode) -> None:
    if value.type.size is None or value.type.kind not in (Kind.BIT, Kind.UINT):
        raise Rejected.at(node, "function", f"{name} takes a bit[n] or uint[n], no {value.type}")


def _rotated(value: Constant, distance: Constant, sign: int, node: ast.QASMNode) -> Constant:
    if not distance.type.is_integer:
        raise Rejected.at(node, "function", f"a rotation by {distance.type}; it is by int or uint")
    size, bits = value.type.size or 1, int(value.value)
    places = sign * int(distance.value) % size
    return Constant(value.type, (bits << places | bits >> (size - places)) % (1 << size))


def bit_of(value: Constant, index: int, node: ast.QASMNode) -> Constant:
    """``value[index]``: one bit; negative indexes count from the highest."""
    size = value.type.size
    if size is None or value.type.kind not in (Kind.BIT, Kind.UINT, Kind.INT):
        raise Rejected.at(
            node, "constant_type", f"a value of type {value.type} has no bits to choose from"
        )
    if not -size <= index < size:
        raise Rejected.at(node, "index", f"bit {index} of a value of type {value.type}")
    return Constant(_BIT, int(value.value) >> (index % size) & 1)
