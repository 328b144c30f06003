"""What does the executor ``aer`` answer to an estimator's program?"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter, ParameterVector
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import (
    SparseObservable,
    SparsePauliOp,
    Statevector,
)

from app.errors import InvalidProgram, ProgramTooLarge
from app.executors import Resources, simulation
from app.executors.aer import AerExecutor
from app.executors.observables import grouped

from .primitive_programs import MIB, estimate, estimator_pub, provenance, values

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from app.primitives.programs import EstimatorPub, Observable, PrimitiveResult

SHOTS = 4096


def sparse(observable: Observable) -> SparseObservable:
    return SparseObservable.from_list([(term, value) for term, value in observable.items()])


def expected(pub: EstimatorPub) -> npt.NDArray[np.float64]:
    """Exact values, from Qiskit."""
    observables = np.vectorize(
        lambda observable: SparsePauliOp.from_sparse_observable(sparse(observable)), otypes=[object]
    )(pub.observables)
    job = StatevectorEstimator().run(
        [(pub.circuit, observables, pub.parameter_values)], precision=0
    )
    evs: npt.NDArray[np.float64] = np.asarray(job.result()[0].data.evs)
    return evs


def assert_within_errors(
    result: PrimitiveResult, exact: npt.NDArray[np.float64], index: int = 0
) -> None:
    """Every value within 5 of its standard errors, which have the shots of the pub behind them."""
    evs, stds = values(result, "evs", index), values(result, "stds", index)
    # A rare outcome may not have been seen at all: then its weight is below 25 / shots.
    assert (abs(evs - exact) < 5 * stds + 25 / SHOTS).all()


def random_circuit(rng: np.random.Generator, qubits: int, parameters: Any) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits)
    for _ in range(3 * qubits):
        first, second = (int(qubit) for qubit in rng.permutation(qubits)[:2])
        parameter = parameters[int(rng.integers(len(parameters)))]
        circuit.ry(parameter + float(rng.uniform(-1, 1)), first)
        circuit.rz(1.5 * parameter, first)
        if rng.random() < 0.5:
            circuit.cx(first, second)
    return circuit


def random_observable(rng: np.random.Generator, qubits: int) -> Observable:
    terms = ["".join(rng.choice(list("IIXYZ01+-rl"), size=qubits)) for _ in range(6)]
    return {term: float(rng.normal()) for term in terms}


SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((), ()),
    ((3,), ()),
    ((), (4,)),
    ((4,), (4,)),
    ((3, 1), (4,)),
    ((3, 1), (1, 4)),
    ((2, 3), (3,)),
]


def random_pub(seed: int, observable_shape: Any, parameter_shape: Any) -> EstimatorPub:
    rng = np.random.default_rng(seed)
    qubits = int(rng.integers(2, 6))
    circuit = random_circuit(rng, qubits, ParameterVector("θ", 3))
    observables = np.empty(observable_shape, dtype=object)
    for place in np.ndindex(observable_shape):
        observables[place] = random_observable(rng, qubits)
    angles = rng.uniform(-3, 3, size=(*parameter_shape, circuit.num_parameters))
    return estimator_pub(circuit, observables.tolist(), angles, shots=SHOTS)


# --- differential -----------------------------------------------------------------------------


@pytest.mark.parametrize(("observable_shape", "parameter_shape"), SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_values_are_those_of_qiskit_within_their_errors(
    seed: int, observable_shape: tuple[int, ...], parameter_shape: tuple[int, ...]
) -> None:
    pub = random_pub(seed, observable_shape, parameter_shape)

    result = estimate(pub)

    assert result.pub_results[0].shape == np.broadcast_shapes(observable_shape, parameter_shape)
    assert_within_errors(result, expected(pub))


@pytest.mark.parametrize("kept_qubits", [0, 20])
def test_aer_and_the_arrays_of_small_circuits_agree(
    kept_qubits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "_VECTORISED_QUBITS", 0)
    monkeypatch.setattr(simulation, "_KEPT_QUBITS", kept_qubits)
    pub = random_pub(3, (2, 1), (3,))

    assert_within_errors(estimate(pub), expected(pub))


def test_the_errors_are_those_of_the_shots() -> None:
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    angles = np.full((2000, 1), 1.1)
    observable = {"ZI": 1.0, "IZ": 0.5, "XX": 2.0}
    pub = estimator_pub(circuit, observable, angles, shots=400)

    result = estimate(pub)
    evs, stds = values(result), values(result, "stds")

    # ZI and IZ are read together and agree always, XX is read apart.
    z, x = np.cos(1.1), np.sin(1.1)
    std = np.sqrt((1.5**2 * (1 - z**2) + 2**2 * (1 - x**2)) / 400)
    # 5 sigma of the mean, and of the standard deviation, of 2000 values.
    assert abs(evs.mean() - (1.5 * z + 2 * x)) < 5 * std / 2000**0.5
    assert abs(evs.std() / std - 1) < 5 / 4000**0.5
    assert abs(stds.mean() / std - 1) < 5 / 4000**0.5
    assert (values(result, "ensemble_standard_error") == stds).all()


# --- exact values -----------------------------------------------------------------------------


def test_a_certain_value_has_no_error() -> None:
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.x(2)
    observables = [
        {"IXX": 1.0, "IZZ": 2.0, "IYY": 4.0},
        {"ZII": 3.0},
        {"III": 0.5},
        {"ZZZ": 1.0, "III": 1.0},
    ]

    result = estimate(estimator_pub(circuit, observables))

    assert values(result).tolist() == [-1.0, -3.0, 0.5, 0.0]
    assert values(result, "stds").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("method", ["arrays", "kept", "run"])
def test_every_character_of_an_observable_is_read_in_its_basis(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "_VECTORISED_QUBITS", 10 if method == "arrays" else 0)
    monkeypatch.setattr(simulation, "_KEPT_QUBITS", 0 if method == "run" else 20)
    circuit = QuantumCircuit(6)
    circuit.x(1)
    circuit.h([2, 3, 4, 5])
    circuit.z(3)
    circuit.s(4)
    circuit.sdg(5)
    # qubits 0 to 5 are |0>, |1>, |+>, |->, |r> and |l>
    certain = {
        "IIIII0": 1.0,
        "IIII1I": 2.0,
        "III+II": 4.0,
        "II-III": 8.0,
        "IrIIII": 16.0,
        "lIIIII": 32.0,
    }
    never = {
        "IIIII1": 1.0,
        "IIII0I": 2.0,
        "III-II": 4.0,
        "II+III": 8.0,
        "IlIIII": 16.0,
        "rIIIII": 32.0,
    }
    paulis = {
        "IIIIIZ": 1.0,
        "IIIIZI": 2.0,
        "IIIXII": 4.0,
        "IIXIII": 8.0,
        "IYIIII": 16.0,
        "YIIIII": 32.0,
    }

    result = estimate(estimator_pub(circuit, [certain, never, paulis, {"lr-+10": 1.0}], shots=50))

    assert values(result).tolist() == [63.0, 0.0, 1 - 2 + 4 - 8 + 16 - 32, 1.0]


def test_a_qubit_that_nothing_acted_on_is_random_in_another_basis() -> None:
    circuit = QuantumCircuit(2)
    circuit.x(0)

    result = estimate(estimator_pub(circuit, [{"ZI": 1.0}, {"XI": 1.0}, {"XZ": 1.0}]))

    assert values(result)[0] == 1
    assert values(result, "stds")[1:] == pytest.approx([SHOTS**-0.5] * 2, rel=0.01)
    # 5 sigma.
    assert abs(values(result)[1:]).max() < 5 * SHOTS**-0.5


def test_a_single_shot_has_a_value_and_no_error() -> None:
    circuit = QuantumCircuit(1)
    circuit.h(0)

    result = estimate(estimator_pub(circuit, {"Z": 1.0}, shots=1))

    assert abs(values(result)) == 1
    assert values(result, "stds") == 0


def test_no_parameter_sets_give_no_values() -> None:
    circuit = QuantumCircuit(1)
    circuit.rx(Parameter("a"), 0)

    result = estimate(estimator_pub(circuit, {"Z": 1.0}, np.empty((0, 1))))

    assert values(result).shape == (0,)


# --- grouping ---------------------------------------------------------------------------------


def test_terms_that_commute_qubit_by_qubit_are_read_together() -> None:
    constant, groups = grouped(
        {"ZZI": 3.0, "IZZ": 2.5, "XIX": 2.0, "IIX": 1.5, "0II": 1.0, "III": 7.0}
    )

    assert constant == 7.0
    assert [group.bases for group in groups] == [
        {0: "Z", 1: "Z", 2: "Z"},
        {0: "X", 2: "X"},
    ]
    assert [len(group.terms) for group in groups] == [3, 2]


# --- wide circuits ----------------------------------------------------------------------------


def test_a_wide_circuit_costs_only_the_qubits_it_entangles() -> None:
    circuit = QuantumCircuit(127)
    chain = [3, 17, 18, 44, 45, 60, 61, 99, 100, 126]
    small = QuantumCircuit(10)
    for place, qubit in enumerate(chain):
        circuit.ry(0.2 * place, qubit)
        small.ry(0.2 * place, place)
    for place, (first, second) in enumerate(pairwise(chain)):
        circuit.ecr(first, second)
        small.ecr(place, place + 1)
    terms = {"ZZIIIIIIII": 1.0, "IXIIIIYIIZ": -0.5, "IIIZZZZZII": 0.3}
    wide = {}
    for term, coefficient in terms.items():
        characters = ["I"] * 127
        for place, character in enumerate(reversed(term)):
            characters[126 - chain[place]] = character
        wide["".join(characters)] = coefficient

    result = estimate(estimator_pub(circuit, wide))

    assert provenance(result)["qubits_declared"] == 127
    assert provenance(result)["qubits_simulated"] == 10
    exact = Statevector(small).expectation_value(SparsePauliOp.from_list(list(terms.items()))).real
    assert_within_errors(result, np.array(exact))


def test_a_wide_clifford_circuit_is_a_stabilizer() -> None:
    circuit = QuantumCircuit(50)
    circuit.h(0)
    for first, second in pairwise(range(50)):
        circuit.cx(first, second)

    result = estimate(estimator_pub(circuit, {"X" * 50: 1.0, "Z" * 50: 2.0, "Z" + "I" * 49: 1.0}))

    assert provenance(result)["methods"] == ["stabilizer"]
    # Two of the terms are certain; 5 sigma of the third.
    assert abs(values(result) - 3) < 5 * SHOTS**-0.5


def test_a_wide_circuit_with_little_entanglement_is_a_matrix_product_state() -> None:
    circuit = QuantumCircuit(40)
    circuit.ry(0.7, 0)
    for first, second in pairwise(range(40)):
        circuit.cx(first, second)
        circuit.rx(Parameter(f"a{first:02}"), second)

    result = estimate(estimator_pub(circuit, {"Z" + "I" * 39: 1.0}, np.zeros((2, 39)), shots=500))

    assert provenance(result)["methods"] == ["matrix_product_state"]
    assert result.metadata["truncation_threshold"] == 1e-12
    # 5 sigma.
    assert abs(values(result) - np.cos(0.7)).max() < 5 * 500**-0.5


# --- circuits that measure --------------------------------------------------------------------


def teleporting(angle: float) -> QuantumCircuit:
    circuit = QuantumCircuit(QuantumRegister(3), ClassicalRegister(2))
    circuit.ry(angle, 0)
    circuit.h(1)
    circuit.cx(1, 2)
    circuit.cx(0, 1)
    circuit.h(0)
    circuit.measure([0, 1], [0, 1])
    with circuit.if_test((circuit.clbits[1], 1)):
        circuit.x(2)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.z(2)
    return circuit


def test_an_observable_is_read_after_everything_the_circuit_does() -> None:
    result = estimate(estimator_pub(teleporting(1.0), [{"ZII": 1.0}, {"XII": 1.0}, {"YII": 1.0}]))

    assert_within_errors(result, np.array([np.cos(1.0), np.sin(1.0), 0]))


def test_a_measurement_destroys_what_it_destroys() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])

    result = estimate(estimator_pub(circuit, [{"ZZ": 1.0}, {"XX": 1.0}]))

    assert_within_errors(result, np.array([1.0, 0.0]))


def test_a_qubit_may_be_reset() -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.reset(0)
    circuit.x(0)

    result = estimate(estimator_pub(circuit, [{"IZ": 1.0}, {"ZI": 1.0}]))

    assert_within_errors(result, np.array([-1.0, 0.0]))


# --- refusals, seeds, metadata ----------------------------------------------------------------


def test_shapes_that_do_not_fit_are_refused_with_their_pub() -> None:
    circuit = QuantumCircuit(1)
    circuit.rx(Parameter("a"), 0)
    fine = estimator_pub(circuit, {"Z": 1.0}, [0.1])
    wrong = estimator_pub(circuit, [{"Z": 1.0}] * 2, np.zeros((3, 1)))

    with pytest.raises(InvalidProgram, match=r"pubs\[1\]: observables of shape \(2,\)") as refusal:
        estimate(fine, wrong)

    assert refusal.value.reason == "broadcast"


def test_the_same_seed_gives_the_same_values() -> None:
    pub = random_pub(5, (3, 1), (4,))

    first, second, other = (values(estimate(pub, seed=seed)).tolist() for seed in (3, 3, 4))

    assert first == second
    assert first != other


def test_the_metadata_are_those_of_the_protocol() -> None:
    circuit = QuantumCircuit(1, metadata={"user": 1})

    result = estimate(estimator_pub(circuit, {"Z": 1.0}, shots=100))

    assert result.pub_results[0].metadata == {
        "shots": 100,
        "target_precision": 0.1,
        "circuit_metadata": {"user": 1},
        "resilience": {},
    }
    assert result.result_metadata == {
        "dynamical_decoupling": {"enable": False},
        "twirling": {"enable_gates": False, "enable_measure": False},
        "resilience": {
            "measure_mitigation": False,
            "zne_mitigation": False,
            "pec_mitigation": False,
        },
        "version": 2,
    }


def test_a_result_that_would_be_too_large_is_refused() -> None:
    small = AerExecutor(
        resources=Resources(threads=1, memory_bytes=1024 * MIB, max_result_bytes=1000)
    )
    pub = estimator_pub(QuantumCircuit(1), [{"Z": 1.0}] * 50)

    with pytest.raises(ProgramTooLarge, match=r"pubs\[0\]: 50 expectation values"):
        estimate(pub, aer=small)
