"""Which outcomes does a circuit have, and how likely are they? Exact, and without Aer.

Every measurement splits a branch in two; gates are applied by ``qiskit.quantum_info``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.circuit import (
    CASE_DEFAULT,
    Barrier,
    BoxOp,
    BreakLoopOp,
    ClassicalRegister,
    Clbit,
    ContinueLoopOp,
    Delay,
    ForLoopOp,
    IfElseOp,
    Measure,
    QuantumCircuit,
    Reset,
    SwitchCaseOp,
    WhileLoopOp,
)
from qiskit.circuit.classical import expr
from qiskit.quantum_info import Statevector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: branches less likely than this are dropped, so that ``while`` ends.
_NEGLIGIBLE = 1e-9

#: chance of 5 sigma, one-sided.
_FIVE_SIGMA = 2.87e-7

#: operators an expression may have here.
_OPERATORS: dict[Any, Callable[[int, int], int]] = {
    expr.Binary.Op.BIT_AND: lambda a, b: a & b,
    expr.Binary.Op.BIT_OR: lambda a, b: a | b,
    expr.Binary.Op.BIT_XOR: lambda a, b: a ^ b,
    expr.Binary.Op.LOGIC_AND: lambda a, b: int(bool(a and b)),
    expr.Binary.Op.LOGIC_OR: lambda a, b: int(bool(a or b)),
    expr.Binary.Op.EQUAL: lambda a, b: int(a == b),
    expr.Binary.Op.NOT_EQUAL: lambda a, b: int(a != b),
    expr.Binary.Op.LESS: lambda a, b: int(a < b),
    expr.Binary.Op.LESS_EQUAL: lambda a, b: int(a <= b),
    expr.Binary.Op.GREATER: lambda a, b: int(a > b),
    expr.Binary.Op.GREATER_EQUAL: lambda a, b: int(a >= b),
}


@dataclass(frozen=True, kw_only=True)
class _Branch:
    probability: float
    state: Statevector
    #: all classical bits, bit ``i`` of the integer is clbit ``i``.
    bits: int = 0
    #: "break" or "continue" until the loop has seen it.
    leaving: str = ""


def exact_distribution(circuit: QuantumCircuit) -> dict[str, float]:
    """Bitstring without spaces → probability."""
    qubits = {qubit: index for index, qubit in enumerate(circuit.qubits)}
    clbits = {clbit: index for index, clbit in enumerate(circuit.clbits)}
    head, readout = _split(circuit)
    start = _Branch(probability=1.0, state=Statevector.from_int(0, 2**circuit.num_qubits))
    outcomes: dict[str, float] = {}
    for branch in _block(head, [start], qubits, clbits):
        measured = sorted(readout)
        chances = (
            branch.state.probabilities([readout[clbit] for clbit in measured])
            if measured
            else [1.0]
        )
        for value, chance in enumerate(chances):
            bits = branch.bits
            for place, clbit in enumerate(measured):
                bits = bits & ~(1 << clbit) | (value >> place & 1) << clbit
            key = format(bits, f"0{circuit.num_clbits}b")
            outcomes[key] = outcomes.get(key, 0.0) + branch.probability * float(chance)
    return {key: chance for key, chance in outcomes.items() if chance > _NEGLIGIBLE}


def distance(counts: Mapping[str, int], exact: Mapping[str, float]) -> float:
    """Total variation distance between sampled and exact outcomes."""
    shots = sum(counts.values())
    sampled = {key.replace(" ", ""): value / shots for key, value in counts.items()}
    return 0.5 * sum(
        abs(sampled.get(key, 0) - exact.get(key, 0)) for key in sampled.keys() | exact.keys()
    )


def allowed_distance(shots: int, exact: Mapping[str, float]) -> float:
    """Give the distance that right samples exceed with a chance of 5 sigma only.

    Its mean is at most half the sum of the outcomes' standard deviations; one sample moves it by at
    most ``1 / shots``, so McDiarmid's inequality bounds how far it gets above its mean.
    """
    mean = 0.5 * sum(sqrt(chance * max(0.0, 1 - chance) / shots) for chance in exact.values())
    return mean + sqrt(-log(_FIVE_SIGMA) / (2 * shots))


def _split(circuit: QuantumCircuit) -> tuple[QuantumCircuit, dict[int, int]]:
    """Take the measurements off the end: they need no branches."""
    data = list(circuit.data)
    readout: dict[int, int] = {}
    while data and isinstance(data[-1].operation, (Measure, Barrier)):
        last = data[-1]
        if isinstance(last.operation, Measure):
            qubit, clbit = (circuit.find_bit(bits[0]).index for bits in (last.qubits, last.clbits))
            if clbit in readout or qubit in readout.values():
                break
            readout[clbit] = qubit
        data.pop()
    head = circuit.copy_empty_like()
    head.data = data
    return head, readout


def _block(
    circuit: QuantumCircuit,
    branches: list[_Branch],
    qubits: Mapping[Any, int],
    clbits: Mapping[Any, int],
) -> list[_Branch]:
    for instruction in circuit.data:
        branches = [
            after
            for branch in branches
            for after in (
                [branch] if branch.leaving else _apply(instruction, branch, qubits, clbits)
            )
            if after.probability > _NEGLIGIBLE
        ]
    return branches


def _apply(
    instruction: Any, branch: _Branch, qubits: Mapping[Any, int], clbits: Mapping[Any, int]
) -> list[_Branch]:
    operation = instruction.operation
    places = [qubits[qubit] for qubit in instruction.qubits]
    match operation:
        case Barrier() | Delay():
            return [branch]
        case Measure():
            return _measured(branch, places[0], clbits[instruction.clbits[0]])
        case Reset():
            return _reset(branch, places[0])
        case BreakLoopOp():
            return [replace(branch, leaving="break")]
        case ContinueLoopOp():
            return [replace(branch, leaving="continue")]
        case IfElseOp():
            yes, no = operation.params
            body = yes if _holds(operation.condition, branch.bits, clbits) else no
            return [branch] if body is None else _inside(body, instruction, branch, qubits, clbits)
        case BoxOp():
            return _inside(operation.body, instruction, branch, qubits, clbits)
        case SwitchCaseOp():
            value = _value(operation.target, branch.bits, clbits)
            for values, body in operation.cases_specifier():
                if value in values or CASE_DEFAULT in values:
                    return _inside(body, instruction, branch, qubits, clbits)
            return [branch]
        case ForLoopOp():
            return _for(instruction, branch, qubits, clbits)
        case WhileLoopOp():
            return _while(instruction, branch, qubits, clbits)
    return [replace(branch, state=branch.state.evolve(operation, places))]


def _for(
    instruction: Any, branch: _Branch, qubits: Mapping[Any, int], clbits: Mapping[Any, int]
) -> list[_Branch]:
    indices, variable, body = instruction.operation.params
    running, done = [branch], []
    for index in indices:
        bound = body if variable is None else body.assign_parameters({variable: index})
        after = [
            end for start in running for end in _inside(bound, instruction, start, qubits, clbits)
        ]
        done += [replace(end, leaving="") for end in after if end.leaving == "break"]
        running = [replace(end, leaving="") for end in after if end.leaving != "break"]
    return running + done


def _while(
    instruction: Any, branch: _Branch, qubits: Mapping[Any, int], clbits: Mapping[Any, int]
) -> list[_Branch]:
    (body,) = instruction.operation.params
    running, done = [branch], []
    while running:
        test = running.pop()
        if not _holds(instruction.operation.condition, test.bits, clbits):
            done.append(test)
            continue
        for end in _inside(body, instruction, test, qubits, clbits):
            (done if end.leaving == "break" else running).append(replace(end, leaving=""))
    return done


def _inside(
    body: QuantumCircuit,
    instruction: Any,
    branch: _Branch,
    qubits: Mapping[Any, int],
    clbits: Mapping[Any, int],
) -> list[_Branch]:
    inner_qubits = {
        inner: qubits[outer] for inner, outer in zip(body.qubits, instruction.qubits, strict=True)
    }
    inner_clbits = {
        inner: clbits[outer] for inner, outer in zip(body.clbits, instruction.clbits, strict=True)
    }
    return _block(body, [branch], inner_qubits, {**clbits, **inner_clbits})


def _measured(branch: _Branch, qubit: int, clbit: int) -> list[_Branch]:
    return [
        replace(part, bits=branch.bits & ~(1 << clbit) | outcome << clbit)
        for outcome, part in _projected(branch, qubit)
    ]


def _reset(branch: _Branch, qubit: int) -> list[_Branch]:
    flip = QuantumCircuit(1)
    flip.x(0)
    return [
        replace(part, state=part.state.evolve(flip, [qubit])) if outcome else part
        for outcome, part in _projected(branch, qubit)
    ]


def _projected(branch: _Branch, qubit: int) -> list[tuple[int, _Branch]]:
    parts = []
    for outcome in (0, 1):
        data = np.array(branch.state.data)
        data[(np.arange(len(data)) >> qubit & 1) != outcome] = 0
        chance = float(np.vdot(data, data).real)
        if chance * branch.probability > _NEGLIGIBLE:
            state = Statevector(data / sqrt(chance))
            part = replace(branch, probability=branch.probability * chance, state=state)
            parts.append((outcome, part))
    return parts


def _holds(condition: Any, bits: int, clbits: Mapping[Any, int]) -> bool:
    if isinstance(condition, expr.Expr):
        return bool(_value(condition, bits, clbits))
    target, value = condition
    return _value(target, bits, clbits) == int(value)


def _value(node: Any, bits: int, clbits: Mapping[Any, int]) -> int:
    match node:
        case Clbit():
            return bits >> clbits[node] & 1
        case ClassicalRegister():
            return sum((bits >> clbits[bit] & 1) << place for place, bit in enumerate(node))
        case expr.Var():
            return _value(node.var, bits, clbits)
        case expr.Value():
            return int(node.value)
        case expr.Cast():
            return _value(node.operand, bits, clbits)
        case expr.Unary(op=expr.Unary.Op.LOGIC_NOT):
            return int(not _value(node.operand, bits, clbits))
        case expr.Unary(op=expr.Unary.Op.BIT_NOT):
            return _value(node.operand, bits, clbits) ^ ((1 << node.type.width) - 1)
        case expr.Binary():
            left, right = (_value(side, bits, clbits) for side in (node.left, node.right))
            return _OPERATORS[node.op](left, right)
    message = f"unknown expression {node!r}"
    raise NotImplementedError(message)
