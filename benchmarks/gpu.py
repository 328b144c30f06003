"""Is the GPU executor right, and how close to the GPU's memory bandwidth is it?

``python -m benchmarks.gpu`` compares the engines with Qiskit first. Where there is a GPU, it then
times, in one run:

- the first and the second engine of a process
- one dense matrix of 1 to 7 qubits, on low, spread and high qubits, and diagonals
- quantum volume, QFT and a hardware-efficient ansatz of 20 to 32 qubits, by fusion width
- sampling and sums of Paulis
- the same circuits with the GPU build of Qiskit Aer, if that is what is installed

A pass reads and writes every amplitude once. The floor of a circuit is the passes it needs when
gates are fused greedily, at the bandwidth of a copy measured here. Where there is no GPU, only
correctness is shown, on an emulation of cuStateVec.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit.library import QFTGate, quantum_volume
from qiskit.circuit.random import random_circuit
from qiskit.quantum_info import Statevector

from app.executors import Resources
from app.executors.engines import Gate, devices
from app.executors.engines.branching import EngineCore
from app.executors.engines.custatevec import CustatevecEngine
from app.executors.engines.gates import GATES, SWAP, gate_of
from app.executors.engines.reference import NumpyEngine
from app.executors.lowering import lower
from app.executors.native import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.executors.engines import StateVectorEngine
    from app.executors.lowering import Step

AMPLITUDE_BYTES = {"single": 8, "double": 16}
#: what probabilities may be off by.
TOLERANCES = {"single": 1e-5, "double": 1e-11}
#: widest fused gate that is still bound by memory on an H200.
KNEES = {"single": 5, "double": 6}
TARGET_RATIO = 1.4
RESOURCES = Resources(threads=8, memory_bytes=4 << 30, max_result_bytes=32 << 20)


class Report:
    """What was measured, printed as it comes."""

    def __init__(self, *, as_json: bool, budget_s: float) -> None:
        self._as_json = as_json
        self._end = time.monotonic() + budget_s

    def add(self, what: str, **figures: Any) -> None:
        """Print one figure."""
        if self._as_json:
            print(json.dumps({"what": what, **figures}), flush=True)
            return
        shown = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in figures.items()
        )
        print(f"{what}: {shown}", flush=True)

    def has_time(self, reserve_s: float = 30.0) -> bool:
        """Whether the next measurement may begin."""
        return time.monotonic() + reserve_s < self._end


def circuit_of(kind: str, qubits: int, depth: int) -> QuantumCircuit:
    """Give one of the circuits that simulators are compared by."""
    if kind == "QV":
        return quantum_volume(qubits, depth, seed=1)
    circuit = QuantumCircuit(qubits)
    if kind == "QFT":
        circuit.append(QFTGate(qubits), range(qubits))
        return circuit.decompose()
    angles = np.random.default_rng(1).uniform(0, 6, (depth, 2, qubits))
    for layer in angles:
        for qubit in range(qubits):
            circuit.ry(layer[0, qubit], qubit)
            circuit.rz(layer[1, qubit], qubit)
        for qubit in range(qubits - 1):
            circuit.cx(qubit, qubit + 1)
    return circuit


def passes(steps: Sequence[Step], width: int) -> int:
    """Count the gates that are left when neighbours are fused greedily up to ``width`` qubits."""
    fused: list[set[int]] = []
    #: qubit → the last fused gate on it.
    last: dict[int, int] = {}
    for step in steps:
        if step.name == SWAP:
            continue
        qubits = set(step.qubits)
        earliest = max((last.get(qubit, -1) for qubit in qubits), default=-1)
        places = range(max(earliest, 0), len(fused))
        place = next((at for at in places if len(fused[at] | qubits) <= width), None)
        if place is None:
            place = len(fused)
            fused.append(set())
        fused[place] |= qubits
        for qubit in fused[place]:
            last[qubit] = max(place, last.get(qubit, -1))
    return len(fused)


def show_correctness(report: Report, engines: Sequence[StateVectorEngine]) -> bool:
    """Compare random circuits with Qiskit, and sampling with the reference."""
    all_right = True
    for engine in engines:
        worst = 0.0
        for seed in range(10):
            qubits = 2 + seed % 7
            circuit = random_circuit(qubits, 12, max_operands=min(4, qubits), seed=seed)
            found = EngineCore(engine).probabilities(_run(circuit), range(qubits))
            expected = Statevector(circuit).probabilities()
            worst = max(worst, float(abs(found - expected).max()))
        right = worst < TOLERANCES[engine.precision]
        reference = NumpyEngine(resources=RESOURCES)
        points = np.random.default_rng(1).random(4096)
        run = _run(circuit_of("QV", 10, 4))
        drawn = []
        for each in (engine, reference):
            EngineCore(each).probabilities(run, [0])
            drawn.append(each.sample([7, 2, 5, 0], points))
        report.add(
            "correct",
            engine=engine.name,
            precision=engine.precision,
            worst_probability=worst,
            right=right,
            same_shots=float(np.mean(drawn[0] == drawn[1])),
        )
        all_right = all_right and right
    return all_right


def _run(circuit: QuantumCircuit) -> Run:
    return Run(steps=lower(circuit, GATES), qubits=circuit.num_qubits, method="statevector", seed=1)


def median_s(work: Callable[[], object], times: int = 5) -> float:
    """Time some work, after it was done once."""
    work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def show_start(report: Report) -> None:
    """Time the first and the second engine of this process."""
    for which in ("first", "second"):
        started = time.perf_counter()
        engine = CustatevecEngine()
        engine.start(4)
        engine.apply(Gate(np.eye(2, dtype=np.complex128), (0,)))
        engine.wait()
        engine.close()
        report.add("engine", which=which, s=time.perf_counter() - started)


def copy_bandwidth(report: Report, qubits: int) -> float:
    """Measure bytes a second, read and written, of a copy in the GPU's memory."""
    engine = CustatevecEngine(precision="single")
    engine.start(qubits)

    def copy() -> None:
        engine.start(qubits, engine.keep())
        engine.wait()

    seconds = median_s(copy)
    engine.close()
    bandwidth = 2 * AMPLITUDE_BYTES["single"] * 2**qubits / seconds
    report.add("copy", qubits=qubits, ms=seconds * 1e3, tb_per_s=bandwidth / 1e12)
    return bandwidth


def show_matrices(report: Report, qubits: int, bandwidth: float) -> None:
    """Time one matrix at a time."""
    rng = np.random.default_rng(0)
    for precision, size in AMPLITUDE_BYTES.items():
        engine = CustatevecEngine(precision=precision)
        engine.start(qubits)

        def applied(gate: Gate, engine: CustatevecEngine = engine) -> None:
            engine.apply(gate)
            engine.wait()

        for width in range(1, 8):
            shape = (2**width, 2**width)
            unitary, _ = np.linalg.qr(rng.normal(size=shape) + 1j * rng.normal(size=shape))
            places = {
                "low": range(width),
                "spread": [round(each) for each in np.linspace(0, qubits - 1, width)],
                "high": range(qubits - width, qubits),
            }
            gates = {
                ("dense", where): Gate(np.ascontiguousarray(unitary), tuple(targets))
                for where, targets in places.items()
            }
            gates["diagonal", "low"] = Gate(np.exp(1j * np.arange(2.0**width)), tuple(range(width)))
            for (kind, where), gate in gates.items():
                if not report.has_time():
                    return
                seconds = median_s(partial(applied, gate))
                report.add(
                    kind,
                    precision=precision,
                    qubits=qubits,
                    width=width,
                    where=where,
                    ms=seconds * 1e3,
                    of_copy_bandwidth=2 * size * 2**qubits / seconds / bandwidth,
                )
        engine.close()


def show_circuits(report: Report, widths: Sequence[int], bandwidth: float) -> None:
    """Time whole circuits, from the first queued gate to the last one applied."""
    for qubits in widths:
        for kind, depth in (("QV", 30), ("QFT", 0), ("HEA", 10)):
            steps = lower(circuit_of(kind, qubits, depth), GATES)
            gates = [gate_of(step) for step in steps if step.name != SWAP]
            for precision, size in AMPLITUDE_BYTES.items():
                least = passes(steps, KNEES[precision]) * 2 * size * 2**qubits / bandwidth
                for fusion in (None, 4, 5, 6):
                    if not report.has_time():
                        return
                    seconds = _circuit_s(precision, fusion, qubits, gates)
                    report.add(
                        kind,
                        qubits=qubits,
                        gates=len(gates),
                        precision=precision,
                        fusion=fusion or "default",
                        ms=seconds * 1e3,
                        floor_ms=least * 1e3,
                        of_floor=seconds / least,
                        target_met=seconds / least <= TARGET_RATIO if qubits >= 28 else "-",
                    )
        show_aer(report, qubits)


def _circuit_s(precision: str, fusion: int | None, qubits: int, gates: Sequence[Gate]) -> float:
    engine = CustatevecEngine(precision=precision, fusion=fusion, threads=8)

    def once() -> None:
        engine.start(qubits)
        for gate in gates:
            engine.apply(gate)
        engine.wait()

    seconds = median_s(once, 3)
    engine.close()
    return seconds


def show_aer(report: Report, qubits: int) -> None:
    """Time the same circuits with Qiskit Aer on the GPU, if its build can use one."""
    from qiskit_aer import AerSimulator

    if "GPU" not in AerSimulator().available_devices():
        return
    for kind, depth in (("QV", 30), ("QFT", 0), ("HEA", 10)):
        circuit = circuit_of(kind, qubits, depth)
        circuit.measure_all()
        for precision in AMPLITUDE_BYTES:
            for library in (True, False):
                if not report.has_time():
                    return
                simulator = AerSimulator(
                    method="statevector",
                    device="GPU",
                    precision=precision,
                    cuStateVec_enable=library,
                )
                simulator.run(circuit, shots=1).result()
                result = simulator.run(circuit, shots=1).result()
                report.add(
                    f"{kind} with Aer",
                    qubits=qubits,
                    precision=precision,
                    custatevec=library,
                    ms=result.results[0].time_taken * 1e3,
                )


def show_readings(report: Report, qubits: int) -> None:
    """Time sampling, and sums of Paulis beside one call for each."""
    engine = CustatevecEngine(precision="single")
    rng = np.random.default_rng(0)
    engine.start(qubits)
    for step in lower(circuit_of("HEA", qubits, 1), GATES):
        engine.apply(gate_of(step))
    for shots in (10**3, 10**4, 10**5, 10**6):
        if not report.has_time():
            return
        points = rng.random(shots)
        seconds = median_s(partial(engine.sample, range(qubits), points), 3)
        report.add("sample", qubits=qubits, shots=shots, ms=seconds * 1e3)
    for terms in (1, 10, 100, 1000):
        if not report.has_time():
            return
        paulis = [
            {int(qubit): "XYZ"[rng.integers(3)] for qubit in rng.permutation(qubits)[:4]}
            for _ in range(terms)
        ]
        together = median_s(partial(engine.expectations, paulis), 3)
        report.add("paulis", qubits=qubits, terms=terms, ms=together * 1e3)
    apart = median_s(lambda: [engine.expectations([pauli]) for pauli in paulis[:100]], 1)
    report.add("paulis one by one", qubits=qubits, terms=100, ms=apart * 1e3)
    engine.close()


def show_without_gpu(report: Report, reason: str) -> bool:
    """Show that the engines are right, cuStateVec's on an emulation of the library."""
    from tests.gpu.emulation import Emulation, build, missing

    print(f"no GPU here: correctness only ({reason})")
    engines: list[StateVectorEngine] = [NumpyEngine(resources=RESOURCES)]
    lacking = missing()
    if lacking is not None:
        print(f"the engine of cuStateVec is left out: {lacking}")
        return show_correctness(report, engines)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        Emulation(Path(folder))
        engines += [CustatevecEngine(precision=precision) for precision in AMPLITUDE_BYTES]
        return show_correctness(report, engines)


def main() -> None:
    """Measure what can be measured here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds")
    parser.add_argument("--qubits", type=int, default=30, help="of matrices, sampling and Paulis")
    arguments = parser.parse_args()
    report = Report(as_json=arguments.json, budget_s=arguments.budget)
    try:
        gpus = devices.find()
    except devices.NoGpu as exc:
        raise SystemExit(0 if show_without_gpu(report, str(exc)) else 1) from exc
    report.add("machine", gpus=[gpu.name for gpu in gpus], date=datetime.now(UTC).isoformat())
    engines = [CustatevecEngine(precision=precision) for precision in AMPLITUDE_BYTES]
    right = show_correctness(report, [NumpyEngine(resources=RESOURCES), *engines])
    largest = engines[1].largest_qubits
    for engine in engines:
        engine.close()
    if not right:
        raise SystemExit("the engines are not right; nothing else is measured")
    qubits = min(arguments.qubits, largest - 1)
    show_start(report)
    bandwidth = copy_bandwidth(report, qubits)
    show_circuits(report, [n for n in (20, 24, 28, 30, 32) if n <= largest], bandwidth)
    show_matrices(report, qubits, bandwidth)
    show_readings(report, qubits)


if __name__ == "__main__":
    main()
