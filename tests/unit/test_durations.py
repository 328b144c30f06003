"""What will a run need? Told in its result, and refused when it is far too long."""

from __future__ import annotations

import math
import resource
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from app.config import ProgramLimits, SandboxLimits
from app.errors import ProgramTooLarge
from app.executors import aer, durations
from app.executors.admission import AMPLITUDE_BYTES, BASE_BYTES
from app.executors.aer import AerExecutor
from app.executors.durations import SAFETY, Pace, Work, time_left_s
from app.primitives.programs import (
    CircuitItem,
    CountsResult,
    EstimatorProgram,
    PrimitiveResult,
    QasmProgram,
    QuantumProgram,
    SamplerProgram,
)
from app.sandbox.pool import PERFORM, SandboxPool
from app.sandbox.protocol import Request
from tests.unit.primitive_programs import (
    AER,
    MIB,
    RESOURCES,
    TARGET,
    estimate,
    estimator_pub,
    sample,
    sampler_pub,
)
from tests.unit.runtime_params import encoded, npy_value, qpy_value, sampler_document

if TYPE_CHECKING:
    from app.executors.native import Run
    from app.primitives.programs import Program


def rotated(qubits: int, layers: int = 1, *, measured: bool = True) -> QuantumCircuit:
    """A circuit that is entangled and not Clifford, with a parameter for each qubit."""
    circuit = QuantumCircuit(qubits)
    for angle in (*ParameterVector("t", qubits),) * layers:
        for qubit in range(qubits):
            circuit.ry(angle + qubit, qubit)
        for qubit in range(qubits - 1):
            circuit.cx(qubit, qubit + 1)
    if measured:
        circuit.measure_all()
    return circuit


def fed_forward(qubits: int, turns: int) -> QuantumCircuit:
    """A circuit whose every shot is a simulation of its own."""
    circuit = QuantumCircuit(qubits, 1)
    circuit.rx(0.3, range(qubits))
    with circuit.for_loop(range(turns)):
        circuit.measure(0, 0)
        with circuit.if_test((0, 1)):
            circuit.ry(0.2, range(qubits))
    circuit.measure(1, 0)
    return circuit


def bound(circuit: QuantumCircuit) -> QuantumCircuit:
    return circuit.assign_parameters([0.3] * circuit.num_parameters)


def programs(circuit: QuantumCircuit) -> list[Program]:
    """All that a circuit without parameters can be sampled by."""
    pub = sampler_pub(circuit, shots=50)
    item = CircuitItem(circuit=circuit, parameter_values=np.empty((0,)))
    return [
        QasmProgram(circuit=circuit, shots=50),
        SamplerProgram(pubs=(pub,)),
        QuantumProgram(schema_version="v2.0", shots=50, items=(item,)),
        EstimatorProgram(
            pubs=(estimator_pub(circuit.remove_final_measurements(inplace=False), {"Z" * 12: 1.0}),)
        ),
    ]


def estimated(result: Any) -> dict[str, Any]:
    assert set(result.metadata["estimate"]) == {"memory_bytes", "time_s"}
    return dict(result.metadata["estimate"])


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> AerExecutor:
    """An executor of a process that may compute for a millionth of a second, and never begins."""

    def never(*_: object, **__: object) -> None:
        pytest.fail("it ran")

    executor = AerExecutor(resources=RESOURCES)
    monkeypatch.setattr(aer, "time_left_s", lambda _: 1e-6)
    for name in ("counts", "probabilities", "statevector"):
        monkeypatch.setattr(executor._controller, name, never)
    return executor


# What results say


@pytest.mark.parametrize("kind", range(4))
def test_results_say_what_was_expected(kind: int) -> None:
    said = estimated(AER.run(programs(bound(rotated(12)))[kind], TARGET))

    assert said["memory_bytes"] >= BASE_BYTES + AMPLITUDE_BYTES * 2**12
    assert 1e-4 < said["time_s"] < 1


def test_twice_the_sets_take_twice_the_time() -> None:
    circuit = rotated(12)
    values = np.random.default_rng(1).uniform(-3, 3, (8, 12))

    few = estimated(sample(sampler_pub(circuit, values[:4])))
    many = estimated(sample(sampler_pub(circuit, values)))

    assert many["time_s"] == pytest.approx(2 * few["time_s"], rel=0.1)


def test_every_basis_of_an_observable_takes_its_time() -> None:
    circuit = bound(rotated(11, measured=False))

    one = estimated(estimate(estimator_pub(circuit, {"Z" * 11: 1.0})))
    nine = {letter * 5 + other * 6: 1.0 for letter in "XYZ" for other in "XYZ"}
    many = estimated(estimate(estimator_pub(circuit, nine)))

    assert many["time_s"] > one["time_s"]


def test_shots_that_are_simulated_one_by_one_are_counted() -> None:
    circuit = fed_forward(4, turns=20)

    few = estimated(sample(sampler_pub(circuit, shots=10)))
    many = estimated(sample(sampler_pub(circuit, shots=1000)))

    assert many["time_s"] > 5 * few["time_s"]


def test_nobody_can_tell_what_a_matrix_product_state_takes() -> None:
    small = AerExecutor(resources=RESOURCES)
    circuit = QuantumCircuit(40)
    for qubit in range(39):
        circuit.ry(0.2, qubit)
        circuit.cx(qubit, qubit + 1)
    circuit.measure_all()

    result = sample(sampler_pub(circuit, shots=10), aer=small)

    assert estimated(result)["time_s"] is None


def test_one_pub_that_nobody_can_tell_makes_the_sum_unknown() -> None:
    assert (Work(shots=1) + Work(is_unknown=True)).is_unknown
    assert Pace(None).seconds(Work(shots=1) + Work(is_unknown=True)) is None  # type: ignore[arg-type]


def test_all_pubs_are_added_up() -> None:
    pub = sampler_pub(bound(rotated(12)))

    one, four = estimated(sample(pub)), estimated(sample(pub, pub, pub, pub))

    assert four["time_s"] == pytest.approx(4 * one["time_s"], rel=0.1)
    assert four["memory_bytes"] < 2 * one["memory_bytes"]


# What is refused


@pytest.mark.parametrize("kind", range(4))
def test_what_takes_far_too_long_is_refused_before_it_begins(
    hurried: AerExecutor, kind: int
) -> None:
    program = programs(bound(rotated(12)))[kind]

    with pytest.raises(ProgramTooLarge) as caught:
        hurried.run(program, TARGET)

    assert caught.value.details["allowed_s"] == 1e-6
    assert "would take about 0.0" in str(caught.value)
    assert "this job is stopped before 1e-06 s" in str(caught.value)
    assert "fewer" in str(caught.value)


def test_up_to_ten_times_the_limit_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    pub = sampler_pub(bound(rotated(12)))
    expected = estimated(sample(pub))["time_s"]

    monkeypatch.setattr(aer, "time_left_s", lambda _: expected / (SAFETY - 1))
    assert isinstance(sample(pub), PrimitiveResult)
    monkeypatch.setattr(aer, "time_left_s", lambda _: expected / (SAFETY + 1))
    with pytest.raises(ProgramTooLarge):
        sample(pub)


def test_nothing_is_refused_where_nothing_is_limited() -> None:
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY

    assert time_left_s(1) == math.inf


def test_the_processor_time_that_is_left_is_shared_by_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 100
    monkeypatch.setattr(durations.resource, "getrlimit", lambda _: (limit, -1))

    assert 20 < time_left_s(4) <= 25.5


def test_a_sandbox_refuses_by_the_time_limit_of_the_job() -> None:
    circuit = fed_forward(18, turns=30)
    pub = [qpy_value(circuit), npy_value(np.zeros(0)), 1_000_000]
    pool = SandboxPool(
        limits=SandboxLimits(memory_bytes=1024 * MIB), resources=RESOURCES, slots=1, perform=PERFORM
    )
    request = Request(
        job_id="id",
        program_id="sampler",
        target="simulator",
        executor="aer",
        params=encoded(sampler_document(pub)),
        limits=ProgramLimits(),
        resources=RESOURCES,
    )

    try:
        reply = pool.slots[0].run(owner="alice", request=request, time_limit_s=20)
    finally:
        pool.close()

    assert reply.failure is not None
    assert reply.failure.code == "program_too_large"
    # The limit, and the slack that the sandbox gives; it is rounded up.
    assert 45 < reply.failure.details["allowed_s"] < 52
    assert reply.failure.details["needed_s"] > 10_000


# How fast this machine is


class _Counted:
    """A core that only counts what it is asked for."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def probabilities(self, run: Run, _: object) -> Any:
        self.runs.append(run)


def test_the_machine_is_measured_when_it_first_matters_and_once() -> None:
    core = _Counted()
    pace = Pace(core)

    pace.seconds(Work(amplitudes=1e6))
    assert not core.runs
    pace.seconds(Work(amplitudes=1e12))
    measured = len(core.runs)
    assert measured
    # A core that answers at once is fast indeed.
    assert pace.seconds(Work(amplitudes=1e12)) < 1e12 * 1e-9  # type: ignore[operator]
    assert len(core.runs) == measured


def test_a_machine_that_is_busy_when_it_is_measured_refuses_nothing_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(durations, "perf_counter", lambda: next(times))

    seconds = Pace(_Counted()).seconds(Work(amplitudes=1e12))

    assert seconds == pytest.approx(1e12 * durations._SLOWEST_AMPLITUDE_S)


def test_the_measurement_runs_on_aer() -> None:
    assert 0 < Pace(AER._controller)._measured() <= durations._SLOWEST_AMPLITUDE_S


def test_counts_of_a_task_come_with_an_estimate_too() -> None:
    result = AER.run(QasmProgram(circuit=bound(rotated(2)), shots=5), TARGET)

    assert isinstance(result, CountsResult)
    assert estimated(result)["memory_bytes"] < 2 * BASE_BYTES
