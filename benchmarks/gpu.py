"""Is the GPU executor right, and how close to the GPU's memory bandwidth is it?

``python -m benchmarks.gpu`` compares the engines with Qiskit first. Where there is a GPU, it then
measures, besides the start of the library, in one run and in this order:

- ``host``: what a small circuit takes, and each gate before it reaches the GPU
- ``circuits``: quantum volume, QFT and a hardware-efficient ansatz of 20 to 32 qubits, by fusion
  width and threads of the host
- ``aer``: the same circuits with the GPU build of Qiskit Aer, if that is what is installed
- ``readings``: sampling and sums of Paulis
- ``batches``: parameter sets side by side, and one by one
- ``limits``: the largest state that there is memory for, and whether it can be read
- ``matrices``: one dense matrix of 1 to 7 qubits, on low, spread and high qubits, and diagonals
- ``crossover``: from how many qubits on the GPU is quicker than Aer on the CPU
- ``sandbox``: a job in a confined child

A pass reads and writes every amplitude once. The floor of a circuit is the passes it needs when
gates are fused greedily, at the bandwidth of a copy measured here. Where there is no GPU, only
correctness is shown, on an emulation of cuStateVec; ``--dry`` runs everything there, in small.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library import QFTGate, quantum_volume
from qiskit.circuit.random import random_circuit
from qiskit.quantum_info import Pauli, Statevector

from app.errors import ServiceError
from app.executors import Resources
from app.executors.circuits.angles import Angles
from app.executors.circuits.lowering import lower
from app.executors.engines import Gate, bindings, devices
from app.executors.engines.branching import EngineCore
from app.executors.engines.custatevec import CustatevecEngine
from app.executors.engines.gates import GATES, SWAP, gate_of
from app.executors.engines.reference import NumpyEngine
from app.executors.native import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.executors.circuits.lowering import Step
    from app.executors.engines import StateVectorEngine

AMPLITUDE_BYTES = {"single": 8, "double": 16}
#: what probabilities and expectation values may be off by.
TOLERANCES = {"single": 1e-5, "double": 1e-11}
#: widest fused gate that is still bound by memory on an H200.
KNEES = {"single": 5, "double": 6}
#: of circuits, against the floor, from so many qubits on; and how much quicker than Aer on the GPU.
TARGET_RATIO, TARGET_QUBITS, TARGET_SPEEDUP = 1.4, 28, 2.0
#: name → depth.
CIRCUITS = {"QV": 30, "QFT": 0, "HEA": 10}
RESOURCES = Resources(threads=8, memory_bytes=4 << 30, max_result_bytes=32 << 20)
#: A measurement is begun if four runs at so many times the floor still fit.
PESSIMISM = 5


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is."""

    #: of states for matrices, sampling, Paulis and copies.
    qubits: int
    #: of circuits.
    widths: tuple[int, ...]
    #: of circuits whose parameter sets run side by side, and how many sets.
    batched: tuple[int, ...]
    sets: int
    #: samples, and terms of observables.
    shots: tuple[int, ...]
    terms: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How gates are fused."""

    #: qubits; None: as the library likes.
    fusion: int | None = None
    #: of the host.
    threads: int = 8


REAL = Sizes(
    qubits=30,
    widths=(20, 24, 28, 30, 32),
    batched=(11, 12, 13, 14, 16),
    sets=1000,
    shots=(10**3, 10**4, 10**5, 10**6),
    terms=(1, 10, 100, 1000),
)
#: For an emulation of the library, which is slow.
DRY = Sizes(qubits=8, widths=(6, 7), batched=(3, 4), sets=20, shots=(100, 1000), terms=(1, 10))


class Report:
    """What was measured, printed as it comes."""

    def __init__(self, *, as_json: bool, budget_s: float) -> None:
        self._as_json = as_json
        self._end = time.monotonic() + budget_s
        #: circuit, qubits, precision → best seconds, and the floor.
        self.ours: dict[tuple[str, int, str], tuple[float, float]] = {}
        #: the same → best seconds of Aer on the GPU.
        self.aers: dict[tuple[str, int, str], float] = {}

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

    def has_time(self, needed_s: float = 10.0) -> bool:
        """Whether a measurement of so many seconds may begin."""
        return time.monotonic() + needed_s < self._end

    def note_aer(self, key: tuple[str, int, str], seconds: float) -> None:
        """Remember a time of Aer's GPU build, for the table."""
        self.aers[key] = min(self.aers.get(key, seconds), seconds)

    def print_table(self) -> None:
        """Print the circuits as a table in Markdown, the best fusion of each."""
        print(
            "\n| circuit | qubits | precision | ms | of the floor | Aer's GPU build, ms | ratio |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for key in sorted(self.ours):
            seconds, floor = self.ours[key]
            aer = self.aers.get(key)
            beside = "– | –" if aer is None else f"{aer * 1e3:.3g} | {aer / seconds:.2f}"
            kind, qubits, precision = key
            print(
                f"| {kind} | {qubits} | {precision} | {seconds * 1e3:.4g} |"
                f" {seconds / floor:.2f} | {beside} |"
            )
        wanted = {key: each for key, each in self.ours.items() if key[1] >= TARGET_QUBITS}
        missed = [key for key, (s, floor) in wanted.items() if s > TARGET_RATIO * floor]
        slow = [
            key
            for key, (s, _) in wanted.items()
            if key[0] != "QFT" and key in self.aers and self.aers[key] < TARGET_SPEEDUP * s
        ]
        print(f"\nabove {TARGET_RATIO} × the floor: {missed or 'none'} of {len(wanted)}")
        print(f"less than {TARGET_SPEEDUP:g} × as fast as Aer: {slow or 'none'}, where compared")


def circuit_of(kind: str, qubits: int) -> QuantumCircuit:
    """Give one of the circuits that simulators are compared by."""
    depth = CIRCUITS[kind]
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
    """Compare with Qiskit; and, as it may differ, the order of wires and that of samples."""
    all_right = True
    for engine in engines:
        worst = _worst_error(engine)
        right = worst < TOLERANCES[engine.precision]
        points = np.random.default_rng(1).random(4096)
        run = _run(quantum_volume(10, 4, seed=1))
        drawn = []
        for each in (engine, NumpyEngine(resources=RESOURCES)):
            EngineCore(each).probabilities(run, [0])
            drawn.append(each.sample([7, 2, 5, 0], points))
        order: object = "-"
        if isinstance(engine, CustatevecEngine):
            engine.start(10)
            for step in run.steps:
                engine.apply(gate_of(step))
            order = engine.wire_order() == list(range(10))
        report.add(
            "correct",
            engine=engine.name,
            precision=engine.precision,
            worst_error=worst,
            right=right,
            same_shots=float(np.mean(drawn[0] == drawn[1])),
            wires_stay_in_order=order,
        )
        all_right = all_right and right
    return all_right


def _worst_error(engine: StateVectorEngine) -> float:
    """Give the worst error of probabilities, Paulis, copies and states side by side."""
    core, errors = EngineCore(engine), []
    for seed in range(10):
        rng, qubits = np.random.default_rng(seed), 2 + seed % 7
        circuit = random_circuit(qubits, 12, max_operands=min(4, qubits), seed=seed)
        state = Statevector(circuit)
        found = core.probabilities(_run(circuit), range(qubits))
        errors.append(abs(found - state.probabilities()).max())
        labels = ["".join(rng.choice(list("IXYZ"), qubits)) for _ in range(5)]
        values = core.expectations(_run(circuit), [_pauli(label) for label in labels])
        expected = [state.expectation_value(Pauli(label)).real for label in labels]
        errors.append(abs(values - expected).max())
        kept = engine.keep()
        engine.apply(Gate(np.array([1, 0], dtype=np.complex128), (0,)))
        engine.start(qubits, kept)
        errors.append(abs(engine.probabilities(range(qubits)) - found).max())
    if isinstance(engine, CustatevecEngine):
        errors.append(_side_by_side_error(engine))
    return float(max(errors))


def _side_by_side_error(engine: CustatevecEngine) -> float:
    steps, angles = _swept(5)
    values = np.random.default_rng(2).uniform(0, 6, (7, 5))
    paulis = [_pauli(label) for label in ("IXYIZ", "ZZIII", "YIIIY", "IIIII")]
    found = engine.batch_expectations(steps, 5, angles.at(values), paulis)
    chances = engine.batch_probabilities(steps, 5, angles.at(values), range(5))
    reference = NumpyEngine(resources=RESOURCES)
    worst = 0.0
    for index, each in enumerate(values):
        _apply_at(reference, 5, each)
        worst = max(worst, float(abs(found[:, index] - reference.expectations(paulis)).max()))
        exact = reference.probabilities(range(5))
        worst = max(worst, float(abs(chances[index] - exact).max()))
    return worst


def _pauli(label: str) -> dict[int, str]:
    return {qubit: each for qubit, each in enumerate(reversed(label)) if each != "I"}


def _swept_circuit(qubits: int) -> QuantumCircuit:
    """Three layers with a parameter for each qubit."""
    circuit = QuantumCircuit(qubits)
    parameters = [Parameter(f"p{qubit:02}") for qubit in range(qubits)]
    for _ in range(3):
        for qubit, parameter in enumerate(parameters):
            circuit.ry(parameter, qubit)
        for qubit in range(qubits - 1):
            circuit.cx(qubit, qubit + 1)
    return circuit


def _swept(qubits: int) -> tuple[list[Step], Angles]:
    circuit = _swept_circuit(qubits)
    angles = Angles(circuit.parameters)
    return lower(circuit, GATES, angles), angles


def _apply_at(engine: StateVectorEngine, qubits: int, values: Sequence[float]) -> None:
    engine.start(qubits)
    for step in lower(_swept_circuit(qubits).assign_parameters(values), GATES):
        engine.apply(gate_of(step))


def _run(circuit: QuantumCircuit) -> Run:
    return Run(steps=lower(circuit, GATES), qubits=circuit.num_qubits, method="statevector", seed=1)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_s(work: Callable[[], object], times: int = 5) -> float:
    """Time some work, after it was done once; if that took long, once more only."""
    if _seconds(work) > 2:
        times = 1
    return statistics.median(_seconds(work) for _ in range(times))


def show_engines(report: Report) -> None:
    """Time the first and the second engine of this process."""
    for which in ("first", "second"):
        started = time.perf_counter()
        engine = CustatevecEngine()
        engine.start(4)
        engine.apply(Gate(np.eye(2, dtype=np.complex128), (0,)))
        engine.wait()
        engine.close()
        report.add("engine", which=which, s=time.perf_counter() - started)


def show_host(report: Report, _sizes: Sizes, _bandwidth: float) -> None:
    """Time what does not depend on the GPU's memory: a small circuit, and gates on the host."""
    engine, run = CustatevecEngine(), _run(quantum_volume(12, 4, seed=1))
    points = np.random.default_rng(1).random(1024)

    def sampled() -> None:
        EngineCore(engine).probabilities(run, [0])
        engine.sample(range(12), points)

    report.add("small circuit", qubits=12, shots=1024, ms=median_s(sampled, 20) * 1e3)
    circuit = circuit_of("HEA", 20)
    lowering = median_s(lambda: lower(circuit, GATES))
    gates = _gates(circuit)
    engine.start(20)
    queueing = _seconds(lambda: [engine.apply(gate) for gate in gates])
    engine.close()
    report.add(
        "host",
        lowering_us_per_gate=lowering / len(gates) * 1e6,
        queueing_us_per_gate=queueing / len(gates) * 1e6,
    )


def _gates(circuit: QuantumCircuit) -> list[Gate]:
    return [gate_of(step) for step in lower(circuit, GATES) if step.name != SWAP]


def copy_bandwidth(report: Report, sizes: Sizes) -> float:
    """Measure bytes a second, read and written, of a copy in the GPU's memory."""
    engine = CustatevecEngine(precision="single")
    engine.start(sizes.qubits)

    def copy() -> None:
        engine.start(sizes.qubits, engine.keep())
        engine.wait()

    seconds = median_s(copy)
    engine.close()
    bandwidth = 2 * AMPLITUDE_BYTES["single"] * 2**sizes.qubits / seconds
    report.add("copy", qubits=sizes.qubits, ms=seconds * 1e3, tb_per_s=bandwidth / 1e12)
    return bandwidth


def show_circuits(report: Report, sizes: Sizes, bandwidth: float) -> None:
    """Time whole circuits, from the first queued gate to the last one applied."""
    # As the library likes it first, so that a short time suffices for the targets.
    for way in (
        Way(),
        Way(fusion=6),
        Way(fusion=5),
        Way(fusion=4),
        Way(threads=1),
        Way(threads=16),
    ):
        # Other ways are worth a comparison, but not at widths that take most of the time.
        widths = sizes.widths if way == Way() else [n for n in sizes.widths if n <= sizes.qubits]
        for qubits in widths:
            for kind in CIRCUITS:
                _show_circuit(report, kind, qubits, way, bandwidth)


def _show_circuit(report: Report, kind: str, qubits: int, way: Way, bandwidth: float) -> None:
    circuit = circuit_of(kind, qubits)
    steps, gates = lower(circuit, GATES), _gates(circuit)
    for precision, size in AMPLITUDE_BYTES.items():
        floor = passes(steps, KNEES[precision]) * 2 * size * 2**qubits / bandwidth
        if not report.has_time(4 * PESSIMISM * floor + 5):
            report.add(kind, qubits=qubits, precision=precision, left_out="no time")
            continue
        try:
            seconds = _circuit_s(precision, way, qubits, gates)
        except ServiceError as exc:
            report.add(kind, qubits=qubits, precision=precision, left_out=str(exc))
            continue
        key = (kind, qubits, precision)
        report.ours[key] = min(report.ours.get(key, (seconds, floor)), (seconds, floor))
        report.add(
            kind,
            qubits=qubits,
            gates=len(gates),
            precision=precision,
            fusion=way.fusion or "default",
            threads=way.threads,
            ms=seconds * 1e3,
            floor_ms=floor * 1e3,
            of_floor=seconds / floor,
        )


def _circuit_s(precision: str, way: Way, qubits: int, gates: Sequence[Gate]) -> float:
    engine = CustatevecEngine(precision=precision, fusion=way.fusion, threads=way.threads)

    def once() -> None:
        engine.start(qubits)
        for gate in gates:
            engine.apply(gate)
        engine.wait()

    try:
        return median_s(once, 3)
    finally:
        engine.close()


def show_aer(report: Report, sizes: Sizes, bandwidth: float) -> None:
    """Time the same circuits with Qiskit Aer on the GPU, if its build can use one.

    Its times include that of reading one shot, which is less than a pass.
    """
    from qiskit_aer import AerSimulator

    if "GPU" not in AerSimulator().available_devices():
        report.add("aer", left_out="the Qiskit Aer that is installed is not its GPU build")
        return
    for qubits in sizes.widths:
        for kind in CIRCUITS:
            circuit = circuit_of(kind, qubits)
            gates = len(circuit)
            circuit.measure_all()
            for precision, size in AMPLITUDE_BYTES.items():
                worst = 2 * gates * 2 * size * 2**qubits / bandwidth
                for library in (True, False):
                    if report.has_time(worst + 5):
                        _show_aer(report, (kind, qubits, precision), circuit, library=library)


def _show_aer(
    report: Report, key: tuple[str, int, str], circuit: QuantumCircuit, *, library: bool
) -> None:
    from qiskit_aer import AerSimulator

    kind, qubits, precision = key
    simulator = AerSimulator(
        method="statevector", device="GPU", precision=precision, cuStateVec_enable=library
    )
    simulator.run(circuit, shots=1).result()
    result = simulator.run(circuit, shots=1).result()
    if not result.success:
        report.add(f"{kind} with Aer", qubits=qubits, precision=precision, left_out=result.status)
        return
    seconds = result.results[0].time_taken
    report.note_aer(key, seconds)
    report.add(
        f"{kind} with Aer",
        qubits=qubits,
        precision=precision,
        custatevec=library,
        ms=seconds * 1e3,
    )


def show_matrices(report: Report, sizes: Sizes, bandwidth: float) -> None:
    """Time one matrix at a time."""
    rng, qubits = np.random.default_rng(0), sizes.qubits
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
                    engine.close()
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


def show_readings(report: Report, sizes: Sizes, _bandwidth: float) -> None:
    """Time sampling, and sums of Paulis beside one call for each."""
    engine, qubits = CustatevecEngine(precision="single"), sizes.qubits
    rng = np.random.default_rng(0)
    engine.start(qubits)
    for gate in _gates(circuit_of("HEA", qubits)):
        engine.apply(gate)
    engine.wait()
    for shots in sizes.shots:
        if report.has_time():
            seconds = median_s(partial(engine.sample, range(qubits), rng.random(shots)), 3)
            report.add("sample", qubits=qubits, shots=shots, ms=seconds * 1e3)
    for letters in ("XYZ", "Z"):
        for terms in sizes.terms:
            if report.has_time(30):
                _show_paulis(report, engine, qubits, letters, terms)
    engine.close()


def _show_paulis(
    report: Report, engine: CustatevecEngine, qubits: int, letters: str, terms: int
) -> None:
    rng = np.random.default_rng(terms)
    paulis = [
        {int(q): str(rng.choice(list(letters))) for q in rng.permutation(qubits)[:4]}
        for _ in range(terms)
    ]
    together = median_s(partial(engine.expectations, paulis), 3)
    some = paulis[:100]
    apart = _seconds(lambda: [engine.expectations([each]) for each in some]) / len(some)
    report.add(
        "paulis",
        qubits=qubits,
        of=letters,
        terms=terms,
        ms_per_term=together / terms * 1e3,
        ms_one_by_one=apart * 1e3,
    )


def show_batches(report: Report, sizes: Sizes, _bandwidth: float) -> None:
    """Time parameter sets side by side, and one by one: probabilities, and neighbours' ZZ and X."""
    for qubits in sizes.batched:
        if report.has_time(20):
            _show_batch(report, qubits, sizes.sets)


def _show_batch(report: Report, qubits: int, sets: int) -> None:
    engine = CustatevecEngine()
    steps, angles = _swept(qubits)
    values = np.random.default_rng(1).uniform(0, 6, (sets, qubits))
    # As many at once as the executor takes.
    at = angles.at(values[: max(1, 2**22 >> qubits)])
    everything, points = range(qubits), np.linspace(0, 0.99, 1000)
    paulis = [{qubit: "Z", qubit + 1: "Z"} for qubit in range(qubits - 1)]
    paulis += [{qubit: "X"} for qubit in everything]
    bound = _gates(_swept_circuit(qubits).assign_parameters(values[0]))

    def alone(read: Callable[[], object]) -> float:
        def once() -> None:
            engine.start(qubits)
            for gate in bound:
                engine.apply(gate)
            read()

        return median_s(once, 20)

    together = {
        "probabilities": lambda: engine.batch_probabilities(steps, qubits, at, everything),
        "paulis": lambda: engine.batch_expectations(steps, qubits, at, paulis),
    }
    report.add(
        "batch, per set",
        qubits=qubits,
        sets=len(at),
        **{f"{what}_us": median_s(work, 3) / len(at) * 1e6 for what, work in together.items()},
        alone_probabilities_us=alone(lambda: engine.probabilities(everything)) * 1e6,
        alone_1000_shots_us=alone(lambda: engine.sample(everything, points)) * 1e6,
        alone_paulis_us=alone(lambda: engine.expectations(paulis)) * 1e6,
    )
    engine.close()


def show_limits(report: Report, sizes: Sizes, _bandwidth: float) -> None:
    """Make the largest state, and read it in every way: calls may need memory of their own."""
    for precision in AMPLITUDE_BYTES:
        if not report.has_time(30):
            return
        engine = CustatevecEngine(precision=precision)
        qubits = min(engine.largest_qubits, 16) if sizes is DRY else engine.largest_qubits
        done = []
        try:
            engine.start(qubits)
            for gate in _gates(circuit_of("HEA", qubits))[: 2 * qubits]:
                engine.apply(gate)
            engine.wait()
            done.append("gates")
            engine.probabilities([0, qubits - 1])
            done.append("probabilities")
            engine.expectations([{0: "X", qubits - 1: "Y"}])
            done.append("paulis")
            engine.sample(range(qubits), np.linspace(0, 0.99, 1024))
            done.append("samples")
            failed = "-"
        except ServiceError as exc:
            failed = str(exc)
        engine.close()
        free = devices.free_bytes(0)
        report.add(
            "largest state",
            precision=precision,
            qubits=qubits,
            done=done,
            failed=failed,
            free_gib_afterwards=free / 2**30,
        )


def show_crossover(report: Report, sizes: Sizes, _bandwidth: float) -> None:
    """Compare with Aer on the CPU, as a worker does when it starts."""
    from app.executors.engines.probe import crossover

    if sizes is DRY:
        report.add("crossover", qubits=crossover([11]))
    elif report.has_time(60):
        report.add("crossover", qubits=crossover())


def show_sandbox(report: Report, _sizes: Sizes, _bandwidth: float) -> None:
    """Run a job in a confined child, as a worker does: the driver must start there as well."""
    try:
        from app.config import ProgramLimits, SandboxLimits
        from app.primitives.params import QasmParams, encode_qasm_params
        from app.sandbox.pool import PERFORM, SandboxPool
        from app.sandbox.protocol import Request
    except ImportError as exc:
        report.add("sandbox", left_out=str(exc))
        return
    source = (
        'OPENQASM 3.0; include "stdgates.inc"; qubit[12] q; bit[12] c; h q[0]; t q[0];'
        f" {' '.join(f'cx q[{i}], q[{i + 1}];' for i in range(11))} c = measure q;"
    )
    pool = SandboxPool(
        limits=SandboxLimits(memory_bytes=RESOURCES.memory_bytes),
        resources=RESOURCES,
        slots=1,
        perform=PERFORM,
        gpus=("0",),
    )
    request = Request(
        job_id="benchmark",
        program_id="qasm3",
        target="simulator",
        executor="custatevec",
        params=encode_qasm_params(QasmParams(source=source, shots=1000, seed=1)),
        limits=ProgramLimits(),
        resources=RESOURCES,
    )
    try:
        for which in ("first", "second"):
            started = time.perf_counter()
            reply = pool.slots[0].run(owner="benchmark", request=request, time_limit_s=120)
            failure = None if reply.failure is None else reply.failure.message
            report.add(
                "sandbox",
                job=which,
                s=time.perf_counter() - started,
                device=str(reply.metadata.get("device")),
                failure=failure or "-",
                output=reply.output[-2000:] if failure else "-",
            )
    except ServiceError as exc:
        report.add("sandbox", failure=str(exc))
    finally:
        pool.close()


PARTS: dict[str, Callable[[Report, Sizes, float], None]] = {
    "host": show_host,
    "circuits": show_circuits,
    "aer": show_aer,
    "readings": show_readings,
    "batches": show_batches,
    "limits": show_limits,
    "matrices": show_matrices,
    "crossover": show_crossover,
    "sandbox": show_sandbox,
}


def read_aer(report: Report, file: Path) -> None:
    """Take the times of Aer's GPU build from what another run printed as JSON."""
    for line in file.read_text().splitlines():
        figures = json.loads(line) if line.startswith("{") else {}
        kind, _, rest = figures.get("what", "").partition(" ")
        if rest == "with Aer" and "ms" in figures:
            report.note_aer((kind, figures["qubits"], figures["precision"]), figures["ms"] / 1e3)


def show_aer_alone(report: Report, reason: str) -> None:
    """Time Aer's GPU build where it is all there is: ours needs another environment."""
    report.add("correct", left_out=reason)
    # It only says what there is time for.
    show_aer(report, REAL, bandwidth=2e12)


def show_all(report: Report, parts: Sequence[str], sizes: Sizes) -> bool:
    """Show correctness, and then the parts; whether all is right."""
    # First, as a process starts the library once.
    show_engines(report)
    started = time.perf_counter()
    engines = [CustatevecEngine(precision=precision) for precision in AMPLITUDE_BYTES]
    right = show_correctness(report, [NumpyEngine(resources=RESOURCES), *engines])
    for engine in engines:
        engine.close()
    report.add("correctness", s=time.perf_counter() - started)
    if not right or not parts:
        return right
    bandwidth = copy_bandwidth(report, sizes)
    for part in parts:
        PARTS[part](report, sizes, bandwidth)
    report.print_table()
    return True


def without_gpu(report: Report, parts: Sequence[str], reason: str) -> bool:
    """Show what can be shown on an emulation of the library; whether all is right."""
    from tests.gpu.emulation import Emulation, build, missing

    print(f"no GPU here ({reason}): an emulation, whose times mean nothing")
    lacking = missing()
    if lacking is not None:
        print(f"the engine of cuStateVec is left out: {lacking}")
        return show_correctness(report, [NumpyEngine(resources=RESOURCES)])
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        Emulation(Path(folder))
        return show_all(report, parts, DRY)


def main() -> None:
    """Measure what can be measured here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds; the default is 480")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="some of %(default)s, in this order"
    )
    parser.add_argument("--dry", action="store_true", help="all parts on the emulation, in small")
    parser.add_argument(
        "--beside", type=Path, help="JSON of a run with Aer's GPU build, from the same machine"
    )
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there are no parts {sorted(unknown)}; there are {', '.join(PARTS)}")
    report = Report(as_json=arguments.json, budget_s=arguments.budget)
    if arguments.beside is not None:
        read_aer(report, arguments.beside)
    report.add("run", date=datetime.now(UTC).isoformat(timespec="minutes"), parts=parts)
    try:
        gpus = devices.find()
    except devices.NoGpu as exc:
        # A confined child would not find an emulation.
        tried = [part for part in parts if part != "sandbox"] if arguments.dry else []
        right = without_gpu(report, tried, str(exc))
    else:
        report.add("machine", gpus=[gpu.name for gpu in gpus], gib=gpus[0].memory_bytes / 2**30)
        try:
            bindings.load()
        except ImportError as exc:
            show_aer_alone(report, str(exc))
            return
        right = show_all(report, parts, REAL)
    if not right:
        raise SystemExit("the engines are not right; nothing else is measured")


if __name__ == "__main__":
    main()
