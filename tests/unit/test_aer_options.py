"""Which options does the executor ``aer`` honour, and what does it say of the others?"""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter
from qiskit.circuit.library import UnitaryGate, XGate
from qiskit.quantum_info import DensityMatrix, SparsePauliOp
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    amplitude_damping_error,
    depolarizing_error,
    pauli_error,
    reset_error,
)

from app.errors import InvalidProgram
from app.executors.options import Options

from .primitive_programs import (
    estimate,
    estimator_pub,
    joined_counts,
    provenance,
    registers,
    sample,
    sampler_pub,
    values,
)

SHOTS = 4000
READOUT = {"type": "roerror", "operations": ["measure"], "probabilities": [[1, 0], [0, 1]]}
#: 5 sigma of a frequency.
FREQUENCY = 5 * (0.25 / SHOTS) ** 0.5


def measured(qubits: int, *ones: int) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits)
    if ones:
        circuit.x(ones)
    circuit.measure_all()
    return circuit


def simulator(model: NoiseModel, **others: Any) -> dict[str, object]:
    return {"simulator": {"noise_model": model.to_dict(), **others}}


def ones(result: Any, pub: int = 0) -> list[float]:
    """Frequency of 1, qubit 0 first."""
    bits = registers(result, pub)["meas"].to_bool_array(order="little")
    frequencies: list[float] = bits.mean(axis=-2).tolist()
    return frequencies


# --- noise ------------------------------------------------------------------------------------


def test_errors_stay_with_their_qubits_when_idle_ones_are_removed() -> None:
    model = NoiseModel()
    model.add_quantum_error(depolarizing_error(0.5, 1), ["x"], [5])
    circuit = measured(9, 3, 5, 7)

    result = sample(sampler_pub(circuit), options=simulator(model))

    exact = [0, 0, 0, 1, 0, 0.75, 0, 1, 0]
    assert abs(np.array(ones(result)) - exact).max() < FREQUENCY
    assert result.metadata["options_without_effect"] == {}


def test_a_qubit_that_nothing_acted_on_is_read_wrongly_too() -> None:
    model = NoiseModel()
    model.add_readout_error(ReadoutError([[0.9, 0.1], [0.3, 0.7]]), [1])
    circuit = measured(3, 0)

    result = sample(sampler_pub(circuit), options=simulator(model))

    assert abs(np.array(ones(result)) - [1, 0.1, 0]).max() < FREQUENCY


def test_identities_are_noisy() -> None:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(amplitude_damping_error(0.3), ["id"])
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.id(0)
    circuit.measure_all()

    result = sample(sampler_pub(circuit), options=simulator(model))

    assert abs(ones(result)[0] - 0.7) < FREQUENCY


def test_noise_knows_a_gate_by_its_label_as_aer_does() -> None:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(pauli_error([("X", 0.3), ("I", 0.7)]), ["careful", "x"])
    circuit = QuantumCircuit(4)
    circuit.append(UnitaryGate(np.eye(2), label="careful"), [0])
    circuit.append(XGate(label="careful"), [1])
    circuit.append(XGate(label="another"), [2])
    circuit.x(3)
    circuit.measure_all()

    result = sample(sampler_pub(circuit), options=simulator(model))

    assert abs(np.array(ones(result)) - [0.3, 0.7, 1, 0.7]).max() < FREQUENCY
    assert ones(result)[2] == 1


def test_delays_are_noisy() -> None:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(pauli_error([("X", 0.3), ("I", 0.7)]), ["delay"])
    circuit = QuantumCircuit(2)
    circuit.delay(100, 0)
    circuit.delay(2, 0, "us")
    circuit.measure_all()

    result = sample(sampler_pub(circuit), options=simulator(model))

    assert abs(np.array(ones(result)) - [2 * 0.3 * 0.7, 0]).max() < FREQUENCY


def test_an_initialize_has_its_own_errors_and_not_those_of_gates() -> None:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(1, 2), ["cx"])
    model.add_all_qubit_quantum_error(pauli_error([("X", 0.3), ("I", 0.7)]), ["initialize"])
    circuit = QuantumCircuit(3)
    circuit.x(2)
    circuit.initialize([0.6, 0.8j], 0)
    circuit.initialize([1, 0], 2)
    entangled = QuantumCircuit(2)
    entangled.initialize([0.6, 0, 0, 0.8])
    entangled.measure_all()
    circuit.measure_all()

    result = sample(sampler_pub(circuit), options=simulator(model))
    del model._default_quantum_errors["initialize"]
    pair = joined_counts(sample(sampler_pub(entangled), options=simulator(model)))

    flipped = 0.64 * 0.7 + 0.36 * 0.3
    assert abs(np.array(ones(result)) - [flipped, 0, 0.3]).max() < FREQUENCY
    assert pair.keys() == {"00", "11"}
    assert abs(pair["11"] / SHOTS - 0.64) < FREQUENCY


def noisy() -> NoiseModel:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.05, 2), ["cx"])
    model.add_all_qubit_quantum_error(amplitude_damping_error(0.1), ["ry", "h"])
    model.add_quantum_error(depolarizing_error(0.2, 1), ["ry"], [1])
    model.add_all_qubit_readout_error(ReadoutError([[0.95, 0.05], [0.1, 0.9]]))
    return model


def entangling(qubits: int) -> QuantumCircuit:
    angle = Parameter("a")
    circuit = QuantumCircuit(qubits)
    circuit.h(0)
    for qubit in range(1, qubits):
        circuit.cx(qubit - 1, qubit)
        circuit.ry(angle * qubit, qubit)
    return circuit


@pytest.mark.parametrize(("shots", "method"), [(2000, "density_matrix"), (7, "statevector")])
def test_noisy_samples_are_those_of_aer(shots: int, method: str) -> None:
    circuit = entangling(3)
    circuit.measure_all()
    reference = AerSimulator(method="density_matrix", noise_model=noisy(), seed_simulator=1)
    pub = sampler_pub(circuit, np.repeat([[0.2], [0.9]], 2000 // shots, axis=0), shots=shots)

    result = sample(pub, options=simulator(noisy()))

    assert provenance(result)["methods"] == [method]
    bits = registers(result)["meas"].array.reshape(2, -1)
    for row, angle in enumerate((0.2, 0.9)):
        bound = circuit.assign_parameters([angle])
        counts = reference.run(bound, shots=20_000).result().get_counts()
        theirs = np.array([counts.get(format(outcome, "03b"), 0) for outcome in range(8)])
        ours = np.bincount(bits[row], minlength=8)
        # 5 sigma of a frequency of 1995 shots and more; the reference has ten times as many.
        assert abs(theirs / 20_000 - ours / ours.sum()).max() < 5 * (0.25 * 1.1 / 1995) ** 0.5


def syndromes(qubits: int) -> QuantumCircuit:
    """Two rounds of a repetition code, with all that a Clifford circuit of a client may have."""
    rounds = [ClassicalRegister(qubits // 2, f"round{number}") for number in range(2)]
    circuit = QuantumCircuit(QuantumRegister(qubits), *rounds)
    # The last qubits stay in 0, where errors of rotations about Z are seen.
    circuit.h(range(0, qubits - 3, 2))
    circuit.rz(pi / 2, range(0, qubits, 2))
    circuit.p(-pi, 0)
    circuit.append(XGate(label="id"), [2])
    for bits in rounds:
        for place, bit in enumerate(bits):
            circuit.cx(2 * place, 2 * place + 1)
            if 2 * place + 2 < qubits:
                circuit.cx(2 * place + 2, 2 * place + 1)
            circuit.measure(2 * place + 1, bit)
            circuit.reset(2 * place + 1)
        with circuit.if_test((rounds[0][0], 1)):
            circuit.x(0)
        circuit.id(range(0, qubits, 2))
    return circuit


def pauli_noise() -> NoiseModel:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 2), ["cx"])
    flips = pauli_error([("X", 0.05), ("Z", 0.1), ("Y", 0.05), ("I", 0.8)])
    model.add_all_qubit_quantum_error(flips, ["reset", "id"])
    turns = pauli_error([("X", 0.3), ("Y", 0.1), ("I", 0.6)])
    model.add_all_qubit_quantum_error(turns, ["rz", "p"])
    model.add_quantum_error(reset_error(0.3), ["id"], [4])
    model.add_all_qubit_readout_error(ReadoutError([[0.95, 0.05], [0.1, 0.9]]))
    return model


def test_a_clifford_circuit_with_pauli_noise_is_a_stabilizer() -> None:
    circuit = syndromes(11)

    result = sample(sampler_pub(circuit), options=simulator(pauli_noise()))

    assert provenance(result)["methods"] == ["stabilizer"]
    reference = AerSimulator(method="statevector", noise_model=pauli_noise(), seed_simulator=1)
    memory = reference.run(circuit, shots=400, memory=True).result().get_memory()
    theirs = np.array([[int(bit) for bit in shot.replace(" ", "")[::-1]] for shot in memory])
    ours = np.concatenate(
        [each.to_bool_array(order="little") for each in registers(result).values()], axis=1
    )
    # 5 sigma of a frequency: every bit, and every parity of two that follow each other.
    for read in (lambda bits: bits, lambda bits: bits[:, 1:] != bits[:, :-1]):
        difference = read(theirs).mean(axis=0) - read(ours).mean(axis=0)
        assert abs(difference).max() < 5 * (0.25 * (1 / 400 + 1 / SHOTS)) ** 0.5


def test_a_wide_clifford_circuit_with_pauli_noise_runs() -> None:
    circuit = QuantumCircuit(200)
    circuit.h(0)
    circuit.cx(range(199), range(1, 200))
    circuit.measure_all()
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.002, 2), ["cx"])

    result = sample(sampler_pub(circuit, shots=20), options=simulator(model))

    assert provenance(result)["methods"] == ["stabilizer"]
    # Half of all errors flip what comes after: one in eight bits differs from its neighbour's by
    # an error in a hundred; without any, all bits of a shot are alike.
    bits = registers(result)["meas"].to_bool_array()
    assert (bits[:, 1:] != bits[:, :-1]).mean() < 0.02


def test_errors_that_are_no_paulis_need_a_state() -> None:
    circuit = syndromes(11)
    model = pauli_noise()
    model.add_all_qubit_quantum_error(amplitude_damping_error(0.1), ["h"])

    result = sample(sampler_pub(circuit, shots=20), options=simulator(model))

    assert provenance(result)["methods"] == ["statevector"]


def test_noisy_values_are_those_of_the_noisy_state() -> None:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 2), ["cx"])
    circuit = entangling(2)
    saved = circuit.assign_parameters([0.4])
    saved.save_density_matrix()
    state = (AerSimulator(method="density_matrix", noise_model=model).run(saved).result().data())[
        "density_matrix"
    ]
    observable = {"XZ": 1.0, "ZZ": 0.5, "YY": -0.7}

    pub = estimator_pub(circuit, observable, [[0.4]])
    result = estimate(pub, options=simulator(model), level=0)

    operator = SparsePauliOp.from_list(list(observable.items()))
    exact = DensityMatrix(state).expectation_value(operator).real
    assert abs(values(result) - exact) < 5 * values(result, "stds")


def test_a_noisy_circuit_is_routed_along_the_couplings_asked_for() -> None:
    model = NoiseModel()
    model.add_quantum_error(depolarizing_error(1, 2), ["cx"], [0, 2])
    circuit = QuantumCircuit(3)
    circuit.x(0)
    circuit.cx(0, 2)
    observables = [{"IIZ": 1.0}, {"IZI": 1.0}, {"ZII": 1.0}]
    line = {"coupling_map": [[0, 1], [1, 0], [1, 2], [2, 1]], "basis_gates": ["x", "cx", "rz"]}

    pub = estimator_pub(circuit, observables)
    free = estimate(pub, options=simulator(model), level=0)
    routed = estimate(pub, options=simulator(model, **line), level=0)
    circuit.measure_all()
    counts = joined_counts(sample(sampler_pub(circuit), options=simulator(model, **line)))

    assert abs(values(free)[[0, 2]]).max() < 0.1
    assert values(routed).tolist() == [-1, 1, -1]
    assert counts == {"101": SHOTS}


def test_a_circuit_that_the_basis_gates_cannot_make_is_run_as_it_is() -> None:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(1, 2), ["cx"])
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()

    result = sample(sampler_pub(circuit), options=simulator(model, basis_gates=["x", "cx"]))

    counts = joined_counts(result)
    # Every outcome has probability 1/4, 5 sigma of the binomial distribution.
    assert all(abs(counts[key] - SHOTS / 4) < 5 * (SHOTS * 3 / 16) ** 0.5 for key in counts)
    assert len(counts) == 4
    assert result.metadata["options_without_effect"] == {
        "simulator.basis_gates": "not every circuit can be made of these gates"
    }


def test_a_circuit_that_does_not_fit_the_couplings_is_refused() -> None:
    model = NoiseModel()

    with pytest.raises(InvalidProgram, match="cannot be routed") as refusal:
        sample(sampler_pub(measured(3)), options=simulator(model, coupling_map=[[0, 1]]))

    assert refusal.value.reason == "coupling_map"


@pytest.mark.parametrize(
    "model",
    [
        5,
        {},
        {"errors": 3},
        {"errors": [None]},
        {"errors": [{"type": "qerror"}]},
        {"errors": [{"type": "other"}]},
        {"errors": [READOUT | {"gate_qubits": [0]}]},
        {"errors": [READOUT | {"gate_qubits": [[[0]]]}]},
        {"errors": [{"type": "roerror", "operations": ["measure"], "probabilities": [[2, 0]]}]},
    ],
)
def test_what_is_no_noise_model_is_refused(model: object) -> None:
    with pytest.raises(InvalidProgram, match=r"options\.simulator\.noise_model") as refusal:
        sample(sampler_pub(measured(1)), options={"simulator": {"noise_model": model}})

    assert refusal.value.reason == "noise_model"


# --- seeds ------------------------------------------------------------------------------------


def test_the_seed_of_the_simulator_options_is_used() -> None:
    pub = sampler_pub(measured(1), shots=10)

    result = sample(pub, seed=None, options={"simulator": {"seed_simulator": 11}})

    assert result.metadata["seed"] == 11
    assert result.metadata["options_without_effect"] == {}


def test_an_estimator_may_have_a_seed_of_its_own() -> None:
    pub = estimator_pub(measured(1).remove_final_measurements(inplace=False), {"Z": 1.0})
    options = {"seed_estimator": 12, "simulator": {"seed_simulator": 11}}

    result = estimate(pub, seed=None, options=options)

    assert result.metadata["seed"] == 11
    assert result.metadata["options_without_effect"] == {
        "seed_estimator": "the seed of this run was 11",
        "resilience_level": "nothing goes wrong in this run, so there is nothing to mitigate",
    }


# --- options without effect -------------------------------------------------------------------


def test_every_option_without_effect_is_named_with_its_reason() -> None:
    options = {
        "default_shots": 100,
        "dynamical_decoupling": {"enable": True, "sequence_type": "XY4"},
        "twirling": {"enable_gates": True, "enable_measure": False, "num_randomizations": 4},
        "resilience": {"zne_mitigation": True, "zne": {"noise_factors": [1, 3]}},
        "execution": {"init_qubits": False, "rep_delay": 0.1, "meas_type": "classified"},
        "simulator": {"coupling_map": [[0, 1]], "basis_gates": ["cx"]},
        "experimental": {"anything": 1},
        "new": True,
    }

    reasons = sample(sampler_pub(measured(1)), options=options).metadata["options_without_effect"]

    assert isinstance(reasons, dict)
    assert set(reasons) == {
        "dynamical_decoupling.enable",
        "dynamical_decoupling.sequence_type",
        "twirling.enable_gates",
        "twirling.num_randomizations",
        "resilience.zne_mitigation",
        "resilience.zne.noise_factors",
        "execution.init_qubits",
        "execution.rep_delay",
        "simulator.coupling_map",
        "simulator.basis_gates",
        "experimental.anything",
        "new",
    }
    assert reasons["twirling.enable_gates"] == (
        "nothing goes wrong in this run, so twirls would change nothing"
    )
    assert reasons["new"] == "this executor has no such option"


def test_what_is_switched_off_is_no_option_without_effect() -> None:
    options = Options({"twirling": {"enable_gates": False}, "execution": {"init_qubits": True}})

    assert options.without_effect(seed=1, noisy=False) == {}


def test_another_kind_of_measurement_is_refused() -> None:
    with pytest.raises(InvalidProgram, match=r"options\.execution\.meas_type: .*'kerneled'"):
        sample(sampler_pub(measured(1)), options={"execution": {"meas_type": "kerneled"}})
