"""Params of samplers and estimators, as clients send them, become programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.primitives.containers.sampler_pub import SamplerPub as ClientsSamplerPub
from qiskit.quantum_info import Operator, PauliList
from qiskit_aer.noise import NoiseModel, amplitude_damping_error, depolarizing_error
from qiskit_ibm_runtime.fake_provider import FakeFractionalBackend, FakeSherbrooke
from qiskit_ibm_runtime.results import LayerError, NoiseLearnerResult, PauliLindbladError

from app.primitives.codec import decode_program
from app.primitives.programs import EstimatorProgram, SamplerProgram
from tests.unit.runtime_params import (
    CORPUS,
    LIMITS,
    bell,
    encoded,
    estimator,
    npy_value,
    qpy_value,
    sampled,
    sampler,
    sampler_document,
    typed,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

SUBMISSIONS = sorted(CORPUS.glob("*.json"))
NOTHING = np.zeros(0)


def rotations(parameters: int) -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2)
    for i in range(parameters):
        circuit.ry(Parameter(f"p{i}"), i % 2)
    circuit.measure([0, 1], [0, 1])
    return circuit


def submitted(name: str) -> Any:
    submission = json.loads((CORPUS / f"{name}.json").read_text())
    return decode_program(submission["program_id"], encoded(submission["params"]), LIMITS)


@pytest.mark.parametrize("path", SUBMISSIONS, ids=lambda path: path.stem)
def test_what_the_client_sends_is_a_program(path: Path) -> None:
    submission = json.loads(path.read_text())
    params = submission["params"]

    program = decode_program(submission["program_id"], encoded(params), LIMITS)

    kind = SamplerProgram if submission["program_id"] == "sampler" else EstimatorProgram
    assert isinstance(program, kind)
    assert len(program.pubs) == len(params["pubs"])
    assert program.options.keys() == params["options"].keys()


def test_options_come_as_they_were_set() -> None:
    path = CORPUS / "sampler_params_all_options.json"

    program = submitted(path.stem)

    assert program.options == json.loads(path.read_text())["params"]["options"]
    assert program.seed == 42
    assert program.pubs[0].shape == (3,)
    assert program.pubs[0].shots == 123


def test_observables_are_an_array_and_the_pub_has_the_shape_of_both() -> None:
    program = submitted("estimator_broadcast_zne_options")

    first, second = program.pubs
    assert first.observables.shape == (2, 1)
    assert first.observables[0, 0] == {"IIIZZ": 1.0, "IIIXI": 0.5}
    assert first.shape == (2, 3)
    assert second.observables.shape == second.shape == ()
    assert (first.precision, first.shots) == (0.05, 400)
    assert program.resilience_level == 2
    assert program.seed == 7


def test_a_learned_noise_model_is_plain_values() -> None:
    program = submitted("estimator_pec_layer_noise_model")

    (layer,) = program.options["resilience"]["layer_noise_model"]
    assert isinstance(layer["circuit"], QuantumCircuit)
    assert layer["qubits"] == [0, 1]
    assert layer["error"]["generators"] == ["XX", "ZZ"]
    assert layer["error"]["rates"].shape == (2,)


def test_the_result_of_a_noise_learner_is_its_layers() -> None:
    error = PauliLindbladError(PauliList(["XI", "ZZ"]), [0.01, 0.02])
    layers = [LayerError(bell(measured=False), [4, 7], error), LayerError(QuantumCircuit(1), [2])]
    learned = NoiseLearnerResult(layers, {"backend": "fake_manila"})
    pub = [bell(measured=False), {"ZZ": 1.0}, NOTHING, None]

    program = estimator(pub, options={"resilience": {"layer_noise_model": learned}})

    first, second = program.options["resilience"]["layer_noise_model"]  # type: ignore[index]
    assert first["error"]["generators"] == ["XI", "ZZ"]
    assert first["error"]["rates"].tolist() == [0.01, 0.02]
    assert second == {"circuit": second["circuit"], "qubits": [2], "error": None}


def test_a_noise_model_survives_the_way() -> None:
    model = NoiseModel()
    model.add_all_qubit_quantum_error(amplitude_damping_error(0.1), ["sx"])
    model.add_quantum_error(depolarizing_error(0.02, 2), "cx", [0, 1])
    model.add_readout_error([[0.9, 0.1], [0.2, 0.8]], [1])
    options = {"simulator": {"noise_model": typed("NoiseModel", model.to_dict())}}

    program = sampler([bell(), NOTHING, 10], options=options)

    document = program.options["simulator"]["noise_model"]  # type: ignore[index]
    with pytest.warns(DeprecationWarning, match="from_dict"):
        assert NoiseModel.from_dict(document) == model


@pytest.mark.parametrize(
    ("asked", "options", "shots"),
    [
        (17, {"default_shots": 5}, 17),
        (None, {"default_shots": 5}, 5),
        (None, {}, 4096),
        (None, {"default_shots": None}, 4096),
    ],
)
def test_shots_of_a_sampler(asked: int | None, options: dict[str, Any], shots: int) -> None:
    program = sampler([bell(), NOTHING, asked], options=options)

    assert program.pubs[0].shots == shots


@pytest.mark.parametrize(
    ("asked", "options", "shots", "precision"),
    [
        (0.1, {"default_shots": 5, "default_precision": 0.5}, 100, 0.1),
        (0.03, {}, 1112, 0.03),
        (2.0, {}, 1, 2.0),
        (0.001, {}, 1_000_000, 0.001),
        (
            None,
            {
                "default_shots": 5,
                "twirling": {"num_randomizations": 10, "shots_per_randomization": 40},
            },
            400,
            0.05,
        ),
        (
            None,
            {
                "default_shots": 25,
                "twirling": {"num_randomizations": "auto", "shots_per_randomization": 4},
            },
            25,
            0.2,
        ),
        (None, {"default_shots": 100, "default_precision": 0.5}, 100, 0.1),
        (None, {"default_precision": 0.5}, 4, 0.5),
        (None, {"default_shots": None}, 4096, 0.015625),
    ],
)
def test_shots_of_an_estimator(
    asked: float | None, options: dict[str, Any], shots: int, precision: float
) -> None:
    program = estimator([bell(measured=False), {"ZZ": 1}, NOTHING, asked], options=options)

    assert program.pubs[0].shots == shots
    assert program.pubs[0].precision == pytest.approx(precision)


@pytest.mark.parametrize(
    ("options", "seed"),
    [
        ({}, None),
        ({"seed_estimator": 3}, 3),
        ({"simulator": {"seed_simulator": 0}, "seed_estimator": 3}, 0),
        ({"simulator": None, "seed_estimator": None}, None),
    ],
)
def test_seed_of_an_estimator(options: dict[str, Any], seed: int | None) -> None:
    program = estimator([bell(measured=False), {"ZZ": 1}, NOTHING, 0.1], options=options)

    assert program.seed == seed
    assert program.resilience_level == 1


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (np.zeros((3, 2)), (3,)),
        (np.asfortranarray(np.arange(12.0).reshape(2, 3, 2)), (2, 3)),
        (np.zeros((2, 1, 2), dtype=np.float32), (2, 1)),
        (np.ones((5, 2), dtype=np.int64), (5,)),
        (np.ones(2, dtype=bool), ()),
        ([[1, 2.5], [3, 4]], (2,)),
        (np.array([[1, 2.5]], dtype=object), (1,)),
        ([0.5, 1], ()),
    ],
)
def test_parameter_values_are_doubles_in_the_shape_they_came_in(
    values: Any, shape: tuple[int, ...]
) -> None:
    pub = sampler([rotations(2), values, 1]).pubs[0]

    assert pub.shape == shape
    assert pub.parameter_values.dtype == np.float64
    np.testing.assert_array_equal(pub.parameter_values, np.asarray(values, dtype=float))


@given(
    arrays.arrays(
        dtype=st.sampled_from(("<f8", "<f4", "<f2", "|i1", "<i4", "<u2", "|u1", "|b1")),
        shape=arrays.array_shapes(max_dims=4, max_side=4).map(lambda shape: (*shape, 3)),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    st.booleans(),
)
def test_any_array_arrives_as_it_was_sent(values: npt.NDArray[Any], fortran: bool) -> None:
    sent = np.asfortranarray(values) if fortran else values

    pub = sampler([qpy_value(rotations(3)), npy_value(sent), 1]).pubs[0]

    np.testing.assert_array_equal(pub.parameter_values, values)


def test_a_circuit_without_parameters_has_values_of_length_none() -> None:
    program = sampler([bell(), NOTHING, 1], [bell(), np.zeros((2, 3, 0)), 1], [bell(), [], 1])

    assert [pub.shape for pub in program.pubs] == [(), (2, 3), ()]


def test_observables_may_use_projectors_and_nest() -> None:
    observables = [[[{"0+": 0.25, "rl": -1}], [{"XI": 2}]]]

    pub = estimator([bell(measured=False), observables, NOTHING, 0.1]).pubs[0]

    assert pub.observables.shape == pub.shape == (1, 2, 1)
    assert pub.observables[0, 0, 0] == {"0+": 0.25, "rl": -1.0}


def test_metadata_of_a_circuit_is_left_as_it_came() -> None:
    circuit = bell()
    circuit.metadata = {"user": "me", "array": np.array([1.5]), "set": {1}, "nested": {"a": [None]}}

    metadata = sampled(circuit).metadata

    assert metadata["user"] == "me"
    assert metadata["array"]["__type__"] == "ndarray"
    assert metadata["set"] == {"__type__": "set", "__value__": [1]}
    assert metadata["nested"] == {"a": [None]}


@pytest.mark.parametrize("version", range(13, 19))
def test_every_version_of_qpy_that_clients_write_is_read(version: int) -> None:
    program = sampler([qpy_value(bell(), version=version), NOTHING, 1])

    assert program.pubs[0].circuit == bell()


@pytest.mark.parametrize(
    "backend", [FakeSherbrooke(), FakeFractionalBackend()], ids=lambda backend: backend.name
)
def test_circuits_of_devices_pass_as_they_are(backend: Any) -> None:
    circuit = QuantumCircuit(3, 3)
    circuit.h(0)
    circuit.rx(Parameter("a"), 1)
    circuit.rzz(0.3, 0, 1)
    circuit.cx(0, 1)
    circuit.delay(1600, 2)
    circuit.barrier()
    circuit.measure(0, 0)
    if "if_else" in backend.operation_names:
        with circuit.if_test((0, 1)) as otherwise:
            circuit.x(1)
        with otherwise:
            circuit.reset(1)
    circuit.measure(1, 2)
    isa = transpile(circuit, backend, seed_transpiler=1)

    decoded = sampled(isa)

    assert decoded == isa


def test_a_pub_of_the_client_is_a_pub() -> None:
    circuit = rotations(2)
    pub = ClientsSamplerPub.coerce((circuit, {("p0", "p1"): np.ones((4, 2))}, 12))

    decoded = sampler(pub).pubs[0]

    assert decoded.shape == (4,)
    assert decoded.shots == 12
    assert Operator(
        decoded.circuit.remove_final_measurements(inplace=False).assign_parameters([1, 1])
    ).equiv(Operator(circuit.remove_final_measurements(inplace=False).assign_parameters([1, 1])))


def test_experimental_options_are_any_json() -> None:
    experimental = {"a": {"b": [1, 2.5, None, True, "text"]}}

    program = sampler([bell(), NOTHING, 1], options={"experimental": experimental})

    assert program.options == {"experimental": experimental}


def test_an_absent_flag_for_qiskit_means_yes() -> None:
    document = sampler_document([bell(), NOTHING, 1])
    del document["support_qiskit"]

    program = decode_program("sampler", encoded(document), LIMITS)

    assert isinstance(program, SamplerProgram)
