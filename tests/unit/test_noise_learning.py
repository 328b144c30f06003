"""Noise learners and calibrations, as clients send them: what is learned is what a run has."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ibm_quantum_schemas.calibrator.version_0_1 import CalibratorResultModel
from ibm_quantum_schemas.noise_learner_v2.version_0_1 import ResultsModel
from ibm_quantum_schemas.noise_learner_v3.version_0_3 import NoiseLearnerV3ResultsModel
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit_aer.noise import NoiseModel, depolarizing_error
from qiskit_ibm_runtime.decoders.noise_learner import NoiseLearnerResultDecoder
from qiskit_ibm_runtime.decoders.noise_learner_v3.converters import (
    noise_learner_v3_result_from_0_3,
)
from qiskit_ibm_runtime.fake_provider import FakeManilaV2
from qiskit_ibm_runtime.noise_learner_v3.converters.version_0_3 import (
    noise_learner_v3_inputs_to_0_3,
)
from qiskit_ibm_runtime.options_models import NoiseLearnerV3Options
from samplomatic import Twirl

from app.backends.recordings import find_recordings
from app.errors import InvalidProgram
from app.executors.aer import AerExecutor
from app.executors.mitigation.boxes import boxed, with_readout
from app.executors.mitigation.resilience import Twirling
from app.executors.noise.device import DeviceNoise
from app.executors.noise.layers import noise_maps
from app.primitives.codec import decode_program, encode_result
from app.primitives.programs import DeviceFiles
from tests.unit.primitive_programs import AER, RESOURCES, TARGET
from tests.unit.runtime_params import LIMITS, bell, encoded, estimator, qpy_value

if TYPE_CHECKING:
    from qiskit.quantum_info import PauliLindbladMap

CAPTURES = Path(__file__).parent.parent / "corpora/captures"
RECORDING = find_recordings()["fake_manila"]
DEVICE = DeviceNoise(
    name="fake_manila",
    recording=DeviceFiles(configuration=RECORDING.configuration, properties=RECORDING.properties),
)
NOISY = AerExecutor(resources=RESOURCES, name="noisy", noise_of=lambda _: DEVICE)


def submitted(name: str) -> dict[str, Any]:
    (body,) = [
        call["request_json"]
        for call in json.loads((CAPTURES / f"{name}.json").read_text())["calls"]
        if call["path"] == "/jobs"
    ]
    return dict(body["params"])


def learned(params: Any, program_id: str = "noise-learner", aer: AerExecutor = AER) -> str:
    """The document of the result."""
    program = decode_program(program_id, encoded(params), LIMITS)
    return encode_result(aer.run(program, TARGET)).decode()


def layers(*circuits: QuantumCircuit, aer: AerExecutor = AER, **options: Any) -> Any:
    """The layers of circuits, as the client reads them."""
    params = {"circuits": list(circuits), "options": {"support_qiskit": True, **options}}
    document = learned(params, aer=aer)
    ResultsModel.model_validate_json(document)
    return NoiseLearnerResultDecoder.decode(document).data


def boxes(circuit: QuantumCircuit, *, aer: AerExecutor = AER, **options: Any) -> Any:
    """What is learned of the boxes of a circuit, as the client reads it."""
    model = noise_learner_v3_inputs_to_0_3(circuit.data, NoiseLearnerV3Options(**options))
    document = learned(model.model_dump(mode="json") | {"version": 3}, aer=aer)
    answer = NoiseLearnerV3ResultsModel.model_validate_json(document)
    return noise_learner_v3_result_from_0_3(answer).data


def brick() -> QuantumCircuit:
    """The layer of (0, 1) and (2, 3) twice, that of (1, 2) once."""
    circuit = QuantumCircuit(6)
    circuit.cx([0, 2], [1, 3])
    circuit.rz(Parameter("a"), 1)
    circuit.cx(1, 2)
    circuit.sx(range(4))
    circuit.cx([0, 2], [1, 3])
    return circuit


def rates_of(noise: PauliLindbladMap) -> dict[tuple[tuple[int, str], ...], float]:
    """Rate of every generator that has one, by the qubits of its Paulis."""
    return {
        tuple(sorted(zip(places, characters, strict=True))): rate
        for characters, places, rate in noise.to_sparse_list()
        if rate
    }


# Layers of circuits


def test_layers_that_a_client_has_asked_for_are_learned() -> None:
    document = learned(submitted("17_noise_learner_v2"))

    ResultsModel.model_validate_json(document)
    answer = NoiseLearnerResultDecoder.decode(document)
    (layer,) = answer.data
    assert layer.qubits == [0, 1]
    assert [gate.name for gate in layer.circuit.data] == ["cx"]
    assert len(layer.error.generators) == 15
    assert answer.metadata["backend"] == "fake_manila@aer"
    assert answer.metadata["input_options"]["max_layers_to_learn"] == 2


def test_the_most_frequent_layer_comes_first() -> None:
    first, second = layers(brick(), twirling_strategy="active")

    assert (first.qubits, second.qubits) == ([0, 1, 2, 3], [1, 2])
    assert [gate.name for gate in first.circuit.data] == ["cx", "cx"]


def test_generators_act_on_qubits_and_on_coupled_pairs() -> None:
    layer, _ = layers(brick(), twirling_strategy="active")

    weights = [sum(char != "I" for char in label) for label in layer.error.generators.to_labels()]
    assert weights.count(1) == 3 * 4
    assert weights.count(2) == 9 * 3
    assert not layer.error.rates.any()


def test_the_rightmost_character_of_a_generator_is_qubit_0() -> None:
    circuit = QuantumCircuit(3)
    circuit.cx(0, 1)

    (layer,) = layers(circuit, twirling_strategy="all")

    assert layer.error.generators.to_labels()[-1] == "IZZ"


@pytest.mark.parametrize(
    ("strategy", "qubits"),
    [
        ("active", {(0, 1, 2, 3), (1, 2)}),
        ("active-accum", {(0, 1, 2, 3)}),
        ("active-circuit", {(0, 1, 2, 3)}),
        ("all", {(0, 1, 2, 3, 4, 5)}),
    ],
)
def test_the_strategy_says_which_qubits_a_layer_has(
    strategy: str, qubits: set[tuple[int, ...]]
) -> None:
    found = layers(brick(), twirling_strategy=strategy)

    assert {tuple(layer.qubits) for layer in found} == qubits


def test_no_more_layers_are_learned_than_asked_for() -> None:
    assert len(layers(brick(), max_layers_to_learn=1)) == 1
    assert len(layers(brick(), max_layers_to_learn=0)) == 0
    assert len(layers(brick(), max_layers_to_learn=None)) == 2


def test_layers_that_are_not_clifford_are_left_out() -> None:
    circuit = QuantumCircuit(2)
    circuit.rzz(0.3, 0, 1)
    circuit.cz(0, 1)

    (layer,) = layers(circuit)

    assert [gate.name for gate in layer.circuit.data] == ["cz"]


# Boxes


def test_boxes_that_a_client_has_asked_for_are_learned() -> None:
    document = learned(submitted("18_noise_learner_v3"))

    answer = NoiseLearnerV3ResultsModel.model_validate_json(document)
    assert [box.metadata.learning_protocol for box in answer.data] == ["lindblad", "trex"]
    assert [len(box.generators_sparse) for box in answer.data] == [15, 2]
    assert not any(box.rates.to_numpy().any() for box in answer.data)
    assert not any(box.rates_std.to_numpy().any() for box in answer.data)


def test_qubits_of_a_box_are_in_the_order_of_the_device() -> None:
    circuit = QuantumCircuit(7)
    with circuit.box([Twirl()]):
        circuit.cx(6, 2)
        circuit.noop(4)

    (box,) = boxes(circuit)

    places = {tuple(pauli.indices.tolist()) for generator in box._generators for pauli in generator}
    assert places == {(0,), (1,), (2,), (0, 2)}


def test_measurements_are_learned_by_their_flips() -> None:
    circuit = QuantumCircuit(4, 3)
    with circuit.box([Twirl()]):
        circuit.measure([3, 0, 1], [0, 1, 2])

    (box,) = boxes(circuit)

    assert box.metadata["learning_protocol"] == "trex"
    assert [str(pauli[0].to_pauli()) for pauli in box._generators] == ["IIX", "IXI", "XII"]


@pytest.mark.parametrize("kind", ["not_twirled", "not_learnable", "half_measured"])
def test_boxes_that_nothing_can_learn_are_refused(kind: str) -> None:
    circuit = QuantumCircuit(2, 2)
    with circuit.box([] if kind == "not_twirled" else [Twirl()]):
        if kind == "half_measured":
            circuit.measure(0, 0)
            circuit.noop(1)
        else:
            circuit.cx(0, 1)
            circuit.h(1)
            circuit.cx(1, 0)

    with pytest.raises(InvalidProgram, match=r"^instructions\[0\]: the box") as caught:
        boxes(circuit)

    expected = "not_twirled" if kind == "not_twirled" else "not_learnable"
    assert caught.value.details["reason"] == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema_version": "v9"}, "schema_version: 'v9' is not one of"),
        ({"version": 2}, "version: 2 is not in the range 3 to 3"),
        ({"options": {"shots_per_randomization": 0}}, "options.shots_per_randomization: 0 is not"),
        ({"options": {"x": 1}}, "options.x: there is no such option here"),
        ({"options": {"post_selection": {"strategy": "?"}}}, "options.post_selection.strategy: "),
        ({"instructions": {}}, "instructions: the keys are circuit_b64, qpy_version"),
        ({"instructions": {"circuit_b64": "", "qpy_version": 17}}, "instructions"),
        ({"extra": 1}, "params: the keys are instructions, options, schema_version, version"),
    ],
)
def test_what_is_no_program_for_boxes_is_refused(fields: dict[str, Any], message: str) -> None:
    params = submitted("18_noise_learner_v3") | fields

    with pytest.raises(InvalidProgram) as caught:
        learned(params)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"circuits": []}, "circuits: there is nothing to learn"),
        ({"circuits": ["OPENQASM 3;"]}, "circuits[0]: must be an object, not a text"),
        ({"options": {"twirling_strategy": "none"}}, "options.twirling_strategy: 'none' is not"),
        ({"options": {"max_layers_to_learn": -1}}, "options.max_layers_to_learn: -1 is not"),
        ({"version": 3}, "version: 3 is not in the range 2 to 2"),
    ],
)
def test_what_is_no_program_for_layers_is_refused(fields: dict[str, Any], message: str) -> None:
    params = {"circuits": [qpy_value(brick())], "options": {}} | fields

    with pytest.raises(InvalidProgram) as caught:
        learned(params)

    assert str(caught.value).startswith(message)


def test_boxes_with_other_instructions_between_them_are_refused() -> None:
    circuit = QuantumCircuit(1)
    circuit.x(0)

    with pytest.raises(InvalidProgram, match=r"^instructions: instruction 0 is no box but 'x'$"):
        boxes(circuit)


# Noise


def test_rates_of_a_known_noise_are_exact() -> None:
    lost = 0.04
    noise = NoiseModel()
    noise.add_all_qubit_quantum_error(depolarizing_error(lost, 2), "cx")
    circuit = QuantumCircuit(4)
    circuit.cx(3, 1)

    (layer,) = layers(circuit, simulator={"noise_model": noise}, twirling_strategy="all")

    # Each of the 15 Paulis on the pair loses as much, and anticommutes with 8 of the others.
    rate = -log(1 - lost) / 16
    labels = layer.error.generators.to_labels()
    on_the_pair = [label[1] == label[3] == "I" for label in labels]
    assert on_the_pair.count(True) == 15
    assert len(labels) == 15 + 2 * 3
    assert layer.error.rates == pytest.approx(np.where(on_the_pair, rate, 0.0), abs=1e-9)


def test_what_is_learned_on_a_device_is_the_noise_of_its_runs() -> None:
    circuit = QuantumCircuit(4)
    circuit.cx(0, 1)
    circuit.cx(2, 3)
    circuit.sx(range(4))
    circuit.cx(1, 2)
    document = learned({"circuits": [circuit], "options": {}}, aer=NOISY)
    layer_noise = NoiseLearnerResultDecoder.decode(document)
    pub = [bell(measured=False), {"ZZ": 1.0}, [], None]
    program = estimator(pub, options={"resilience": {"layer_noise_model": layer_noise}})
    brought_along: Any = program.options["resilience"]["layer_noise_model"]  # type: ignore[index]
    twirled = boxed(with_readout(circuit, "m"), Twirling(gates=True), reads=True, injects=True)

    used = noise_maps(twirled.layers, range(4), learned=(), noise=DEVICE)
    brought = noise_maps(twirled.layers, range(4), learned=brought_along, noise=DEVICE)

    assert len(layer_noise.data) == len(used) == 2
    for name, each in used.items():
        rates = rates_of(each)
        assert len(rates) > 12
        assert rates_of(brought[name]) == pytest.approx(rates)


def test_a_box_has_the_rates_of_its_layer() -> None:
    circuit = QuantumCircuit(5)
    circuit.cx(2, 3)
    boxed_circuit = QuantumCircuit(5)
    with boxed_circuit.box([Twirl()]):
        boxed_circuit.cx(2, 3)

    (layer,) = layers(circuit, aer=NOISY, twirling_strategy="active")
    (box,) = boxes(boxed_circuit, aer=NOISY)

    assert layer.error.rates.any()
    assert np.array_equal(box._rates, layer.error.rates)


def test_readout_is_learned_as_it_was_recorded() -> None:
    circuit = QuantumCircuit(5, 2)
    with circuit.box([Twirl()]):
        circuit.measure([4, 1], [0, 1])

    (box,) = boxes(circuit, aer=NOISY)

    recorded = [FakeManilaV2().properties().readout_error(qubit) for qubit in (1, 4)]
    assert box._rates == pytest.approx([-log(1 - 2 * error) / 2 for error in recorded])


def test_gates_that_the_device_does_not_have_are_not_learned() -> None:
    circuit = QuantumCircuit(5)
    with circuit.box([Twirl()]):
        circuit.cx(0, 4)

    with pytest.raises(InvalidProgram, match=r"^instructions\[0\]: .*cx on \[0, 4\]; transpile"):
        boxes(circuit, aer=NOISY)


def test_a_layer_of_which_noise_leaves_nothing_is_refused() -> None:
    noise = NoiseModel()
    noise.add_all_qubit_quantum_error(depolarizing_error(1.0, 2), "cx")
    circuit = QuantumCircuit(2)
    circuit.cx(0, 1)

    with pytest.raises(InvalidProgram, match="leaves nothing that could be amplified"):
        layers(circuit, simulator={"noise_model": noise})


# Calibrations


def test_a_calibration_says_when_it_was() -> None:
    document = learned(submitted("19_calibrate"), "calibrate")

    answer = CalibratorResultModel.model_validate_json(document)
    assert answer.start <= answer.stop
    assert answer.start.tzinfo is not None


def test_a_calibration_without_a_version_is_one_too() -> None:
    document = learned({"options": {}}, "calibrate")

    CalibratorResultModel.model_validate_json(document)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"schema_version": "v0.2", "options": {}}, "schema_version: "),
        ({"schema_version": "v0.1"}, "params: the keys are options, schema_version"),
        ({"schema_version": "v0.1", "options": {"x": 1}}, "options.x: there is no such option"),
        ({"schema_version": "v0.1", "options": {"experimental": 1}}, "options.experimental: must"),
    ],
)
def test_what_is_no_calibration_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProgram) as caught:
        learned(params, "calibrate")

    assert str(caught.value).startswith(message)
