"""Does the benchmark run, so that the first hour with a GPU is not spent on it?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qiskit import QuantumCircuit

from app.executors.circuits.lowering import lower
from app.executors.engines.gates import GATES
from benchmarks.gpu import PARTS, Report, passes, read_aer

if TYPE_CHECKING:
    from tests.gpu.emulation import Emulation

ROOT = Path(__file__).parent.parent.parent
#: Without Aer's GPU build, and in no sandbox child, which would not find the emulation.
RUN_HERE = [part for part in PARTS if part not in ("aer", "sandbox", "crossover")]


def test_all_parts_run_on_the_emulation(libraries: Emulation) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--json", "--parts"]

    done = subprocess.run(
        [*command, ",".join(RUN_HERE)], cwd=ROOT, capture_output=True, check=True, timeout=120
    )

    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    told = {line["what"] for line in lines}
    assert told == {
        *("run", "engine", "correct", "correctness", "copy", "small circuit", "host"),
        *("QV", "QFT", "HEA", "sample", "paulis", "batch, per set", "largest state"),
        *("dense", "diagonal"),
    }
    assert [line["right"] for line in lines if line["what"] == "correct"] == [True] * 3
    assert not [line for line in lines if "left_out" in line or line.get("failed", "-") != "-"]


def test_aers_times_come_from_a_run_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Report(as_json=True, budget_s=1.0)
    for ms in (30.0, 20.0):
        other.add("QV with Aer", qubits=28, precision="double", custatevec=True, ms=ms)
    (tmp_path / "aer.jsonl").write_text(f"no GPU here\n{capsys.readouterr().out}")
    report = Report(as_json=False, budget_s=1.0)
    report.ours["QV", 28, "double"] = (0.013, 0.01)

    read_aer(report, tmp_path / "aer.jsonl")
    report.print_table()

    said = capsys.readouterr().out
    assert "| QV | 28 | double | 13 | 1.30 | 20 | 1.54 |" in said
    assert "above 1.4 × the floor: none of 1" in said
    assert "less than 2 × as fast as Aer: [('QV', 28, 'double')]" in said


@pytest.mark.parametrize(("width", "expected"), [(2, 7), (3, 4), (6, 1)])
def test_neighbouring_gates_are_fused_up_to_a_width(width: int, expected: int) -> None:
    circuit = QuantumCircuit(6)
    circuit.h(range(6))
    for qubit in range(5):
        circuit.cx(qubit, qubit + 1)
    circuit.swap(0, 5)

    assert passes(lower(circuit, GATES), width) == expected
