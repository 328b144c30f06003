"""Are the arrays of small circuits the states that Qiskit says?"""

from __future__ import annotations

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Gate, Parameter
from qiskit.circuit.library import UnitaryGate, get_standard_gate_name_mapping
from qiskit.quantum_info import Operator, Statevector, random_statevector, random_unitary

from app.errors import ExecutionError
from app.executors import statevectors
from app.executors.circuits.angles import Angles, Slot
from app.executors.circuits.lowering import Step, lower
from app.executors.circuits.methods import STATEVECTOR_GATES
from app.executors.samples import counted, drawn

ANGLES = np.array([[0.3, 1.1, -2.7, 0.9], [-1.2, 0.4, 2.2, 3.0]])
GATES = {
    name: gate
    for name, gate in get_standard_gate_name_mapping().items()
    if isinstance(gate, Gate) and gate.num_qubits and name in STATEVECTOR_GATES
}
NO_SLOTS = np.empty((1, 0))


def start(qubits: int, sets: int) -> np.ndarray:
    state = random_statevector(2**qubits, seed=qubits).data
    return np.repeat(state[:, np.newaxis], sets, axis=1)


@pytest.mark.parametrize("name", sorted(GATES))
def test_a_gate_does_at_every_parameter_set_what_qiskit_says(name: str) -> None:
    gate = GATES[name]
    qubits = list(reversed(range(1, gate.num_qubits + 1)))
    slots = tuple(Slot(column) for column in range(len(gate.params)))
    states = start(gate.num_qubits + 2, len(ANGLES))

    assert statevectors.runs([Step(name, tuple(qubits), params=slots)])
    statevectors.evolve(states, [Step(name, tuple(qubits), params=slots)], ANGLES)

    for index, angles in enumerate(ANGLES):
        bound = gate.base_class(*angles[: len(gate.params)])
        exact = Statevector(start(gate.num_qubits + 2, 1)[:, 0]).evolve(Operator(bound), qubits)
        assert Statevector(states[:, index]).equiv(exact)


def test_a_matrix_acts_on_its_qubits_in_order() -> None:
    unitary = random_unitary(8, seed=1)
    states = start(4, 1)

    statevectors.evolve(states, [Step("unitary", (3, 0, 2), params=(unitary.data,))], NO_SLOTS)

    exact = Statevector(start(4, 1)[:, 0]).evolve(unitary, [3, 0, 2])
    np.testing.assert_allclose(states[:, 0], exact.data, atol=1e-12)


@pytest.mark.parametrize(("qubits", "sets"), [(5, 2), (5, 20), (12, 100)])
def test_few_sets_and_many_and_the_threads_they_run_in_give_the_same_states(
    qubits: int, sets: int
) -> None:
    turns = [Step("ry", (qubit,), params=(Slot(0),)) for qubit in range(qubits)]
    steps = [*turns, *(Step("cx", (qubit, qubit + 1)) for qubit in range(qubits - 1)), *turns]
    angles = np.linspace(-3, 3, sets)[:, np.newaxis]
    alone, beside = (statevectors.zeros(qubits, sets) for _ in range(2))

    statevectors.evolve(alone, steps, angles)
    statevectors.evolve(beside, steps, angles, threads=3)

    assert (alone == beside).all()
    circuit = QuantumCircuit(qubits)
    for step in steps:
        angle = () if step.name == "cx" else (angles[sets // 3, 0],)
        getattr(circuit, step.name)(*angle, *step.qubits)
    np.testing.assert_allclose(alone[:, sets // 3], Statevector(circuit).data, atol=1e-12)


def test_what_is_not_known_is_left_to_aer() -> None:
    assert not statevectors.runs([Step("mcphase", (0, 1, 2, 3), params=(0.1,))])
    assert not statevectors.runs([Step("unitary", (0, 1, 2, 3), params=(np.eye(16),))])
    assert not statevectors.runs([Step("measure", (0,), (0,))])


def test_probabilities_are_those_of_the_qubits_in_the_order_asked_for() -> None:
    state = random_statevector(16, seed=2)

    chances = statevectors.probabilities(np.repeat(state.data[:, np.newaxis], 2, axis=1), [3, 0, 2])

    np.testing.assert_allclose(chances, [state.probabilities([3, 0, 2])] * 2, atol=1e-12)


# --- angles -----------------------------------------------------------------------------------


def test_angles_are_evaluated_at_every_set() -> None:
    first, second = Parameter("a"), Parameter("b")
    circuit = QuantumCircuit(1)
    for angle in (
        second,
        2 * first - second / 4 + 1,
        first * second,
        first.sin(),
        second.sign(),
        second,
    ):
        circuit.rx(angle, 0)
    angles = Angles(circuit.parameters)
    steps = lower(circuit, STATEVECTOR_GATES, angles)
    values = np.array([[0.1, 0.2], [-1.0, -3.0]])

    evaluated = angles.at(values)

    a, b = values.T
    np.testing.assert_allclose(
        evaluated.T, [b, 2 * a - b / 4 + 1, a * b, np.sin(a), [1, -1]], atol=1e-12
    )
    assert [step.params[0].column for step in steps] == [0, 1, 2, 3, 4, 0]


# --- samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [50, 5000])
def test_few_shots_of_many_outcomes_are_as_fair_as_many(shots: int) -> None:
    rng = np.random.default_rng(1)
    weights = np.arange(1024.0)
    sums = []
    for _ in range(5000 // shots):
        samples = drawn(
            (weights / weights.sum())[np.newaxis],
            {bit: bit for bit in range(10)},
            shots=shots,
            rng=rng,
        )
        assert samples.occurrences.sum() == shots
        sums.append(samples.occurrences[0] @ (samples.outcomes @ (1 << np.arange(10))))

    mean, deviation = 682.0, 241.3
    # 5 sigma of 5000 shots.
    assert abs(sum(sums) / 5000 - mean) < 5 * deviation / 5000**0.5


def test_counts_of_more_bits_than_a_machine_word_are_kept() -> None:
    samples = counted({1 << 99: 2, 1: 1}, range(100))

    assert samples.outcomes[0].nonzero()[0].tolist() == [99]
    assert samples.outcomes[1].nonzero()[0].tolist() == [0]
    assert samples.occurrences.tolist() == [[2, 1]]


def test_a_matrix_that_is_not_unitary_is_not_sampled() -> None:
    states = statevectors.zeros(1, 1)
    gate = UnitaryGate(np.diag([0.5, 2.0]), check_input=False)

    statevectors.evolve(states, [Step("unitary", (0,), params=tuple(gate.params))], NO_SLOTS)

    with pytest.raises(ExecutionError, match=r"add up to 0\.25, not to 1"):
        drawn(
            statevectors.probabilities(states, [0]), {0: 0}, shots=1, rng=np.random.default_rng(1)
        )
