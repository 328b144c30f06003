"""Which executor is chosen for a program, and why?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.classical import expr

from app.executors.auto import choose
from app.primitives.programs import (
    CalibrationProgram,
    DeviceFiles,
    EstimatorProgram,
    QasmProgram,
    SamplerProgram,
    Target,
)

from .primitive_programs import estimator_pub, sampler_pub

if TYPE_CHECKING:
    from app.primitives.programs import Program

SIMULATOR = Target(name="simulator")
MANILA = Target(
    name="fake_manila",
    recording=DeviceFiles(configuration=Path("conf.json"), properties=Path("props.json")),
)
CPUS = {"aer": 30, "noisy": 30, "auto": 30}
GPUS = CPUS | {"custatevec": 33}


def chain(
    qubits: int, *, clifford: bool = False, idle: int = 0, dynamic: bool = False
) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits + idle, qubits + 1)
    for qubit in range(qubits):
        circuit.h(qubit)
        if not clifford:
            circuit.t(qubit)
    if dynamic:
        circuit.measure(0, qubits)
        circuit.reset(0)
    for qubit in range(qubits - 1):
        circuit.cx(qubit, qubit + 1)
    circuit.measure(range(qubits), range(qubits))
    return circuit


def assigning() -> QuantumCircuit:
    circuit = chain(3, dynamic=True)
    circuit.store(circuit.clbits[0], expr.logic_not(circuit.clbits[3]))
    return circuit


def task(circuit: QuantumCircuit) -> Program:
    return QasmProgram(circuit=circuit, shots=1000)


@pytest.mark.parametrize(
    ("program", "target", "live", "executor", "because"),
    [
        (task(chain(24)), SIMULATOR, CPUS, "aer", "24 qubits .* no live worker has a GPU"),
        (task(chain(24)), SIMULATOR, GPUS, "custatevec", "24 qubits .* enough for a GPU"),
        (task(chain(17)), SIMULATOR, GPUS, "aer", "17 qubits .* fewer than the 18"),
        (task(chain(18)), SIMULATOR, GPUS, "custatevec", "18 qubits"),
        (task(chain(10, idle=100)), SIMULATOR, GPUS, "aer", "10 qubits"),
        (task(chain(33)), SIMULATOR, GPUS, "custatevec", "33 qubits"),
        (task(chain(34)), SIMULATOR, GPUS, "aer", "34 qubits .* more than the 33"),
        (task(chain(24, clifford=True)), SIMULATOR, GPUS, "aer", "only Clifford gates"),
        (task(chain(20, dynamic=True)), SIMULATOR, GPUS, "aer", "acted on again, 1000 times"),
        (task(assigning()), SIMULATOR, GPUS, "aer", "acted on again, 1000 times"),
        (task(chain(24)), MANILA, GPUS, "noisy", "fake_manila has recorded noise"),
        (
            task(chain(3)),
            MANILA,
            {"aer": 30},
            "aer",
            "without the noise of fake_manila, because no live worker serves noisy",
        ),
        (task(chain(3)), SIMULATOR, {}, "aer", "3 qubits"),
        (CalibrationProgram(), SIMULATOR, GPUS, "aer", "learned on a CPU"),
    ],
)
def test_the_choice_and_its_reason(
    program: Program, target: Target, live: dict[str, int], executor: str, because: str
) -> None:
    choice = choose(program, target, live)

    assert choice.executor == executor
    assert re.search(because, choice.because), choice.because


def test_what_a_worker_has_measured_is_the_threshold() -> None:
    program = task(chain(20))

    early = choose(program, SIMULATOR, GPUS, {"custatevec": 20})
    late = choose(program, SIMULATOR, GPUS, {"custatevec": 21, "aer": 1})

    assert early.executor == "custatevec"
    assert late.executor == "aer"
    assert "fewer than the 21 from which on a GPU is worth it" in late.because


def test_parts_that_share_nothing_are_looked_at_apart() -> None:
    circuit = QuantumCircuit(40, 40)
    for qubit in range(0, 40, 2):
        circuit.h(qubit)
        circuit.t(qubit)
        circuit.cx(qubit, qubit + 1)
    circuit.measure(range(40), range(40))

    choice = choose(task(circuit), SIMULATOR, GPUS)

    assert choice.executor == "aer"
    assert choice.because.startswith("2 qubits")


def test_angles_without_a_value_are_not_taken_for_clifford_gates() -> None:
    circuit = chain(20, clifford=True)
    circuit.barrier()
    angled = QuantumCircuit(20, 21)
    angled.rz(Parameter("θ"), 0)
    circuit = angled.compose(circuit)
    program = SamplerProgram(pubs=(sampler_pub(circuit, [[0.3]], shots=10),))

    assert choose(program, SIMULATOR, GPUS).executor == "custatevec"


def test_the_widest_pub_counts() -> None:
    pubs = tuple(sampler_pub(chain(qubits), shots=10) for qubits in (2, 20, 3))

    assert choose(SamplerProgram(pubs=pubs), SIMULATOR, GPUS).executor == "custatevec"


def test_an_estimators_circuit_is_read_where_it_acts() -> None:
    circuit = chain(20)
    circuit.remove_final_measurements()
    pub = estimator_pub(circuit, {"I" * 19 + "Z": 1.0})

    choice = choose(EstimatorProgram(pubs=(pub,)), SIMULATOR, GPUS)

    assert choice.executor == "custatevec"


def test_noise_of_the_options_is_run_where_it_is_cheapest() -> None:
    program = SamplerProgram(
        pubs=(sampler_pub(chain(20), shots=10),),
        options={"simulator": {"noise_model": {"errors": []}}},
    )

    choice = choose(program, MANILA, GPUS)

    assert (choice.executor, choice.because) == ("aer", "the options bring a noise model")
