"""What must every state vector engine do, and what does cuStateVec's do with the library?"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library import MCPhaseGate, MCXGate, UnitaryGate, quantum_volume
from qiskit.circuit.random import random_circuit
from qiskit.quantum_info import Pauli, Statevector, random_unitary

from app.errors import ExecutionError, ProgramTooLarge
from app.executors import Resources
from app.executors.circuits.angles import Angles
from app.executors.circuits.lowering import lower
from app.executors.engines import Gate, bindings
from app.executors.engines.branching import EngineCore
from app.executors.engines.custatevec import CustatevecEngine
from app.executors.engines.gates import GATES, gate_of
from app.executors.engines.reference import NumpyEngine
from app.executors.native import Run
from tests.gpu.emulation import Calls, Emulation

if TYPE_CHECKING:
    from app.executors.engines import StateVectorEngine

RESOURCES = Resources(threads=3, memory_bytes=1 << 30, max_result_bytes=1 << 20)
#: engine → how far a probability may be off after some dozens of gates.
TOLERANCES = {"numpy": 1e-12, "double": 1e-12, "single": 1e-5, "double, wires reordered": 1e-12}


@pytest.fixture(params=TOLERANCES)
def engine(request: pytest.FixtureRequest, emulation: Emulation) -> StateVectorEngine:
    if request.param == "numpy":
        return NumpyEngine(resources=RESOURCES)
    emulation.scramble_wires(on="reordered" in request.param)
    return CustatevecEngine(precision=request.param.partition(",")[0])


@pytest.fixture
def tolerance(request: pytest.FixtureRequest) -> float:
    return TOLERANCES[request.node.callspec.params["engine"]]


def run_of(circuit: QuantumCircuit) -> Run:
    return Run(steps=lower(circuit, GATES), qubits=circuit.num_qubits, method="statevector", seed=1)


@pytest.mark.parametrize("seed", range(20))
def test_random_circuits_have_the_probabilities_that_qiskit_gives(
    engine: StateVectorEngine, tolerance: float, seed: int
) -> None:
    qubits = 2 + seed % 6
    circuit = random_circuit(qubits, 12, max_operands=min(4, qubits), seed=seed)
    order = np.random.default_rng(seed).permutation(qubits)[: 1 + seed % qubits].tolist()

    found = EngineCore(engine).probabilities(run_of(circuit), order)

    expected = Statevector(circuit).probabilities(order)
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("seed", range(6))
def test_paulis_have_the_expectation_values_that_qiskit_gives(
    engine: StateVectorEngine, tolerance: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    circuit = random_circuit(5, 8, max_operands=3, seed=seed)
    labels = ["".join(rng.choice(list("IXYZ"), 5)) for _ in range(12)] + ["IIIII"]
    paulis = [
        {qubit: each for qubit, each in enumerate(reversed(label)) if each != "I"}
        for label in labels
    ]

    found = EngineCore(engine).expectations(run_of(circuit), paulis)

    state = Statevector(circuit)
    expected = [state.expectation_value(Pauli(label)).real for label in labels]
    np.testing.assert_allclose(found, expected, atol=10 * tolerance)


@pytest.mark.parametrize(
    ("gate", "qubits"),
    [
        (MCXGate(7), [3, 8, 0, 5, 1, 7, 2, 4]),
        (MCPhaseGate(0.7, 6), [8, 3, 0, 5, 1, 7, 2]),
        (UnitaryGate(random_unitary(2**7, seed=1)), [6, 1, 8, 0, 3, 5, 2]),
        (UnitaryGate(np.diag(np.exp(1j * np.arange(16)))), [6, 1, 8, 0]),
    ],
    ids=["mcx", "mcphase", "dense", "diagonal"],
)
def test_wide_gates_are_applied_whole(
    engine: StateVectorEngine, tolerance: float, gate: object, qubits: list[int]
) -> None:
    circuit = quantum_volume(9, 2, seed=4)
    circuit.append(gate, qubits)
    circuit.append(gate, qubits[::-1])
    circuit.h(range(9))

    steps = lower(circuit, GATES)
    found = EngineCore(engine).probabilities(run_of(circuit), range(9))

    assert sum(len(step.qubits) == len(qubits) for step in steps) == 2
    np.testing.assert_allclose(found, Statevector(circuit).probabilities(), atol=tolerance)


@pytest.mark.parametrize("sets", [1, 4, 7])
@pytest.mark.parametrize("kind", ["single", "double", "double, wires reordered"])
def test_states_side_by_side_are_what_each_is_alone(
    emulation: Emulation, kind: str, sets: int
) -> None:
    emulation.scramble_wires(on="reordered" in kind)
    angles = Angles((a := Parameter("a"), b := Parameter("b")))
    circuit = QuantumCircuit(4)
    for qubit in range(4):
        circuit.ry(a + qubit, qubit)
        circuit.crx(b, qubit, (qubit + 1) % 4)
    circuit.swap(0, 2)
    circuit.rzz(a, 1, 2)
    steps = lower(circuit, GATES, angles)
    values = np.random.default_rng(3).uniform(0, 6, (sets, 2))
    labels = ["IIIX", "XYIZ", "ZIIZ", "YYYY", "IIII", "IZXI"]
    paulis = [
        {qubit: each for qubit, each in enumerate(reversed(label)) if each != "I"}
        for label in labels
    ]
    engine = CustatevecEngine(precision=kind.partition(",")[0])

    found = engine.batch_expectations(steps, 4, angles.at(values), paulis)
    chances = engine.batch_probabilities(steps, 4, angles.at(values), [2, 0])

    states = [
        Statevector(circuit.assign_parameters(dict(zip((a, b), v, strict=True)))) for v in values
    ]
    tolerance = 10 * TOLERANCES[kind]
    expected = [
        [state.expectation_value(Pauli(label)).real for state in states] for label in labels
    ]
    np.testing.assert_allclose(found, expected, atol=tolerance)
    np.testing.assert_allclose(
        chances, [state.probabilities([2, 0]) for state in states], atol=tolerance
    )


def test_shots_and_copies_are_of_states_with_their_wires_in_order(emulation: Emulation) -> None:
    emulation.scramble_wires()
    engine = CustatevecEngine()
    engine.start(4)
    engine.apply(gate_of(lower(_rotation(), GATES)[0]))
    assert engine.wire_order() == [3, 0, 1, 2]

    kept = engine.keep()

    assert engine.wire_order() == [0, 1, 2, 3]
    engine.start(4, kept)
    assert engine.wire_order() == [0, 1, 2, 3]
    np.testing.assert_allclose(engine.probabilities([0]), [np.cos(0.4) ** 2, np.sin(0.4) ** 2])


def test_a_copy_is_made_into_a_state_that_was_left_in_another_order(emulation: Emulation) -> None:
    emulation.scramble_wires()
    engine = CustatevecEngine()
    engine.start(4)
    engine.apply(gate_of(lower(_rotation(), GATES)[0]))
    first = engine.keep()
    engine.apply(Gate(np.array([1, 1j]), (0,)))
    engine.wait()
    engine.start(4, first)

    second = engine.keep()

    engine.start(4, second)
    np.testing.assert_allclose(engine.probabilities([0]), [np.cos(0.4) ** 2, np.sin(0.4) ** 2])


def test_a_workspace_is_given_back(emulation: Emulation) -> None:
    engine, used = CustatevecEngine(), emulation.bytes_in_use
    circuit = QuantumCircuit(2)
    circuit.ry(angle := Parameter("a"), 0)
    angles = Angles((angle,))

    engine.batch_probabilities(lower(circuit, GATES, angles), 2, np.zeros((8, 1)), [0])

    assert emulation.bytes_in_use - used == 16 * 2**5
    engine.close()
    assert emulation.bytes_in_use == used


def test_swaps_only_rename_qubits(emulation: Emulation) -> None:
    circuit = QuantumCircuit(3)
    circuit.h(0)
    before = emulation.calls(Calls.ENQUEUED)

    for first, second in ((0, 1), (1, 2), (0, 2), (2, 1)):
        circuit.swap(first, second)
    circuit.ry(0.3, 1)
    found = EngineCore(CustatevecEngine()).probabilities(run_of(circuit), [0, 1, 2])

    assert emulation.calls(Calls.ENQUEUED) - before == 2
    np.testing.assert_allclose(found, Statevector(circuit).probabilities(), atol=1e-12)


@pytest.mark.parametrize("qubits", [[0, 1, 2, 3, 4], [3, 1], [4]])
def test_points_are_looked_up_in_the_order_of_indices(
    engine: StateVectorEngine, emulation: Emulation, qubits: list[int]
) -> None:
    """So that a seed gives the same shots on every engine."""
    run, points = run_of(quantum_volume(5, 3, seed=2)), np.random.default_rng(3).random(500)
    reference = NumpyEngine(resources=RESOURCES)
    for each in (engine, reference):
        EngineCore(each).probabilities(run, [0])

    found = engine.sample(qubits, points)

    expected = reference.sample(qubits, points)
    # Rounding may move a point that falls between two amplitudes: in single precision only.
    most = 2 if engine.precision == "single" else 0
    assert found.dtype == np.int64
    assert np.count_nonzero(found != expected) <= most


def test_what_was_kept_comes_back(engine: StateVectorEngine, tolerance: float) -> None:
    engine.start(3)
    engine.apply(gate_of(lower(_rotation(), GATES)[0]))
    kept = engine.keep()
    engine.apply(Gate(np.array([0, 1], dtype=complex), (0,)))
    changed = engine.probabilities([0])

    engine.start(3, kept)
    again = engine.probabilities([0])

    chance = np.sin(0.4) ** 2
    np.testing.assert_allclose(changed, [0, chance], atol=tolerance)
    np.testing.assert_allclose(again, [1 - chance, chance], atol=tolerance)


def test_what_was_queued_is_forgotten_with_the_state(engine: StateVectorEngine) -> None:
    engine.start(2)
    engine.apply(gate_of(lower(_rotation(), GATES)[0]))

    engine.start(2)

    assert engine.probabilities([0]).tolist() == [1, 0]


def _rotation() -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.ry(0.8, 0)
    return circuit


def test_gates_are_queued_and_applied_at_once(emulation: Emulation) -> None:
    circuit = QuantumCircuit(4)
    for qubit in range(4):
        circuit.h(qubit)
        circuit.rz(0.1, qubit)
        circuit.cz(qubit, (qubit + 1) % 4)
    before = {kind: emulation.calls(kind) for kind in Calls}

    EngineCore(CustatevecEngine()).expectations(run_of(circuit), [{0: "X"}, {1: "Y", 2: "Z"}, {}])

    done = {kind: emulation.calls(kind) - before[kind] for kind in Calls}
    assert done == dict.fromkeys(Calls, 0) | {
        Calls.CREATED: 1,
        Calls.ENQUEUED: 12,
        Calls.DIAGONAL: 8,
        Calls.APPLIED: 1,
        Calls.EXPECTED: 1,
    }


def test_a_long_queue_is_applied_in_between(
    emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.executors.engines.custatevec._QUEUED_BYTES", 1000)
    circuit = quantum_volume(4, 20, seed=1)
    engine = CustatevecEngine()
    before = emulation.calls(Calls.APPLIED)
    steps = 40

    found = EngineCore(engine).probabilities(run_of(circuit), range(4))

    assert emulation.calls(Calls.APPLIED) - before == steps // 4
    np.testing.assert_allclose(found, Statevector(circuit).probabilities(), atol=1e-12)


def test_a_state_is_used_again_where_the_width_is_the_same(emulation: Emulation) -> None:
    engine = CustatevecEngine()
    before, used = emulation.calls(Calls.CREATED), emulation.bytes_in_use

    for qubits in (5, 5, 5, 6, 6, 5):
        engine.start(qubits)
        engine.apply(Gate(np.eye(2, dtype=complex)[::-1].copy(), (0,)))
        engine.probabilities([0])

    assert emulation.calls(Calls.CREATED) - before == 3
    assert emulation.bytes_in_use - used == 16 * 2**5
    engine.close()
    assert emulation.bytes_in_use == used


def test_a_state_that_does_not_fit_is_refused_with_sizes_and_remedies(
    emulation: Emulation,
) -> None:
    engine, used = CustatevecEngine(), emulation.bytes_in_use
    engine.start(4)
    before = emulation.calls(Calls.CREATED)

    with pytest.raises(ProgramTooLarge) as refusal:
        engine.start(26)

    assert refusal.value.message == (
        "26 qubits in double precision would need 1 GiB of GPU memory; 1 GiB are free on"
        " GPU 0: emulated GPU: use fewer qubits that belong together, ask for single precision,"
        " which takes half of that, or run it on a backend …@aer"
    )
    assert refusal.value.details["needed_bytes"] == 2**30
    assert refusal.value.details["allowed_bytes"] == 2**30 - used
    assert emulation.calls(Calls.CREATED) == before
    assert emulation.bytes_in_use == used
    engine.start(24)
    assert engine.probabilities([23]).tolist() == [1, 0]
    engine.close()


def test_single_precision_takes_half_and_does_not_recommend_itself(emulation: Emulation) -> None:
    single, double = CustatevecEngine(precision="single"), CustatevecEngine()

    assert (single.largest_qubits, double.largest_qubits) == (26, 25)
    with pytest.raises(ProgramTooLarge, match="27 qubits in single precision") as refusal:
        single.start(27)
    assert "ask for single" not in refusal.value.message
    with pytest.raises(ProgramTooLarge, match=r"would need 2\^974 GiB of GPU memory"):
        double.start(1000)


def test_what_the_library_refuses_is_too_large_as_well(
    emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may have taken the memory since it was counted."""
    monkeypatch.setattr(CustatevecEngine, "_missing_bytes", lambda *_: 0)
    used = emulation.bytes_in_use

    with pytest.raises(ProgramTooLarge, match=r"27 qubits .*ALLOC_FAILED"):
        CustatevecEngine().start(27)

    assert emulation.bytes_in_use == used


def test_a_gpu_that_is_lost_is_no_want_of_memory(
    emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CustatevecEngine()
    emulation.become(gpus=0)

    with pytest.raises(ExecutionError, match=r"GPU failed: the CUDA driver has no GPU 0: "):
        engine.start(3)
    monkeypatch.setattr(CustatevecEngine, "_missing_bytes", lambda *_: 0)
    with pytest.raises(ExecutionError, match=r"the GPU failed with 3 qubits: .*CUDA_ERROR"):
        engine.start(3)


def test_errors_during_a_run_are_translated(
    emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full GPU may have no room for what a call needs besides the state."""
    engine = CustatevecEngine()
    status, error = engine._plain.Status, engine._error
    engine.start(4)

    def failing(kind: int) -> None:
        def fail(*_: object) -> None:
            raise error(kind)

        monkeypatch.setattr(engine, "_ex", SimpleNamespace(**vars(engine._ex) | {"sample": fail}))

    failing(status.ALLOC_FAILED)
    with pytest.raises(ProgramTooLarge, match=r"4 qubits .*ALLOC_FAILED"):
        engine.sample([0], np.array([0.5]))
    # The library may call it this; a GPU with room has another problem.
    failing(status.CUDA_ERROR)
    with pytest.raises(ExecutionError, match=r"GPU failed with 4 qubits: .*CUDA_ERROR"):
        engine.sample([0], np.array([0.5]))
    emulation.become(memory_bytes=emulation.bytes_in_use + 100)
    with pytest.raises(ProgramTooLarge, match=r"4 qubits .*CUDA_ERROR"):
        engine.sample([0], np.array([0.5]))
    failing(status.EXECUTION_FAILED)
    with pytest.raises(ExecutionError, match=r"GPU failed with 4 qubits: .*EXECUTION_FAILED"):
        engine.sample([0], np.array([0.5]))


@pytest.mark.parametrize("status", ["NOT_SUPPORTED", "INTERNAL_ERROR"])
def test_a_gpu_without_emulated_arithmetic_may_say_so(
    emulation: Emulation, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    engine, used = CustatevecEngine(), emulation.bytes_in_use

    def refuse(*_: object) -> None:
        raise engine._error(engine._plain.Status[status])

    other = SimpleNamespace(**vars(engine._ex) | {"state_vector_set_math_mode": refuse})
    monkeypatch.setattr(engine, "_ex", other)

    with (
        nullcontext() if status == "NOT_SUPPORTED" else pytest.raises(ExecutionError, match=status)
    ):
        engine.start(3)

    engine.close()
    assert emulation.bytes_in_use == used


def test_without_memory_for_a_copy_nothing_is_kept(emulation: Emulation) -> None:
    # An eighth of it is not given away; then there is room for two states and a half.
    emulation.become(memory_bytes=(emulation.bytes_in_use + 40 * 2**10) * 8 // 7)
    engine = CustatevecEngine()
    engine.start(10)

    first, second = engine.keep(), engine.keep()

    assert first is not None
    assert second is None
    engine.start(10, first)
    assert engine.keep() is not None


def test_without_a_driver_an_engine_is_refused_before_the_library_is_called(
    emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would abort this process."""
    emulation.become(gpus=0)

    with pytest.raises(ExecutionError, match="no GPU: the CUDA driver finds no GPU"):
        CustatevecEngine()


def test_the_updater_is_made_as_asked(emulation: Emulation) -> None:
    CustatevecEngine(threads=99, fusion=6)
    assert (emulation.configured("fusion"), emulation.configured("threads")) == (6, 16)

    CustatevecEngine(threads=3)
    assert (emulation.configured("fusion"), emulation.configured("threads")) == (0, 3)


def test_several_gpus_hold_one_state(emulation: Emulation) -> None:
    """As far as it can be shown here: the configuration, and the check of each one's memory."""
    emulation.become(gpus=4, memory_bytes=emulation.bytes_in_use + 2**20)
    engine = CustatevecEngine(gpus=(0, 1, 2, 3))

    engine.start(15)

    assert emulation.configured("devices") == 4
    assert engine.keep() is None
    with pytest.raises(ProgramTooLarge, match=r"on GPU 0: .*, GPU 1: .*, GPU 2: .*, GPU 3: "):
        engine.start(19)
    with pytest.raises(ExecutionError, match="4 GPUs; there is no GPU 4"):
        CustatevecEngine(gpus=(3, 4))


def test_the_installed_bindings_are_called_as_they_want_to_be(emulation: Emulation) -> None:
    ex, plain = bindings.load().ex, bindings.load().plain

    def parameters(function: object) -> str:
        return " ".join(inspect.signature(function).parameters)

    assert parameters(ex.sv_updater_enqueue_matrix) == (
        "sv_updater matrix matrix_data_type ex_matrix_type layout adjoint targets num_targets"
        " controls control_bit_values num_controls"
    )
    assert parameters(ex.sample) == (
        "state_vector bit_strings bit_string_ordering bit_string_ordering_len randnums num_shots"
        " output abs2sums"
    )
    assert parameters(ex.configure_state_vector_multi_device) == (
        "sv_data_type num_wires num_device_wires device_ids num_devices network_type capability"
    )
    assert plain.MathMode.DISALLOW_FP32_EMULATED_BF16X9 == 2
    assert (ex.MatrixType.DENSE, ex.MatrixType.DIAGONAL) == (1, 2)
