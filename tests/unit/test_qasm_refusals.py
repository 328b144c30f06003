"""Bad programs end in one error, quickly, with the place and what is allowed."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.config import ProgramLimits
from app.errors import InvalidProgram
from app.primitives.qasm.load import load_circuit
from tests.hostile import HEAD, HOSTILE, laughs

LIMITS = ProgramLimits()
CORPUS = Path(__file__).parent.parent / "corpora" / "mqt_bench"
#: What any refusal may take on a busy machine; nothing here needs a second of work.
QUICK_S = 10


def refusal(source: str, limits: ProgramLimits = LIMITS) -> InvalidProgram:
    began = time.monotonic()
    with pytest.raises(InvalidProgram) as caught:
        load_circuit(source, limits)
    assert time.monotonic() - began < QUICK_S
    return caught.value


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("OPENQASM 3.0;\nqubit q\nx q;", 3, 1),
        (HEAD + "qubit[2] q;\n  cx q[0], undefined[1];", 4, 12),
        (HEAD + "qubit q;\nnosuchgate q;", 4, 1),
        (HEAD + "qubit[2] q;\nx q[2];", 4, None),
        (HEAD + "qubit[2] q;\ncx q[0], q[0];", 4, None),
        (HEAD + "qubit q;\nrx q;", 4, None),
        (HEAD + "qubit q;\nrx(1, 2) q;", 4, None),
        (HEAD + "qubit q;\nx q, q;", 4, None),
        (HEAD + "qubit q;\nrx(1/0) q;", 4, None),
        (HEAD + "qubit q;\nrx(1e999) q;", 4, None),
        (HEAD + "qubit q;\nqubit q;", 4, None),
        (HEAD + "int i = 5;", 3, None),
        (HEAD + "def f(qubit q) { x q; }", 3, None),
        (HEAD + "extern f(int) -> int;", 3, None),
        (HEAD + "qubit q; bit c;\nc = 1;", 4, None),
        (HEAD + "output bit c;", 3, None),
        (HEAD + "qubit q;\nif (q) { x q; }", 4, None),
        (HEAD + "gate x a { U(0,0,0) a; }", 3, None),
        (HEAD + 'include "other.inc";', 3, None),
        (HEAD + 'defcalgrammar "openpulse";', 3, None),
        (HEAD + "qubit q;\n@reversible\nx q;", None, None),
        (HEAD + "bit[2] c;\nif (c == 9) { }", 4, None),
        (HEAD + "qubit[2] q;\nx q[0:3];", 4, None),
        (HEAD + "qubit[2] q;\nx q[0:0:1];", 4, None),
    ],
)
def test_a_fault_has_its_place(source: str, line: int | None, column: int | None) -> None:
    fault = refusal(source)
    assert fault.message
    assert not fault.message.startswith(("'", '"')) or " " in fault.message
    if line is not None:
        assert fault.line == line
        assert source.splitlines()[line - 1].startswith((fault.source_line or "?")[:10])
    if column is not None:
        assert fault.column == column


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("OPENQASM 3.0;\nqubit q;\nh q;", '`include "stdgates.inc";` brings it'),
        (HEAD + "qubit q;\nnosuchgate q;", "'nosuchgate' is not defined; define it"),
        (HEAD + "int i = 2;", "variables of type int cannot be read here; constants can"),
        (HEAD + "def f(qubit q) { x q; }", "subroutines (`def`) cannot be read here"),
        (HEAD + "bit c; c = 1;", "assignments other than of measurements"),
    ],
)
def test_what_is_not_read_is_named_in_words_of_the_language(source: str, told: str) -> None:
    assert told in refusal(source).message


def test_every_program_of_the_reference_is_read() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "openqasm.md"
    programs = re.findall(r"```qasm\n(.*?)```", page.read_text(), re.DOTALL)

    assert programs
    for program in programs:
        load_circuit(program, LIMITS)


def test_the_caret_stands_under_the_place() -> None:
    text = str(refusal(HEAD + "qubit[2] q;\n  cx q[0], undefined[1];"))
    message, source, caret = text.split("\n")
    assert source[len(caret) - 1 :].startswith("undefined")
    assert "line 4, column 12" in message


def test_a_long_line_is_cut_around_the_place() -> None:
    text = str(refusal(HEAD + "qubit q; " + "x q; " * 500 + "undefined q; " + "x q; " * 500))
    _, source, caret = text.split("\n")
    assert len(source) < 200
    assert source[len(caret) - 1 :].startswith("undefined")


def test_an_input_without_a_value_is_named() -> None:
    assert "theta" in refusal(HEAD + "input float theta; qubit q; rx(theta) q;").message


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "limits", "allowed"),
    [
        ("qubit q;" + " " * 1000, {"source_bytes": 1000}, "1000"),
        (HEAD + "qubit q;" + "x q;" * 100, {"statements": 50}, "50"),
        (HEAD + "qubit q;" + "x q;" * 100, {"tokens": 100}, "100"),
        (HEAD + "qubit q; rx(" + "(" * 20 + "1" + ")" * 20 + ") q;", {"bracket_depth": 10}, "10"),
        (HEAD + "qubit q; rx(" + "1+" * 50 + "1) q;", {"statement_operators": 20}, "20"),
        ("qubit " + "q" * 50 + ";", {"identifier_chars": 40}, "40"),
        (HEAD + "qubit q; rx(" + "1" * 50 + ") q;", {"number_chars": 40}, "40"),
        ("qubit[33] q;", {"qubits": 32}, "32"),
        ("qubit[20] a; qubit[20] b;", {"qubits": 32}, "32"),
        (HEAD + "x $40;", {"qubits": 32}, None),
        ("bit[33] c;", {"clbits": 32}, "32"),
        (HEAD + "gate a1 a {} gate a2 a {} gate a3 a {}", {"gate_definitions": 2}, "2"),
        (laughs(6), {"gate_depth": 3}, "3"),
        (laughs(9), {"gate_operations": 100}, "100"),
        (laughs(6) + "g5 q;" * 10, {"user_operations": 200}, "200"),
        (HEAD + "qubit[10] q;" + "h q;" * 20, {"operations": 100}, "100"),
        (HEAD + "qubit q; for int i in [0:100] { x q; }", {"loop_iterations": 50}, "50"),
        (HEAD + "qubit[4] q; ctrl(3) @ x q[0], q[1], q[2], q[3];", {"controls": 2}, "2"),
        (HEAD + "qubit q; pow(50) @ x q;", {"power": 10}, "10"),
        (
            HEAD + "gate g a, b, c { x a; x b; x c; } qubit[3] q; pow(0.5) @ g q[0], q[1], q[2];",
            {"power_qubits": 2},
            "2",
        ),
    ],
)
def test_every_limit_is_configurable_and_named(
    source: str, limits: dict[str, int], allowed: str | None
) -> None:
    load_circuit(source.replace("rx(" + "1" * 50, "rx(1"), LIMITS)
    message = refusal(source, ProgramLimits(**limits)).message
    assert allowed is None or allowed in message


@pytest.mark.parametrize(
    "source",
    HOSTILE,
    ids=lambda source: source.replace(HEAD, "")[:30].encode("ascii", "replace").decode(),
)
def test_a_hostile_program_is_refused_quickly(source: str) -> None:
    if not source.strip():
        assert load_circuit(source, LIMITS).num_qubits == 0
        return
    fault = refusal(source)
    assert fault.reason
    assert len(fault.message) < 1000


def test_a_file_that_is_included_is_never_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("the secret")
    fault = refusal(f'include "{canary}";')
    shown = capfd.readouterr()
    assert "the secret" not in str(fault) + shown.out + shown.err


def test_nothing_of_the_program_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for source in ("((((", "x y z", HEAD + "qubit q; \\ x q;", "£", "'"):
        refusal(source)
    assert capfd.readouterr() == ("", "")


# --- anything at all --------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "OPENQASM",
        "3.0",
        ";",
        "include",
        '"stdgates.inc"',
        "qubit",
        "bit",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "q",
        "c",
        "x",
        "h",
        "cx",
        "rx",
        "measure",
        "=",
        "==",
        "->",
        "reset",
        "if",
        "else",
        "while",
        "for",
        "in",
        "int",
        "float",
        "gate",
        "ctrl",
        "@",
        "inv",
        "pow",
        "0",
        "1",
        "2",
        "-1",
        "0.5",
        "1e9",
        "pi",
        ",",
        ":",
        "&",
        "&&",
        "||",
        "!",
        "~",
        "^",
        "def",
        "let",
        "++",
        "input",
        "const",
        "$0",
        "$1",
        "barrier",
        "delay",
        "10ns",
        "switch",
        "case",
        "default",
        "box",
        "end",
        "break",
        "/*",
        "*/",
        "//",
        '"',
        "\n",
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=40))
def test_any_mix_of_words_is_a_circuit_or_a_refusal(pieces: list[str]) -> None:
    check(" ".join(pieces))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=200))
def test_any_text_is_a_circuit_or_a_refusal(text: str) -> None:
    check(text)


@pytest.mark.parametrize("seed", range(8))
def test_a_mutated_program_is_a_circuit_or_a_refusal(seed: int) -> None:
    chance = random.Random(seed)
    sources = sorted(path for path in CORPUS.glob("*.qasm") if path.stat().st_size < 1000)
    for _ in range(25):
        text = list(chance.choice(sources).read_text())
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(text))
            text[place : place + chance.randint(0, 5)] = chance.choice('();[]{}0-q@=",:\n')
        check("".join(text))


def check(source: str) -> None:
    try:
        load_circuit(source, LIMITS)
    except InvalidProgram as fault:
        str(fault)


def test_a_deep_tower_of_gates_and_a_wide_power_are_read_quickly() -> None:
    began = time.monotonic()
    load_circuit(laughs(10), LIMITS)
    names = ", ".join(f"a{i}" for i in range(14))
    wide = f"gate w {names} {{ {' '.join(f'x a{i};' for i in range(14))} }} qubit[14] q;"
    calls = ", ".join(f"q[{i}]" for i in range(14))
    load_circuit(f"{HEAD}{wide} pow(3) @ w {calls};", LIMITS)
    assert time.monotonic() - began < QUICK_S
