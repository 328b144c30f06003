"""How fast are sweeps and large circuits, beside Qiskit Aer used directly?

``python -m benchmarks.executors`` starts a local stack of its own with one slot, and measures each
case three ways in turn, several rounds, because machines drift:

- direct: ``AerSimulator``, which binds the parameters of a sweep at run time because that is its
  fastest way, or Aer's own ``EstimatorV2``; in this process
- executor: the executor ``aer`` in this process, from a decoded program to a result
- service: the Qiskit client's ``run`` and ``result``, so with encoding, transport and decoding

All have the same circuits, parameter values and shots, and as many threads as there are cores.
The estimate is what admission expected of the executor.
Ratios are direct time through time taken, so above 1 is faster than Aer. Circuits come transpiled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.tasks import local_stack

if TYPE_CHECKING:
    from collections.abc import Callable

SHOTS = 1024
CORES = len(os.sched_getaffinity(0))
DEVICE = "fake_sherbrooke@aer"
SIMULATOR = "simulator@aer"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One circuit, or one sweep, three ways."""

    name: str
    #: parameter sets; times are given for one of them.
    sets: int
    direct: Callable[[], object]
    executor: Callable[[], Any]
    service: Callable[[], object]


def layered(qubits: int, layers: int, *, parametrised: bool) -> Any:
    """Layers of rotations about two axes and a chain of CX; angles are parameters or numbers."""
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector

    rng = np.random.default_rng(1)
    count = 2 * qubits * layers
    angles = iter(ParameterVector("t", count) if parametrised else rng.uniform(-3, 3, count))
    circuit = QuantumCircuit(qubits)
    for _ in range(layers):
        for qubit in range(qubits):
            circuit.ry(next(angles), qubit)
            circuit.rz(next(angles), qubit)
        for qubit in range(qubits - 1):
            circuit.cx(qubit, qubit + 1)
    return circuit


def cases(service: Any) -> list[Case]:
    """Everything that is measured."""
    return [
        sampler_sweep(service, qubits=6, sets=1000),
        sampler_sweep(service, qubits=12, sets=200),
        estimator_sweep(service, qubits=6, sets=1000),
        single("22 qubits", service, layered(22, 3, parametrised=False).measure_all(inplace=False)),
        single("10 of 127 qubits, ISA", service, on_a_device(), backend=DEVICE),
    ]


def aer_executor() -> Any:
    """Our executor, with what a worker of one slot would have."""
    from app.executors import Resources
    from app.executors.aer import AerExecutor

    resources = Resources(threads=CORES, memory_bytes=4 << 30, max_result_bytes=64 << 20)
    return AerExecutor(resources=resources)


def in_process(program: Any) -> Callable[[], Any]:
    """Run a program with our executor."""
    from app.primitives.programs import Target

    executor = aer_executor()
    return lambda: executor.run(program, Target(name="simulator"))


def sampled(circuit: Any, values: Any) -> Any:
    """The sampler program of a circuit."""
    from app.primitives.programs import SamplerProgram, SamplerPub

    pub = SamplerPub(circuit=circuit, parameter_values=values, shots=SHOTS)
    return SamplerProgram(pubs=(pub,), seed=1)


def through(
    service: Any, pub: Any, *, backend: str, kind: str = "SamplerV2"
) -> Callable[[], object]:
    """Run a pub with the Qiskit client."""
    import qiskit_ibm_runtime

    primitive = getattr(qiskit_ibm_runtime, kind)(mode=service.backend(backend))
    if kind == "SamplerV2":
        return lambda: primitive.run([pub], shots=SHOTS).result()
    return lambda: primitive.run([pub], precision=SHOTS**-0.5).result()


def sampler_sweep(service: Any, *, qubits: int, sets: int) -> Case:
    """Many parameter sets of a small circuit."""
    from qiskit_aer import AerSimulator

    circuit = layered(qubits, 3, parametrised=True).measure_all(inplace=False)
    values = np.random.default_rng(2).uniform(-3, 3, (sets, circuit.num_parameters))
    simulator = AerSimulator(max_parallel_threads=CORES, runtime_parameter_bind_enable=True)
    binds = [{each: values[:, index].tolist() for index, each in enumerate(circuit.parameters)}]
    return Case(
        name=f"sampler, {sets} sets, {qubits} qubits",
        sets=sets,
        direct=lambda: simulator.run(circuit, shots=SHOTS, parameter_binds=binds).result(),
        executor=in_process(sampled(circuit, values)),
        service=through(service, (circuit, values), backend=SIMULATOR),
    )


def estimator_sweep(service: Any, *, qubits: int, sets: int) -> Case:
    """Many parameter sets of a small circuit, and an observable that needs three bases."""
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_aer.primitives import EstimatorV2

    from app.primitives.programs import EstimatorProgram, EstimatorPub

    circuit = layered(qubits, 3, parametrised=True)
    values = np.random.default_rng(3).uniform(-3, 3, (sets, circuit.num_parameters))
    terms = {letter * qubits: 1.0 for letter in "XYZ"} | {"I" * (qubits - 1) + "Z": 0.5}
    observable = np.empty((), dtype=object)
    observable[()] = terms
    pub = EstimatorPub(
        circuit=circuit,
        observables=observable,
        parameter_values=values,
        precision=SHOTS**-0.5,
        shots=SHOTS,
    )
    asked = (circuit, SparsePauliOp.from_list(list(terms.items())), values)
    direct = EstimatorV2(options={"backend_options": {"max_parallel_threads": CORES}})
    return Case(
        name=f"estimator, {sets} sets, {qubits} qubits",
        sets=sets,
        direct=lambda: direct.run([asked], precision=SHOTS**-0.5).result(),
        executor=in_process(EstimatorProgram(pubs=(pub,), seed=1)),
        service=through(service, asked, backend=SIMULATOR, kind="EstimatorV2"),
    )


def single(name: str, service: Any, circuit: Any, *, backend: str = SIMULATOR) -> Case:
    """One circuit."""
    from qiskit_aer import AerSimulator

    simulator = AerSimulator(max_parallel_threads=CORES)
    # By default it takes no circuit wider than its state vector would fit.
    simulator.set_max_qubits(circuit.num_qubits)
    return Case(
        name=name,
        sets=1,
        direct=lambda: simulator.run(circuit, shots=SHOTS).result().get_counts(),
        executor=in_process(sampled(circuit, np.empty((0,)))),
        service=through(service, (circuit,), backend=backend),
    )


def on_a_device() -> Any:
    """10 entangled qubits somewhere on a device of 127, as its basis has them."""
    from qiskit import transpile
    from qiskit_ibm_runtime.fake_provider import FakeSherbrooke

    circuit = layered(10, 3, parametrised=False)
    circuit.measure_all()
    return transpile(circuit, FakeSherbrooke(), optimization_level=1, seed_transpiler=1)


def taken_s(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """The figures of a case."""
    estimated_s = case.executor().metadata["estimate"]["time_s"]
    ways = (case.direct, case.executor, case.service)
    for way in ways:
        way()
    times = np.array([[taken_s(way) for way in ways] for _ in range(rounds)])
    direct, executor, service = times.T
    return {
        "case": case.name,
        "sets": case.sets,
        "direct_ms": round(1000 * statistics.median(direct) / case.sets, 4),
        "executor_ms": round(1000 * statistics.median(executor) / case.sets, 4),
        "service_ms": round(1000 * statistics.median(service) / case.sets, 4),
        "executor_ratio": round(float(np.median(direct / executor)), 2),
        "service_ratio": round(float(np.median(direct / service)), 2),
        "estimated_ms": round(1000 * estimated_s / case.sets, 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    # That primitives are to be replaced, and which instance is used, is no news here.
    warnings.simplefilter("ignore")
    with local_stack(1, "everysec") as (port, _):
        url = f"http://127.0.0.1:{port}"
        # Before the client is imported, which reads some of them only then.
        os.environ |= {
            "IAM_URL": url,
            "GLOBAL_SEARCH_URL": url,
            "GLOBAL_CATALOG_URL": f"{url}/catalog",
            "QISKIT_IBM_URL": f"{url}/experimental/api/v1",
            "QISKIT_IBM_TOKEN": "any-word",
            "QISKIT_IBM_INSTANCE": "default",
        }
        from qiskit_ibm_runtime import QiskitRuntimeService

        figures = [measured(case, arguments.rounds) for case in cases(QiskitRuntimeService())]
    if arguments.json:
        sys.stdout.write(json.dumps({"cores": CORES, "shots": SHOTS, "cases": figures}) + "\n")
        return
    head = ("ms for a set", "direct", "executor", "service", "× executor", "× service", "estimate")
    rows = [head] + [
        tuple(str(value) for key, value in row.items() if key != "sets") for row in figures
    ]
    for row in rows:
        print(f"{row[0]:32}" + "".join(f"{value:>12}" for value in row[1:]))


if __name__ == "__main__":
    main()
