"""Circuits that come as QPY are as bounded and as harmless as those that come as OpenQASM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import (
    AnnotatedOperation,
    ControlledGate,
    ControlModifier,
    Gate,
    Instruction,
    Parameter,
    PowerModifier,
)
from qiskit.circuit.classical import expr
from qiskit.circuit.library import (
    DiagonalGate,
    Initialize,
    MCXGate,
    PauliEvolutionGate,
    PauliGate,
    QFTGate,
    RYGate,
    UnitaryGate,
    XGate,
)
from qiskit.quantum_info import Clifford, Operator, SparsePauliOp

from app.config import ProgramLimits
from app.errors import InvalidProgram
from app.primitives.codec import decode_program
from tests.unit.primitive_programs import joined_counts, sample, sampler_pub
from tests.unit.runtime_params import (
    bell,
    blob,
    encoded,
    npy_value,
    qpy_bytes,
    sampled,
    sampler_document,
    typed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Operations that Aer runs by name, or stops its process for.
NATIVE = ["h", "sxdg", "rzz", "mcx", "kraus", "roerror", "diagonal", "multiplexer", "save_state"]


def flip(name: str = "flip") -> Gate:
    """A gate of any name that is an X."""
    gate = Gate(name, 1, [])
    gate.definition = QuantumCircuit(1)
    gate.definition.x(0)
    return gate


def measured(operation: Any, *, first: Iterable[int] = ()) -> QuantumCircuit:
    circuit = QuantumCircuit(operation.num_qubits)
    for qubit in first:
        circuit.x(qubit)
    circuit.append(operation, circuit.qubits)
    circuit.measure_all()
    return circuit


def counts(circuit: QuantumCircuit) -> dict[str, int]:
    return joined_counts(sample(sampler_pub(sampled(circuit), shots=100)))


def refusal(circuit: QuantumCircuit | bytes, limits: ProgramLimits | None = None) -> Any:
    content = circuit if isinstance(circuit, bytes) else qpy_bytes(circuit)
    pub = [typed("QuantumCircuit", blob(content)), npy_value(np.zeros(0)), 1]
    with pytest.raises(InvalidProgram) as caught:
        decode_program("sampler", encoded(sampler_document(pub)), limits or ProgramLimits())
    assert str(caught.value).startswith("pubs[0][0]")
    assert str(caught.value).isprintable()
    return caught.value.reason


@pytest.mark.parametrize("name", NATIVE)
def test_a_gate_is_what_its_definition_says_whatever_its_name(name: str) -> None:
    circuit = measured(flip(name))

    assert sampled(circuit).data[0].operation.name == f"user__{name}"
    assert counts(circuit) == {"1": 100}


@pytest.mark.parametrize("name", NATIVE)
def test_so_it_is_inside_of_definitions_and_blocks(name: str) -> None:
    outer = Gate("outer", 1, [])
    outer.definition = QuantumCircuit(1)
    outer.definition.append(flip(name), [0])
    circuit = QuantumCircuit(2, 2)
    circuit.append(outer, [0])
    circuit.measure(0, 0)
    with circuit.if_test((0, 1)):
        circuit.append(flip(name), [1])
    circuit.measure(1, 1)

    assert counts(circuit) == {"11": 100}


def test_a_controlled_gate_is_what_its_definition_says_whatever_it_claims_to_control() -> None:
    claims = ControlledGate("cx", 2, [], num_ctrl_qubits=1, base_gate=XGate())
    claims.definition = QuantumCircuit(2)
    claims.definition.x(0)

    decoded = sampled(measured(claims))

    assert type(decoded.data[0].operation) is Gate
    assert counts(measured(claims)) == {"01": 100}


def test_a_control_may_be_open() -> None:
    gate = flip().control(2, ctrl_state=1, annotated=False)

    assert counts(measured(gate, first=[0])) == {"101": 100}
    assert counts(measured(gate, first=[0, 1])) == {"011": 100}


def test_what_is_annotated_is_renamed_too() -> None:
    circuit = measured(AnnotatedOperation(flip("h"), [ControlModifier(1)]), first=[0])

    assert sampled(circuit).data[1].operation.base_op.name == "user__h"
    assert counts(circuit) == {"11": 100}


def test_a_parameter_inside_of_a_definition_stays_a_parameter() -> None:
    angle = Parameter("angle")
    inner = QuantumCircuit(1, name="rz")
    inner.rx(angle, 0)
    circuit = QuantumCircuit(2)
    circuit.append(inner.to_gate(), [0])
    circuit.append(RYGate(angle).control(1, annotated=False), [0, 1])
    circuit.measure_all()

    decoded = sampled(circuit)

    assert list(decoded.parameters) == [angle]
    result = sample(sampler_pub(decoded, [np.pi], shots=100))
    assert joined_counts(result) == {"11": 100}


def test_gates_of_the_library_are_welcome() -> None:
    circuit = QuantumCircuit(4)
    circuit.append(Initialize([0, 1]), [0])
    circuit.append(QFTGate(3), [0, 1, 2])
    circuit.append(DiagonalGate([1, 1j]), [3])
    circuit.append(PauliGate("XYZ"), [0, 1, 2])
    circuit.append(MCXGate(3), [0, 1, 2, 3])
    circuit.append(UnitaryGate([[0, 1], [1, 0]]), [2])
    circuit.append(PauliEvolutionGate(SparsePauliOp("XX"), time=0.3), [0, 3])
    circuit.append(XGate().control(2, ctrl_state=1, annotated=False), [0, 1, 2])
    whole = circuit.copy()
    whole.data = whole.data[1:]

    decoded = sampled(circuit)
    decoded.data = decoded.data[1:]

    assert Operator(decoded.decompose(reps=3)).equiv(Operator(whole.decompose(reps=3)))


def test_loops_and_conditions_pass() -> None:
    turn = Parameter("turn")
    circuit = QuantumCircuit(QuantumRegister(2), ClassicalRegister(2, "c"))
    with circuit.for_loop(range(3), turn):
        circuit.rx(turn, 0)
    with circuit.while_loop(expr.less(circuit.cregs[0], 1)):
        circuit.x(1)
        circuit.measure(1, 1)
    with circuit.switch(circuit.cregs[0]) as case:
        with case(0, 1):
            circuit.x(0)
        with case(case.DEFAULT):
            circuit.x(1)

    decoded = sampled(circuit)

    assert decoded == circuit
    assert decoded.num_parameters == 0


def without_definition() -> QuantumCircuit:
    return measured(Gate("opaque", 1, []))


def hidden_parameter() -> QuantumCircuit:
    gate = Gate("hides", 1, [])
    gate.definition = QuantumCircuit(1)
    gate.definition.rx(Parameter("hidden"), 0)
    return measured(gate)


def long_loop(turns: range) -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    with circuit.for_loop(turns):
        circuit.x(0)
    return circuit


def nested(levels: int) -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    for _ in range(levels):
        outer = QuantumCircuit(1, 1)
        outer.if_else((outer.clbits[0], 1), circuit, None, [0], [0])
        circuit = outer
    return circuit


def nested_gates(levels: int) -> QuantumCircuit:
    gate = flip()
    for level in range(levels):
        outer = Gate(f"level{level}", 1, [])
        outer.definition = QuantumCircuit(1)
        outer.definition.append(gate, [0])
        gate = outer
    return measured(gate)


def nested_expression(levels: int) -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    condition = expr.lift(circuit.clbits[0])
    for _ in range(levels):
        condition = expr.logic_not(condition)
    with circuit.if_test(condition):
        circuit.x(0)
    return circuit


def with_metadata(value: Any) -> QuantumCircuit:
    circuit = bell()
    circuit.metadata = {"key": value}
    return circuit


def with_register(name: str) -> QuantumCircuit:
    return QuantumCircuit(QuantumRegister(1), ClassicalRegister(1, name))


def deep(levels: int) -> Any:
    return [] if levels == 0 else [deep(levels - 1)]


def rotated(angle: float) -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    circuit.rx(angle, 0)
    return circuit


REFUSED: dict[str, tuple[QuantumCircuit, str]] = {
    "without definition": (without_definition(), "operation"),
    "unknown class": (measured(Clifford(QuantumCircuit(1))), "operation"),
    "hidden parameter": (hidden_parameter(), "unbound_parameter"),
    "infinite angle": (rotated(float("inf")), "not_finite"),
    "no angle": (rotated(float("nan")), "not_finite"),
    "infinite phase": (QuantumCircuit(1, global_phase=float("inf")), "not_finite"),
    "not unitary": (
        measured(UnitaryGate(np.diag([1.0, 2.0]), check_input=False)),
        "not_unitary",
    ),
    "many controls": (
        measured(AnnotatedOperation(XGate(), [ControlModifier(13)])),
        "too_many_controls",
    ),
    "large power": (measured(AnnotatedOperation(XGate(), [PowerModifier(1e9)])), "power_too_large"),
    "infinite power": (
        measured(AnnotatedOperation(XGate(), [PowerModifier(float("inf"))])),
        "not_finite",
    ),
    "long loop": (long_loop(range(10_001)), "loop_too_long"),
    "endless loop": (long_loop(range(2**62)), "loop_too_long"),
    "nested blocks": (nested(25), "too_deep"),
    "deeply nested blocks": (nested(60), "too_deep"),
    "nested gates": (nested_gates(25), "too_deep"),
    "nested expression": (nested_expression(70), "too_deep"),
    "deeply nested expression": (nested_expression(150), "too_deep"),
    "many qubits": (QuantumCircuit(257), "too_many_qubits"),
    "many clbits": (QuantumCircuit(1, 4097), "too_many_bits"),
    "metadata that is no number": (with_metadata(float("nan")), "not_finite"),
    "metadata beyond 64 bits": (with_metadata(2**64), "out_of_range"),
    "deep metadata": (with_metadata(deep(40)), "too_deep"),
    "long metadata": (with_metadata(["x" * 1000] * 100), "too_long"),
    "register that is no name": (with_register("a-b"), "register_name"),
    "register of a reserved name": (with_register("items"), "register_name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_circuit_beyond_the_limits_is_refused(name: str) -> None:
    circuit, reason = REFUSED[name]

    assert refusal(circuit) == reason


def test_operations_are_counted_through_definitions_and_loops() -> None:
    circuit = QuantumCircuit(1)
    wide = Instruction("wide", 1, 0, [])
    wide.definition = QuantumCircuit(1)
    for _ in range(10):
        wide.definition.x(0)
    with circuit.for_loop(range(10)):
        circuit.append(wide, [0])

    sampled(circuit, ProgramLimits(operations=111))

    assert refusal(circuit, ProgramLimits(operations=110)) == "too_many_operations"


BELL = qpy_bytes(bell(), version=17)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BELL[:-1], "circuit"),
        (BELL[:100], "circuit"),
        (BELL[:30], "circuit"),
        (b"", "circuit"),
        (b"QISKIT", "circuit"),
        (b"x" + BELL[1:], "circuit"),
        (BELL[:6] + bytes([12]) + BELL[7:], "qpy_version"),
        (BELL[:6] + bytes([1]) + BELL[7:], "qpy_version"),
        (BELL[:6] + bytes([19]) + BELL[7:], "qpy_version"),
        (qpy_bytes(bell(), bell()), "circuit"),
        (BELL[:10] + bytes(8) + BELL[18:], "circuit"),
        (BELL[:20] + b"\xff" * 8 + BELL[28:], "circuit"),
        # Four billion qubits, or bits.
        (BELL[:33] + b"\xff" * 4 + BELL[37:], "too_many_qubits"),
        (BELL[:37] + b"\xff" * 4 + BELL[41:], "too_many_bits"),
        (BELL.replace(b"HGate", b"__x__"), "reserved_name"),
        (BELL.replace(b"HGate", b"HGat_"), "circuit"),
    ],
)
def test_qpy_that_lies_is_refused(content: bytes, reason: str) -> None:
    assert refusal(content) == reason
