"""Which statements remain once constants have their values? A pass from syntax tree to syntax tree.

Constants and expressions of them become literals, ``if`` with a constant condition becomes the
block that is taken, and a ``for`` loop whose body mentions its variable becomes its turns. Every
node keeps its place in the source. What a program unrolls to is counted before it is made, and the
tree that is read is never changed.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from openqasm3 import ast
from qiskit_qasm3_import.converter import _STDGATES

from app.primitives.qasm import constants
from app.primitives.qasm.constants import Constant, Kind, Type
from app.primitives.qasm.place import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.config import ProgramLimits

_Node = TypeVar("_Node", bound=ast.QASMNode)


class _Other(Enum):
    """What a name stands for that has no value before the program runs."""

    #: a qubit, bit, gate, alias or parameter.
    THING = auto()
    #: the variable of a loop that stays a loop.
    VARIABLE = auto()
    #: nothing that was declared.
    UNKNOWN = auto()


@dataclass(frozen=True)
class _Body:
    """What is known of a loop's body before it is read."""

    names: frozenset[str]
    #: names that the number of turns of loops inside may depend on.
    bounds: frozenset[str]
    #: whether a break or continue in it belongs to this loop.
    jumps: bool


def unroll(program: ast.Program, limits: ProgramLimits) -> ast.Program:
    """The program without constants, and without loops over a variable that it uses.

    Raises:
        Rejected: a constant has no value, a name is used for what it is not, or there would be
            too many statements.
    """
    unroller = _Unroller(limits)
    statements: list[ast.Statement] = []
    for statement in program.statements:
        unroller.statement(statement, 1, statements)
    return _with(program, statements=statements)


def _with(node: _Node, **fields: Any) -> _Node:
    """A copy of a node with other fields; the span stays."""
    # A third of the time that copy.copy takes: there may be 200,000 of them.
    copied = object.__new__(type(node))
    copied.__dict__.update(node.__dict__)
    copied.__dict__.update(fields)
    return copied


class _Unroller:
    def __init__(self, limits: ProgramLimits) -> None:
        self._limits = limits
        self._scopes: list[dict[str, Constant | _Other]] = [dict(constants.BUILT_IN)]
        #: by the id of a loop; the tree that is read outlives this object.
        self._bodies: dict[int, _Body] = {}
        #: statements so far, each as often as it is read.
        self._read = 0
        self._in_gate = False
        #: whether what is read now was counted before, as part of a loop around it.
        self._counted = False
        #: loops that stay loops, by their id: a measurement may end them.
        self._open: set[int] = set()

    # --- names ------------------------------------------------------------------------------------

    @contextmanager
    def _scope(self, names: Mapping[str, Constant | _Other]) -> Iterator[None]:
        self._scopes.append(dict(names))
        try:
            yield
        finally:
            self._scopes.pop()

    def _find(self, name: str) -> Constant | _Other:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return _Other.UNKNOWN

    def _declare(self, name: str, what: Constant | _Other, node: ast.QASMNode) -> None:
        """Add a name to the scope; the converter knows the rules for all but constants."""
        scope = self._scopes[-1]
        if name in scope and (isinstance(what, Constant) or isinstance(scope[name], Constant)):
            is_gate = name in _STDGATES and _Other.THING in (what, scope[name])
            where = ", as a gate of stdgates.inc" if is_gate else " in this scope"
            message = f"'{name[:64]}' is already declared{where}; choose another name"
            raise Rejected.at(node, "redeclared", message)
        scope[name] = what

    def _check_thing(self, node: ast.Identifier, wanted: str) -> None:
        """Refuse the name of a value where that of a qubit, bit or gate must stand."""
        found = self._find(node.name)
        if isinstance(found, Constant) or found is _Other.VARIABLE:
            kind = "a constant or loop variable"
            message = f"'{node.name[:64]}' is {kind} here, no {wanted}"
            raise Rejected.at(node, "not_a_" + wanted.replace(" ", "_"), message)

    def _check_no_variable(self, node: ast.QASMNode) -> None:
        """Refuse what needs the variable of a loop that cannot be unrolled."""
        for name in _names(node):
            if self._find(name) is _Other.VARIABLE:
                message = (
                    f"the loop variable '{name[:64]}' can only stand in angles here: the loop has"
                    " a break or continue that depends on a measurement; write its turns out"
                )
                raise Rejected.at(node, "loop_variable", message)

    # --- expressions ------------------------------------------------------------------------------

    def _value(self, node: ast.Expression) -> Constant | ast.Expression:
        """Value of an expression; what is left of it where it has none before the program runs."""
        match node:
            case ast.Identifier(name=name):
                found = self._find(name)
                return found if isinstance(found, Constant) else node
            case ast.BinaryExpression():
                return self._binary(node)
            case ast.UnaryExpression():
                operand = self._value(node.expression)
                if isinstance(operand, Constant):
                    return constants.negated(node.op.name, operand, node)
                return _with(node, expression=operand)
            case ast.FunctionCall():
                return self._function(node)
            case ast.Cast():
                argument = self._value(node.argument)
                if isinstance(argument, Constant):
                    return constants.cast(argument, self._type(node.type), node)
                return _with(node, argument=argument)
            case ast.IndexExpression():
                return self._element(node)
            case ast.Concatenation():
                return _with(node, lhs=self._folded(node.lhs), rhs=self._folded(node.rhs))
        return constants.literal_value(node) or node

    def _folded(self, node: ast.Expression) -> ast.Expression:
        """An expression with literals for what is constant in it."""
        if isinstance(node, (ast.IntegerLiteral, ast.FloatLiteral)):
            return node
        found = self._value(node)
        return found.literal(node.span) if isinstance(found, Constant) else found

    def _binary(self, node: ast.BinaryExpression) -> Constant | ast.Expression:
        operator, left = node.op.name, self._value(node.lhs)
        if operator in ("&&", "||") and isinstance(left, Constant):
            if bool(left.value) == (operator == "||"):
                return Constant(constants.BOOL, operator == "||")
            right = self._value(node.rhs)
            return (
                constants.combined(operator, left, right, node)
                if isinstance(right, Constant)
                else right
            )
        right = self._value(node.rhs)
        if isinstance(left, Constant) and isinstance(right, Constant):
            return constants.combined(operator, left, right, node)
        if operator in ("&&", "||") and isinstance(right, Constant):
            decided = bool(right.value) == (operator == "||")
            return Constant(constants.BOOL, operator == "||") if decided else left
        return _with(
            node,
            lhs=left.literal(node.lhs.span) if isinstance(left, Constant) else left,
            rhs=right.literal(node.rhs.span) if isinstance(right, Constant) else right,
        )

    def _function(self, node: ast.FunctionCall) -> Constant:
        name = node.name.name
        self._check_thing(node.name, "function")
        if name not in constants.FUNCTIONS:
            known = ", ".join(constants.FUNCTIONS)
            raise Rejected.at(
                node, "function", f"no function '{name[:64]}' here; known are {known}"
            )
        values = [self._value(argument) for argument in node.arguments]
        found = [value for value in values if isinstance(value, Constant)]
        if len(found) < len(values):
            message = f"{name} takes constants, and variables of loops that are unrolled"
            raise Rejected.at(node, "not_constant", message)
        return constants.called(name, found, node)

    def _element(self, node: ast.IndexExpression) -> Constant | ast.Expression:
        collection = self._value(node.collection)
        if not isinstance(collection, Constant):
            return _with(node, collection=collection, index=self._indices(node.index))
        if not isinstance(node.index, list) or len(node.index) != 1:
            raise Rejected.at(node, "index", "one bit of a constant can be chosen, by an integer")
        index = self._integer(node.index[0], "the index of a bit")
        return constants.bit_of(collection, index, node)

    def _integer(self, node: ast.Expression | ast.RangeDefinition, what: str) -> int:
        """Value of an integer that must be known before the program runs."""
        found = node if isinstance(node, ast.RangeDefinition) else self._value(node)
        if not isinstance(found, Constant):
            self._refuse_unknown(found, what)
        if not found.type.is_integer:
            message = f"{what} is an int or uint; this is of type {found.type}"
            raise Rejected.at(node, "not_an_integer", message)
        return int(found.value)

    def _refuse_unknown(self, node: ast.QASMNode, what: str) -> NoReturn:
        self._check_no_variable(node)
        names = sorted(_names(node))
        unknown = [name for name in names if self._find(name) is _Other.UNKNOWN]
        if isinstance(node, ast.IntegerLiteral):
            why = f"{node.value} is too large for it"
        elif unknown:
            why = f"'{unknown[0][:64]}' is not declared before it"
        elif names:
            why = f"'{names[0][:64]}' is no constant"
        else:
            why = "this is none"
        message = f"{what} is a constant integer, such as 4 or n with `const int n = 4;`: {why}"
        raise Rejected.at(node, "not_constant", message)

    def _type(self, node: ast.ClassicalType) -> Type:
        size = getattr(node, "size", None)
        bits = None if size is None else self._integer(size, "the size of a type")
        return constants.type_of(node, bits)

    # --- operands ---------------------------------------------------------------------------------

    def _operand(self, node: Any) -> Any:
        """A qubit, bit, or several of them, with constant indexes."""
        if isinstance(node, ast.IndexedIdentifier):
            self._check_thing(node.name, "qubit or bit")
            indices = [self._indices(each) for each in node.indices]
            return _with(node, indices=indices)
        if isinstance(node, ast.Identifier):
            self._check_thing(node, "qubit or bit")
        return node

    def _indices(self, element: ast.IndexElement) -> ast.IndexElement:
        if isinstance(element, ast.DiscreteSet):
            return _with(element, values=[self._index(each) for each in element.values])
        return [self._index(each) for each in element]

    def _index(self, node: Any) -> Any:
        if isinstance(node, ast.IntegerLiteral):
            return node
        if isinstance(node, ast.RangeDefinition):
            parts = {
                part: self._index(value)
                for part in ("start", "end", "step")
                if (value := getattr(node, part)) is not None
            }
            return _with(node, **parts)
        return _whole(self._integer(node, "an index"), node)

    def _angle(self, node: ast.Expression) -> ast.Expression:
        if isinstance(node, (ast.IntegerLiteral, ast.FloatLiteral)):
            return node
        found = self._value(node)
        if not isinstance(found, Constant):
            return found
        if found.type.kind in (Kind.BOOL, Kind.BIT, Kind.DURATION):
            message = f"a gate's parameter is an angle or a number; this is of type {found.type}"
            raise Rejected.at(node, "not_an_angle", message)
        return found.literal(node.span)

    # --- statements -------------------------------------------------------------------------------

    def statement(self, node: ast.Statement, depth: int, into: list[ast.Statement]) -> None:
        """Add what a statement becomes."""
        self._count(node, 1)
        if getattr(node, "annotations", None):
            raise Rejected.at(node, "annotation", "annotations are not supported; leave them out")
        if depth > self._limits.gate_depth:
            most = self._limits.gate_depth
            message = f"blocks nest deeper than the {most} levels allowed"
            raise Rejected.at(node, "too_deep", message)
        match node:
            case ast.QuantumGate():
                into.append(self._gate(node))
            case ast.ForInLoop():
                self._for(node, depth, into)
            case ast.BranchingStatement():
                self._if(node, depth, into)
            case ast.WhileLoop():
                self._while(node, depth, into)
            case ast.CompoundStatement():
                block = self._block(node.statements, depth, counted=self._counted)
                _splice(block, into)
            case ast.Box():
                duration = None if node.duration is None else self._folded(node.duration)
                body = self._block(node.body, depth)
                into.append(_with(node, duration=duration, body=body))
            case ast.ConstantDeclaration():
                self._constant(node)
            case _:
                into.append(self._simple(node, depth))

    def _count(self, node: ast.QASMNode, statements: int) -> None:
        """Count statements before they are read."""
        self._check_fit(node, statements)
        self._read += statements

    def _check_fit(self, node: ast.QASMNode, statements: int) -> None:
        most = self._limits.operations
        if self._read + statements > most:
            message = f"the program expands to more than the {most} operations allowed"
            raise Rejected.at(node, "too_many_operations", message)

    def _block(
        self,
        statements: Sequence[ast.Statement],
        depth: int,
        names: Mapping[str, Constant | _Other] | None = None,
        *,
        counted: bool = False,
    ) -> list[ast.Statement]:
        """What a block becomes, in a scope of its own, up to where it is left for certain."""
        into: list[ast.Statement] = []
        outside, self._counted = self._counted, counted
        with self._scope(names or {}):
            for statement in statements:
                self.statement(statement, depth + 1, into)
                if into and _is_jump(into[-1]):
                    break
        self._counted = outside
        return into

    def _simple(self, node: ast.Statement, depth: int) -> ast.Statement:
        match node:
            case ast.QuantumMeasurementStatement():
                target = None if node.target is None else self._operand(node.target)
                return _with(node, measure=self._measurement(node.measure), target=target)
            case ast.QuantumPhase():
                modifiers = [self._modifier(each) for each in node.modifiers]
                qubits = [self._operand(qubit) for qubit in node.qubits]
                angle = self._angle(node.argument)
                return _with(node, modifiers=modifiers, argument=angle, qubits=qubits)
            case ast.QuantumReset():
                return _with(node, qubits=self._operand(node.qubits))
            case ast.QuantumBarrier():
                return _with(node, qubits=[self._operand(qubit) for qubit in node.qubits])
            case ast.DelayInstruction():
                qubits = [self._operand(qubit) for qubit in node.qubits]
                return _with(node, duration=self._folded(node.duration), qubits=qubits)
            case ast.QuantumGateDefinition():
                self._declare(node.name.name, _Other.THING, node)
                names = [name.name for name in (*node.arguments, *node.qubits)]
                self._in_gate = True
                body = self._block(node.body, 0, dict.fromkeys(names, _Other.THING))
                self._in_gate = False
                return _with(node, body=body)
            case ast.ClassicalAssignment(lvalue=target):
                name = target.name if isinstance(target, ast.IndexedIdentifier) else target
                if isinstance(self._find(name.name), Constant):
                    message = f"'{name.name[:64]}' has its value for good: it is constant"
                    raise Rejected.at(node, "assigned_constant", message)
        return self._declaration(node, depth)

    def _declaration(self, node: ast.Statement, depth: int) -> ast.Statement:
        match node:
            case ast.Include(filename="stdgates.inc"):
                for name in _STDGATES:
                    self._declare(name, _Other.THING, node)
            case ast.QubitDeclaration():
                self._declare(node.qubit.name, _Other.THING, node)
                return _with(node, size=self._size(node.size, "qubit"))
            case ast.ClassicalDeclaration():
                return self._bits(node, depth)
            case ast.IODeclaration():
                self._declare(node.identifier.name, _Other.THING, node)
            case ast.AliasStatement():
                value = self._folded(node.value)
                if isinstance(value, ast.Identifier):
                    self._check_thing(value, "qubit or bit")
                self._declare(node.target.name, _Other.THING, node)
                return _with(node, value=value)
        return node

    def _bits(self, node: ast.ClassicalDeclaration, depth: int) -> ast.Statement:
        if not isinstance(node.type, ast.BitType):
            name = type(node.type).__name__.removesuffix("Type").lower()
            message = (
                f"variables of type {name} cannot be read here; constants can: `const int n = 4;`"
            )
            raise Rejected.at(node, "variable", message)
        if depth > 1:
            message = "bits are declared outside of blocks"
            raise Rejected.at(node, "local_bits", message)
        self._declare(node.identifier.name, _Other.THING, node)
        kind = _with(node.type, size=self._size(node.type.size, "bit"))
        value = node.init_expression
        if isinstance(value, ast.QuantumMeasurement):
            value = self._measurement(value)
        return _with(node, type=kind, init_expression=value)

    def _size(self, node: ast.Expression | None, what: str) -> ast.Expression | None:
        if node is None:
            return None
        return _whole(self._integer(node, f"the size of a {what} register"), node)

    def _constant(self, node: ast.ConstantDeclaration) -> None:
        kind, value = self._type(node.type), node.init_expression
        name = node.identifier.name
        found = self._value(value) if isinstance(value, ast.Expression) else value
        if not isinstance(found, Constant):
            self._refuse_unknown_value(found, name)
        self._declare(name, constants.promoted(found, kind, node), node)

    def _refuse_unknown_value(self, node: ast.QASMNode, name: str) -> NoReturn:
        self._check_no_variable(node)
        unknown = [each for each in sorted(_names(node)) if self._find(each) is _Other.UNKNOWN]
        why = f"'{unknown[0][:64]}' is not declared before it" if unknown else "this has none"
        message = f"the constant '{name[:64]}' needs a value that is known before the run: {why}"
        raise Rejected.at(node, "not_constant", message)

    def _gate(self, node: ast.QuantumGate) -> ast.Statement:
        self._check_thing(node.name, "gate")
        fields: dict[str, Any] = {"qubits": [self._operand(qubit) for qubit in node.qubits]}
        if node.arguments:
            fields["arguments"] = [self._angle(argument) for argument in node.arguments]
        if node.modifiers:
            fields["modifiers"] = [self._modifier(modifier) for modifier in node.modifiers]
        return _with(node, **fields)

    def _modifier(self, node: ast.QuantumGateModifier) -> ast.QuantumGateModifier:
        if node.argument is None:
            return node
        argument = self._folded(node.argument)
        self._check_no_variable(argument)
        return _with(node, argument=argument)

    def _measurement(self, node: ast.QuantumMeasurement) -> ast.QuantumMeasurement:
        return _with(node, qubit=self._operand(node.qubit))

    # --- branches and loops -----------------------------------------------------------------------

    def _condition(self, node: ast.Expression) -> bool | ast.Expression:
        found = self._value(node)
        if not isinstance(found, Constant):
            self._check_no_variable(found)
            return found
        return bool(constants.cast(found, constants.BOOL, node).value)

    def _if(self, node: ast.BranchingStatement, depth: int, into: list[ast.Statement]) -> None:
        condition = self._condition(node.condition)
        if isinstance(condition, bool):
            _splice(self._block(node.if_block if condition else node.else_block, depth), into)
            return
        if_block = self._block(node.if_block, depth)
        else_block = self._block(node.else_block, depth)
        into.append(_with(node, condition=condition, if_block=if_block, else_block=else_block))

    def _while(self, node: ast.WhileLoop, depth: int, into: list[ast.Statement]) -> None:
        condition = self._condition(node.while_condition)
        if condition is False:
            return
        if condition is True:
            message = "a while loop's condition compares a bit or a register; this one is constant"
            raise Rejected.at(node, "endless_loop", message)
        into.append(_with(node, while_condition=condition, block=self._block(node.block, depth)))

    def _for(self, node: ast.ForInLoop, depth: int, into: list[ast.Statement]) -> None:
        values = self._values(node)
        if not values:
            return
        body, name = self._body(node), node.identifier.name
        if name not in body.names and not self._in_gate:
            self._keep(node, values, depth, {}, into)
            return
        turns = None if id(node) in self._open else self._turns(node, values, depth)
        if turns is None:
            self._open.add(id(node))
            self._check_integers(node)
            self._keep(node, values, depth, {name: _Other.VARIABLE}, into)
        else:
            into.extend(turns)

    def _turns(
        self, node: ast.ForInLoop, values: _Values, depth: int
    ) -> list[ast.Statement] | None:
        """The turns of a loop; None where a measurement decides whether they are left early."""
        name, jumps = node.identifier.name, self._body(node).jumps
        into: list[ast.Statement] = []
        if not (jumps or self._counted):
            room = self._limits.operations - self._read
            self._check_fit(node, self._least_turns(node, values, room))
        for value in values:
            turn = self._block(node.block, depth, {name: value}, counted=not jumps)
            self._count(node, not turn)
            last = turn.pop() if turn and _is_jump(turn[-1]) else None
            if jumps and _has_jump(turn):
                return None
            _splice(turn, into)
            if isinstance(last, ast.BreakStatement):
                break
        return into

    def _check_integers(self, node: ast.ForInLoop) -> None:
        if not isinstance(node.type, (ast.IntType, ast.UintType)):
            message = "the variable of a loop that a measurement may end is an int or uint"
            raise Rejected.at(node, "loop_variable", message)

    def _keep(
        self,
        node: ast.ForInLoop,
        values: _Values,
        depth: int,
        names: Mapping[str, Constant | _Other],
        into: list[ast.Statement],
    ) -> None:
        """Add a loop that stays one, over literals."""
        declared = node.set_declaration
        literals: ast.RangeDefinition | ast.DiscreteSet
        if isinstance(declared, ast.RangeDefinition):
            parts = zip(("start", "end", "step"), self._bounds(declared), strict=True)
            literals = _with(declared, **{part: _whole(value, node) for part, value in parts})
        else:
            literals = ast.DiscreteSet([_whole(int(value.value), node) for value in values])
            literals.span = declared.span
        kind = node.type if isinstance(node.type, ast.UintType) else ast.IntType()
        block = self._block(node.block, depth, names)
        if block:
            into.append(_with(node, type=kind, set_declaration=literals, block=block))

    def _values(self, node: ast.ForInLoop) -> _Values:
        """What the variable is in each turn."""
        kind, values = self._type(node.type), node.set_declaration
        if isinstance(values, ast.RangeDefinition):
            start, end, step = self._bounds(values)
            turns = max(0, (end - start) // step + 1)
            self._check_turns(values, turns)
            return _Values(kind, values, range(start, start + turns * step, step))
        if not isinstance(values, ast.DiscreteSet):
            message = "a for loop runs over a range [a:b], [a:step:b] or a set {a, b, c}"
            raise Rejected.at(values, "bad_range", message)
        self._check_turns(values, len(values.values))
        found = []
        for each in values.values:
            value = self._value(each)
            if not isinstance(value, Constant):
                self._refuse_unknown(value, "a value of a for loop's set")
            found.append(value)
        return _Values(kind, values, found)

    def _bounds(self, node: ast.RangeDefinition) -> tuple[int, int, int]:
        if node.start is None or node.end is None:
            message = "the range of a for loop has a start and an end: [a:b] or [a:step:b]"
            raise Rejected.at(node, "bad_range", message)
        start = self._integer(node.start, "the start of a range")
        end = self._integer(node.end, "the end of a range")
        step = 1 if node.step is None else self._integer(node.step, "the step of a range")
        if step == 0:
            raise Rejected.at(node.step, "bad_range", "the step of a range is not 0")
        return start, end, step

    def _check_turns(self, node: ast.QASMNode, turns: int) -> None:
        most = self._limits.loop_iterations
        if turns > most:
            message = f"a loop of {turns} turns; {most} are allowed"
            raise Rejected.at(node, "loop_too_long", message)

    # --- what a loop costs ------------------------------------------------------------------------

    def _body(self, node: ast.ForInLoop) -> _Body:
        body = self._bodies.get(id(node))
        if body is None:
            body = self._bodies[id(node)] = _Body(
                names=frozenset(_names(node.block)),
                bounds=frozenset(_names([*_bounds_inside(node.block)])),
                jumps=_has_jump(node.block),
            )
        return body

    def _least_turns(self, node: ast.ForInLoop, values: _Values, room: int) -> int:
        """How many statements the turns of a loop are read as, at least; no further than room."""
        name = node.identifier.name
        if name not in self._body(node).bounds:
            each = self._least(node.block, {name: _Other.VARIABLE}, room // max(1, len(values)))
            return len(values) * max(1, each)
        total = 0
        for value in values:
            total += max(1, self._least(node.block, {name: value}, room - total))
            if total > room:
                break
        return total

    def _least(
        self,
        statements: Sequence[ast.Statement],
        names: Mapping[str, Constant | _Other],
        room: int,
    ) -> int:
        """How many statements a block is read as, at least; no further than room."""
        total = 0
        with self._scope(names):
            for statement in statements:
                total += self._least_of(statement, room - total)
                if _is_jump(statement) or total > room:
                    break
        return total

    def _least_of(self, node: ast.Statement, room: int) -> int:
        match node:
            case ast.ForInLoop():
                body = self._body(node)
                if body.jumps or node.identifier.name not in body.names:
                    return 1
                try:
                    values = self._values(node)
                except Rejected:
                    # It depends on what is not known yet, or is refused where it is read.
                    return 1
                return 1 + self._least_turns(node, values, room)
            case ast.CompoundStatement():
                return 1 + self._least(node.statements, {}, room)
            case ast.ConstantDeclaration():
                try:
                    self._constant(node)
                except Rejected:
                    self._scopes[-1][node.identifier.name] = _Other.VARIABLE
        return 1


class _Values:
    """The values of a loop's variable, each made when its turn comes."""

    def __init__(self, kind: Type, node: ast.QASMNode, values: range | Sequence[Constant]) -> None:
        self._kind = kind
        self._node = node
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Constant]:
        for each in self._values:
            value = each if isinstance(each, Constant) else Constant(constants.INT, each)
            yield constants.promoted(value, self._kind, self._node)


def _whole(value: int, node: ast.QASMNode) -> ast.Expression:
    """An integer as a literal that stands where a node stands."""
    return Constant(constants.INT, value).literal(node.span)


def _is_jump(node: ast.Statement) -> bool:
    return isinstance(node, (ast.BreakStatement, ast.ContinueStatement))


def _has_jump(statements: Sequence[ast.Statement]) -> bool:
    """Whether one of the statements leaves the loop that they are the body of, or its turn."""
    for node in statements:
        match node:
            case ast.BreakStatement() | ast.ContinueStatement():
                return True
            case ast.BranchingStatement():
                if _has_jump(node.if_block) or _has_jump(node.else_block):
                    return True
            case ast.CompoundStatement():
                if _has_jump(node.statements):
                    return True
            case ast.Box():
                if _has_jump(node.body):
                    return True
    return False


def _splice(block: list[ast.Statement], into: list[ast.Statement]) -> None:
    """Add the statements of a block to those around it; names that it declares stay its own."""
    if not any(isinstance(each, ast.AliasStatement) for each in block):
        into.extend(block)
        return
    last = [block.pop()] if _is_jump(block[-1]) else []
    scope = ast.CompoundStatement(block)
    scope.span = block[0].span
    into.extend([scope, *last])


def _bounds_inside(statements: Sequence[ast.Statement]) -> Iterator[ast.QASMNode]:
    """What the turns of loops in a block are counted from."""
    for node in statements:
        match node:
            case ast.ForInLoop():
                yield node.set_declaration
                yield from _bounds_inside(node.block)
            case ast.CompoundStatement():
                yield from _bounds_inside(node.statements)
            case ast.ConstantDeclaration():
                yield node.init_expression


def _names(node: ast.QASMNode | Sequence[ast.QASMNode]) -> Iterator[str]:
    """Every name in a part of the tree."""
    pending: list[Any] = [node]
    while pending:
        part = pending.pop()
        if isinstance(part, ast.Identifier):
            yield part.name
        elif isinstance(part, (list, tuple)):
            pending.extend(part)
        elif isinstance(part, ast.QASMNode):
            pending.extend(part.__dict__.values())
