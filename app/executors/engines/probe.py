"""Does cuStateVec work here, and from how many qubits on is it worth it? A process of its own asks.

``python -m app.executors.engines.probe [measure]`` prints a ``Survey`` as JSON, unless the library
ends it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from app.errors import ServiceError
from app.executors.engines import Gate, bindings, devices

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.executors import Executor

MEASURE = "measure"
#: Widths at which both are timed, and what is reported if the CPU wins at all of them.
_WIDTHS = range(12, 24, 2)
_LAYERS = 3
_SHOTS = 1024
_MEMORY_BYTES = 2 << 30
_RESULT_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a worker may make of the GPUs that it sees."""

    gpus: tuple[devices.Gpu, ...] = ()
    #: why there are none.
    reason: str = ""
    #: of the largest state that one of them holds.
    qubits: int = 0
    #: fewest qubits of a circuit that is quicker there than with Aer; None: not measured.
    worth_from: int | None = None


def survey(*, measure: bool) -> Survey:
    """Find GPUs and use the first; a reason instead, if that does not work."""
    try:
        gpus = devices.find()
    except devices.NoGpu as exc:
        return Survey(reason=str(exc))
    try:
        loaded = bindings.load()
    except ImportError as exc:
        return Survey(reason=f"cuStateVec cannot be used: {exc}")
    try:
        qubits = _used()
    # Its bindings have errors of their own for a library that is missing, and one of these.
    except (loaded.error, ServiceError, RuntimeError, OSError) as exc:
        return Survey(reason=f"cuStateVec cannot be used: {exc}")
    return Survey(gpus=gpus, qubits=qubits, worth_from=crossover() if measure else None)


def crossover(widths: Iterable[int] = _WIDTHS) -> int:
    """Give the first width where the GPU is quicker than Aer; the one after the last if none is.

    Measured with ``_LAYERS`` layers of rotations and CX and ``_SHOTS`` shots, each circuit once to
    warm up and once for its time.
    """
    # Aer is not wanted where nothing is measured.
    from app.executors import Resources  # noqa: PLC0415
    from app.executors.aer import AerExecutor  # noqa: PLC0415
    from app.executors.custatevec import custatevec_executor  # noqa: PLC0415

    resources = Resources(
        threads=len(os.sched_getaffinity(0)),
        memory_bytes=_MEMORY_BYTES,
        max_result_bytes=_RESULT_BYTES,
    )
    gpu, cpu = custatevec_executor(resources=resources), AerExecutor(resources=resources)
    width = 0
    for width in widths:
        if _seconds(gpu, width) < _seconds(cpu, width):
            return width
    return width + 1


def _used() -> int:
    import numpy as np  # noqa: PLC0415

    from app.executors.engines.custatevec import CustatevecEngine  # noqa: PLC0415

    engine = CustatevecEngine()
    # A state comes first: without it, a library that cannot work aborts the process.
    engine.start(3)
    # |0…0> + |1…1>, by a gate and one with a control of every kind.
    engine.apply(Gate(np.array([[1, 1], [1, -1]], dtype=np.complex128) / np.sqrt(2), (0,)))
    flip = np.array([[0, 1], [1, 0]], dtype=np.complex128)
    engine.apply(Gate(flip, (1,), (0,)))
    engine.apply(Gate(np.kron(np.diag([1, 0]), np.eye(2)) + np.kron(np.diag([0, 1]), flip), (2, 1)))
    chances = engine.probabilities([0, 1, 2])
    values = engine.expectations([{0: "X", 1: "X", 2: "X"}, {0: "Z", 2: "Z"}])
    outcomes = set(engine.sample([2, 0], np.array([0.1, 0.4, 0.6, 0.9])).tolist())
    engine.close()
    right = np.allclose(chances, [0.5, 0, 0, 0, 0, 0, 0, 0.5]) and np.allclose(values, [1, 1])
    if not right or outcomes != {0b00, 0b11}:
        message = (
            f"(|000> + |111>)/√2 has the probabilities {chances.tolist()}, gives {outcomes} for two"
            f" of its qubits, and 1 is {values.tolist()}"
        )
        raise RuntimeError(message)
    return engine.largest_qubits


def _seconds(executor: Executor, qubits: int) -> float:
    from qiskit import QuantumCircuit  # noqa: PLC0415

    from app.primitives.programs import QasmProgram, Target  # noqa: PLC0415

    circuit = QuantumCircuit(qubits, qubits)
    for layer in range(_LAYERS):
        for qubit in range(qubits):
            circuit.ry(0.3 + layer + qubit, qubit)
        for qubit in range(qubits - 1):
            circuit.cx(qubit, qubit + 1)
    circuit.measure(range(qubits), range(qubits))
    program, target = QasmProgram(circuit=circuit, shots=_SHOTS, seed=1), Target(name="simulator")
    executor.run(program, target)
    started = perf_counter()
    executor.run(program, target)
    return perf_counter() - started


if __name__ == "__main__":
    found = survey(measure=MEASURE in sys.argv[1:])
    sys.stdout.write(f"\n{json.dumps(asdict(found))}\n")
