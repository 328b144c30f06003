"""What does the executor ``noisy`` answer? What Aer's own noisy copy of the device would."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.circuit.classical import expr
from qiskit.quantum_info import SparsePauliOp, Statevector, SuperOp
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, depolarizing_error
from qiskit_aer.noise.device import basic_device_readout_errors
from qiskit_ibm_runtime import fake_provider

from app.backends.recordings import find_recordings
from app.errors import ExecutionError, InvalidProgram, ProgramTooLarge
from app.executors import Resources, registry
from app.executors.circuits.lowering import Step
from app.executors.circuits.reduction import reduce
from app.executors.noise.device import DeviceNoise
from app.primitives.programs import (
    CountsResult,
    DeviceFiles,
    EstimatorProgram,
    PrimitiveResult,
    QasmProgram,
    SamplerProgram,
    Target,
)

from .exact_distribution import allowed_distance, distance
from .primitive_programs import (
    MIB,
    RESOURCES,
    estimator_pub,
    joined_counts,
    provenance,
    sampler_pub,
    values,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.primitives.programs import EstimatorPub, SamplerPub

SHOTS = 100_000
NOISY = registry.load("noisy", RESOURCES)
DEVICES = {
    "fake_manila": fake_provider.FakeManilaV2,
    "fake_cambridge": fake_provider.FakeCambridgeV2,
    "fake_peekskill": fake_provider.FakePeekskill,
    "fake_prague": fake_provider.FakePrague,
    "fake_yorktown": fake_provider.FakeYorktownV2,
}


@cache
def files(name: str) -> DeviceFiles:
    recording = find_recordings()[name]
    return DeviceFiles(configuration=recording.configuration, properties=recording.properties)


def target(name: str) -> Target:
    return Target(name=name, recording=files(name))


@cache
def device(name: str) -> Any:
    return DEVICES[name]()


@cache
def model(name: str) -> NoiseModel:
    """Aer's own model of the whole device, as the client's local mode makes it of properties."""
    made = NoiseModel.from_backend(device(name))
    for qubits, error in basic_device_readout_errors(device(name).properties()):
        made.add_readout_error(error, qubits, warnings=False)
    return made


def wrong(name: str, qubit: int) -> tuple[float, float]:
    """How likely a qubit in 0 is read as 1, and one in 1 as 0."""
    recorded = device(name).properties().qubit_property(qubit)
    return recorded["prob_meas1_prep0"][0], recorded["prob_meas0_prep1"][0]


def sample(*pubs: SamplerPub, on: Target, seed: int = 7, **options: Any) -> PrimitiveResult:
    result = NOISY.run(SamplerProgram(pubs=pubs, options=options, seed=seed), on)
    assert isinstance(result, PrimitiveResult)
    return result


def estimate(*pubs: EstimatorPub, on: Target, seed: int = 7) -> PrimitiveResult:
    result = NOISY.run(EstimatorProgram(pubs=pubs, resilience_level=0, seed=seed), on)
    assert isinstance(result, PrimitiveResult)
    return result


def task(circuit: QuantumCircuit, *, on: Target, seed: int = 7, shots: int = SHOTS) -> CountsResult:
    result = NOISY.run(QasmProgram(circuit=circuit, shots=shots, seed=seed), on)
    assert isinstance(result, CountsResult)
    return result


def noisy_distribution(
    name: str, circuit: QuantumCircuit, qubits: Sequence[int]
) -> dict[str, float]:
    """Exact outcomes of ``qubits``, the first rightmost, measured after an ISA ``circuit``.

    Aer's own noisy backend gives the density matrix; each readout error mixes one axis.
    """
    saved = circuit.remove_final_measurements(inplace=False)
    used = sorted({saved.find_bit(q).index for op in saved.data for q in op.qubits} | {*qubits})
    saved.save_density_matrix(qubits=used)
    simulator = AerSimulator.from_backend(device(name), method="density_matrix")
    simulator.set_options(noise_model=model(name))
    matrix = simulator.run(saved, shots=1).result().data()["density_matrix"]
    chances = matrix.probabilities([used.index(qubit) for qubit in qubits])
    tensor = chances.reshape((2,) * len(qubits))
    for place, qubit in enumerate(qubits):
        axis = len(qubits) - 1 - place
        confusion = model(name)._local_readout_errors[(qubit,)].probabilities
        tensor = np.moveaxis(np.tensordot(confusion.T, tensor, axes=(1, axis)), 0, axis)
    return {format(i, f"0{len(qubits)}b"): float(p) for i, p in enumerate(tensor.ravel())}


def isa(name: str, circuit: QuantumCircuit, layout: Sequence[int]) -> QuantumCircuit:
    return transpile(
        circuit,
        device(name),
        initial_layout=list(layout),
        optimization_level=1,
        seed_transpiler=1,
    )


def ghz(qubits: int) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits)
    circuit.h(0)
    for qubit in range(qubits - 1):
        circuit.cx(qubit, qubit + 1)
        circuit.rx(0.4 + qubit, qubit)
    return circuit


#: device → a line of coupled qubits.
LINES = {
    "fake_manila": (1, 2, 3),
    "fake_cambridge": (0, 1, 2),
    "fake_peekskill": (1, 2, 3),
    "fake_prague": (0, 1, 2),
    "fake_yorktown": (0, 1, 2),
}


def measured(name: str) -> tuple[QuantumCircuit, tuple[int, ...]]:
    """An ISA circuit of three coupled qubits, deep enough for noise to be seen, and what it reads."""
    line = LINES[name]
    circuit = isa(name, ghz(3).compose(ghz(3).inverse()).compose(ghz(3)), line)
    places = circuit.layout.final_index_layout()
    circuit.add_register(*QuantumCircuit(3, 3).cregs)
    circuit.measure(places, range(3))
    return circuit, tuple(places)


# --- the model --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fake_manila", "fake_yorktown"])
def test_every_error_is_aers_own(name: str) -> None:
    noise = DeviceNoise(name=name, recording=files(name))
    theirs = model(name)
    places = {
        (gate, qubits): error
        for gate, local in theirs._local_quantum_errors.items()
        for qubits, error in local.items()
    }
    for (gate, qubits), error in places.items():
        ours = noise._error(gate, qubits, None)

        assert ours is not None
        assert np.allclose(SuperOp(ours).data, SuperOp(error).data)
    for (qubit,), error in theirs._local_readout_errors.items():
        assert noise._readout(qubit) == error


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_samples_are_those_of_aers_noisy_copy_of_the_device(name: str) -> None:
    # A right sample exceeds the bound of ``allowed_distance`` with a chance of 5 sigma.
    circuit, qubits = measured(name)
    exact = noisy_distribution(name, circuit, qubits)

    result = sample(sampler_pub(circuit, shots=SHOTS), on=target(name))

    assert distance(joined_counts(result), exact) < allowed_distance(SHOTS, exact)
    assert provenance(result)["qubits_simulated"] == 3
    assert provenance(result)["methods"] == ["density_matrix"]


def test_the_noise_of_a_device_is_far_beyond_that_bound() -> None:
    circuit, qubits = measured("fake_manila")
    exact = noisy_distribution("fake_manila", circuit, qubits)
    ideal = sample(sampler_pub(circuit, shots=SHOTS), on=Target(name="fake_manila"))

    assert distance(joined_counts(ideal), exact) > 2 * allowed_distance(SHOTS, exact)


def test_few_shots_of_a_wide_circuit_are_trajectories_of_the_same_noise() -> None:
    circuit, qubits = measured("fake_manila")
    exact = noisy_distribution("fake_manila", circuit, qubits)

    # More amplitudes than shots.
    pubs = [sampler_pub(circuit, shots=7) for _ in range(100)]
    result = sample(*pubs, on=target("fake_manila"))

    counts: dict[str, int] = {}
    for index in range(len(pubs)):
        assert provenance(result, index)["methods"] == ["statevector"]
        for outcome, times in joined_counts(result, index).items():
            counts[outcome] = counts.get(outcome, 0) + times
    assert distance(counts, exact) < allowed_distance(7 * len(pubs), exact)


# --- readout, idling, components --------------------------------------------------------------


@pytest.mark.parametrize("qubit", range(5))
def test_an_idle_qubit_is_read_as_wrongly_as_its_properties_say(qubit: int) -> None:
    error, _ = wrong("fake_manila", qubit)
    circuit = QuantumCircuit(5, 1)
    circuit.measure(qubit, 0)

    counts = joined_counts(sample(sampler_pub(circuit, shots=SHOTS), on=target("fake_manila")))

    # 5 sigma of a binomial distribution.
    assert abs(counts["1"] / SHOTS - error) < 5 * np.sqrt(error * (1 - error) / SHOTS)


def test_a_one_is_misread_as_often_as_the_device_says_and_not_as_often_as_a_zero() -> None:
    # Qubit 6 of fake_sherbrooke reads a 0 as 1 half the time, and a 1 as 0 one time in a hundred.
    circuit = QuantumCircuit(127, 2)
    circuit.x(6)
    circuit.measure(6, 0)

    counts = joined_counts(sample(sampler_pub(circuit, shots=SHOTS), on=target("fake_sherbrooke")))

    assert 0.01 < counts["00"] / SHOTS < 0.02


def test_a_qubit_whose_readings_are_recorded_as_one_number_errs_alike_in_0_and_1(
    tmp_path: Path,
) -> None:
    properties = orjson.loads(files("fake_manila").properties.read_bytes())
    properties["qubits"][0] = [
        item for item in properties["qubits"][0] if not item["name"].startswith("prob_meas")
    ]
    (tmp_path / "props.json").write_bytes(orjson.dumps(properties))
    doctored = replace(files("fake_manila"), properties=tmp_path / "props.json")

    readout = DeviceNoise(name="doctored", recording=doctored)._readout(0)

    assert readout is not None
    assert readout.probabilities[0, 1] == readout.probabilities[1, 0] == pytest.approx(0.0353)


def test_a_qubit_relaxes_while_it_waits() -> None:
    name, qubit = "fake_manila", 0
    t1 = device(name).qubit_properties(qubit).t1
    zero, one = wrong(name, qubit)
    circuit = QuantumCircuit(5, 1)
    circuit.x(qubit)
    circuit.delay(t1, qubit, unit="s")
    circuit.measure(qubit, 0)

    counts = joined_counts(sample(sampler_pub(circuit, shots=SHOTS), on=target(name)))

    left = np.exp(-1) * (1 - one) + (1 - np.exp(-1)) * zero
    # 5 sigma, and what the error of the X gate may change.
    assert abs(counts["1"] / SHOTS - left) < 5 * np.sqrt(left * (1 - left) / SHOTS) + 1e-3


@pytest.mark.parametrize("unit", ["dt", "ns", "us"])
def test_delays_are_those_of_aer_in_every_unit(unit: str) -> None:
    name = "fake_manila"
    length = {"dt": 100_000, "ns": 30_000, "us": 40}[unit]
    circuit = QuantumCircuit(5, 2)
    for qubit in (0, 1):
        circuit.sx(qubit)
        circuit.delay(length, qubit, unit=unit)
        circuit.sx(qubit)
    exact = noisy_distribution(name, circuit, (0, 1))
    circuit.measure([0, 1], [0, 1])

    counts = joined_counts(sample(sampler_pub(circuit, shots=SHOTS), on=target(name)))

    assert distance(counts, exact) < allowed_distance(SHOTS, exact)


def test_the_length_of_a_delay_may_be_a_parameter() -> None:
    name, qubit = "fake_manila", 0
    t1 = device(name).qubit_properties(qubit).t1
    length = Parameter("t")
    circuit = QuantumCircuit(5, 1)
    circuit.x(qubit)
    circuit.delay(length, qubit, unit="s")
    circuit.measure(qubit, 0)

    result = sample(sampler_pub(circuit, [[0.0], [t1], [20 * t1]], shots=4000), on=target(name))

    ones = [joined_counts(result, 0, (i,)).get("1", 0) for i in range(3)]
    assert ones[0] > 3400
    assert 1300 < ones[1] < 1800
    assert ones[2] < 300


def test_dt_means_nothing_on_a_device_that_does_not_say_how_long_it_is() -> None:
    circuit = QuantumCircuit(5, 1)
    circuit.delay(100, 0, unit="dt")
    circuit.measure(0, 0)

    with pytest.raises(ExecutionError, match="dt"):
        sample(sampler_pub(circuit), on=target("fake_cambridge"))


def test_components_are_noisy_each_on_its_own() -> None:
    name = "fake_peekskill"
    pairs = ((1, 2), (3, 5), (4, 7), (8, 11), (12, 13), (14, 16))
    circuit = QuantumCircuit(27, 12)
    for index, (first, second) in enumerate(pairs):
        part = isa(name, ghz(2), (first, second))
        circuit.compose(part, inplace=True)
        circuit.measure([first, second], [2 * index, 2 * index + 1])

    result = sample(sampler_pub(circuit, shots=4000), on=target(name))

    assert provenance(result)["component_qubits"] == [2] * 6
    counts = joined_counts(result)
    for index, pair in enumerate(pairs):
        exact = noisy_distribution(name, isa(name, ghz(2), pair), pair)
        marginal: dict[str, int] = {}
        for outcome, times in counts.items():
            own = outcome[::-1][2 * index : 2 * index + 2][::-1]
            marginal[own] = marginal.get(own, 0) + times
        assert distance(marginal, exact) < allowed_distance(4000, exact)


# --- circuits of another shape ----------------------------------------------------------------


def test_a_circuit_that_the_device_cannot_run_is_translated_and_routed() -> None:
    name = "fake_manila"
    circuit = QuantumCircuit(5, 5)
    circuit.h(0)
    circuit.cx(0, 4)
    circuit.measure(range(5), range(5))
    translated = transpile(
        circuit,
        basis_gates=["id", "rz", "sx", "x", "cx"],
        coupling_map=[list(pair) for pair in device(name).coupling_map],
        optimization_level=0,
        seed_transpiler=0,
    )

    result = sample(sampler_pub(circuit, shots=SHOTS), on=target(name))

    places = translated.layout.final_index_layout()
    exact = noisy_distribution(name, translated, places)
    assert distance(joined_counts(result), exact) < allowed_distance(SHOTS, exact)


def test_a_circuit_wider_than_the_device_is_refused() -> None:
    circuit = QuantumCircuit(6, 1)
    circuit.measure(0, 0)

    with pytest.raises(InvalidProgram, match="6 qubits; fake_manila has 5") as refusal:
        sample(sampler_pub(circuit), on=target("fake_manila"))

    assert refusal.value.reason == "too_many_qubits"


def test_feedforward_is_noisy_too() -> None:
    name = "fake_manila"
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(1)
    circuit.measure(1, 1)

    counts = joined_counts(sample(sampler_pub(circuit, shots=4000), on=target(name)))

    assert counts["11"] > 3400
    # Both readouts fail now and then.
    assert {"10", "00", "01"} & counts.keys() > set()


def test_classical_computing_is_refused_where_it_is_noisy() -> None:
    assigning = QuantumCircuit(5, 1)
    assigning.store(assigning.clbits[0], expr.logic_not(assigning.clbits[0]))
    computing = QuantumCircuit(5, 2)
    computing.measure(0, 0)
    with computing.if_test(expr.equal(expr.shift_left(computing.cregs[0], 1), 2)):
        computing.x(1)

    with pytest.raises(ExecutionError, match="assigns to classical variables or bits"):
        task(assigning, on=target("fake_manila"))
    with pytest.raises(ExecutionError, match="'shift_left', which cannot be evaluated in a noisy"):
        task(computing, on=target("fake_manila"))


# --- estimator --------------------------------------------------------------------------------


def test_expectation_values_are_those_of_the_noisy_state_read_with_errors() -> None:
    name, shots = "fake_manila", 40_000
    circuit = isa(name, ghz(3), LINES[name])
    places = circuit.layout.final_index_layout()
    observables = ["ZZZ", "XXX", "YXZ", "IIY", "XII"]
    padded = [
        SparsePauliOp(observable).apply_layout(places, circuit.num_qubits).to_list()[0][0]
        for observable in observables
    ]

    result = estimate(
        estimator_pub(circuit, [{observable: 1.0} for observable in padded], shots=shots),
        on=target(name),
    )

    for index, observable in enumerate(padded):
        read = [qubit for qubit, basis in enumerate(reversed(observable)) if basis != "I"]
        turned = circuit.copy()
        for qubit in read:
            basis = observable[::-1][qubit]
            if basis == "X":
                turned.rz(np.pi / 2, qubit)
            if basis != "Z":
                turned.sx(qubit)
        exact = noisy_distribution(name, turned, read)
        value = sum((-1) ** key.count("1") * chance for key, chance in exact.items())
        error = values(result, "stds")[index]
        assert error == pytest.approx(np.sqrt((1 - value**2) / shots), rel=0.05)
        # 5 sigma.
        assert abs(values(result)[index] - value) < 5 * error


def test_a_basis_is_turned_by_gates_of_the_device_which_err_too(tmp_path: Path) -> None:
    properties = orjson.loads(files("fake_manila").properties.read_bytes())
    for gate in properties["gates"]:
        if gate["gate"] == "sx":
            gate["parameters"][0]["value"] = 0.2
    (tmp_path / "props.json").write_bytes(orjson.dumps(properties))
    doctored = replace(files("fake_manila"), properties=tmp_path / "props.json")
    circuit = QuantumCircuit(1)
    circuit.rz(np.pi / 2, 0)
    circuit.sx(0)
    circuit.rz(np.pi / 2, 0)

    result = estimate(
        estimator_pub(circuit, {"X": 1.0}, shots=10_000),
        on=Target(name="doctored", recording=doctored),
    )

    # An error of 0.2 depolarises by 0.4, once where the state is made and once where it is turned;
    # the readout errs besides. 5 sigma.
    zero, one = wrong("fake_manila", 0)
    expected = 0.36 * (1 - zero - one) + one - zero
    assert abs(float(values(result)) - expected) < 5 * float(values(result, "stds"))


@pytest.mark.parametrize("name", ["fake_manila", "fake_cambridge"])
def test_rotations_of_a_device_turn_every_basis_into_z(name: str) -> None:
    noise = DeviceNoise(name=name, recording=files(name))
    plus = {"X": "+", "Y": "r", "Z": "0"}
    for basis, gates in noise.rotations.items():
        circuit = QuantumCircuit(1)
        for gate, angles in gates:
            getattr(circuit, {"u2": "u"}.get(gate, gate))(
                *((np.pi / 2,) if gate == "u2" else ()), *angles, 0
            )

        assert Statevector.from_label(plus[basis]).evolve(circuit).probabilities()[
            0
        ] == pytest.approx(1)


# --- tasks ------------------------------------------------------------------------------------


def test_a_task_has_the_noise_of_the_device() -> None:
    circuit, qubits = measured("fake_manila")
    exact = noisy_distribution("fake_manila", circuit, qubits)

    result = task(circuit, on=target("fake_manila"))

    assert distance(result.counts, exact) < allowed_distance(SHOTS, exact)
    assert result.metadata["executor"] == "noisy"
    assert str(result.metadata["noise"]).startswith("properties of fake_manila, recorded 20")


def test_a_task_is_sampled_part_by_part() -> None:
    circuit = QuantumCircuit(127, 20)
    for qubit in range(20):
        circuit.x(6 * qubit)
        circuit.measure(6 * qubit, 19 - qubit)

    result = task(circuit, on=target("fake_sherbrooke"), shots=2000)

    assert result.metadata["component_qubits"] == [1] * 20
    assert sum(result.counts.values()) == 2000
    ones = sum(outcome.count("1") * times for outcome, times in result.counts.items())
    assert 0.9 < ones / 20 / 2000 < 0.999


# --- seeds, options, limits -------------------------------------------------------------------


def test_the_same_seed_gives_the_same_samples() -> None:
    circuit, _ = measured("fake_manila")
    on = target("fake_manila")

    assert task(circuit, on=on, seed=1).counts == task(circuit, on=on, seed=1).counts
    assert task(circuit, on=on, seed=1).counts != task(circuit, on=on, seed=2).counts
    pub = sampler_pub(circuit)
    first, again, other = (joined_counts(sample(pub, on=on, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_the_noise_of_the_options_goes_before_that_of_the_device() -> None:
    theirs = NoiseModel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs.add_all_qubit_quantum_error(depolarizing_error(1, 1), ["x"])
        sent = theirs.to_dict()
    circuit = QuantumCircuit(1, 1)
    circuit.x(0)
    circuit.measure(0, 0)

    result = sample(
        sampler_pub(circuit, shots=4000),
        on=target("fake_manila"),
        simulator={"noise_model": sent},
    )

    # 5 sigma around a half.
    assert abs(joined_counts(result)["0"] - 2000) < 5 * np.sqrt(1000)
    assert result.metadata["noise"] == "options.simulator.noise_model"


def test_a_target_without_properties_is_ideal_and_says_so() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.x(0)
    circuit.measure(0, 0)

    result = sample(sampler_pub(circuit, shots=4000), on=Target(name="simulator"))

    assert joined_counts(result) == {"1": 4000}
    assert result.metadata["noisy"] is False
    assert result.metadata["noise"] == "none: the backend has no recorded properties"


def test_what_does_not_fit_is_refused_before_it_runs() -> None:
    small = Resources(threads=1, memory_bytes=300 * MIB, max_result_bytes=32 * MIB)
    circuit = QuantumCircuit(127, 127)
    circuit.measure(range(127), range(127))

    with pytest.raises(ProgramTooLarge, match="shots"):
        registry.load("noisy", small).run(
            QasmProgram(circuit=circuit, shots=1_000_000), target("fake_sherbrooke")
        )


def test_errors_of_one_circuit_are_made_once() -> None:
    noise = DeviceNoise(name="fake_manila", recording=files("fake_manila"))
    reduced = reduce([Step("x", (3,)), Step("measure", (3,), (0,))])

    assert noise.on(reduced) is noise.on(reduced)
    assert noise.on(reduced).noise_qubits == [0]
