"""What does the executor ``aer`` answer?"""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Clbit, Duration, Gate, IfElseOp, Instruction, Parameter
from qiskit.circuit.classical import expr, types
from qiskit.circuit.library import (
    MCPhaseGate,
    MCXGate,
    UnitaryGate,
    get_standard_gate_name_mapping,
)
from qiskit.quantum_info import random_unitary

from app.errors import ExecutionError, InvalidProgram, ProgramTooLarge
from app.executors import Resources
from app.executors.aer import AerExecutor
from app.executors.circuits import methods
from app.primitives.programs import CountsResult, QasmProgram, Target

from .exact_distribution import allowed_distance, distance, exact_distribution

if TYPE_CHECKING:
    from collections.abc import Callable

SHOTS = 4000
MIB = 2**20
RESOURCES = Resources(threads=1, memory_bytes=1024 * MIB, max_result_bytes=8 * MIB)
TARGET = Target(name="simulator")
AER = AerExecutor(resources=RESOURCES)

ANGLES = (0.3, 1.1, -2.7, 0.9)
GATES = {
    name: gate.base_class(*ANGLES[: len(gate.params)])
    for name, gate in get_standard_gate_name_mapping().items()
    if isinstance(gate, Gate) and gate.num_qubits
}
OPEN_CONTROLS = {
    "open_cx": GATES["x"].control(1, ctrl_state=0, annotated=False),
    "open_ccx": GATES["x"].control(2, ctrl_state=1, annotated=False),
    "open_mcx": MCXGate(3, ctrl_state=5),
    "open_crz": GATES["rz"].control(1, ctrl_state=0, annotated=False),
}
WIDE = {
    "mcx": MCXGate(3),
    "mcphase": MCPhaseGate(0.7, 3),
    "unitary": UnitaryGate(random_unitary(4, seed=4)),
    "controlled_u": GATES["u"].control(2, annotated=False),
    "annotated": GATES["u"].control(2, annotated=True),
    "annotated_inverse": GATES["iswap"].inverse(annotated=True),
    "root": GATES["x"].power(0.3),
}


def run(
    circuit: QuantumCircuit, *, shots: int = SHOTS, seed: int | None = 5, aer: AerExecutor = AER
) -> CountsResult:
    result = aer.run(QasmProgram(circuit=circuit, shots=shots, seed=seed), TARGET)
    assert isinstance(result, CountsResult)
    return result


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])
    return circuit


def entangled(qubits: int, angle: float = 0.4) -> QuantumCircuit:
    """Every qubit a little entangled with the next, and not Clifford."""
    circuit = QuantumCircuit(qubits, qubits)
    circuit.h(0)
    for qubit in range(qubits - 1):
        circuit.cx(qubit, qubit + 1)
        circuit.rx(angle, qubit)
    circuit.measure(range(qubits), range(qubits))
    return circuit


def gate_named(name: str, body: Callable[[QuantumCircuit], object], qubits: int = 1) -> Gate:
    gate = Gate(name, qubits, [])
    gate.definition = QuantumCircuit(qubits)
    body(gate.definition)
    return gate


def assert_exact(circuit: QuantumCircuit, result: CountsResult) -> None:
    """Total variation within the 5 sigma bound that ``allowed_distance`` derives."""
    exact = exact_distribution(circuit)
    shots = sum(result.counts.values())
    assert distance(result.counts, exact) < allowed_distance(shots, exact)


# --- counts -----------------------------------------------------------------------------------


def test_the_leftmost_character_is_the_highest_clbit() -> None:
    circuit = QuantumCircuit(3, 3)
    circuit.x(0)
    circuit.measure([0, 1, 2], [0, 1, 2])

    assert run(circuit).counts == {"001": SHOTS}


def test_registers_are_separated_by_a_space_the_last_declared_first() -> None:
    first, second = ClassicalRegister(2, "first"), ClassicalRegister(1, "second")
    circuit = QuantumCircuit(QuantumRegister(3), first, second)
    circuit.x(0)
    circuit.measure([0, 1, 2], [0, 1, 2])

    assert run(circuit).counts == {"0 01": SHOTS}


def test_bits_nothing_was_measured_into_are_zero() -> None:
    circuit = QuantumCircuit(
        QuantumRegister(1), ClassicalRegister(2, "a"), ClassicalRegister(2, "b")
    )
    circuit.x(0)
    circuit.measure(0, 2)

    assert run(circuit).counts == {"01 00": SHOTS}


def test_bits_without_any_measurement_give_zeros() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.h([0, 1])

    result = run(circuit)

    assert result.counts == {"00": SHOTS}
    assert result.metadata["qubits_simulated"] == 0


def test_a_circuit_without_classical_bits_is_refused() -> None:
    circuit = QuantumCircuit(1)
    circuit.h(0)

    with pytest.raises(InvalidProgram, match="add a measurement") as refusal:
        run(circuit)

    assert refusal.value.reason == "no_classical_bits"


def test_bits_outside_of_registers_are_written_without_a_space() -> None:
    circuit = QuantumCircuit([*QuantumRegister(2)], [Clbit()], ClassicalRegister(1, "c"))
    circuit.x(0)
    circuit.measure([0, 1], [0, 1])

    assert run(circuit).counts == {"01": SHOTS}


def test_one_qubit_can_be_read_into_several_bits() -> None:
    circuit = QuantumCircuit(2, 3)
    circuit.h(0)
    circuit.measure([0, 1, 0], [0, 1, 2])

    counts = run(circuit).counts

    assert set(counts) == {"000", "101"}


def test_the_last_measurement_into_a_bit_wins() -> None:
    circuit = QuantumCircuit(2, 1)
    circuit.x(0)
    circuit.rx(0.1, 1)
    circuit.measure(1, 0)
    circuit.measure(0, 0)

    assert run(circuit).counts == {"1": SHOTS}


def test_the_order_of_measurements_does_not_matter() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.rx(2 * pi, 1)
    circuit.measure([1, 0], [1, 0])

    assert run(circuit).counts == {"01": SHOTS}


def test_an_idle_qubit_overwrites_a_bit_in_the_middle_of_a_circuit() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.measure(0, 0)
    circuit.x(0)
    circuit.measure(0, 1)
    circuit.measure(1, 0)

    assert run(circuit).counts == {"00": SHOTS}


# --- gates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(GATES | OPEN_CONTROLS | WIDE))
@pytest.mark.parametrize("method", ["statevector", "matrix_product_state"])
def test_a_gate_does_what_qiskit_says(
    name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "matrix_product_state":
        monkeypatch.setattr(methods, "statevector_bytes", lambda *_: 2**62)
    gate = (GATES | OPEN_CONTROLS | WIDE)[name]
    circuit = QuantumCircuit(gate.num_qubits, gate.num_qubits)
    # Different states before and different bases after, so that a phase shows as well.
    for qubit in range(gate.num_qubits):
        circuit.u(0.5 + qubit, 0.2, 0.9, qubit)
    circuit.append(gate, range(gate.num_qubits))
    for qubit in range(gate.num_qubits):
        circuit.u(1.2 - 0.3 * qubit, 0.4, 0.1, qubit)
    circuit.measure(range(gate.num_qubits), range(gate.num_qubits))

    result = run(circuit)

    assert result.metadata["method"] == method
    assert_exact(circuit, result)


@pytest.mark.parametrize("name", ["h", "x", "measure", "reset", "mcx", "unitary", "barrier"])
def test_a_gate_of_the_user_runs_by_its_definition_whatever_its_name(name: str) -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.append(gate_named(name, lambda body: body.ry(1.0, 0)), [0])
    circuit.measure(0, 0)

    assert_exact(circuit, run(circuit))


@pytest.mark.parametrize("name", ["roerror", "diagonal", "multiplexer", "jump", "save_state"])
def test_a_gate_named_like_an_instruction_of_the_simulator_is_only_a_gate(name: str) -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.append(gate_named(name, lambda body: body.cx(0, 1), qubits=2), [0, 1])
    circuit.append(gate_named(name, lambda body: body.x(0)), [0])
    circuit.measure([0, 1], [0, 1])

    assert run(circuit).counts == {"01": SHOTS}


def test_nested_definitions_are_followed() -> None:
    inner = gate_named("inner", lambda body: body.h(1), qubits=2)
    outer = gate_named("outer", lambda body: body.append(inner, [1, 0]), qubits=2)
    circuit = QuantumCircuit(3, 3)
    circuit.append(outer, [2, 1])
    circuit.measure([0, 1, 2], [0, 1, 2])

    assert set(run(circuit).counts) == {"000", "100"}


def test_an_instruction_may_measure_inside() -> None:
    inside = Instruction("look", 1, 1, [])
    inside.definition = QuantumCircuit(1, 1)
    inside.definition.x(0)
    inside.definition.measure(0, 0)
    circuit = QuantumCircuit(2, 2)
    circuit.append(inside, [1], [1])

    assert run(circuit).counts == {"10": SHOTS}


def test_an_operation_without_a_definition_is_refused() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.append(Gate("oracle", 1, []), [0])
    circuit.measure(0, 0)

    with pytest.raises(ExecutionError, match="'oracle' cannot be simulated"):
        run(circuit)


def test_a_parameter_without_a_value_is_refused() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.rx(Parameter("theta"), 0)
    circuit.measure(0, 0)

    with pytest.raises(ExecutionError, match="parameters without a value: theta"):
        run(circuit)


# --- dynamic circuits -------------------------------------------------------------------------


def teleported() -> QuantumCircuit:
    circuit = QuantumCircuit(3, 3)
    circuit.ry(1.0, 0)
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


def repeated_until_one() -> QuantumCircuit:
    """``while (c == 0)`` on a bit that nothing was measured into, and nothing after it."""
    circuit = QuantumCircuit(1, 1)
    with circuit.while_loop((circuit.clbits[0], 0)):
        circuit.ry(1.0, 0)
        circuit.measure(0, 0)
    return circuit


def switched() -> QuantumCircuit:
    circuit = QuantumCircuit(
        QuantumRegister(3), ClassicalRegister(2, "c"), ClassicalRegister(1, "d")
    )
    circuit.h([0, 1])
    circuit.measure([0, 1], [0, 1])
    with circuit.switch(circuit.cregs[0]) as case:
        with case(0):
            circuit.ry(0.5, 2)
        with case(1, 2):
            circuit.ry(1.5, 2)
        with case(case.DEFAULT):
            circuit.x(2)
    circuit.measure(2, 2)
    return circuit


def looped() -> QuantumCircuit:
    """A ``for`` loop whose variable is an angle, left early by ``break`` and ``continue``."""
    circuit = QuantumCircuit(2, 2)
    with circuit.for_loop(range(4)) as index:
        circuit.ry(index * 0.4, 0)
        circuit.measure(0, 0)
        with circuit.if_test((circuit.clbits[0], 1)):
            circuit.ry(0.3, 1)
            circuit.continue_loop()
        circuit.measure(1, 1)
        with circuit.if_test((circuit.clbits[1], 1)):
            circuit.break_loop()
        circuit.ry(0.7, 1)
    return circuit


def compared() -> QuantumCircuit:
    """If and else on an expression, one inside the other."""
    circuit = QuantumCircuit(
        QuantumRegister(3), ClassicalRegister(2, "c"), ClassicalRegister(1, "d")
    )
    circuit.h([0, 1])
    circuit.measure([0, 1], [0, 1])
    low, high = circuit.cregs[0]
    with circuit.if_test(expr.logic_or(expr.less(circuit.cregs[0], 2), low)) as otherwise:
        circuit.ry(0.4, 2)
        with circuit.if_test(expr.logic_not(high)):
            circuit.ry(0.9, 2)
    with otherwise:
        circuit.x(2)
    circuit.measure(2, 2)
    return circuit


def reset_halfway() -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.reset(0)
    circuit.rx(0.5, 0)
    circuit.measure([0, 1], [0, 1])
    return circuit


def measured_halfway() -> QuantumCircuit:
    circuit = QuantumCircuit(1, 2)
    circuit.h(0)
    circuit.measure(0, 0)
    circuit.h(0)
    circuit.measure(0, 1)
    return circuit


def with_inner_bits() -> QuantumCircuit:
    """A block whose bits are not the same objects as those of the circuit around it."""
    block = QuantumCircuit(1, 1)
    inner = QuantumCircuit(1, 1)
    inner.x(0)
    block.append(IfElseOp((block.clbits[0], 1), inner), [0], [0])
    circuit = QuantumCircuit(2, 3)
    circuit.h(0)
    circuit.measure(0, 2)
    circuit.append(IfElseOp((circuit.clbits[0], 0), block), [1], [2])
    circuit.measure(1, 1)
    return circuit


def with_swapped_bits() -> QuantumCircuit:
    """A block that lists the bits of the circuit around it in another order."""
    circuit = QuantumCircuit(2, 2)
    low, high = circuit.clbits
    inner = QuantumCircuit(1)
    inner.x(0)
    block = QuantumCircuit([circuit.qubits[1]], [low, high])
    block.append(IfElseOp((low, 1), inner), [0])
    circuit.h(0)
    circuit.measure(0, 1)
    circuit.append(IfElseOp((low, 0), block), [1], [high, low])
    circuit.measure(1, 0)
    return circuit


DYNAMIC = {
    build.__name__: build
    for build in (
        teleported,
        repeated_until_one,
        switched,
        looped,
        compared,
        reset_halfway,
        measured_halfway,
        with_inner_bits,
        with_swapped_bits,
    )
}


@pytest.mark.parametrize("build", DYNAMIC.values(), ids=DYNAMIC)
def test_a_dynamic_circuit_gives_the_exact_distribution(
    build: Callable[[], QuantumCircuit],
) -> None:
    circuit = build()

    result = run(circuit)

    assert result.metadata["method"] == "statevector"
    assert_exact(circuit, result)


@pytest.mark.parametrize("build", DYNAMIC.values(), ids=DYNAMIC)
def test_a_dynamic_circuit_runs_shot_after_shot_where_its_branches_do_not_fit(
    build: Callable[[], QuantumCircuit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "_branches", lambda *_: 10**9)
    circuit = build()

    assert_exact(circuit, run(circuit))


def test_a_clifford_circuit_with_feed_forward_is_exact_as_a_stabilizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "_STATEVECTOR_CLIFFORD_QUBITS", 0)
    circuit = QuantumCircuit(3, 3)
    circuit.h([0, 1])
    circuit.cz(0, 1)
    circuit.rz(-pi / 2, 0)
    circuit.sx(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(2)
    circuit.reset(0)
    circuit.p(pi, 1)
    circuit.h(1)
    circuit.measure([0, 1, 2], [0, 1, 2])

    result = run(circuit)

    assert result.metadata["method"] == "stabilizer"
    assert_exact(circuit, result)


@pytest.mark.parametrize("turns", range(-4, 5))
@pytest.mark.parametrize("gate", ["rz", "p"])
def test_quarter_turns_about_z_are_exact_as_a_stabilizer(
    gate: str, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "_STATEVECTOR_CLIFFORD_QUBITS", 0)
    circuit = QuantumCircuit(1, 1)
    circuit.h(0)
    getattr(circuit, gate)(turns * pi / 2, 0)
    circuit.s(0)
    circuit.h(0)
    circuit.measure(0, 0)

    result = run(circuit)

    assert result.metadata["method"] == "stabilizer"
    assert_exact(circuit, result)


def test_clifford_branches_that_do_not_fit_run_as_a_stabilizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "_branches", lambda *_: 10**9)
    circuit = QuantumCircuit(1, 2)
    circuit.h(0)
    circuit.measure(0, 0)
    circuit.h(0)
    circuit.measure(0, 1)

    assert run(circuit).metadata["method"] == "stabilizer"


def test_a_for_loop_without_measurements_is_sampled_like_straight_code() -> None:
    circuit = QuantumCircuit(1, 1)
    with circuit.for_loop(range(3)) as index:
        circuit.ry(index * 0.3, 0)
    circuit.measure(0, 0)

    result = run(circuit, shots=1_000_000)

    # Shot after shot this would take half a minute.
    assert result.metadata["time_taken_s"] < 5
    assert_exact(circuit, result)


def test_a_condition_may_compute() -> None:
    bits, flag = ClassicalRegister(4, "bits"), ClassicalRegister(1, "flag")
    circuit = QuantumCircuit(QuantumRegister(5), bits, flag)
    circuit.h(range(4))
    circuit.measure(range(4), bits)
    near = expr.less(expr.sub(bits, 5), 3)
    with circuit.if_test(expr.logic_or(near, expr.equal(expr.shift_left(bits, 2), 8))):
        circuit.x(4)
    circuit.measure(4, flag)

    result = run(circuit)

    holds = {v: (v - 5) % 16 < 3 or (v << 2) % 16 == 8 for v in range(16)}
    exact = {f"{int(holds[v])}{v:04b}": 1 / 16 for v in range(16)}
    assert distance(result.counts, exact) < allowed_distance(SHOTS, exact)


def test_a_loop_may_count_in_a_variable() -> None:
    read, tried = ClassicalRegister(1, "read"), ClassicalRegister(3, "tried")
    circuit = QuantumCircuit(QuantumRegister(2), read, tried)
    tries = circuit.add_var("tries", expr.lift(0, types.Uint(3)))
    angle = circuit.add_var("angle", expr.lift(0.25, types.Float()))
    circuit.h(0)
    circuit.measure(0, read)
    with circuit.while_loop(expr.logic_and(read[0], expr.less(tries, 5))):
        circuit.ry(1, 0)
        circuit.measure(0, read)
        circuit.store(tries, expr.add(tries, 1))
        circuit.store(angle, expr.div(angle, 2.0))
        with circuit.if_test(expr.equal(angle, 0.0625)):
            circuit.break_loop()
    circuit.store(tried, tries)

    result = run(circuit)

    # Read as 1 it is turned by 1 and read again, at most twice.
    again = np.cos(0.5) ** 2
    exact = {
        "0000": 0.5,
        "0010": 0.5 * (1 - again),
        "0100": 0.5 * again * (1 - again),
        "0101": 0.5 * again**2,
    }
    assert distance(result.counts, exact) < allowed_distance(SHOTS, exact)


def test_a_wide_clifford_circuit_that_computes_is_refused_with_its_estimate() -> None:
    circuit = QuantumCircuit(40, 40)
    circuit.h(range(40))
    circuit.cx(range(39), range(1, 40))
    circuit.measure(range(40), range(40))
    with circuit.if_test(expr.equal(expr.shift_left(circuit.cregs[0], 1), 2)):
        circuit.x(0)

    with pytest.raises(ProgramTooLarge, match="40 qubits"):
        run(circuit)


def test_what_no_expression_can_be_is_refused() -> None:
    circuit = QuantumCircuit(1, 1)
    wait = expr.lift(Duration.ns(5))
    with circuit.if_test(expr.less(wait, wait)):
        circuit.x(0)
    circuit.measure(0, 0)

    with pytest.raises(ExecutionError, match="'value', which cannot be evaluated here"):
        run(circuit)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (expr.lift(0, types.Uint(2**30)), "1073741824 bits"),
        (expr.cast(expr.mul(expr.lift(1e300), 1e300), types.Uint(8)), "not finite"),
    ],
)
def test_an_integer_that_cannot_be_held_is_refused(value: expr.Expr, reason: str) -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.add_var("a", value)
    circuit.measure(0, 0)

    with pytest.raises(ExecutionError, match=reason):
        run(circuit)


# --- methods ----------------------------------------------------------------------------------


def test_a_wide_clifford_circuit_is_simulated_as_a_stabilizer() -> None:
    circuit = QuantumCircuit(100, 100)
    circuit.h(0)
    for qubit in range(99):
        circuit.cx(qubit, qubit + 1)
    circuit.measure(range(100), range(100))

    result = run(circuit)

    assert result.metadata["method"] == "stabilizer"
    assert set(result.counts) == {"0" * 100, "1" * 100}


def test_a_circuit_that_does_not_fit_as_a_state_vector_is_a_matrix_product_state() -> None:
    result = run(entangled(40), shots=200)

    assert result.metadata["method"] == "matrix_product_state"
    assert result.metadata["truncation_threshold"] == 1e-12
    assert sum(result.counts.values()) == 200


def test_idle_qubits_cost_nothing() -> None:
    circuit = QuantumCircuit(200, 2)
    circuit.h(3)
    circuit.t(3)
    circuit.cx(3, 190)
    circuit.measure([3, 190], [0, 1])

    result = run(circuit)

    assert result.metadata["method"] == "statevector"
    assert result.metadata["qubits_declared"] == 200
    assert result.metadata["qubits_simulated"] == 2
    assert set(result.counts) == {"00", "11"}


@pytest.mark.parametrize("shots", [16, SHOTS], ids=["sampled_by_aer", "drawn"])
def test_a_wide_readout_gives_the_exact_distribution(shots: int) -> None:
    # 2^10 outcomes are drawn from their probabilities for many shots, not for few.
    circuit = entangled(10)

    assert_exact(circuit, run(circuit, shots=shots))


# --- admission --------------------------------------------------------------------------------


def test_a_result_that_could_be_too_large_is_refused_before_the_run() -> None:
    with pytest.raises(ProgramTooLarge, match="8388608 bytes are allowed") as refusal:
        run(entangled(100), shots=100_000)

    assert refusal.value.details == {"needed_bytes": 11_000_000, "allowed_bytes": 8 * MIB}


def test_few_measured_bits_allow_many_shots() -> None:
    result = run(bell(), shots=1_000_000)

    assert sum(result.counts.values()) == 1_000_000


def test_shots_that_do_not_fit_in_memory_are_refused_with_the_estimate() -> None:
    small = Resources(threads=1, memory_bytes=300 * MIB, max_result_bytes=2**40)

    with pytest.raises(ProgramTooLarge, match=r"1000000 shots of 30 bits would need 0\.40\d GiB"):
        run(entangled(30), shots=1_000_000, aer=AerExecutor(resources=small))


def test_a_run_that_outgrows_its_memory_says_what_it_would_need() -> None:
    aer = AerExecutor(resources=RESOURCES)
    # As if the machine had been asked for more than the estimate.
    aer._controller._memory_mb = 1

    with pytest.raises(ProgramTooLarge, match=r"20 qubits in double precision") as refusal:
        run(entangled(20), aer=aer)

    assert "1 GiB are allowed" in refusal.value.message


# --- seeds and metadata -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "circuit",
    [bell(), entangled(10), teleported(), entangled(40)],
    ids=["drawn", "sampled", "dynamic", "matrix_product_state"],
)
def test_the_same_seed_gives_the_same_counts(circuit: QuantumCircuit) -> None:
    first, second = (run(circuit, shots=50, seed=9) for _ in range(2))
    other = run(circuit, shots=50, seed=10)

    assert first.counts == second.counts
    assert first.metadata["seed"] == 9
    assert other.counts != first.counts


def test_a_seed_is_drawn_and_reported_when_none_is_given() -> None:
    first, second = (run(bell(), shots=1000, seed=None) for _ in range(2))
    seed = first.metadata["seed"]

    assert isinstance(seed, int)
    assert 0 <= seed < 2**53
    assert seed != second.metadata["seed"]
    assert run(bell(), shots=1000, seed=seed).counts == first.counts


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**64, -1])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert run(entangled(10), shots=10, seed=seed).metadata["seed"] == seed


def test_the_metadata_say_what_ran() -> None:
    metadata = run(bell(), shots=100).metadata

    assert metadata.pop("time_taken_s") > 0
    assert set(metadata.pop("versions")) == {"qiskit", "qiskit-aer"}
    assert metadata == {
        "executor": "aer",
        "method": "statevector",
        "target": "simulator",
        "device": "CPU",
        "precision": "double",
        "shots": 100,
        "seed": 5,
        "qubits_declared": 2,
        "qubits_simulated": 2,
        "threads": 1,
        "noisy": False,
        "noise": "none",
        # test_durations.py looks at it.
        "estimate": metadata["estimate"],
    }


def test_the_target_is_named_and_changes_nothing() -> None:
    program = QasmProgram(circuit=bell(), shots=10, seed=5)

    result = AER.run(program, Target(name="fake_manila"))

    assert isinstance(result, CountsResult)
    assert result.metadata["target"] == "fake_manila"
    assert result.counts == run(bell(), shots=10).counts


def test_a_matrix_that_is_not_unitary_is_not_sampled() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.append(UnitaryGate(np.diag([1.0, 2.0]), check_input=False), [0])
    circuit.append(UnitaryGate(np.diag([2.0, 1.0]), check_input=False), [0])
    circuit.measure(0, 0)

    with pytest.raises(ExecutionError):
        run(circuit)
