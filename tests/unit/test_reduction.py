"""Which part of a circuit is simulated?"""

from __future__ import annotations

from qiskit import QuantumCircuit

from app.executors.circuits.lowering import lower
from app.executors.circuits.methods import STATEVECTOR_GATES
from app.executors.circuits.reduction import Reduced, reduce


def reduced(circuit: QuantumCircuit) -> Reduced:
    return reduce(lower(circuit, STATEVECTOR_GATES))


def test_qubits_that_no_operation_touches_are_removed() -> None:
    circuit = QuantumCircuit(100, 2)
    circuit.h(17)
    circuit.cx(17, 93)
    circuit.measure([17, 93], [0, 1])

    answer = reduced(circuit)

    assert answer.qubits == 2
    assert [(step.name, step.qubits) for step in answer.steps] == [("h", (0,)), ("cx", (0, 1))]
    assert answer.readout == {0: 0, 1: 1}


def test_barriers_delays_and_identities_do_not_make_a_qubit_busy() -> None:
    circuit = QuantumCircuit(5, 1)
    circuit.h(0)
    circuit.barrier()
    circuit.delay(100, 3)
    circuit.id(4)
    circuit.measure(0, 0)

    assert reduced(circuit).qubits == 1


def test_a_measured_idle_qubit_is_removed_and_its_bit_stays_zero() -> None:
    circuit = QuantumCircuit(3, 3)
    circuit.h(1)
    circuit.measure([0, 1, 2], [0, 1, 2])

    answer = reduced(circuit)

    assert answer.qubits == 1
    assert answer.readout == {1: 0}
    assert answer.written == {1}


def test_a_bit_that_an_idle_qubit_overwrites_is_zero() -> None:
    circuit = QuantumCircuit(2, 1)
    circuit.x(0)
    circuit.measure(0, 0)
    circuit.measure(1, 0)

    answer = reduced(circuit)

    assert answer.readout == {}
    assert not answer.written


def test_operations_after_the_last_measurement_are_removed() -> None:
    circuit = QuantumCircuit(2, 1)
    circuit.h(0)
    circuit.measure(0, 0)
    circuit.h(0)
    circuit.cx(0, 1)

    answer = reduced(circuit)

    assert [step.name for step in answer.steps] == ["h"]
    assert answer.readout == {0: 0}


def test_operations_on_qubits_that_reach_no_measurement_are_removed() -> None:
    circuit = QuantumCircuit(4, 1)
    circuit.h([0, 2])
    circuit.cx(0, 1)
    circuit.cx(2, 3)
    circuit.measure(1, 0)

    answer = reduced(circuit)

    assert answer.qubits == 2
    assert [step.name for step in answer.steps] == ["h", "cx"]


def test_a_reset_of_a_fresh_qubit_is_removed() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.reset(0)
    circuit.x(0)
    circuit.measure(0, 0)

    answer = reduced(circuit)

    assert [step.name for step in answer.steps] == ["x"]
    assert answer.readout == {0: 0}


def test_a_measurement_in_the_middle_stays_among_the_operations() -> None:
    circuit = QuantumCircuit(1, 2)
    circuit.h(0)
    circuit.measure(0, 0)
    circuit.h(0)
    circuit.measure(0, 1)

    answer = reduced(circuit)

    assert answer.readout is None
    assert [step.name for step in answer.steps] == ["h", "measure", "h", "measure"]


def test_a_reset_that_hides_a_qubit_keeps_what_entangled_it() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.reset(0)
    circuit.measure([0, 1], [0, 1])

    answer = reduced(circuit)

    assert answer.readout is None
    assert [step.name for step in answer.steps] == ["h", "cx", "reset", "measure", "measure"]


def test_a_circuit_with_jumps_keeps_all_its_operations_but_no_idle_qubit() -> None:
    circuit = QuantumCircuit(10, 2)
    circuit.h(4)
    circuit.measure(4, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(7)
    circuit.measure(7, 1)

    answer = reduced(circuit)

    assert answer.readout is None
    assert answer.qubits == 2
    assert answer.written == {0, 1}


def test_what_happened_to_a_qubit_before_its_reset_is_removed() -> None:
    circuit = QuantumCircuit(2, 1)
    circuit.h(1)
    circuit.cx(1, 0)
    circuit.reset(0)
    circuit.x(0)
    circuit.measure(0, 0)

    answer = reduced(circuit)

    assert [step.name for step in answer.steps] == ["x"]
    assert answer.qubits == 1
