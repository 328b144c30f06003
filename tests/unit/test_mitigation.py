"""Are errors really taken out? Values with noise, with mitigation, and exact ones.

Where a value is compared with an exact one, 5 sigma are its own standard errors times five.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit_aer.noise import (
    NoiseModel,
    ReadoutError,
    coherent_unitary_error,
    depolarizing_error,
)

from app.errors import InvalidProgram
from app.primitives.programs import EstimatorPubResult, PrimitiveResult

from .primitive_programs import (
    estimate,
    estimator_pub,
    joined_counts,
    registers,
    sample,
    sampler_pub,
    values,
)

READOUT = ReadoutError([[0.97, 0.03], [0.08, 0.92]])
DEPOLARISED = 0.04


def readout_noise() -> NoiseModel:
    model = NoiseModel()
    model.add_all_qubit_readout_error(READOUT)
    return model


def gate_noise() -> NoiseModel:
    model = readout_noise()
    model.add_all_qubit_quantum_error(depolarizing_error(DEPOLARISED, 2), ["cx"])
    return model


def options(model: NoiseModel, **others: Any) -> dict[str, object]:
    return {"simulator": {"noise_model": model.to_dict()}, **others}


def ghz(qubits: int = 3) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits)
    circuit.h(0)
    for qubit in range(1, qubits):
        circuit.cx(qubit - 1, qubit)
    return circuit


def extra(result: PrimitiveResult, pub: int = 0) -> EstimatorPubResult:
    answer = result.pub_results[pub]
    assert isinstance(answer, EstimatorPubResult)
    return answer


def distance(result: PrimitiveResult, exact: Any) -> Any:
    """How many standard errors values are away from the exact ones."""
    return (abs(values(result) - exact) / values(result, "stds")).max()


# --- measurements -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observable", "exact"),
    [({"ZZI": 1.0}, 1.0), ({"XXX": 0.5, "IIZ": 0.3, "III": 2.0}, 2.5), ({"000": 1.0}, 0.5)],
)
def test_errors_of_measurements_are_taken_out(observable: dict[str, float], exact: float) -> None:
    pub = estimator_pub(ghz(), observable, shots=20_000)

    raw = estimate(pub, options=options(readout_noise()), level=0)
    mitigated = estimate(pub, options=options(readout_noise()), level=1)

    assert distance(raw, exact) > 5
    assert distance(mitigated, exact) < 5
    assert abs(values(mitigated) - exact) < abs(values(raw) - exact) / 2


def test_errors_are_those_of_repetitions() -> None:
    circuit = QuantumCircuit(2)
    circuit.ry(0.6, 0)
    circuit.cx(0, 1)
    observable = {"ZI": 1.0, "IZ": 0.8, "ZZ": -0.5}
    exact = Statevector(circuit).expectation_value(
        SparsePauliOp.from_list(list(observable.items()))
    )
    given = options(readout_noise(), twirling={"num_randomizations": 16})
    pub = estimator_pub(circuit, observable, shots=800)

    results = [estimate(pub, seed=seed, options=given) for seed in range(60)]

    for name in ("stds", "ensemble_standard_error"):
        squares = [(values(each) - exact.real) ** 2 / values(each, name) ** 2 for each in results]
        # The mean of 60 squares of standard normals: 5 sigma are 0.91, and 16 randomizations make
        # Student's distribution of it, whose squares have a mean of 1.15.
        assert abs(np.mean(squares) - 1.1) < 0.95


# --- gates ------------------------------------------------------------------------------------


def layered() -> tuple[QuantumCircuit, dict[str, float], float]:
    circuit = ghz()
    for turn in range(2):
        circuit.rx(0.4, 1)
        circuit.cx(0, 1)
        circuit.rz(0.3 + turn, 2)
        circuit.cx(1, 2)
    observable = {"ZZZ": 1.0, "XIX": 0.5}
    operator = SparsePauliOp.from_list(list(observable.items()))
    return circuit, observable, Statevector(circuit).expectation_value(operator).real


METHODS: dict[str, tuple[int, dict[str, Any]]] = {
    "gate_folding": (2, {}),
    "gate_folding_front": (2, {"zne": {"amplifier": "gate_folding_front"}}),
    "gate_folding_back": (
        2,
        {"zne": {"amplifier": "gate_folding_back", "noise_factors": [1, 2, 3]}},
    ),
    "pea": (2, {"zne": {"amplifier": "pea", "noise_factors": [1, 1.5, 2, 3]}}),
    "pec": (1, {"pec_mitigation": True}),
}


@pytest.mark.parametrize("method", METHODS)
def test_errors_of_gates_are_taken_out(method: str) -> None:
    circuit, observable, exact = layered()
    level, resilience = METHODS[method]
    given = options(gate_noise(), resilience=resilience, twirling={"num_randomizations": 64})
    pub = estimator_pub(circuit, observable, shots=32_000)

    without = estimate(pub, options=options(gate_noise()), level=1)
    result = estimate(pub, options=given, level=level)

    assert distance(without, exact) > 5
    assert distance(result, exact) < 5
    assert abs(values(result) - exact) < abs(values(without) - exact) / 2
    assert result.metadata["options_without_effect"] == {}


def test_extrapolation_gives_all_that_it_was_made_from() -> None:
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    zne = {
        "noise_factors": [1, 3, 5],
        "extrapolator": ["linear", "exponential", "fallback"],
        "extrapolated_noise_factors": [0, 1],
    }
    observables = [[{"ZZ": 1.0}], [{"IZ": 1.0, "XX": 0.5}]]
    pub = estimator_pub(circuit, observables, [[0.1], [0.2], [0.3]], shots=256)

    result = extra(estimate(pub, options=options(gate_noise(), resilience={"zne": zne}), level=2))

    shapes = {name: array.shape for name, array in result.values.items()}
    assert shapes == {
        "evs": (2, 3),
        "stds": (2, 3),
        "ensemble_standard_error": (2, 3),
        "evs_noise_factors": (2, 3, 3),
        "stds_noise_factors": (2, 3, 3),
        "ensemble_stds_noise_factors": (2, 3, 3),
        "evs_extrapolated": (2, 3, 3, 2),
        "stds_extrapolated": (2, 3, 3, 2),
    }
    assert result.values["evs"] == pytest.approx(result.values["evs_extrapolated"][..., 0, 0])
    least = result.values["evs_noise_factors"][..., :1]
    assert result.values["evs_extrapolated"][..., 2, :] == pytest.approx(np.repeat(least, 2, -1))
    zne_used = result.metadata["resilience"]["zne"]
    assert zne_used == {"extrapolator": ["linear"], "noise_factors": [1, 3, 5]}


def test_more_noise_is_cancelled_the_more_it_may_cost() -> None:
    circuit, observable, _ = layered()
    pub = estimator_pub(circuit, observable, shots=4000)
    told: dict[float, Any] = {}
    for most in (1.5, 100):
        given = options(
            gate_noise(), resilience={"pec_mitigation": True, "pec": {"max_overhead": most}}
        )
        result = extra(estimate(pub, options=given))
        told[most] = result.metadata["resilience"]
        scaling = told[most]["pec"]["num_randomizations_scaling"]
        assert result.metadata["num_randomizations"] == np.ceil(63 * scaling)

    assert told[1.5]["pec"]["num_randomizations_scaling"] == pytest.approx(1.5)
    assert told[1.5]["pec"]["noise_gain"] > told[100]["pec"]["noise_gain"] == 0
    full = told[100]["layer_noise"]
    assert full["noise_overhead"] == told[100]["pec"]["num_randomizations_scaling"]
    assert (full["total_mitigated_layers"], full["unique_mitigated_layers"]) == (6, 3)


# --- twirls -----------------------------------------------------------------------------------


def test_twirls_turn_a_coherent_error_into_a_stochastic_one() -> None:
    angle, gates = 0.3, 4
    model = NoiseModel()
    turned = coherent_unitary_error(np.diag([1, np.exp(1j * angle)] * 2))
    model.add_all_qubit_quantum_error(turned, ["cx"])
    circuit = QuantumCircuit(2)
    circuit.h(0)
    for _ in range(gates):
        circuit.cx(0, 1)
    pub = estimator_pub(circuit, {"IX": 1.0}, shots=40_000)
    twirling = {"enable_gates": True, "num_randomizations": 400}

    plain = estimate(pub, options=options(model), level=0)
    twirled = estimate(pub, options=options(model, twirling=twirling), level=0)

    # Amplitudes of a coherent error add up, probabilities of a stochastic one multiply.
    assert distance(plain, np.cos(gates * angle)) < 5
    assert distance(twirled, np.cos(angle) ** gates) < 5
    assert np.cos(angle) ** gates - np.cos(gates * angle) > 0.4


def test_twirls_keep_the_distribution_of_samples() -> None:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.5, 1), ["y"])
    circuit = QuantumCircuit(4, 3)
    circuit.rx(Parameter("b"), 0)
    circuit.cx(0, 2)
    circuit.ry(Parameter("a"), 2)
    circuit.cx(2, 3)
    circuit.measure([0, 2, 3], [2, 0, 1])
    twirling = {"enable_gates": True, "enable_measure": True, "shots_per_randomization": 100}
    pub = sampler_pub(circuit, [[0.9, 0.4], [0.1, 1.4]], shots=5000)

    plain = sample(pub, options=options(model))
    twirled = sample(pub, options=options(model, twirling=twirling))

    for index in range(2):
        theirs, ours = (joined_counts(each, index=(index,)) for each in (plain, twirled))
        assert theirs.keys() == ours.keys()
        # 5 sigma of the difference of two frequencies of 5000 shots.
        difference = max(abs(theirs[key] - ours[key]) / 5000 for key in theirs)
        assert difference < 5 * (2 * 0.25 / 5000) ** 0.5
    assert twirled.pub_results[0].metadata["num_randomizations"] == 50


def test_twirled_measurements_are_wrong_as_often_for_0_as_for_1() -> None:
    circuit = QuantumCircuit(2)
    circuit.x(0)
    circuit.measure_all()
    twirling = {"enable_measure": True, "num_randomizations": 100}

    result = sample(
        sampler_pub(circuit, shots=20_000), options=options(readout_noise(), twirling=twirling)
    )

    ones = registers(result)["meas"].to_bool_array(order="little").mean(axis=0)
    # 5 sigma of a frequency of 0.055.
    assert abs(ones - [1 - 0.055, 0.055]).max() < 5 * (0.055 / 20_000) ** 0.5


def test_a_twirled_sampler_gives_the_shots_that_were_asked_for() -> None:
    circuit = ghz()
    circuit.measure_all()
    twirling = {"enable_gates": True, "num_randomizations": 7}

    result = sample(
        sampler_pub(circuit, shots=100), options=options(gate_noise(), twirling=twirling)
    )

    assert registers(result)["meas"].num_shots == 100


def test_the_same_seed_gives_the_same_values() -> None:
    given = options(gate_noise(), resilience={"zne": {"noise_factors": [1, 2.5]}})
    pub = estimator_pub(ghz(), {"ZZZ": 1.0}, shots=200)

    first, second, other = (estimate(pub, seed=seed, options=given, level=2) for seed in (3, 3, 4))

    assert values(first) == values(second)
    assert values(first) != values(other)


def test_idle_qubits_cost_nothing() -> None:
    model = readout_noise()
    model.add_quantum_error(depolarizing_error(0.9, 2), ["cx"], [4, 30])
    circuit = QuantumCircuit(40)
    circuit.x(4)
    circuit.cx(4, 30)
    wide = {"I" * (39 - qubit) + "Z" + "I" * qubit: 1.0 for qubit in (4, 30)}

    result = estimate(estimator_pub(circuit, wide, shots=1000), options=options(model))

    # The error is where it was: 9/10 of both values are lost.
    assert distance(result, -0.2) < 5


# --- what cannot be done ----------------------------------------------------------------------


def feeding_forward() -> QuantumCircuit:
    circuit = QuantumCircuit(2, 1)
    circuit.h(0)
    circuit.measure(0, 0)
    with circuit.if_test((0, 1)):
        circuit.x(1)
    return circuit


def fractional() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.rzz(0.3, 0, 1)
    return circuit


def test_a_circuit_that_cannot_be_twirled_runs_as_it_is_and_that_is_said() -> None:
    pubs = [estimator_pub(each, {"ZI": 1.0}) for each in (ghz(2), feeding_forward(), fractional())]

    result = estimate(*pubs, options=options(readout_noise()), level=2)

    reasons = result.metadata["options_without_effect"]
    assert isinstance(reasons, dict)
    assert set(reasons) == {
        "twirling.enable_gates",
        "resilience.zne_mitigation",
        "twirling.enable_measure",
    }
    assert reasons["twirling.enable_gates"].startswith("pubs[1]: it cannot be twirled: ")
    assert "; pubs[2]: it cannot be twirled: Non-Clifford" in reasons["twirling.enable_gates"]
    assert "pubs[2]" not in reasons["twirling.enable_measure"]
    assert "evs_noise_factors" in extra(result, 2).values
    assert "evs_noise_factors" not in extra(result, 1).values


def test_too_many_projectors_are_read_without_mitigation_and_that_is_said() -> None:
    observables = [{"0" * 13: 1.0}]

    result = estimate(
        estimator_pub(QuantumCircuit(13), observables, shots=64), options=options(readout_noise())
    )

    assert result.metadata["options_without_effect"] == {
        "resilience.measure_mitigation": "pubs[0]: 13 projectors in one term; in Paulis that is "
        "2^13 terms"
    }


def test_noise_that_was_not_learned_is_not_cancelled_and_that_is_said() -> None:
    other = QuantumCircuit(2)
    other.cz(0, 1)
    error = {"generators": ["XX"], "rates": np.array([0.1])}
    layers = [{"circuit": other, "qubits": [0, 1], "error": error}]
    resilience = {"pec_mitigation": True, "layer_noise_model": layers}

    result = estimate(
        estimator_pub(ghz(2), {"ZZ": 1.0}), options=options(gate_noise(), resilience=resilience)
    )

    assert result.metadata["options_without_effect"] == {
        "resilience.pec_mitigation": "pubs[0]: resilience.layer_noise_model has none of the layers "
        "of the circuit"
    }


def test_noise_that_was_learned_is_what_is_cancelled() -> None:
    """A made-up model of no noise but a tenth of all X on the target removes just that."""
    layer = QuantumCircuit(2)
    layer.cx(1, 0)
    rate = 0.05
    error = {"generators": ["IX"], "rates": np.array([rate])}
    layers = [{"circuit": layer, "qubits": [3, 1], "error": error}]
    circuit = QuantumCircuit(4)
    circuit.cx(1, 3)
    resilience = {"pec_mitigation": True, "layer_noise_model": layers}
    silent = NoiseModel()
    silent.add_all_qubit_quantum_error(depolarizing_error(0.5, 1), ["y"])
    pub = estimator_pub(circuit, [{"ZIII": 1.0}, {"IIZI": 1.0}], shots=40_000)

    result = estimate(pub, options=options(silent, resilience=resilience))

    # An X with rate r shrinks Z by exp(-2 r), so taking it out where it is not makes Z too large:
    # without any spread, because Z is negative where the sign of the randomization is.
    assert values(result)[0] == pytest.approx(np.exp(2 * rate))
    assert abs(values(result)[1] - 1) < 5 * values(result, "stds")[1]
    assert values(result, "stds")[1] > 0.01


def test_an_observable_of_nothing_is_what_it_says() -> None:
    pub = estimator_pub(QuantumCircuit(2), [{"II": 0.5}, {"II": 2.0}])

    result = estimate(pub, options=options(readout_noise()), level=2)

    assert values(result).tolist() == [0.5, 2.0]
    assert values(result, "stds").tolist() == [0, 0]


def test_observables_and_parameter_sets_have_to_fit_together() -> None:
    circuit = QuantumCircuit(1)
    circuit.rx(Parameter("a"), 0)
    pub = estimator_pub(circuit, [{"Z": 1.0}] * 2, [[0.1], [0.2], [0.3]])

    with pytest.raises(InvalidProgram, match="cannot be broadcast together"):
        estimate(pub, options=options(readout_noise()))


def test_two_methods_that_exclude_each_other_are_refused() -> None:
    given = options(gate_noise(), resilience={"pec_mitigation": True})

    with pytest.raises(InvalidProgram, match="PEC and ZNE exclude each other") as refusal:
        estimate(estimator_pub(ghz(), {"ZZZ": 1.0}), options=given, level=2)

    assert refusal.value.reason == "exclusive_options"


def test_an_extrapolator_without_enough_points_is_refused() -> None:
    zne = {"noise_factors": [1, 2, 3], "extrapolator": ["linear", "polynomial_degree_3"]}

    with pytest.raises(InvalidProgram, match="'polynomial_degree_3' takes 4 different noise"):
        estimate(
            estimator_pub(ghz(), {"ZZZ": 1.0}),
            options=options(gate_noise(), resilience={"zne": zne}),
            level=2,
        )
