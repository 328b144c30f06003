"""What does the executor ``aer`` answer to a sampler's program?"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter, ParameterVector
from qiskit.circuit.classical import expr
from qiskit.circuit.library import MCPhaseGate, UnitaryGate
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import random_unitary

from app.errors import ExecutionError, InvalidProgram, ProgramTooLarge
from app.executors import Resources, simulation, statevectors
from app.executors.aer import AerExecutor

from .exact_distribution import allowed_distance, distance, exact_distribution
from .primitive_programs import (
    MIB,
    joined_counts,
    provenance,
    registers,
    sample,
    sampler_pub,
)

if TYPE_CHECKING:
    from app.primitives.programs import PrimitiveResult, SamplerPub

SHOTS = 4000

ONE_QUBIT_GATES = ("h", "x", "y", "z", "s", "sdg", "t", "tdg", "sx", "sxdg")
TWO_QUBIT_GATES = ("cx", "cy", "cz", "ch", "swap", "iswap", "ecr", "dcx", "csx")
ONE_QUBIT_ROTATIONS = ("rx", "ry", "rz", "p")
TWO_QUBIT_ROTATIONS = ("rxx", "ryy", "rzz", "rzx", "cp", "crx", "cry", "crz")


def assert_exact(result: PrimitiveResult, pub: SamplerPub, index: int = 0) -> None:
    """Total variation of every parameter set within the 5 sigma bound of ``allowed_distance``."""
    for place in np.ndindex(pub.shape):
        circuit = pub.circuit.assign_parameters(pub.parameter_values[place])
        exact = exact_distribution(circuit)
        counts = joined_counts(result, index, place)
        assert sum(counts.values()) == pub.shots
        assert distance(counts, exact) < allowed_distance(pub.shots, exact)


def random_pub(seed: int, *, dynamic: bool) -> SamplerPub:
    """Several registers, shared parameters, expressions of them, and any shape of values."""
    rng = np.random.default_rng(seed)
    qubits = int(rng.integers(2, 6))
    sizes = [int(size) for size in rng.integers(1, 4, size=int(rng.integers(1, 4)))]
    circuit = QuantumCircuit(
        QuantumRegister(qubits, "q"),
        *(ClassicalRegister(size, f"c{index}") for index, size in enumerate(sizes)),
    )
    parameters = ParameterVector("θ", int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(6, 16))):
        add_random_operation(circuit, parameters, rng, dynamic=dynamic)
    for clbit in rng.permutation(circuit.num_clbits)[
        : int(rng.integers(1, circuit.num_clbits + 1))
    ]:
        circuit.measure(int(rng.integers(qubits)), int(clbit))
    shape = tuple(int(length) for length in rng.integers(1, 3, size=int(rng.integers(0, 3))))
    values = rng.uniform(-4, 4, size=(*shape, circuit.num_parameters))
    return sampler_pub(circuit, values, shots=SHOTS)


def add_random_operation(
    circuit: QuantumCircuit, parameters: ParameterVector, rng: np.random.Generator, *, dynamic: bool
) -> None:
    first, second = (int(qubit) for qubit in rng.permutation(circuit.num_qubits)[:2])
    angle = random_angle(parameters, rng)
    clbit = int(rng.integers(circuit.num_clbits))
    kind = int(rng.integers(8 if dynamic else 5))
    if kind == 0:
        getattr(circuit, str(rng.choice(ONE_QUBIT_GATES)))(first)
    elif kind == 1:
        getattr(circuit, str(rng.choice(ONE_QUBIT_ROTATIONS)))(angle, first)
    elif kind == 2:
        getattr(circuit, str(rng.choice(TWO_QUBIT_GATES)))(first, second)
    elif kind == 3:
        getattr(circuit, str(rng.choice(TWO_QUBIT_ROTATIONS)))(angle, first, second)
    elif kind == 4:
        circuit.u(angle, 0.3, -angle, first)
    elif kind == 5:
        circuit.measure(first, clbit)
    elif kind == 6:
        circuit.reset(first)
    else:
        circuit.measure(first, clbit)
        with circuit.if_test((circuit.clbits[clbit], int(rng.integers(2)))) as otherwise:
            circuit.rx(angle, second)
        with otherwise:
            circuit.h(second)


def random_angle(parameters: ParameterVector, rng: np.random.Generator) -> object:
    parameter = parameters[int(rng.integers(len(parameters)))]
    other = parameters[int(rng.integers(len(parameters)))]
    kind = int(rng.integers(4))
    return (float(rng.uniform(-3, 3)), parameter, 2 * parameter - other / 3 + 1, parameter * other)[
        kind
    ]


# --- differential -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(16))
def test_a_random_circuit_has_the_exact_distribution_at_every_parameter_set(seed: int) -> None:
    pub = random_pub(seed, dynamic=False)

    assert_exact(sample(pub), pub)


@pytest.mark.parametrize("seed", range(100, 112))
def test_a_random_dynamic_circuit_has_the_exact_distribution(seed: int) -> None:
    pub = random_pub(seed, dynamic=True)

    assert_exact(sample(pub), pub)


@pytest.mark.parametrize("seed", range(16, 20))
def test_aer_and_the_arrays_of_small_circuits_agree(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "_VECTORISED_QUBITS", 0)
    pub = random_pub(seed, dynamic=False)

    assert_exact(sample(pub), pub)


@pytest.mark.parametrize("seed", range(20, 26))
def test_the_shapes_and_frequencies_are_those_of_qiskit(seed: int) -> None:
    pub = random_pub(seed, dynamic=False)
    theirs = (
        StatevectorSampler(seed=seed)
        .run([(pub.circuit, pub.parameter_values)], shots=SHOTS)
        .result()[0]
        .data
    )

    ours = registers(sample(pub))

    assert list(ours) == list(theirs)
    for name, bits in ours.items():
        assert bits.array.shape == theirs[name].array.shape
        assert bits.num_bits == theirs[name].num_bits
        ones, expected = (samples.to_bool_array().mean(axis=-2) for samples in (bits, theirs[name]))
        # Two frequencies of 4000 shots each: 5 sigma of their difference is at most this.
        assert abs(ones - expected).max() < 5 * (2 * 0.25 / SHOTS) ** 0.5


# --- parameters -------------------------------------------------------------------------------


def test_values_are_taken_in_the_order_of_the_circuits_parameters() -> None:
    late, early = Parameter("z"), Parameter("a")
    circuit = QuantumCircuit(2)
    circuit.rx(late, 0)
    circuit.rx(early, 1)
    circuit.measure_all()

    # Sorted by name: the first value belongs to "a", which turns qubit 1.
    assert joined_counts(sample(sampler_pub(circuit, [np.pi, 0]))) == {"10": SHOTS}


def test_many_parameter_sets_each_give_their_own_samples() -> None:
    circuit = QuantumCircuit(3)
    circuit.append(UnitaryGate(random_unitary(4, seed=3)), [0, 2])
    angle = Parameter("θ")
    circuit.ry(angle, 1)
    circuit.measure_all()
    angles = np.linspace(0, np.pi, 3000).reshape(3000, 1)

    bits = registers(sample(sampler_pub(circuit, angles, shots=1000)))["meas"]

    ones = bits.to_bool_array(order="little")[..., 1].mean(axis=-1)
    # 5 sigma of 1000 shots, of 3000 sets.
    assert abs(ones - np.sin(angles[:, 0] / 2) ** 2).max() < 5 * (0.25 / 1000) ** 0.5


def test_a_sweep_is_simulated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    angle = Parameter("a")
    circuit = QuantumCircuit(2)
    circuit.rx(angle, 0)
    circuit.cx(0, 1)
    circuit.measure_all()
    calls: list[int] = []
    zeros = statevectors.zeros
    monkeypatch.setattr(
        statevectors, "zeros", lambda qubits, sets: calls.append(sets) or zeros(qubits, sets)
    )

    sample(sampler_pub(circuit, np.zeros((500, 1)), shots=100))

    assert calls == [500]


def test_no_parameter_sets_give_no_samples() -> None:
    circuit = QuantumCircuit(2)
    circuit.rx(Parameter("a"), 0)
    circuit.measure_all()

    result = sample(sampler_pub(circuit, np.empty((2, 0, 1)), shots=10))

    assert result.pub_results[0].shape == (2, 0)
    assert registers(result)["meas"].array.shape == (2, 0, 10, 1)


def test_a_circuit_without_parameters_may_have_a_shape() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.h(0)
    circuit.measure(0, 0)
    pub = sampler_pub(circuit, np.empty((2, 3, 0)))

    assert_exact(sample(pub), pub)


@pytest.mark.parametrize("zero", [0.0, np.inf])
def test_an_angle_that_is_not_finite_is_refused_with_its_pub(zero: float) -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.rx(1 / Parameter("a"), 0)
    circuit.rx(Parameter("b"), 0)
    circuit.measure(0, 0)
    fine = QuantumCircuit(1, 1)

    with pytest.raises(ExecutionError, match=r"pubs\[1\]: an angle"):
        sample(sampler_pub(fine), sampler_pub(circuit, [[1, 2], [0, zero]]))


def test_a_parameter_inside_a_gate_of_the_user_gets_its_value() -> None:
    angle = Parameter("a")
    inside = QuantumCircuit(1)
    inside.rx(angle, 0)
    circuit = QuantumCircuit(2, 2)
    circuit.append(inside.to_gate(), [1])
    circuit.measure([0, 1], [0, 1])

    assert joined_counts(sample(sampler_pub(circuit, [np.pi]))) == {"10": SHOTS}


def test_a_loop_variable_and_a_parameter_may_make_one_angle() -> None:
    angle = Parameter("a")
    circuit = QuantumCircuit(1, 1)
    with circuit.for_loop(range(4)) as turn:
        circuit.rx(angle * turn / 6, 0)
    circuit.measure(0, 0)

    # 0 + 1/6 + 2/6 + 3/6 of the angle is all of it.
    assert joined_counts(sample(sampler_pub(circuit, [np.pi]))) == {"1": SHOTS}


# --- registers --------------------------------------------------------------------------------


def test_bytes_are_big_endian_and_padded_on_the_left() -> None:
    circuit = QuantumCircuit(QuantumRegister(9), ClassicalRegister(9, "wide"))
    circuit.x([0, 1, 8])
    circuit.measure(range(9), range(9))

    array = registers(sample(sampler_pub(circuit, shots=1)))["wide"].array

    assert array.tolist() == [[0x01, 0x03]]


def test_registers_that_are_never_written_are_zeros() -> None:
    circuit = QuantumCircuit(
        QuantumRegister(1), ClassicalRegister(3, "a"), ClassicalRegister(9, "b")
    )
    circuit.x(0)
    circuit.measure(0, 1)

    result = registers(sample(sampler_pub(circuit, shots=5)))

    assert result["a"].array.tolist() == [[2]] * 5
    assert result["b"].array.tolist() == [[0, 0]] * 5


def test_a_circuit_that_measures_nothing_gives_zeros() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.h([0, 1])

    assert joined_counts(sample(sampler_pub(circuit))) == {"00": SHOTS}


def test_registers_may_share_bits() -> None:
    circuit = QuantumCircuit(QuantumRegister(2), ClassicalRegister(2, "a"))
    circuit.add_register(ClassicalRegister(name="b", bits=[circuit.clbits[1]]))
    circuit.x(1)
    circuit.measure([0, 1], [0, 1])

    result = registers(sample(sampler_pub(circuit, shots=3)))

    assert result["a"].array.tolist() == [[2]] * 3
    assert result["b"].array.tolist() == [[1]] * 3


def test_a_circuit_without_registers_is_refused_with_its_pub() -> None:
    circuit = QuantumCircuit(1)

    with pytest.raises(InvalidProgram, match=r"pubs\[0\]: .* no classical registers") as refusal:
        sample(sampler_pub(circuit))

    assert refusal.value.reason == "no_classical_bits"


# --- components -------------------------------------------------------------------------------


def test_qubits_that_are_not_entangled_are_simulated_apart() -> None:
    circuit = QuantumCircuit(60, 60)
    for qubit in range(0, 60, 2):
        circuit.ry(0.1 + qubit / 40, qubit)
        circuit.cx(qubit, qubit + 1)
    circuit.measure(range(60), range(60))

    result = sample(sampler_pub(circuit))

    assert provenance(result)["component_qubits"] == [2] * 30
    bits = registers(result)["c"].to_bool_array(order="little")
    assert (bits[:, ::2] == bits[:, 1::2]).all()
    # Different components know nothing of each other: 5 sigma of a correlation of 4000 shots, and
    # 435 of them.
    correlations = np.corrcoef(bits[:, ::2].T.astype(float))
    assert abs(correlations - np.eye(30)).max() < 5.5 / SHOTS**0.5


def test_a_wide_circuit_costs_only_the_qubits_it_entangles() -> None:
    circuit = QuantumCircuit(127, 127)
    angles = ParameterVector("θ", 10)
    chain = [3, 17, 18, 44, 45, 60, 61, 99, 100, 126]
    for angle, qubit in zip(angles, chain, strict=True):
        circuit.rz(angle, qubit)
        circuit.sx(qubit)
    for first, second in pairwise(chain):
        circuit.ecr(first, second)
        circuit.rz(0.3, second)
        circuit.sx(second)
    circuit.measure(range(127), range(127))

    result = sample(sampler_pub(circuit, np.linspace(0, 1, 50).reshape(5, 10)))

    assert provenance(result)["qubits_declared"] == 127
    assert provenance(result)["qubits_simulated"] == 10
    assert registers(result)["c"].array.shape == (5, SHOTS, 16)


def test_components_that_write_one_bit_keep_their_order() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.measure(0, 0)
    circuit.x(0)
    circuit.measure(0, 1)
    circuit.x([1, 1])
    circuit.measure(1, 0)

    assert joined_counts(sample(sampler_pub(circuit))) == {"00": SHOTS}


def test_gates_that_a_matrix_product_state_lacks_are_decomposed() -> None:
    angle = Parameter("a")
    circuit = QuantumCircuit(40, 40)
    circuit.ry(angle, 0)
    for qubit in range(39):
        circuit.ccz(qubit, qubit + 1, (qubit + 2) % 40)
        circuit.cry(np.pi, qubit, qubit + 1)
    circuit.measure(range(40), range(40))

    result = sample(sampler_pub(circuit, [[1.0], [2.0]], shots=200))

    assert provenance(result)["methods"] == ["matrix_product_state"]
    bits = registers(result)["c"].to_bool_array()
    assert (bits == bits[..., :1]).all()
    # 5 sigma of 200 shots.
    assert abs(bits[..., 0].mean(axis=1) - np.sin([0.5, 1.0]) ** 2).max() < 5 * (0.25 / 200) ** 0.5


def test_components_of_different_methods_are_put_together() -> None:
    circuit = QuantumCircuit(70, 70)
    circuit.h(0)
    for qubit in range(39):
        circuit.cx(qubit, qubit + 1)
    circuit.ry(1.0, 45)
    circuit.append(MCPhaseGate(0.4, 2), [45, 46, 47])
    circuit.measure(range(70), range(70))

    result = sample(sampler_pub(circuit, shots=100))

    assert provenance(result)["methods"] == ["stabilizer", "statevector"]
    bits = registers(result)["c"].to_bool_array(order="little")
    assert (bits[:, :40] == bits[:, :1]).all()
    assert not bits[:, 46:].any()


def test_feed_forward_to_a_register_is_seen_in_its_condition() -> None:
    circuit = QuantumCircuit(
        QuantumRegister(3), ClassicalRegister(2, "a"), ClassicalRegister(1, "b")
    )
    circuit.h([0, 1])
    circuit.measure([0, 1], [0, 1])
    with circuit.if_test(expr.greater(circuit.cregs[0], 1)):
        circuit.x(2)
    circuit.measure(2, 2)
    pub = sampler_pub(circuit)

    result = sample(pub)

    assert_exact(result, pub)
    high = registers(result)["a"].array[:, 0] > 1
    assert (registers(result)["b"].array[:, 0] == high).all()


# --- several pubs, seeds, order ---------------------------------------------------------------


def coin(qubits: int = 1) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits)
    circuit.h(range(qubits))
    circuit.measure_all()
    return circuit


def test_every_pub_has_its_shots_and_its_place() -> None:
    result = sample(sampler_pub(coin(3), shots=10), sampler_pub(coin(9), shots=20))

    assert registers(result, 0)["meas"].array.shape == (10, 1)
    assert registers(result, 1)["meas"].array.shape == (20, 2)
    assert [pub["shots"] for pub in (provenance(result, 0), provenance(result, 1))] == [10, 20]


def test_shots_come_in_random_order() -> None:
    bits = registers(sample(sampler_pub(coin())))["meas"].array[:, 0]

    changes = int((bits[1:] != bits[:-1]).sum())

    # Sorted shots would change once; 5 sigma of 3999 fair changes are 158.
    assert abs(changes - SHOTS / 2) < 5 * (SHOTS / 4) ** 0.5


@pytest.mark.parametrize(
    "circuit",
    [coin(4), coin(70), random_pub(101, dynamic=True).circuit],
    ids=["few", "many", "dynamic"],
)
def test_the_same_seed_gives_the_same_samples_in_the_same_order(circuit: QuantumCircuit) -> None:
    pub = sampler_pub(circuit, np.full((2, circuit.num_parameters), 0.4), shots=200)

    first, second, other = (
        np.concatenate(
            [bits.array.ravel() for bits in registers(sample(pub, seed=seed)).values()]
        ).tolist()
        for seed in (3, 3, 4)
    )

    assert first == second
    assert first != other


def test_pubs_with_the_same_circuit_give_different_samples() -> None:
    pub = sampler_pub(coin(8), shots=50)

    result = sample(pub, pub)

    first, second = (registers(result, index)["meas"].array.tolist() for index in (0, 1))
    assert first != second


def test_a_seed_is_drawn_and_reported_when_none_is_given() -> None:
    pub = sampler_pub(coin(8), shots=50)

    first = sample(pub, seed=None)
    again = sample(pub, seed=first.metadata["seed"])  # type: ignore[arg-type]

    assert registers(first)["meas"] == registers(again)["meas"]


# --- metadata and admission -------------------------------------------------------------------


def test_the_metadata_of_the_circuit_come_back() -> None:
    circuit = coin()
    circuit.metadata = {"user": 1}

    result = sample(sampler_pub(circuit))

    assert result.pub_results[0].metadata == {"circuit_metadata": {"user": 1}}
    assert result.result_metadata == {"version": 2}


def test_the_metadata_say_what_ran() -> None:
    metadata = dict(sample(sampler_pub(coin(2), shots=10)).metadata)

    (pub,) = metadata.pop("pubs")  # type: ignore[misc]
    assert pub.pop("started") <= pub.pop("finished")
    assert metadata.pop("time_taken_s") > 0  # type: ignore[operator]
    assert set(metadata.pop("versions")) == {"qiskit", "qiskit-aer"}  # type: ignore[call-overload]
    assert metadata == {
        "executor": "aer",
        "target": "fake_manila",
        "device": "CPU",
        "precision": "double",
        "seed": 7,
        "threads": 1,
        "noisy": False,
        "noise": "none",
        # test_durations.py looks at it.
        "estimate": metadata["estimate"],
        "twirling": {"enable_gates": False, "enable_measure": False},
        "options_without_effect": {},
    }
    assert pub == {
        "shots": 10,
        "qubits_declared": 2,
        "qubits_simulated": 2,
        "component_qubits": [1, 1],
        "methods": ["statevector"],
    }


def test_a_result_that_would_be_too_large_is_refused_before_the_run() -> None:
    wide = coin(16)

    with pytest.raises(ProgramTooLarge, match="submit the pubs one by one") as refusal:
        sample(*(sampler_pub(wide, shots=1_000_000) for _ in range(20)))

    # 20 pubs of a million shots of two bytes, four characters for every three bytes.
    assert refusal.value.details == {
        "needed_bytes": 53_333_333,
        "allowed_bytes": 32 * MIB,
    }


def test_shots_that_do_not_fit_in_memory_are_refused_with_the_estimate() -> None:
    small = AerExecutor(
        resources=Resources(threads=1, memory_bytes=300 * MIB, max_result_bytes=2**40)
    )

    with pytest.raises(ProgramTooLarge, match=r"pubs\[0\]: 1 × 1000000 shots of 8 bits would need"):
        sample(sampler_pub(coin(), shots=1_000_000), aer=small)
