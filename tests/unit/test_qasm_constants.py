"""Constants and loops over them: the same circuit as the program written out by hand."""

from __future__ import annotations

import copy
import math
import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.quantum_info import Operator, Statevector
from qiskit.synthesis import synth_qft_full
from qiskit.transpiler.passes import UnrollForLoops

from app.config import ProgramLimits
from app.errors import InvalidProgram
from app.executors import Resources, registry
from app.primitives.programs import QasmProgram, Target
from app.primitives.qasm.load import load_circuit
from app.primitives.qasm.parser import parse
from app.primitives.qasm.unroll import unroll

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = ProgramLimits()
HEAD = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'
AER = registry.load("aer", Resources(threads=1, memory_bytes=2 << 30, max_result_bytes=1 << 20))
#: What any refusal may take on a busy machine.
QUICK_S = 10


def load(body: str, limits: ProgramLimits = LIMITS) -> QuantumCircuit:
    return load_circuit(HEAD + body, limits)


def refusal(body: str, limits: ProgramLimits = LIMITS) -> InvalidProgram:
    began = time.monotonic()
    with pytest.raises(InvalidProgram) as caught:
        load(body, limits)
    assert time.monotonic() - began < QUICK_S
    assert len(caught.value.message) < 500
    return caught.value


def value(expression: str, before: str = "") -> Any:
    """What a gate is given as its angle."""
    (instruction,) = load(f"{before} qubit q; rx({expression}) q;").data
    return instruction.params[0]


def holds(condition: str, before: str = "") -> bool:
    return bool(load(f"{before} qubit q; if ({condition}) {{ x q; }}").data)


def counts(body: str, shots: int = 100) -> dict[str, int]:
    program = QasmProgram(circuit=load(body), shots=shots, seed=7)
    return dict(AER.run(program, Target(name="simulator")).counts)


# --- programs, and what they are written out ------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "written_out"),
    [
        (
            ("const int n = 4; qubit[n] q; bit[n] c; h q[0];"
            " for int i in [0:n-2] { cx q[i], q[i+1]; } c = measure q;"),
            ("qubit[4] q; bit[4] c; h q[0]; cx q[0], q[1]; cx q[1], q[2]; cx q[2], q[3];"
            " c = measure q;"),
        ),
        (
            "const uint n = 3; qubit[n] q; for uint i in [n-1:-1:0] { rz(pi / 2 ** i) q[i]; }",
            "qubit[3] q; rz(pi / 4) q[2]; rz(pi / 2) q[1]; rz(pi) q[0];",
        ),
        (
            "qubit[6] q; for int i in {0, 2, 5} { x q[i]; }",
            "qubit[6] q; x q[0]; x q[2]; x q[5];",
        ),
        (
            "qubit[3] q; for int i in [0:2] for int j in [0:i] { if (i != j) cz q[i], q[j]; }",
            "qubit[3] q; cz q[1], q[0]; cz q[2], q[0]; cz q[2], q[1];",
        ),
        (
            ("qubit[3] q; for int i in [0:2] { if (i == 0) { h q[i]; } else if (i == 1)"
            " { y q[i]; } else { s q[i]; } }"),
            "qubit[3] q; h q[0]; y q[1]; s q[2];",
        ),
        (
            ("qubit[3] q; bit[3] c; for int i in [0:2] { c[i] = measure q[i];"
            " if (c[i] == 1) { x q[(i + 1) % 3]; } }"),
            ("qubit[3] q; bit[3] c; c[0] = measure q[0]; if (c[0] == 1) { x q[1]; }"
            " c[1] = measure q[1]; if (c[1] == 1) { x q[2]; }"
            " c[2] = measure q[2]; if (c[2] == 1) { x q[0]; }"),
        ),
        (
            "qubit[2] q; bit[2] c; c = measure q; for uint i in [0:1] { if (c == i) { x q[i]; } }",
            "qubit[2] q; bit[2] c; c = measure q; if (c == 0) { x q[0]; } if (c == 1) { x q[1]; }",
        ),
        (
            ("gate ladder(t) a { for int i in [1:3] { rz(t / 2 ** i) a; } for int k in {7, 9} x a; }"
            " qubit q; ladder(pi) q;"),
            ("gate ladder(t) a { rz(t / 2) a; rz(t / 4) a; rz(t / 8) a; x a; x a; }"
            " qubit q; ladder(pi) q;"),
        ),
        (
            ("const int n = 2; gate g(n) a { rx(n) a; } gate h2 a { rx(pi / n) a; }"
            " qubit q; g(0.5) q; h2 q;"),
            "gate g(n) a { rx(n) a; } gate h2 a { rx(pi / 2) a; } qubit q; g(0.5) q; h2 q;",
        ),
        (
            ("const int n = 3; qubit[n] q; ctrl(n - 1) @ x q[0], q[1], q[2]; pow(n) @ t q[0];"
            " for int i in [1:2] { pow(i) @ s q[i]; }"),
            ("qubit[3] q; ctrl(2) @ x q[0], q[1], q[2]; pow(3) @ t q[0]; pow(1) @ s q[1];"
            " pow(2) @ s q[2];"),
        ),
        (
            ("const int i = 7; qubit[8] q; for int i in [0:1] { x q[i]; const int k = i + 4;"
            " { const int i = 2; y q[i]; } z q[k]; } h q[i];"),
            "qubit[8] q; x q[0]; y q[2]; z q[4]; x q[1]; y q[2]; z q[5]; h q[7];",
        ),
        (
            'const bit[4] key = "0101"; qubit[4] q; for int i in [0:3] { if (key[i]) x q[i]; }',
            "qubit[4] q; x q[0]; x q[2];",
        ),
        (
            "const uint[4] a = 6; qubit[4] q; for uint i in [0:3] { if (bool(a[i])) x q[i]; }",
            "qubit[4] q; x q[1]; x q[2];",
        ),
        (
            ("qubit[2] q; for float a in {0.1, 0.2} { rx(a) q[0]; }"
            " for angle a in {pi, pi / 2} { rz(a) q[1]; } for bool b in {true, false}"
            " { if (b) { h q; } }"),
            "qubit[2] q; rx(0.1) q[0]; rx(0.2) q[0]; rz(pi) q[1]; rz(pi / 2) q[1]; h q;",
        ),
        (
            "const duration d = 100ns; qubit q; delay[d] q; for int i in [1:2] { delay[i * d] q; }",
            "qubit q; delay[100ns] q; delay[100ns] q; delay[200ns] q;",
        ),
        (
            ("qubit q; bit c; while (1 == 0) { x q; } if (c == 1 && true) { x q; }"
            " if (false && c) { y q; } if (c == 1 || true) { z q; }"),
            "qubit q; bit c; if (c == 1) { x q; } z q;",
        ),
        (
            ("qubit[5] q; for int i in [0:4] { if (i == 1) { continue; } if (i == 3) { break; }"
            " rx(pi / (i - 1)) q[i]; }"),
            "qubit[5] q; rx(-pi) q[0]; rx(pi) q[2];",
        ),
        (
            ("qubit q; bit c; for int i in [0:2] { x q; for int i in [0:1] { rx(i) q; }"
            " c = measure q; if (c) { break; } }"),
            ("qubit q; bit c; for int i in [0:2] { x q; rx(0) q; rx(1) q;"
            " c = measure q; if (c) { break; } }"),
        ),
        ("qubit q; for int i in [3:1] { rx(i) q; }", "qubit q;"),
        ("qubit q; for int unused in [0:3] { }", "qubit q;"),
        ("const int n = 2; box { for int i in [0:n-1] { x $0; rx(i) $0; } }",
         "box { x $0; rx(0) $0; x $0; rx(1) $0; }"),
    ],
)  # fmt: skip
def test_it_is_the_circuit_that_is_written_out(short: str, written_out: str) -> None:
    assert load(short) == load(written_out)


@pytest.mark.parametrize(
    ("short", "written_out"),
    [
        (
            (
                "for int i in [0:2] { let pair = q[i:i+1]; cx pair[0], pair[1]; }"
                " let pair = q[0:3:3]; h pair;"
            ),
            "cx q[0], q[1]; cx q[1], q[2]; cx q[2], q[3]; h q[0]; h q[3];",
        ),
        ("let a = q[2:3]; { let a = q[1:1]; x a; } { x q[0]; } y a;", "x q[1]; x q[0]; y q[2:3];"),
        (
            (
                "let a = q; for int i in [0:3] { let a = q[0:1]; if (i == 2) { break; } rx(i) a[1];"
                " } h a;"
            ),
            "rx(0) q[1]; rx(1) q[1]; h q;",
        ),
    ],
)
def test_an_alias_in_a_block_ends_with_it(short: str, written_out: str) -> None:
    registers = "qubit[4] q; "

    assert np.allclose(
        Operator(load(registers + short)).data, Operator(load(registers + written_out)).data
    )


def test_a_fourier_transform_of_loops_is_the_fourier_transform() -> None:
    circuit = load(
        "const int n = 5; qubit[n] q;"
        " for int i in [n-1:-1:0] { h q[i];"
        "   for int j in [i-1:-1:0] { cp(pi / 2 ** (i - j)) q[j], q[i]; } }"
        " for int i in [0:n/2-1] { swap q[i], q[n-1-i]; }"
    )

    assert np.allclose(Operator(circuit).data, Operator(synth_qft_full(5)).data)


@pytest.mark.parametrize(("a", "b"), [(1, 15), (7, 9), (15, 15), (0, 0), (5, 6)])
def test_the_ripple_carry_adder_of_the_specification_adds(a: int, b: int) -> None:
    found = counts(
        "gate majority a, b, c { cx c, b; cx c, a; ccx a, b, c; }"
        " gate unmaj a, b, c { ccx a, b, c; cx c, a; cx a, b; }"
        f" const uint[4] a_in = {a}; const uint[4] b_in = {b};"
        " qubit[1] cin; qubit[4] a; qubit[4] b; qubit[1] cout; bit[5] ans;"
        " for uint i in [0: 3] { if(bool(a_in[i])) x a[i]; if(bool(b_in[i])) x b[i]; }"
        " majority cin[0], b[0], a[0];"
        " for uint i in [0: 2] { majority a[i], b[i + 1], a[i + 1]; }"
        " cx a[3], cout[0];"
        " for uint i in [2: -1: 0] { unmaj a[i],b[i+1],a[i+1]; }"
        " unmaj cin[0], b[0], a[0];"
        " measure b[0:3] -> ans[0:3]; measure cout[0] -> ans[4];"
    )

    assert found == {f"{a + b:05b}": 100}


def test_a_state_prepared_by_loops_has_the_distribution_of_its_circuit() -> None:
    written = QuantumCircuit(4)
    for i in range(4):
        written.ry(math.asin(math.sqrt((i + 1) / 5)), i)
    for i in range(0, 3, 2):
        written.cx(i, i + 1)

    circuit = load(
        "const uint n = 4; qubit[n] q; for uint i in [0:n-1] { ry(arcsin(sqrt((i + 1) / 5.0)))"
        " q[i]; } for uint i in [0:2:n-1] { cx q[i], q[i+1]; }"
    )

    assert np.allclose(
        Statevector(circuit).probabilities(), Statevector(written).probabilities(), atol=1e-12
    )


def test_a_loop_that_a_measurement_ends_keeps_its_meaning() -> None:
    # The first turn measures 0, the second 1.
    body = (
        "qubit[2] q; bit c; bit[2] turns; for int i in [0:9] { rx(pi * i) q[0]; x q[1];"
        " c = measure q[0]; if (c) { break; } } turns = measure q;"
    )
    assert counts(body) == {"01 1": 100}


def test_a_loop_without_its_variable_stays_a_loop() -> None:
    circuit = load("const int n = 3; qubit[n] q; for uint i in [1:n] { for int j in [0:n-1]"
                   " { x q[j]; } }")  # fmt: skip

    (instruction,) = circuit.data
    assert instruction.name == "for_loop"
    assert len(instruction.operation.params[0]) == 3
    assert instruction.operation.blocks[0].count_ops()["x"] == 3


def test_the_tree_that_is_read_is_not_changed() -> None:
    program = parse(
        f"{HEAD} const int n = 4; qubit[n] q; bit c; for int i in [0:n-2] {{ if (i == 1) {{"
        " rx(pi / n) q[i]; } ctrl(n-3) @ x q[i], q[i+1]; c = measure q[i]; }"
    )
    before = copy.deepcopy(program)

    unroll(program, LIMITS)

    assert program == before


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("7 % 3", 1),
        ("-7 % 3", -1),
        ("2 ** 10", 1024),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("(-1) ** 1000000000000000000", 1),
        ("2 ** 62 - 1 + 2 ** 62", 2**63 - 1),
        ("1 << 4", 16),
        ("-8 >> 1", -4),
        ("6 & 3 | 8 ^ 1", 6 & 3 | 8 ^ 1),
        ("~5", -6),
        ("true + 2", 3),
        ("0x10 + 0b11 + 0o7 + 1_000", 16 + 3 + 7 + 1000),
        ("7 / 2.0", 3.5),
        ("2.0 ** -1", 0.5),
        ("2 ** 0.5", 2**0.5),
        ("pi / 2 ** 3", math.pi / 8),
        ("π / τ * ℇ", math.pi / math.tau * math.e),
        ("euler ** 2", math.pow(math.e, 2)),
        ("sin(pi / 6)", math.sin(math.pi / 6)),
        ("cos(1)", math.cos(1)),
        ("tan(0.5)", math.tan(0.5)),
        ("arccos(0.5) + arcsin(0.5) + arctan(2)", math.acos(0.5) + math.asin(0.5) + math.atan(2)),
        ("exp(1) + log(2) + sqrt(2)", math.exp(1) + math.log(2) + math.sqrt(2)),
        ("floor(-2.5)", -3.0),
        ("ceiling(-2.5)", -2.0),
        ("int(2.9) + int(-2.9) + int(true)", 1),
        ("float(7) / 2", 3.5),
        ("mod(7, 3)", 1),
        ("mod(-7, 3)", -1),
        ("mod(7.5, 2)", 1.5),
        ("popcount(uint[6](37))", 3),
        ("rotl(uint[6](37), 3)", 44),
        ("rotr(uint[6](37), -3)", 44),
        ("uint[4](int[4](-1))", 15),
        ("int[4](uint[4](15))", -1),
        ("~uint[4](5)", 10),
        ("uint[4](15) << 1", 14),
        ("uint[8](bit[8](uint[8](200)) & ~bit[8](uint[8](8)))", 192),
    ],
)
def test_expressions(expression: str, wanted: float) -> None:
    # Qiskit makes a float of every angle; integers are compared as what they are, too.
    assert value(expression) == float(wanted)
    if isinstance(wanted, int):
        assert holds(f"v == {wanted}", f"const int v = {expression};")
    else:
        assert refusal(f"const int v = {expression};").reason == "constant_type"


@pytest.mark.parametrize(
    ("declaration", "wanted"),
    [
        ("const int v = 4;", 4),
        ("const uint[3] v = 7;", 7),
        ("const float v = 4;", 4.0),
        ("const float[32] v = 0.1;", float(np.float32(0.1))),
        ("const int u = 2; const uint v = 3 * u;", 6),
        ("const angle v = -pi / 2;", 3 * math.pi / 2),
        ("const angle[4] v = 7 * (pi / 8);", 7 * math.pi / 8),
        ("const angle[4] v = 0.2;", math.tau / 16),
        ("const angle[8] v = 6.283185307179586 * (127. / 512.);", math.pi / 2),
        ("const angle[4] a = 7 * (pi / 8); const angle[4] b = pi / 8; const angle v = a + b;",
         math.pi),
        ("const angle[4] a = 7 * (pi / 8); const angle[4] b = pi / 8; const angle v = b - a;",
         5 * math.pi / 4),
        ("const angle[4] a = 7 * (pi / 8); const angle[4] v = a / 2;", 3 * math.pi / 8),
        ("const angle[4] c = 5 * (pi / 4); const angle[4] v = 2 * c;", math.pi / 2),
        ("const angle[4] c = 5 * (pi / 4); const angle[4] b = pi / 8; const uint v = c / b;", 10),
        ("const angle[4] a = pi / 4; const angle[4] v = -a;", 7 * math.pi / 4),
        ("const angle a = pi / 2; const float v = sin(a);", 1.0),
        ("const bool b = 2 > 1; const int v = int(b);", 1),
        ('const bit[4] b = "1010"; const uint[4] v = uint[4](rotl(b, 1));', 5),
    ],
)  # fmt: skip
def test_declarations(declaration: str, wanted: float) -> None:
    assert value("v", declaration) == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("1 < 2 && 2 <= 2", True),
        ("!(1 == 1.0)", False),
        ("3 > 4 || 4 >= 5", False),
        ("0 != 0 || true", True),
        ("0 == 1 && 1 / 0 == 0", False),
        ("a == pi", True),
        ("2 * a < a", True),
        ('b == "0101"', True),
        ("b[0] && !b[1] && b[-2]", True),
        ("5", True),
        ("0.0", False),
    ],
)
def test_conditions_that_are_constant(condition: str, wanted: bool) -> None:
    before = 'const angle a = pi; const bit[4] b = "0101";'
    assert holds(condition, before) is wanted


INT = range(-(2**63), 2**63)


def _combined(operator: str, left: tuple[str, int | None], right: tuple[str, int | None]) -> Any:
    """Text and exact value of an expression; None where there is none of 64 bits."""
    text = f"({left[0]} {operator} {right[0]})"
    a, b = left[1], right[1]
    if a is None or b is None or (operator in ("/", "%") and b == 0):
        return text, None
    if operator == "**" and (b < 0 or (b > 64 and abs(a) > 1)):
        return text, None
    exact: dict[str, Callable[[], int]] = {
        "+": lambda: a + b,
        "-": lambda: a - b,
        "*": lambda: a * b,
        "/": lambda: int(Fraction(a, b)),
        "%": lambda: a - b * int(Fraction(a, b)),
        "**": lambda: a ** (b if abs(a) > 1 else b % 2 + 2 * (b > 0)),
    }
    found = exact[operator]()
    return text, found if found in INT else None


INTEGERS = st.recursive(
    st.integers(-20, 2**40).map(lambda i: (f"({i})", i)),
    lambda inner: st.builds(
        _combined, st.sampled_from(["+", "-", "*", "/", "%", "**"]), inner, inner
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(INTEGERS)
def test_integers_are_exact_or_refused(drawn: tuple[str, int | None]) -> None:
    text, exact = drawn
    if exact is None:
        assert refusal(f"const int v = {text};").reason in (
            "number_too_large", "division_by_zero", "constant_type",
        )  # fmt: skip
    else:
        assert holds(f"v == {exact // 2} + {exact - exact // 2}", f"const int v = {text};")
        assert not holds(f"v != {exact}" if exact > INT[0] else "false", f"const int v = {text};")


FLOATS = st.recursive(
    st.floats(-1e6, 1e6).map(lambda f: (f"({f!r})", f)),
    lambda inner: st.one_of(
        st.builds(
            lambda o, a, b: (f"({a[0]} {o} {b[0]})", _in_python(o, a[1], b[1])),
            st.sampled_from("+-*/"),
            inner,
            inner,
        ),
        st.builds(
            lambda f, a: (f"{f}({a[0]})", getattr(math, f)(a[1]) if math.isfinite(a[1]) else a[1]),
            st.sampled_from(["sin", "cos"]),
            inner,
        ),
    ),
    max_leaves=8,
)


def _in_python(operator: str, a: float, b: float) -> float:
    """The value; not a number as soon as a part of the expression is not finite."""
    if operator == "/":
        found = a / b if b else math.nan
    else:
        found = {"+": a + b, "-": a - b, "*": a * b}[operator]
    return found if math.isfinite(found) and math.isfinite(a) and math.isfinite(b) else math.nan


@settings(max_examples=200, deadline=None)
@given(FLOATS)
def test_floats_are_those_of_ieee_754_or_refused(drawn: tuple[str, float]) -> None:
    text, wanted = drawn
    if math.isfinite(wanted):
        assert value("v", f"const float v = {text};") == wanted
    else:
        assert refusal(f"const float v = {text};").reason in ("not_finite", "division_by_zero")


# --- loops ----------------------------------------------------------------------------------------

QUBITS = 4


def _shift(names: list[str], draw: st.DrawFn) -> tuple[str, Callable[[dict[str, int]], int]]:
    """An integer expression of the loop variables around it."""
    name, factor, term = (
        draw(st.sampled_from(names)),
        draw(st.integers(-3, 3)),
        draw(st.integers(0, 5)),
    )
    return f"{factor} * {name} + {term}", lambda env: factor * env[name] + term


@st.composite
def blocks(draw: st.DrawFn, names: tuple[str, ...] = (), depth: int = 0) -> Any:
    """Text of a block, and a function from values of the variables to what it is written out."""
    parts: list[tuple[str, Callable[[dict[str, int]], str]]] = []
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["for", "for", "if", "gate"])) if depth < 3 else "gate"
        if kind == "gate" or (kind == "if" and not names):
            parts.append(_gates(draw, names))
        elif kind == "if":
            text, number = _shift(list(names), draw)
            inner, other = draw(blocks(names, depth + 1)), draw(blocks(names, depth + 1))
            parts.append((
                f"if (({text}) % 2 == 0) {{ {inner[0]} }} else {{ {other[0]} }}",
                lambda env, number=number, inner=inner, other=other: (
                    inner[1](env) if number(env) % 2 == 0 else other[1](env)
                ),
            ))  # fmt: skip
        else:
            parts.append(_loop(draw, names, depth))
    return " ".join(text for text, _ in parts), lambda env: " ".join(out(env) for _, out in parts)


def _gates(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[str, Callable[[dict[str, int]], str]]:
    if not names:
        return "h q[0];", lambda _: "h q[0];"
    text, number = _shift(list(names), draw)
    return (
        f"rx(({text}) * 0.25) q[mod(({text}) % {QUBITS} + {QUBITS}, {QUBITS})];",
        lambda env: f"rx({number(env) * 0.25!r}) q[{number(env) % QUBITS}];",
    )


def _loop(
    draw: st.DrawFn, names: tuple[str, ...], depth: int
) -> tuple[str, Callable[[dict[str, int]], str]]:
    name = draw(st.sampled_from(["i", "j", "k"]))
    inner = draw(blocks((*names, name), depth + 1))
    first: Callable[[dict[str, int]], int]
    if draw(st.booleans()):
        chosen = draw(st.lists(st.integers(-3, 6), min_size=1, max_size=3))
        text = "{" + ", ".join(map(str, chosen)) + "}"
        return (
            f"for int {name} in {text} {{ {inner[0]} }}",
            lambda env: " ".join(inner[1]({**env, name: i}) for i in chosen),
        )
    start, first = _shift(list(names), draw) if names else ("1", lambda _: 1)
    step, turns = draw(st.sampled_from([-2, -1, 1, 2, 3])), draw(st.integers(0, 3))
    # The end lies between two turns, so that it is not met exactly.
    end = f"{start} + {step * turns + (step > 1) - (step < -1) - (turns == 0) * step}"

    def written(env: dict[str, int]) -> str:
        begin = first(env)
        last = begin + step * turns + (step > 1) - (step < -1) - (turns == 0) * step
        values, i = [], begin
        while i <= last if step > 0 else i >= last:
            values.append(i)
            i += step
        return " ".join(inner[1]({**env, name: i}) for i in values)

    return f"for int {name} in [{start}:{step}:{end}] {{ {inner[0]} }}", written


def _flat(circuit: QuantumCircuit) -> QuantumCircuit:
    while any(instruction.name == "for_loop" for instruction in circuit.data):
        circuit = UnrollForLoops()(circuit)
    return circuit


@settings(max_examples=150, deadline=None)
@given(blocks())
def test_nested_loops_are_their_turns(drawn: tuple[str, Callable[[dict[str, int]], str]]) -> None:
    text, written = drawn
    registers = f"qubit[{QUBITS}] q; "

    assert _flat(load(registers + text)) == load(registers + written({}))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason", "at", "told"),
    [
        ("qubit[n] q; const int n = 4;", "not_constant", "[n] q", "'n' is not declared before it"),
        ("const int n = 4;\nconst int n = 5;", "redeclared", "const int n = 5", "already declared"),
        ("const int x = 4;", "redeclared", "const int x", "'x' is already declared, as a gate"),
        ("const int q = 1;\nqubit q;", "redeclared", "qubit q", "already declared"),
        ("qubit q;\nconst int q = 1;", "redeclared", "const int q", "already declared"),
        ("const float pi = 3;", "redeclared", "const float", "already declared"),
        ("gate g(a) b { const int a = 1; }", "redeclared", "const int a", "already declared"),
        ("const int n = 4;\n  n = 5;", "assigned_constant", "n = 5", "for good"),
        ("qubit q; for int i in [0:1] {\n i += 1; rx(i) q; }", "assigned_constant", "i += 1", "'i'"),
        ("int n = 4;", "variable", "int n", "constants can: `const int n = 4;`"),
        ("qubit q; for int x in [0:2] { x q; }", "not_a_gate", "x q;", "no gate"),
        ("qubit[2] q; for int q in [0:1] { h q; }", "not_a_qubit_or_bit", "q; }", "no qubit"),
        ("qubit[2] q; for int q in [0:1] { h q[0]; }", "not_a_qubit_or_bit", "q[0]", "no qubit"),
        ("qubit q; const int c = 1; c = measure q;", "not_a_qubit_or_bit", "c = m", "no qubit"),
        ("const int sin = 1; const float v = sin(1);", "not_a_function", "sin(1)", "no function"),
        ("const float v = sinh(1);", "function", "sinh", "arccos, arcsin"),
        ("const float v = sin(1, 2);", "function", "sin(", "takes 1 arguments; 2 are given"),
        ("gate g(a) q { rx(sin(a)) q; }", "not_constant", "sin(a)", "takes constants"),
        ("const int n = 2.5;", "constant_type", "const int", "write int(…)"),
        ("const complex n = 2;", "constant_type", "complex", "type complex"),
        ("const int[65] n = 2;", "constant_type", "int[65]", "1 to 64"),
        ("const float[8] n = 2;", "constant_type", "float[8]", "float[16], float[32], float[64]"),
        ("const uint n = 3 - 5;", "number_too_large", "const uint", "-2 does not fit uint: 0 to"),
        ("const int[8] n = 128;", "number_too_large", "const int", "-2^7 to 2^7 - 1"),
        ("const int n = 2 ** -1;", "constant_type", "2 **", "2.0 ** -1"),
        ("const angle a = pi; const angle b = a * 0.5;", "constant_type", "a * 0.5", "cast one"),
        ("qubit[2] q; x q[1.5];", "not_an_integer", "1.5", "int or uint"),
        ("qubit[2] q; x q[sqrt(1)];", "not_an_integer", "sqrt(1)", "of type float"),
        ("input int n; qubit[n] q;", "not_constant", "[n] q", "'n' is no constant"),
        ("qubit q; rx(true) q;", "not_an_angle", "true", "of type bool"),
        ("qubit[2] q; for int i in [0:2] {\n  x q[i];\n}", "semantic", None, "out of range"),
        ("qubit q; for int i in [2:-1:0] {\n  rx(pi / i) q;\n}", "division_by_zero", "pi / i", "zero"),
        ("qubit q; for int i in [0:n] { rx(i) q; }", "not_constant", "n] {", "'n' is not declared"),
        ("qubit q; for int i in [0:] { rx(i) q; }", "bad_range", "[0:]", "a start and an end"),
        ("qubit q; for int i in [0:0:5] { rx(i) q; }", "bad_range", "0:5", "not 0"),
        ("qubit q; for int i in [0:1.5:5] { rx(i) q; }", "not_an_integer", "1.5", "int or uint"),
        ("qubit q; for uint i in [-1:1] { rx(i) q; }", "number_too_large", "[-1:1]", "uint"),
        ("bit[2] c; for bit b in c { }", "bad_range", "c { }", "a range [a:b]"),
        ("qubit[2] q;\ngate g a { { let c = q[0:1]; x c; } }", "semantic", None, "q"),
        ("qubit q; bit c; for int i in [0:3] { pow(i) @ x q; c = measure q; if (c) { break; } }",
         "loop_variable", "i) @", "break or continue"),
        ("const bit b = 1; let a = b;", "semantic", "b;", "aliases must be of registers"),
        ("qubit q; if (true) { bit b; }", "local_bits", "bit b", "outside of blocks"),
        ("qubit q; while (1 < 2) { x q; }", "endless_loop", "while", "this one is constant"),
        ("qubit[4] q; bit c; for int i in [0:3] { x q[i]; c = measure q[0]; if (c) break; }",
         "loop_variable", "i]; c", "break or continue"),
        (("qubit[4] q; bit c; for int i in [0:3] { c = measure q[0]; if (c) { continue; }"
         " if (i == 1) { x q; } }"), "loop_variable", "i == 1", "break or continue"),
        ("qubit q; bit c; for int i in [0:3] { rx(i / 2) q; c = measure q; if (c) { break; } }",
         "semantic", "i / 2", "2.0"),
        ("@note\nconst int n = 4;", "annotation", None, "leave them out"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_its_place(
    body: str, reason: str, at: str | None, told: str
) -> None:
    fault = refusal(body)

    assert fault.reason == reason
    assert told in fault.message
    if at is not None:
        lines = (HEAD + body).splitlines()
        assert fault.line is not None
        assert fault.column is not None
        shown = lines[fault.line - 1][fault.column - 1 :]
        # A range begins at its bracket or at its first bound.
        assert shown.startswith((at, at.removeprefix("[")))


LOOP = "qubit q; for int i in [0:{turns}] {{ rx(i) q; }}"


def nested(depth: int, bounds: str, body: str = "rx(i0) q;") -> str:
    """Loops in loops; ``{before}`` in the bounds is the variable of the loop around."""
    loops = [
        f"for int i{k} in {bounds.format(before=f'i{k - 1}' if k else 9)} {{ " for k in range(depth)
    ]
    return "qubit q; bit c; " + "".join(loops) + body + "}" * depth


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (LOOP.format(turns=10**18), "loop_too_long"),
        (LOOP.format(turns="2 ** 62"), "loop_too_long"),
        (nested(60, "[0:9]"), "too_deep"),
        (nested(30, "[0:0]"), "too_deep"),
        (nested(2, "[0:9999]"), "too_many_operations"),
        (nested(20, "[0:9]"), "too_many_operations"),
        (nested(2, "[0:999]", "const int a = i0; const int b = i1; for int j in [0:b] rx(j) q;"),
         "too_many_operations"),
        (nested(20, "[0:{before}]"), "too_many_operations"),
        (nested(2, "[0:{before}]").replace("9]", "9999]", 1), "too_many_operations"),
        ("qubit[256] q; for int i in [0:999] { rx(i) q; }", "too_many_operations"),
        (nested(2, "[0:1]", "box { " + nested(2, "[0:9999]")[16:] + " }"), "too_many_operations"),
        ("gate g a { for int i in [0:9999] { rx(i) a; } } qubit q; g q;", "gate_too_large"),
        ("const int n = 2 ** 2 ** 2 ** 2 ** 2 ** 2 ** 2;", "number_too_large"),
        ("const int n = 9 ** 9 ** 9;", "number_too_large"),
        ("const int n = 1 << 1000000000;", "number_too_large"),
        ("const int n = 1 << -1;", "constant_type"),
        ("const uint n = uint[64](-1) * uint[64](-1);", "number_too_large"),
        ("const int n = 99999999999999999999;", "not_constant"),
        ("const int n = 1 / 0;", "division_by_zero"),
        ("const int n = 1 % 0;", "division_by_zero"),
        ("const float f = 1 / 0.0;", "division_by_zero"),
        ("const float f = mod(1.0, 0);", "division_by_zero"),
        ("const float f = 1e308 * 10;", "not_finite"),
        ("const float f = 1e999;", "not_finite"),
        ("const float f = exp(1e6);", "not_finite"),
        ("const float f = 10.0 ** 400;", "not_finite"),
        ("const float[16] f = 1e6;", "not_finite"),
        ("const float f = (-8) ** (1 / 3.0);", "constant_type"),
        ("const float f = sqrt(-1);", "function"),
        ("const float f = log(0);", "function"),
        ("const float f = arccos(2);", "function"),
        ("const int n = -3; qubit[n] q;", "bad_size"),
        ("const int n = 2 ** 40; qubit[n] q;", "too_many_qubits"),
        ("const int n = 2 ** 40; bit[n] c;", "too_many_bits"),
        ("qubit q; pow(1e9) @ x q;", "power_too_large"),
        ("const float f = 1e9; qubit q; pow(f) @ x q;", "power_too_large"),
        ("const int n = 1000000; qubit q; ctrl(n) @ x q, q;", "too_many_controls"),
        ('const bit[4] b = "0101"; const bit c = b[9];', "index"),
        ("const int n = n;", "not_constant"),
    ],
    ids=lambda text: str(text)[:40],
)  # fmt: skip
def test_hostile_programs_are_refused(body: str, reason: str) -> None:
    assert refusal(body).reason == reason


def test_loops_that_are_tried_again_in_every_loop_around_are_tried_once() -> None:
    body = "".join(f"for int i{k} in [0:0] {{ rx(i{k}) q; if (c) {{ break; }} " for k in range(20))
    began = time.monotonic()
    load(f"qubit q; bit c; {body}{'}' * 20}")
    assert time.monotonic() - began < QUICK_S


def test_a_long_quotient_of_a_parameter_is_read_once() -> None:
    began = time.monotonic()
    circuit = load(f"gate g(a) q {{ rx(a{' / 2.0 * 2.0' * 50}) q; }} qubit q; g(1.0) q;")

    assert time.monotonic() - began < QUICK_S
    assert np.allclose(Operator(circuit).data, Operator(load("qubit q; rx(1.0) q;")).data)


def test_statements_are_counted_before_they_are_made() -> None:
    # The include, the qubit, the loop, and a statement for each of its turns.
    assert len(load(LOOP.format(turns=96), ProgramLimits(operations=100)).data) == 97
    fault = refusal(LOOP.format(turns=97), ProgramLimits(operations=100))
    assert fault.reason == "too_many_operations"
    assert "100" in fault.message
    assert fault.column == LOOP.index("for") + 1


def test_turns_that_leave_nothing_are_counted_too() -> None:
    body = "if ({i} < 0) {{ continue; }} "
    loops = f"for int i in [0:99] {{ {body.format(i='i')} for int j in [0:99] {{ "
    program = f"qubit q; {loops} {body.format(i='j')} if (i < 0) {{ x q; }} }} }}"

    assert not load(program).data
    assert refusal(program, ProgramLimits(operations=2000)).reason == "too_many_operations"


def test_a_register_that_was_hidden_in_a_block_has_its_width_back() -> None:
    fault = refusal("qubit[200] q;\n{ let q = q[{0}]; }\n" + "h q;\n" * 1001)

    assert fault.reason == "too_many_operations"
    # Counted on the tree, where there are places, before a circuit was made.
    assert fault.line == 5 + 1000
