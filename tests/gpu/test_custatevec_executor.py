"""What does the executor over an engine answer, beside Qiskit's own primitives and exact chances?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter
from qiskit.circuit.classical import expr, types
from qiskit.circuit.library import UnitaryGate, quantum_volume
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.quantum_info import SparsePauliOp, random_unitary
from qiskit_aer.noise import NoiseModel
from qiskit_aer.primitives import SamplerV2

from app.errors import ExecutionError, InvalidProgram, ProgramTooLarge
from app.executors.circuits.lowering import lower
from app.executors.custatevec import EngineExecutor, custatevec_executor
from app.executors.engines import branching
from app.executors.engines.gates import GATES
from app.executors.engines.reference import NumpyEngine
from app.executors.engines.simulation import EngineSimulation
from app.primitives.programs import (
    CalibrationProgram,
    CircuitItem,
    CountsResult,
    QasmProgram,
    QuantumProgram,
    QuantumResult,
    Target,
)
from tests.gpu.emulation import Calls, Emulation
from tests.unit.exact_distribution import allowed_distance, distance, exact_distribution
from tests.unit.primitive_programs import (
    AER,
    RESOURCES,
    estimate,
    estimator_pub,
    joined_counts,
    provenance,
    registers,
    sample,
    sampler_pub,
    values,
)
from tests.unit.test_aer_sampler import assert_exact, random_pub

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOTS = 4000
TARGET = Target(name="simulator")


def counts(executor: EngineExecutor, circuit: QuantumCircuit, **more: Any) -> CountsResult:
    asked = {"shots": SHOTS, "seed": 3} | more
    result = executor.run(QasmProgram(circuit=circuit, **asked), TARGET)
    assert isinstance(result, CountsResult)
    return result


def assert_chances(found: Mapping[str, int], exact: Mapping[str, float]) -> None:
    assert distance(found, exact) < allowed_distance(sum(found.values()), exact)


# ---- samplers ----


@pytest.mark.parametrize("seed", range(8))
def test_static_pubs_have_the_right_distribution(executor: EngineExecutor, seed: int) -> None:
    pub = random_pub(seed, dynamic=False)

    assert_exact(sample(pub, aer=executor), pub)


@pytest.mark.parametrize("seed", range(8))
def test_dynamic_pubs_have_the_right_distribution(executor: EngineExecutor, seed: int) -> None:
    pub = random_pub(seed, dynamic=True)

    assert_exact(sample(pub, aer=executor), pub)


def test_registers_and_sweeps_look_as_those_of_qiskits_sampler(executor: EngineExecutor) -> None:
    angle = Parameter("θ")
    circuit = QuantumCircuit(
        QuantumRegister(4), ClassicalRegister(3, "alpha"), ClassicalRegister(11, "beta")
    )
    circuit.ry(angle, 0)
    circuit.h(1)
    circuit.cx(0, 2)
    circuit.ccx(0, 1, 3)
    circuit.measure([0, 1, 2], [0, 1, 2])
    circuit.measure([3, 0], [13, 5])
    sweep = np.linspace(0, 3, 6).reshape(3, 2, 1)

    found = registers(sample(sampler_pub(circuit, sweep, shots=SHOTS), aer=executor))

    expected = StatevectorSampler(seed=1).run([(circuit, sweep)], shots=SHOTS).result()[0].data
    assert set(found) == {"alpha", "beta"}
    for name in found:
        assert found[name].array.shape == expected[name].array.shape
        assert found[name].num_bits == expected[name].num_bits
    for place in np.ndindex(3, 2):
        exact = exact_distribution(circuit.assign_parameters(sweep[place]))
        joined = {}
        for shot in range(SHOTS):
            bits = (
                found["beta"][place].slice_shots(shot).get_bitstrings()[0]
                + found["alpha"][place].slice_shots(shot).get_bitstrings()[0]
            )
            joined[bits] = joined.get(bits, 0) + 1
        assert_chances(joined, exact)


@pytest.mark.parametrize("precision", ["single", "double"])
def test_sweeps_are_states_side_by_side(
    emulation: Emulation, engines_only: None, precision: str
) -> None:
    a, b = Parameter("a"), Parameter("b")
    circuit = QuantumCircuit(4, 4)
    for qubit in range(4):
        circuit.ry(a * (qubit + 1), qubit)
    circuit.swap(0, 2)
    circuit.append(UnitaryGate(random_unitary(8, seed=2)), [3, 0, 1])
    circuit.cu(a, b, 0.3, b, 1, 2)
    circuit.rzz(b, 0, 3)
    circuit.h(range(4))
    circuit.measure([2, 0, 1], [0, 3, 1])
    pub = sampler_pub(circuit, np.random.default_rng(1).uniform(-4, 4, (5, 2)), shots=SHOTS)
    executor = custatevec_executor(resources=RESOURCES)
    before, used = emulation.calls(Calls.BATCHED), emulation.bytes_in_use

    result = sample(pub, aer=executor, options={"experimental": {"precision": precision}})

    # One call for each gate that is seen, but for the swap, not for each parameter set.
    assert emulation.calls(Calls.BATCHED) - before == 4 + 1 + 1 + 1 + 3
    # Eight states of four qubits are kept for the next sweep; the workspace is not.
    size = {"single": 8, "double": 16}[precision]
    assert emulation.bytes_in_use - used == size * 2 ** (4 + 3)
    assert_exact(result, pub)


def test_many_matrices_are_waited_for_in_between(
    emulation: Emulation, engines_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.executors.engines.custatevec._QUEUED_BYTES", 500)
    circuit = QuantumCircuit(3, 3)
    angle = Parameter("a")
    for qubit in (0, 1, 2, 0, 1):
        circuit.rx(angle, qubit)
        circuit.cx(qubit, (qubit + 1) % 3)
    circuit.measure(range(3), range(3))
    pub = sampler_pub(circuit, np.linspace(0, 3, 9).reshape(9, 1), shots=SHOTS)

    assert_exact(sample(pub, aer=custatevec_executor(resources=RESOURCES)), pub)


def test_a_sweep_that_does_not_fit_at_once_is_run_set_by_set(
    emulation: Emulation, engines_only: None
) -> None:
    # An eighth of it is not given away; then there is room for two states of 12 qubits.
    emulation.become(memory_bytes=(emulation.bytes_in_use + 2**17) * 8 // 7)
    circuit = QuantumCircuit(12, 12)
    circuit.h(0)
    circuit.rx(Parameter("a"), 0)
    for qubit in range(11):
        circuit.cx(qubit, qubit + 1)
    circuit.measure(range(12), range(12))
    pub = sampler_pub(circuit, np.linspace(0, 3, 16).reshape(16, 1), shots=SHOTS)
    before = {kind: emulation.calls(kind) for kind in (Calls.BATCHED, Calls.APPLIED)}

    result = sample(pub, aer=custatevec_executor(resources=RESOURCES))

    assert emulation.calls(Calls.BATCHED) == before[Calls.BATCHED]
    assert emulation.calls(Calls.APPLIED) - before[Calls.APPLIED] == 16
    assert_exact(result, pub)


def teleported() -> QuantumCircuit:
    circuit = QuantumCircuit(
        QuantumRegister(3), *(ClassicalRegister(1, name) for name in ("z", "x", "out"))
    )
    circuit.u(1.1, 0.4, 0.7, 0)
    circuit.h(1)
    circuit.cx(1, 2)
    circuit.cx(0, 1)
    circuit.h(0)
    circuit.measure([0, 1], [0, 1])
    with circuit.if_test((circuit.clbits[1], 1)):
        circuit.x(2)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.z(2)
    circuit.measure(2, 2)
    return circuit


def reset_and_reused() -> QuantumCircuit:
    circuit = QuantumCircuit(2, 3)
    circuit.h(0)
    circuit.measure(0, 0)
    circuit.reset(0)
    circuit.ry(1.0, 0)
    circuit.cx(0, 1)
    circuit.measure(1, 1)
    with circuit.if_test(expr.bit_xor(circuit.clbits[0], circuit.clbits[1])) as otherwise:
        circuit.x(0)
    with otherwise:
        circuit.ry(0.5, 1)
    circuit.swap(0, 1)
    circuit.h(1)
    circuit.measure([0, 1], [2, 0])
    return circuit


def looped() -> QuantumCircuit:
    circuit = QuantumCircuit(1, 2)
    circuit.ry(1.2, 0)
    circuit.measure(0, 0)
    with circuit.while_loop((circuit.clbits[0], 1)):
        circuit.ry(1.2, 0)
        circuit.measure(0, 0)
    circuit.rx(0.9, 0)
    circuit.measure(0, 1)
    return circuit


def switched() -> QuantumCircuit:
    circuit = QuantumCircuit(
        QuantumRegister(3), ClassicalRegister(2, "s"), ClassicalRegister(1, "r")
    )
    circuit.h([0, 1])
    circuit.measure([0, 1], [0, 1])
    with circuit.switch(circuit.cregs[0]) as case:
        with case(0):
            circuit.x(2)
        with case(1, 2):
            circuit.h(2)
        with case(case.DEFAULT):
            circuit.ry(0.3, 2)
    with circuit.for_loop(range(3)):
        circuit.rz(0.2, 2)
        circuit.sx(2)
    circuit.measure(2, 2)
    return circuit


def swapped_at_times() -> QuantumCircuit:
    """The two branches have their qubits in different places."""
    circuit = QuantumCircuit(3, 3)
    circuit.h(2)
    circuit.x(0)
    circuit.measure(2, 2)
    with circuit.if_test((circuit.clbits[2], 0)):
        circuit.swap(0, 1)
    circuit.measure([0, 1], [0, 1])
    return circuit


DYNAMIC = {
    each.__name__: each
    for each in (teleported, reset_and_reused, looped, switched, swapped_at_times)
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_tasks_have_the_chances_they_should(executor: EngineExecutor, name: str) -> None:
    circuit = DYNAMIC[name]()

    found = counts(executor, circuit).counts

    assert_chances(found, exact_distribution(circuit))


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_tasks_agree_with_aers_sampler(executor: EngineExecutor, name: str) -> None:
    circuit = DYNAMIC[name]()
    whole = SamplerV2(seed=9).run([circuit], shots=SHOTS).result()[0].join_data().get_counts()

    found = counts(executor, circuit).counts

    # Two samples: each within its bound of what is exact.
    exact = exact_distribution(circuit)
    sampled = {key: value / SHOTS for key, value in whole.items()}
    assert distance(found, sampled) < 2 * allowed_distance(SHOTS, exact)


def test_shots_are_not_simulated_one_by_one(emulation: Emulation, engines_only: None) -> None:
    executor = custatevec_executor(resources=RESOURCES)
    before = emulation.calls(Calls.SAMPLED)

    counts(executor, teleported(), shots=100_000)

    # Two measurements make four branches; each reads the last qubit once.
    assert emulation.calls(Calls.SAMPLED) - before == 4


def test_without_memory_for_copies_branches_are_made_again(
    executor: EngineExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit = QuantumCircuit(3, 6)
    for clbit in range(5):
        circuit.ry(0.7, clbit % 3)
        circuit.cx(clbit % 3, (clbit + 1) % 3)
        circuit.measure((clbit + 1) % 3, clbit)
    circuit.reset(0)
    circuit.measure(2, 5)
    for engine in (NumpyEngine, type(executor._engines("double"))):
        monkeypatch.setattr(engine, "keep", lambda _: None)

    found = counts(executor, circuit).counts

    assert_chances(found, exact_distribution(circuit))


# ---- classical variables ----


def test_variables_are_computed_with(executor: EngineExecutor) -> None:
    circuit = QuantumCircuit(1, 4)
    tries = circuit.add_var("tries", expr.lift(0, types.Uint(8)))
    going = circuit.add_var("going", expr.lift(True))
    with circuit.while_loop(going):
        circuit.h(0)
        circuit.measure(0, 0)
        circuit.store(tries, expr.add(tries, 1))
        circuit.store(
            going,
            expr.logic_and(circuit.clbits[0], expr.less(tries, expr.lift(5, types.Uint(8)))),
        )
    circuit.store(circuit.clbits[1], expr.index(tries, 0))
    circuit.store(circuit.clbits[2], expr.index(tries, 1))
    circuit.store(circuit.clbits[3], expr.index(tries, 2))

    found = counts(executor, circuit).counts

    # The last bit read is 0 after 1 to 4 tries; the fifth is the last, whatever it reads.
    exact = {f"{n:03b}0": 0.5**n for n in range(1, 5)} | {"1010": 0.5**5, "1011": 0.5**5}
    assert_chances(found, exact)


def test_arithmetic_wraps_as_unsigned_integers_do(executor: EngineExecutor) -> None:
    register = ClassicalRegister(8, "r")
    circuit = QuantumCircuit(QuantumRegister(1), register)
    a = circuit.add_var("a", expr.lift(250, types.Uint(8)))
    circuit.store(a, expr.add(a, expr.lift(10, types.Uint(8))))  # 4
    circuit.store(a, expr.sub(a, expr.lift(5, types.Uint(8))))  # 255
    circuit.store(a, expr.shift_left(expr.div(a, expr.lift(4, types.Uint(8))), 2))  # 252
    circuit.store(a, expr.bit_xor(expr.bit_not(a), expr.lift(0b1000, types.Uint(8))))  # 3 ^ 8
    circuit.store(register, expr.mul(a, expr.lift(2, types.Uint(8))))  # 22

    assert counts(executor, circuit).counts == {f"{22:08b}": SHOTS}


def test_a_division_by_zero_fails_the_program(executor: EngineExecutor) -> None:
    circuit = QuantumCircuit(1, 1)
    zero = circuit.add_var("zero", expr.lift(0, types.Uint(4)))
    circuit.store(circuit.clbits[0], expr.equal(expr.div(zero, zero), zero))

    with pytest.raises(ExecutionError, match="divides by zero"):
        counts(executor, circuit)


# ---- estimators ----


def ansatz() -> QuantumCircuit:
    a, b = Parameter("a"), Parameter("b")
    circuit = QuantumCircuit(5)
    for qubit in range(5):
        circuit.ry(a * (qubit + 1), qubit)
        circuit.rz(b - qubit, qubit)
    for qubit in range(3):
        circuit.cx(qubit, qubit + 1)
    circuit.swap(0, 3)
    return circuit


@pytest.mark.parametrize("seed", range(4))
def test_expectation_values_are_those_of_qiskits_estimator(
    executor: EngineExecutor, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = ["".join(rng.choice(list("IXYZ"), 5)) for _ in range(9)]
    first = dict(zip(labels, rng.normal(size=9).tolist(), strict=True))
    second = {"ZZZZZ": 1.0, "IIIII": 0.5}
    sweep = rng.uniform(0, 6, (4, 1, 2))
    # So precise that the noise cannot be seen.
    pub = estimator_pub(ansatz(), [first, second], sweep, shots=10**18)

    result = estimate(pub, aer=executor)

    operators = [SparsePauliOp.from_list(list(each.items())) for each in (first, second)]
    expected = StatevectorEstimator().run([(ansatz(), operators, sweep)]).result()[0].data
    assert values(result).shape == expected.evs.shape == (4, 2)
    np.testing.assert_allclose(values(result), expected.evs, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_an_estimate_means_what_it_means_on_the_cpu(executor: EngineExecutor, seed: int) -> None:
    """Its error is that of the shots that the precision stands for, basis by basis."""
    rng = np.random.default_rng(seed)
    terms = {"".join(rng.choice(list("IIXYZ01+l"), 5)): rng.normal() for _ in range(8)}
    sweep = rng.uniform(0, 6, (6, 2))
    pub = estimator_pub(ansatz(), [terms], sweep, shots=20_000)

    here, there = (estimate(pub, aer=each) for each in (executor, AER))

    errors, sampled = values(here, "stds"), values(there, "stds")
    # A standard error from 20 000 shots is off by 1 % or so: 5 sigma.
    np.testing.assert_allclose(errors, sampled, rtol=0.05, atol=1e-12)
    assert (abs(values(here) - values(there)) < 5 * np.sqrt(2) * errors + 1e-12).all()
    np.testing.assert_array_equal(values(here, "ensemble_standard_error"), errors)
    for name in ("shots", "measurement_bases", "qubits_simulated", "component_qubits"):
        assert provenance(here)[name] == provenance(there)[name]


def test_what_is_certain_has_no_noise(executor: EngineExecutor) -> None:
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.h(1)
    circuit.cx(1, 2)
    pub = estimator_pub(circuit, [{"IIZ": 1.0}, {"ZZI": 2.0, "XXI": 1.0, "III": 0.5}], shots=100)

    result = estimate(pub, aer=executor)

    # What is left is rounding: of squares, about 1e-16.
    np.testing.assert_allclose(values(result), [-1.0, 3.5], atol=1e-8)
    np.testing.assert_allclose(values(result, "stds"), 0.0, atol=1e-8)


@pytest.mark.parametrize("limit", ["_MOST_PAULIS", "_MOST_OF_ALL"])
def test_a_basis_that_is_too_long_is_read_by_shots(
    executor: EngineExecutor, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Its square would have as many Paulis as it has pairs of terms."""
    sweep = np.array([[0.3, 0.4]])
    pub = estimator_pub(ansatz(), [{"IIIZZ": 1.0, "IIZZI": 1.0, "ZIIIZ": 0.5}], sweep, shots=4096)
    exact = estimate(pub, aer=executor)
    monkeypatch.setattr(f"app.executors.expectations.{limit}", 3)

    read = estimate(pub, aer=executor)

    assert "shot_noise" in provenance(exact)
    assert "shot_noise" not in provenance(read)
    assert abs(values(read) - values(exact)) < 5 * np.sqrt(2) * values(exact, "stds")
    # A standard error from 4096 shots is off by 2 % or so: 5 sigma.
    np.testing.assert_allclose(values(read, "stds"), values(exact, "stds"), rtol=0.1)


def test_many_projectors_are_read_by_shots(executor: EngineExecutor) -> None:
    """Written in Paulis, they would be 2^14 terms."""
    circuit = QuantumCircuit(14)
    circuit.x(13)

    result = estimate(estimator_pub(circuit, [{"1" + "0" * 13: 2.0}], shots=100), aer=executor)

    assert values(result).tolist() == [2.0]


def test_sweeps_of_estimators_are_states_side_by_side(
    emulation: Emulation, engines_only: None
) -> None:
    executor = custatevec_executor(resources=RESOURCES)
    sweep = np.random.default_rng(1).uniform(0, 6, (50, 2))
    pub = estimator_pub(ansatz(), [{"XXIII": 1.0, "IZZYI": 2.0, "ZYIIX": 0.3}], sweep)
    before = {kind: emulation.calls(kind) for kind in Calls}

    estimate(pub, aer=executor)

    # One state for each of the circuit's two parts holds all sets.
    done = {kind: emulation.calls(kind) - before[kind] for kind in Calls}
    assert (done[Calls.CREATED], done[Calls.EXPECTED]) == (2, 0)
    assert done[Calls.BATCHED] > 0


def test_an_observable_is_estimated_at_its_own_parameters_only(
    emulation: Emulation, engines_only: None, one_by_one: None
) -> None:
    observables = [{"IIIIZ": 1.0}, {"IIIZZ": 1.0}, {"IIXII": 1.0}]
    sweep = np.random.default_rng(1).uniform(0, 6, (3, 2))
    executor = custatevec_executor(resources=RESOURCES)
    asked: list[int] = []
    plain = EngineSimulation.expectations

    def counted(self: EngineSimulation, reduced: Any, angles: Any, paulis: Any) -> Any:
        asked.append(len(paulis) * len(angles))
        return plain(self, reduced, angles, paulis)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineSimulation, "expectations", counted)
        result = estimate(estimator_pub(ansatz(), observables, sweep, shots=10**18), aer=executor)

    assert sum(asked) == 3
    operators = [SparsePauliOp(next(iter(each))) for each in observables]
    expected = StatevectorEstimator().run([(ansatz(), operators, sweep)]).result()[0].data.evs
    np.testing.assert_allclose(values(result), expected, atol=1e-7)


def test_small_circuits_are_estimated_without_the_gpu(emulation: Emulation) -> None:
    executor = custatevec_executor(resources=RESOURCES)
    before = emulation.calls(Calls.CREATED)

    result = estimate(estimator_pub(ansatz(), [{"ZZZZZ": 1.0}], [0.3, 0.4]), aer=executor)

    assert emulation.calls(Calls.CREATED) == before
    assert result.metadata["device"] == "CPU"


def test_projectors_are_observables_too(executor: EngineExecutor) -> None:
    circuit = QuantumCircuit(3)
    circuit.ry(0.8, 0)
    circuit.h(1)
    circuit.s(1)
    pub = estimator_pub(circuit, [{"I+1": 2.0, "0rI": 1.0, "1lI": 5.0}], shots=10**18)

    found = values(estimate(pub, aer=executor))

    one = np.sin(0.4) ** 2
    np.testing.assert_allclose(found, [2 * one * 0.5 + 1.0], atol=1e-7)


def test_noise_has_the_precision_that_was_asked_for(executor: EngineExecutor) -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    pub = estimator_pub(circuit, [{"ZZ": 1.0}] * 3000, shots=400)

    result = estimate(pub, aer=executor)

    # 3000 values of standard deviation 0.05: 5 sigma of their mean, and of their spread.
    assert abs(values(result).mean()) < 5 * 0.05 / np.sqrt(3000)
    assert abs(values(result).std() - 0.05) < 5 * 0.05 / np.sqrt(2 * 3000)
    assert set(values(result, "stds").tolist()) == {0.05}
    assert set(values(result, "ensemble_standard_error").tolist()) == {0.05}


def test_measurements_among_the_gates_are_estimated_from_shots(executor: EngineExecutor) -> None:
    circuit = QuantumCircuit(2, 1)
    circuit.ry(1.1, 0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(1)
    pub = estimator_pub(circuit, [{"ZI": 1.0}], shots=4096)

    result = estimate(pub, aer=executor)

    assert abs(values(result)[0] - np.cos(1.1)) < 5 * values(result, "stds")[0]
    assert 0 < values(result, "stds")[0] < 1 / 64
    assert provenance(result)["shots"] == 4096


def test_all_paulis_of_a_part_are_one_call(emulation: Emulation, engines_only: None) -> None:
    circuit = QuantumCircuit(4)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.ry(0.4, 2)
    circuit.cx(2, 3)
    terms = {"XXII": 0.5, "YYZZ": 1.0, "ZZXX": 2.0, "IIZI": 1.0, "IIXX": 1.0}
    executor = custatevec_executor(resources=RESOURCES)
    before = emulation.calls(Calls.EXPECTED)

    result = estimate(estimator_pub(circuit, [terms, {"ZZZZ": 1.0}], shots=10**18), aer=executor)

    assert emulation.calls(Calls.EXPECTED) - before == 2
    assert provenance(result)["component_qubits"] == [2, 2]
    expected = StatevectorEstimator().run(
        [(circuit, [SparsePauliOp.from_list(list(terms.items())), SparsePauliOp("ZZZZ")])]
    )
    np.testing.assert_allclose(values(result), expected.result()[0].data.evs, atol=1e-7)


# ---- seeds, options, metadata ----


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_seed_gives_the_same_shots_on_every_engine(
    emulation: Emulation, engines_only: None, name: str
) -> None:
    gpu = custatevec_executor(resources=RESOURCES)
    engine = NumpyEngine(resources=RESOURCES)
    cpu = EngineExecutor(resources=RESOURCES, name="numpy", engines=lambda _: engine, versions={})

    found = [counts(each, DYNAMIC[name](), seed=11).counts for each in (gpu, cpu, gpu)]

    assert found[0] == found[1] == found[2]
    assert counts(gpu, DYNAMIC[name](), seed=12).counts != found[0]


def test_many_qubits_are_sampled_by_the_engine_itself(
    emulation: Emulation, engines_only: None, one_by_one: None
) -> None:
    """More outcomes than are worth drawing from their probabilities."""
    circuit = quantum_volume(11, 3, seed=5)
    circuit.measure_all()
    executor = custatevec_executor(resources=RESOURCES)
    before = emulation.calls(Calls.SAMPLED)

    found = sample(sampler_pub(circuit, shots=50), aer=executor)

    assert emulation.calls(Calls.SAMPLED) - before == 1
    assert_chances(joined_counts(found), exact_distribution(circuit))


def test_the_precision_is_an_option(emulation: Emulation, engines_only: None) -> None:
    circuit = quantum_volume(4, 2, seed=5)
    circuit.measure_all()
    executor = custatevec_executor(resources=RESOURCES)
    pub = sampler_pub(circuit, shots=100)

    single = sample(pub, options={"experimental": {"precision": "single"}}, aer=executor)
    double = sample(pub, aer=executor)

    assert single.metadata["precision"] == "single"
    assert double.metadata["precision"] == "double"
    assert single.metadata["options_without_effect"] == {}
    assert joined_counts(single) == joined_counts(double)
    with pytest.raises(InvalidProgram, match=r"precision: 'half'; 'single' and 'double'"):
        sample(pub, options={"experimental": {"precision": "half"}}, aer=executor)


def test_a_precision_that_could_not_be_had_is_no_end(
    emulation: Emulation, engines_only: None
) -> None:
    """The engine of the other one was closed for it by then."""
    circuit = quantum_volume(4, 2, seed=5)
    circuit.measure_all()
    executor = custatevec_executor(resources=RESOURCES)
    pub = sampler_pub(circuit, shots=100)
    before = joined_counts(sample(pub, aer=executor))
    emulation.become(gpus=0)
    with pytest.raises(ExecutionError, match="no GPU"):
        sample(pub, options={"experimental": {"precision": "single"}}, aer=executor)

    emulation.become()

    assert joined_counts(sample(pub, aer=executor)) == before


def test_a_result_says_what_ran_where(emulation: Emulation) -> None:
    circuit = quantum_volume(12, 3, seed=5)
    circuit.measure_all()
    small = QuantumCircuit(1)
    small.h(0)
    small.measure_all()
    executor = custatevec_executor(resources=RESOURCES)

    large = sample(sampler_pub(circuit), sampler_pub(small), aer=executor).metadata
    alone = sample(sampler_pub(small), aer=executor).metadata

    assert large["executor"] == "custatevec"
    assert large["device"] == "GPU 0: emulated GPU"
    assert [each["methods"] for each in large["pubs"]] == [["custatevec"], ["statevector"]]
    assert large["versions"]["cuquantum-python-cu13"].startswith("26.")
    assert alone["device"] == "CPU"


def test_a_noise_model_is_refused_with_a_remedy(emulation: Emulation) -> None:
    circuit = QuantumCircuit(12)
    circuit.h(range(12))
    circuit.measure_all()
    executor = custatevec_executor(resources=RESOURCES)
    model = NoiseModel(basis_gates=["h"]).to_dict()
    before = emulation.calls(Calls.CREATED)

    with pytest.raises(InvalidProgram, match=r"has no noise; .* on a backend …@aer"):
        sample(sampler_pub(circuit), options={"simulator": {"noise_model": model}}, aer=executor)

    assert emulation.calls(Calls.CREATED) == before


def test_a_program_too_large_for_the_gpu_is_refused_by_place(emulation: Emulation) -> None:
    circuit = quantum_volume(28, 6, seed=5)
    circuit.measure_all()
    executor = custatevec_executor(resources=RESOURCES)

    with pytest.raises(ProgramTooLarge, match=r"pubs\[0\]: 28 qubits in double .* 4 GiB of GPU"):
        sample(sampler_pub(circuit), aer=executor)

    assert counts(executor, teleported()).counts


def test_parts_that_share_no_bit_are_simulated_one_by_one(
    emulation: Emulation, engines_only: None
) -> None:
    """Together they would need 2^40 amplitudes."""
    circuit = QuantumCircuit(40, 40)
    for qubit in range(0, 40, 2):
        circuit.h(qubit)
        circuit.t(qubit)
        circuit.cx(qubit, qubit + 1)
    circuit.measure(range(40), range(40))

    result = counts(custatevec_executor(resources=RESOURCES), circuit, shots=100)

    assert result.metadata["component_qubits"] == [2] * 20
    assert all(key[i] == key[i + 1] for key in result.counts for i in range(0, 40, 2))


def test_items_of_quantum_programs_are_sampled(executor: EngineExecutor) -> None:
    angle = Parameter("θ")
    circuit = QuantumCircuit(2, 2)
    circuit.rx(angle, 0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])
    item = CircuitItem(circuit=circuit, parameter_values=np.array([[0.0], [np.pi]]))

    result = executor.run(
        QuantumProgram(schema_version="v0.2", items=(item,), shots=20, options={}, seed=1), TARGET
    )

    assert isinstance(result, QuantumResult)
    (bits,) = result.items[0].arrays.values()
    assert bits.tolist() == [[[False, False]] * 20, [[True, True]] * 20]


def test_programs_that_simulate_nothing_need_no_gpu(emulation: Emulation) -> None:
    emulation.become(gpus=0)
    executor = custatevec_executor(resources=RESOURCES)

    assert executor.run(CalibrationProgram(), TARGET).metadata["executor"] == "custatevec"


def test_a_static_circuit_reads_at_its_end_even_among_gates() -> None:
    """So that a measurement is no split as long as nothing acts on its qubit afterwards."""
    circuit = QuantumCircuit(2, 2)
    circuit.measure(0, 0)
    circuit.h(1)
    circuit.measure(1, 1)
    steps = lower(circuit, GATES)

    assert branching._tail(steps) == 0
    circuit.h(0)
    assert branching._tail(lower(circuit, GATES)) == 1
