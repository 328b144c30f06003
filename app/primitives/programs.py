"""What is a program, once it is decoded, and what is its result? Frozen values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

#: ``program_id`` of an OpenQASM 3 task.
QASM3 = "qasm3"
#: ``program_id`` of a parse without a run: the answer of ``POST /tasks?validate=true``.
QASM3_CHECK = "qasm3-check"


@dataclass(frozen=True, kw_only=True)
class QasmProgram:
    """One OpenQASM 3 circuit to sample."""

    #: the sanitised circuit: every user-defined operation is renamed, every limit is checked.
    circuit: QuantumCircuit
    #: samples, 1 to ``ProgramLimits.shots``.
    shots: int
    #: RNG seed, or None: one is drawn and reported.
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the metadata half of a backend name stands for."""

    #: the metadata half, e.g. ``simulator``.
    name: str


@dataclass(frozen=True, kw_only=True)
class CountsResult:
    """What sampling one circuit gave."""

    #: bitstring → occurrences; leftmost character is the highest clbit, registers separated by one
    #: space, last declared register first, as Qiskit prints them.
    counts: dict[str, int]
    #: what ran and how: executor, method, effective shots and seed, versions.
    metadata: dict[str, object] = field(default_factory=dict)
