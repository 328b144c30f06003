"""Programs that are wrong on purpose, or want too much: each must be refused, quickly."""

from __future__ import annotations

HEAD = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'


def laughs(levels: int, modifier: str = "") -> str:
    """Gates that double with every level."""
    gates = ["gate g0 a { x a; }"]
    gates += [
        f"gate g{i} a {{ {modifier}g{i - 1} a; {modifier}g{i - 1} a; }}" for i in range(1, levels)
    ]
    return HEAD + "\n".join(gates) + f"\nqubit q; g{levels - 1} q;"


HOSTILE: list[str] = [
    laughs(21),
    laughs(24, "inv @ "),
    HEAD
    + "gate g0 a,b { x a; }"
    + "".join(f"gate g{i} a,b {{ pow(2) @ g{i - 1} a,b; }}" for i in range(1, 20))
    + "qubit[2] q; g19 q[0],q[1];",
    HEAD + "qubit q; " + "ctrl @ " * 30 + "x q;",
    HEAD + "qubit q; " + "pow(1000) @ " * 6 + "x q;",
    HEAD + "qubit q; gate g(a) q { rx(a) q; } g q;",
    HEAD + "qubit q; gate g q { x q; } g(1) q;",
    "qubit[10000000] q;",
    "qubit[100000000] q; ",
    "qubit[9223372036854775807] q;",
    "qubit[99999999999999999999999] q;",
    "qubit[-1] q;",
    "bit[100000000] c;",
    HEAD + "x $10000000;",
    HEAD + "measure $10000000;",
    HEAD + "qubit[256] q;" + "h q;" * 1000,
    HEAD
    + "gate g a,b,c,d,e,f,h1,i { x a; } qubit[8] q; pow(0.5) @ g q[0],q[1],q[2],q[3],q[4],q[5],q[6],q[7];",
    HEAD + "qubit q; for int i in [0:1000000000000] { x q; }",
    HEAD + "qubit q; for int i in [0:9223372036854775807] { x q; }",
    HEAD + "qubit q; for int i in [0:999] { for int j in [0:999] { x q; } }",
    HEAD + "qubit q; ctrl(1000000000) @ x q, q;",
    HEAD + "qubit q; rx(" + "9" * 100_000 + ") q;",
    HEAD + "qubit q; rx(0x" + "f" * 100_000 + ") q;",
    HEAD + "qubit q; rx(" + "(" * 10_000 + "1" + ")" * 10_000 + ") q;",
    HEAD + "qubit q; rx(" + "-" * 10_000 + "1) q;",
    HEAD + "qubit q; " + "{" * 10_000,
    HEAD + "qubit q; bit c; " + "if (c) {" * 1000 + "x q;" + "}" * 1000,
    HEAD + "qubit q; bit c; " + "if (c) " * 2000 + "x q;",
    HEAD + "qubit q; bit c; " + "if (c) { x q; } else " * 2000 + "{ x q; }",
    HEAD + "qubit q; x " + "q[" * 1000 + "0" + "]" * 1000 + ";",
    "(" * 1000,
    "[" * 100_000,
    ")" * 1000,
    "x y z;" * 1000,
    "/*" + "*" * 100_000,
    '"' + "a" * 100_000,
    "\x00",
    "qubit q;\x00",
    "qubit \u202eq;",
    "// \ud800",
    'include "/etc/passwd";',
    'include "../../secret";',
    'include "/proc/self/environ";',
    'include "/dev/zero";',
    "OPENQASM 1e-400;",
    "OPENQASM 99999999999999999999.0;",
    HEAD + "qubit q; rx(1e1e1) q;",
    HEAD + "qubit q; rx(2**2**30) q;",
    HEAD + "qubit q; rx(1 << 1000000000) q;",
    HEAD + "qubit q; delay[1e999ns] q;",
    HEAD + "#pragma anything",
    HEAD + "cal { anything }",
    HEAD + "defcal x $0 { }",
    HEAD + "qubit q; end;",
    "",
    " \n\t ",
    "qubit q; 😀;",
    HEAD + "input int[32] n; qubit q;",
]
