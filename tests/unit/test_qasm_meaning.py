"""One meaning per program, and the right one: circuits are compared with what the language says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import Operator

from app.config import ProgramLimits
from app.errors import ExecutionError, InvalidProgram
from app.executors import Resources, registry
from app.primitives.programs import QasmProgram, Target
from app.primitives.qasm.load import load_circuit

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = ProgramLimits()
GATES = 'include "stdgates.inc";\n'
AER = registry.load("aer", Resources(threads=1, memory_bytes=2 << 30, max_result_bytes=1 << 20))


def load(source: str) -> QuantumCircuit:
    return load_circuit(source, LIMITS)


def unitary(body: str, qubits: int = 1) -> np.ndarray:
    matrix: np.ndarray = Operator(load(f"{GATES}qubit[{qubits}] q;\n{body}")).data
    return matrix


def expected(build: Callable[[QuantumCircuit], object], qubits: int = 1) -> np.ndarray:
    circuit = QuantumCircuit(qubits)
    build(circuit)
    matrix: np.ndarray = Operator(circuit).data
    return matrix


def counts(source: str, shots: int = 100) -> dict[str, int]:
    program = QasmProgram(circuit=load(source), shots=shots, seed=7)
    return dict(AER.run(program, Target(name="simulator")).counts)


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["", "OPENQASM 3;\n", "OPENQASM 3.0;\n", "\ufeffOPENQASM 3.0;\n"]
)
def test_every_header_in_the_wild_is_read(header: str) -> None:
    assert counts(f"{header}{GATES}qubit q; bit c; x q; c = measure q;") == {"1": 100}


def test_another_version_is_refused() -> None:
    with pytest.raises(InvalidProgram):
        load("OPENQASM 2.0;\nqreg q[1];")


# --- gates and angles -----------------------------------------------------------------------------


def test_gate_parameters_are_bound_in_order_of_declaration() -> None:
    body = "gate g(theta, phi) a { rx(theta) a; rz(phi) a; }\ng(0.1, 0.7) q[0];"
    found = unitary(body)
    assert np.allclose(found, expected(lambda c: (c.rx(0.1, 0), c.rz(0.7, 0))))
    body = "gate g(zeta, alpha) a { rx(zeta) a; rz(alpha) a; }\ng(0.1, 0.7) q[0];"
    assert np.allclose(unitary(body), found)


@pytest.mark.parametrize(
    ("body", "build"),
    [
        ("U(0.1, 0.2, 0.3) q[0];", lambda c: c.u(0.1, 0.2, 0.3, 0)),
        ("gphase(0.5); x q[0];", lambda c: (c.x(0), setattr(c, "global_phase", 0.5))),
        ("rx(pi/2) q[0];", lambda c: c.rx(math.pi / 2, 0)),
        ("rx(-0.5) q[0];", lambda c: c.rx(-0.5, 0)),
        ("rx(7/2) q[0];", lambda c: c.rx(3, 0)),
        ("rx(-7/2) q[0];", lambda c: c.rx(-3, 0)),
        ("rx(7.0/2) q[0];", lambda c: c.rx(3.5, 0)),
        ("rx(0x10) q[0];", lambda c: c.rx(16, 0)),
        ("rx(0b11) q[0];", lambda c: c.rx(3, 0)),
        ("rx(1_000) q[0];", lambda c: c.rx(1000, 0)),
        ("inv @ s q[0];", lambda c: c.sdg(0)),
        ("pow(-2) @ t q[0];", lambda c: c.sdg(0)),
        ("pow(0) @ x q[0];", lambda c: c.id(0)),
        (
            "gate f(a, b) q { rx(a) q; rz(b) q; } gate g(a, b) q { f(b, a) q; } g(0.1, 0.7) q[0];",
            lambda c: (c.rx(0.7, 0), c.rz(0.1, 0)),
        ),
        ("pow(2) @ t q[0];", lambda c: c.s(0)),
        ("pow(0.5) @ x q[0];", lambda c: c.sx(0)),
        ("id q[0];", lambda c: c.id(0)),
    ],
)
def test_one_qubit_operations(body: str, build: Callable[[QuantumCircuit], object]) -> None:
    found, wanted = unitary(body), expected(build)
    phase = found[np.abs(wanted) > 0.1][0] / wanted[np.abs(wanted) > 0.1][0]
    assert np.allclose(found, phase * wanted)


@pytest.mark.parametrize(
    ("body", "build"),
    [
        ("ctrl @ x q[0], q[1];", lambda c: c.cx(0, 1)),
        ("negctrl @ x q[0], q[1];", lambda c: (c.x(0), c.cx(0, 1), c.x(0))),
        ("ctrl(2) @ x q[0], q[1], q[2];", lambda c: c.ccx(0, 1, 2)),
        ("h q;", lambda c: c.h([0, 1, 2])),
        ("cx q[0:1], q[1:2];", lambda c: (c.cx(0, 1), c.cx(1, 2))),
        ("gate bell a, b { h a; cx a, b; }\nbell q[2], q[0];", lambda c: (c.h(2), c.cx(2, 0))),
        ("gate a1 a { x a; }\ngate b1 a { a1 a; a1 a; a1 a; }\nb1 q[1];", lambda c: c.x(1)),
        ("let a = q[1:2]; x a[0];", lambda c: c.x(1)),
        ("let a = q[0:0] ++ q[2:2]; x a[1];", lambda c: c.x(2)),
        ("for int i in [0:2] { x q[0]; }", lambda c: c.x(0)),
        ("for int i in {1, 5, 7, 9} { x q[0]; }", lambda c: c.id(0)),
    ],
)
def test_three_qubit_operations(body: str, build: Callable[[QuantumCircuit], object]) -> None:
    circuit = load(f"{GATES}qubit[3] q;\n{body}")
    while any(inst.name == "for_loop" for inst in circuit.data):
        from qiskit.transpiler.passes import UnrollForLoops

        circuit = UnrollForLoops()(circuit)
    assert np.allclose(Operator(circuit).data, expected(build, 3))


@pytest.mark.parametrize(
    ("slice_", "flipped"),
    [
        ("0:1", {0, 1}),
        ("-2:-1", {3, 4}),
        ("-1", {4}),
        ("3:-1:0", {0, 1, 2, 3}),
        ("0:2:4", {0, 2, 4}),
        (":", {0, 1, 2, 3, 4}),
        ("3:", {3, 4}),
        (":1", {0, 1}),
        ("{0, 3}", {0, 3}),
        ("4:-2:0", {0, 2, 4}),
    ],
)
def test_a_slice_names_the_bits_the_language_says(slice_: str, flipped: set[int]) -> None:
    bits = "".join("1" if i in flipped else "0" for i in reversed(range(5)))
    source = f"{GATES}qubit[5] q; bit[5] c; x q[{slice_}]; c = measure q;"
    assert counts(source) == {bits: 100}


# --- bits and registers ---------------------------------------------------------------------------


def test_registers_are_separated_and_the_last_one_stands_left() -> None:
    source = f"{GATES}qubit[3] q; bit[2] a; bit b; x q[0]; a[0] = measure q[0]; b = measure q[1];"
    assert counts(source) == {"0 01": 100}


def test_a_scalar_bit_is_a_register_of_one() -> None:
    circuit = load(f"{GATES}qubit q; bit c; c = measure q;")
    assert [(register.name, len(register)) for register in circuit.cregs] == [("c", 1)]
    assert all(circuit.find_bit(bit).registers for bit in circuit.clbits)


def test_slices_and_aliases_of_bits_make_no_register() -> None:
    source = f"{GATES}qubit[3] q; bit[3] c; x q[1]; let a = c[1:2]; a[0] = measure q[1];"
    source += " if (c[0:1] == 2) { x q[2]; } c[2] = measure q[2];"
    assert counts(source) == {"110": 100}


def test_a_bit_may_be_declared_with_its_measurement() -> None:
    assert counts(f"{GATES}qubit q; x q; bit c = measure q;") == {"1": 100}


# --- conditions -----------------------------------------------------------------------------------

PREPARED = f"{GATES}qubit[4] q; bit[3] c; bit d; bit out; x q[0]; x q[2]; c[0] = measure q[0];"
PREPARED += " c[1] = measure q[1]; c[2] = measure q[2];"  # c = 5, d = 0


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("c[0]", True),
        ("!c[0]", False),
        ("d", False),
        ("!d", True),
        ("c[0] == 1", True),
        ("c[1] == 1", False),
        ("c[1] == 0", True),
        ("c[0] == true", True),
        ("c[0] != 1", False),
        ("1 == c[0]", True),
        ("c == 5", True),
        ("c == 4", False),
        ("5 == c", True),
        ("c != 4", True),
        ("c < 6", True),
        ("c < 5", False),
        ("c >= 5", True),
        ("6 > c", True),
        ("c[0:1] == 1", True),
        ("c[1:2] == 1", False),
        ("c[1:2] != 1", True),
        ("c == 5 && !d", True),
        ("c == 4 || d", False),
        ("!(c == 4)", True),
    ],
)
def test_conditions(condition: str, holds: bool) -> None:
    source = f"{PREPARED} if ({condition}) {{ x q[3]; }} out = measure q[3];"
    assert counts(source) == {f"{int(holds)} 0 101": 100}


def test_else_runs_when_the_condition_does_not_hold() -> None:
    source = f"{PREPARED} if (c == 4) {{ }} else {{ x q[3]; }} out = measure q[3];"
    assert counts(source) == {"1 0 101": 100}


def test_a_loop_on_a_bit_that_was_never_measured_runs() -> None:
    source = f"{GATES}qubit q; bit c; x q; while (c == 0) {{ c = measure q; }}"
    assert counts(source) == {"1": 100}


# --- names that a simulator takes for its own -----------------------------------------------------

COLLIDING = [
    "h", "x", "sxdg", "r", "rzz", "ecr", "mcx", "kraus", "roerror", "qerror_loc", "diagonal",
    "multiplexer", "initialize", "set_statevector", "save_state", "mark", "jump", "snapshot",
    "unitary", "pauli", "delay_", "superop", "u", "cu3", "mcphase",
]  # fmt: skip


@pytest.mark.parametrize("name", COLLIDING)
def test_a_users_gate_means_what_the_user_wrote(name: str) -> None:
    source = (
        f"gate {name} a {{ U(pi, 0, pi) a; }}\nqubit[2] q; bit[2] c; {name} q[0]; c = measure q;"
    )
    assert counts(source) == {"01": 100}


@pytest.mark.parametrize("name", COLLIDING)
def test_a_users_gate_inside_a_block_means_what_the_user_wrote(name: str) -> None:
    source = (
        f"gate {name} a {{ U(pi, 0, pi) a; }}\ngate outer a {{ {name} a; }}\nqubit[2] q; bit[2] c;"
        f" if (!c[0]) {{ outer q[0]; }} c = measure q;"
    )
    assert counts(source) == {"01": 100}


def test_users_operations_have_names_no_simulator_knows() -> None:
    circuit = load("gate h a { U(0, 0, pi) a; }\nqubit q; h q;")
    (instruction,) = circuit.data
    assert instruction.name != "h"
    assert "h" in instruction.name


@pytest.mark.parametrize("angle", ["1/i", "i*1e308*10"])
def test_an_angle_without_a_value_in_some_turn_of_a_loop_is_refused(angle: str) -> None:
    source = f"{GATES}qubit q; bit c; for int i in [0:2] {{ rx({angle}) q; }} c = measure q;"
    with pytest.raises((InvalidProgram, ExecutionError)):
        counts(source)
