"""Quantum programs as clients send them: read, run, and given back."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ibm_quantum_schemas.common.tensor import (
    SUPPORTED_DTYPE_EXTENDED_MAP,
    CompressedTensorModel,
    TensorModel,
)
from qiskit import QuantumCircuit
from qiskit_ibm_runtime.options_models.executor import ExecutorOptions
from qiskit_ibm_runtime.quantum_program import QuantumProgram
from samplomatic import Twirl, build

from app.config import ProgramLimits
from app.errors import ExecutionError, InvalidProgram
from app.primitives.codec import decode_program, encode_result
from app.primitives.programs import CircuitItem, SamplexItem
from app.primitives.runtime.blobs import encode_array
from app.primitives.runtime.budget import Budget
from app.primitives.runtime.document import Node
from app.primitives.runtime.tensors import encode_tensor, read_tensor
from tests.unit.primitive_programs import AER, TARGET
from tests.unit.quantum_programs import (
    VERSIONS,
    decoded,
    encoded,
    measured_bell,
    outcomes,
    ran,
    read,
    reference,
    rotated,
    run,
    twirled,
    twirled_program,
)
from tests.unit.runtime_params import qpy_bytes

CAPTURES = [
    path
    for path in sorted((Path(__file__).parent.parent / "corpora/captures").glob("*.json"))
    if "executor" in path.name
]


def submitted(path: Path) -> dict[str, Any]:
    (call,) = json.loads(path.read_text())["calls"]
    return dict(call["request_json"]["params"])


def two_items(shots: int = 100) -> QuantumProgram:
    program = QuantumProgram(shots=shots)
    program.append_circuit_item(measured_bell())
    program.append_circuit_item(rotated(), circuit_arguments=np.zeros((2, 3, 2)))
    return program


def one_samplex() -> dict[str, Any]:
    return encoded(twirled_program(seed=1, sweep=(2,), draws=3, shots=7))


# What clients send


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_what_a_client_has_sent_runs_and_can_be_read(path: Path) -> None:
    params = submitted(path)

    result, document = ran(params)

    shapes = [item["shape"] for item in params["quantum_program"]["items"]]
    answer = read(document)
    for item, asked, data in zip(result.items, shapes, answer, strict=True):
        if asked:
            assert list(item.shape) == asked
        assert all(array.shape[: len(item.shape)] == item.shape for array in data.values())
    assert document["semantic_role"] == params["quantum_program"]["semantic_role"]
    assert document["passthrough_data"] == params["quantum_program"]["passthrough_data"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_read_and_answered_in_its_own(version: str) -> None:
    program = two_items()

    params = encoded(program, version)
    _, document = ran(params)

    assert document["schema_version"] == version == params["schema_version"]
    answer = read(document)
    bell = answer[0]["meas"]
    assert bell.shape == (100, 2)
    assert (bell[:, 0] == bell[:, 1]).all()
    assert answer[1]["meas"].shape == (2, 3, 100, 2)
    assert not answer[1]["meas"].any()
    assert ("passthrough_data" in document) == (version != "v0.1")
    assert ("semantic_role" in document) == (version[1] != "0")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_samplex_of_every_version_is_sampled(version: str) -> None:
    circuit = QuantumCircuit(2)
    with circuit.box([Twirl()]):
        circuit.x(0)
        circuit.cx(0, 1)
    with circuit.box([Twirl()]):
        circuit.measure_all()
    program = QuantumProgram(shots=20)
    program.append_samplex_item(*build(circuit), shape=(6,))

    answer = run(program, version)

    flips = answer[0]["measurement_flips.meas"]
    assert flips.shape == (6, 1, 2)
    assert (answer[0]["meas"] ^ flips).all()


def test_circuits_may_be_openqasm() -> None:
    params = encoded(two_items())
    source = (
        'OPENQASM 3.0; include "stdgates.inc"; qubit[2] q; bit[2] meas; x q[1]; meas = measure q;'
    )
    params["quantum_program"]["circuits"] = {"data": [source]}
    del params["quantum_program"]["items"][1]

    _, document = ran(params)

    assert read(document)[0]["meas"].tolist() == [[False, True]] * 100


def test_passthrough_data_come_back_byte_for_byte() -> None:
    data = '{"a" : [1.50, 1E2, 12345678901234567890123, "\\u00e9\\ud83d\\ude00"],"long":"%s"}' % (
        "x" * 10_000
    )
    data = data.replace("12345678901234567890123", "1234567890123")
    params = json.dumps(encoded(two_items()))
    params = params.replace('"passthrough_data": null', f'"passthrough_data": {data}')

    program = decode_program("executor", params.encode(), ProgramLimits())
    document = encode_result(AER.run(program, TARGET))

    assert data.encode() in document


# What the result says


def test_bit_k_is_clbit_k() -> None:
    circuit = QuantumCircuit(3, 3)
    circuit.x(1)
    circuit.measure([0, 1, 2], [2, 0, 1])
    program = QuantumProgram(shots=4)
    program.append_circuit_item(circuit)

    answer = run(program)

    assert answer[0]["c"].tolist() == [[True, False, False]] * 4


def test_registers_wider_than_a_byte_keep_their_order() -> None:
    circuit = QuantumCircuit(11)
    circuit.x([0, 9])
    circuit.measure_all()
    program = QuantumProgram(shots=2)
    program.append_circuit_item(circuit)

    answer = run(program)

    assert np.flatnonzero(answer[0]["meas"][0]).tolist() == [0, 9]


def test_boxes_of_a_circuit_item_run_as_they_are() -> None:
    circuit = QuantumCircuit(2)
    with circuit.box([Twirl()]):
        circuit.x(0)
        circuit.cx(0, 1)
    circuit.measure_all()
    program = QuantumProgram(shots=10)
    program.append_circuit_item(circuit)

    answer = run(program)

    assert answer[0]["meas"].all()


def test_a_circuit_item_may_be_repeated_along_new_axes() -> None:
    params = encoded(two_items(shots=5))
    params["quantum_program"]["items"][0]["shape"] = [4]

    _, document = ran(params)

    assert read(document)[0]["meas"].shape == (4, 5, 2)


def test_chunks_say_which_elements_ran_when() -> None:
    _, document = ran(one_samplex())

    (chunk,) = document["metadata"]["chunk_timing"]
    assert chunk["parts"] == [
        {"idx_item": 0, "size": 6, "permutation": [0, 1], "element_range": [0, 6, 1]}
    ]
    assert chunk["start"] < chunk["stop"]
    assert chunk["stop"].endswith("+00:00")


def test_the_same_seed_gives_the_same_samples_and_another_others() -> None:
    program = twirled_program(seed=1, sweep=(2,), draws=8, shots=50)

    first, second, other = run(program, seed=3), run(program, seed=3), run(program, seed=4)

    assert all((first[0][name] == second[0][name]).all() for name in first[0])
    assert (first[0]["c"] != other[0]["c"]).any()


def test_the_seed_of_the_client_s_sampler_counts() -> None:
    params = encoded(two_items())
    params["quantum_program"]["passthrough_data"] = {
        "post_processor": {"options": {"simulator": {"seed_simulator": 77}}}
    }

    result, _ = ran(params)

    assert result.metadata["seed"] == 77


def test_a_drawn_seed_is_told_and_gives_the_samples_again() -> None:
    params = encoded(two_items())
    result, document = ran(params)
    params["options"]["experimental"] = {"seed_simulator": result.metadata["seed"]}

    _, again = ran(params)

    assert again["data"] == document["data"]


def test_options_in_vain_are_told() -> None:
    options = ExecutorOptions()
    options.execution.init_qubits = False
    options.execution.scheduler_timing = True
    params = encoded(two_items(), options=options)

    result, _ = ran(params)

    assert set(result.metadata["options_without_effect"]) == {  # type: ignore[call-overload]
        "execution.init_qubits",
        "execution.scheduler_timing",
    }


# What the samples are


def assert_same_distribution(ours: Any, theirs: Any, outcome_count: int) -> None:
    """Every outcome is as frequent in both, within 5 standard errors of the difference."""
    shots = ours.shape[-1] * ours.shape[0]
    ours, theirs = (np.moveaxis(each, 0, -2).reshape(-1, shots) for each in (ours, theirs))
    for mine, other in zip(ours, theirs, strict=True):
        frequencies = [np.bincount(each, minlength=outcome_count) / shots for each in (mine, other)]
        mean = (frequencies[0] + frequencies[1]) / 2
        error = np.sqrt(mean * (1 - mean) * 2 / shots)
        assert (abs(frequencies[0] - frequencies[1]) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("seed", range(4))
def test_circuit_items_are_distributed_as_the_client_s_own_simulation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = QuantumProgram(shots=4000)
    program.append_circuit_item(rotated(), circuit_arguments=rng.uniform(-3, 3, (3, 2)))

    ours, theirs = run(program, seed=seed), reference(program, seed=seed + 100)

    assert_same_distribution(outcomes(ours[0], "meas")[None], outcomes(theirs[0], "meas")[None], 4)


@pytest.mark.parametrize("seed", range(4))
def test_twirled_items_are_distributed_as_the_client_s_own_simulation(seed: int) -> None:
    program = twirled_program(seed=seed, sweep=(2, 2), draws=40, shots=100)

    ours, theirs = run(program, seed=seed), reference(program, seed=seed + 100)

    assert ours[0].keys() == theirs[0].keys()
    assert_same_distribution(outcomes(ours[0], "c"), outcomes(theirs[0], "c"), 8)


def test_injected_noise_is_that_of_the_client_s_own_simulation() -> None:
    program = twirled_program(seed=3, sweep=(2,), draws=400, shots=20, noise=True)

    signed = []
    for answer in (run(program), reference(program)):
        parity = 1 - 2 * np.bitwise_count(outcomes(answer[0], "c") & 3).astype(float) % 4
        sign = 1 - 2 * answer[0]["pauli_signs"].sum(axis=-1, keepdims=True).astype(float)
        signed.append((sign * parity).mean(axis=-1))

    # Draws are independent: the error of the mean is that of 400 of them.
    errors = np.hypot(*(each.std(axis=0) / 20 for each in signed))
    assert (abs(signed[0].mean(axis=0) - signed[1].mean(axis=0)) <= 5 * errors).all()


def test_a_twirled_clifford_circuit_is_simulated_as_one_at_any_width() -> None:
    circuit = QuantumCircuit(40)
    with circuit.box([Twirl()]):
        circuit.h(0)
        circuit.noop(range(40))
    for i in range(39):
        with circuit.box([Twirl()]):
            circuit.cx(i, i + 1)
    with circuit.box([Twirl()]):
        circuit.measure_all()
    program = QuantumProgram(shots=20)
    program.append_samplex_item(*build(circuit), shape=(3,))
    params = encoded(program)

    result, document = ran(params)

    answer = read(document)
    bits = answer[0]["meas"] ^ answer[0]["measurement_flips.meas"]
    assert (bits == bits[..., :1]).all()
    assert result.metadata["items"][0]["methods"] == ["stabilizer"]  # type: ignore[index]


# Tensors


@pytest.mark.parametrize("dtype", SUPPORTED_DTYPE_EXTENDED_MAP, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (2, 0, 3)])
def test_tensors_are_those_of_the_client(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    model = CompressedTensorModel.from_numpy(array).model_dump(mode="json")

    read_back = read_tensor(Node(model, key="x"), Budget(ProgramLimits()), compressed=True)
    written = CompressedTensorModel(**encode_tensor(array, compressed=True))

    assert read_back.dtype == written.to_numpy().dtype == dtype
    assert read_back.shape == shape
    assert (read_back == array).all()
    assert (written.to_numpy() == array).all()


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float64, np.complex128])
def test_tensors_that_are_not_compressed_are_those_of_the_client(dtype: type) -> None:
    array = np.random.default_rng(1).integers(0, 2, (3, 5)).astype(dtype)
    model = TensorModel.from_numpy(array).model_dump(mode="json")

    read_back = read_tensor(Node(model, key="x"), Budget(ProgramLimits()), compressed=False)
    written = TensorModel(**encode_tensor(array, compressed=False))

    assert (read_back == array).all()
    assert (written.to_numpy() == array).all()


# What is refused


def refusal(params: dict[str, Any], limits: ProgramLimits | None = None) -> tuple[str, str]:
    """Reason and message."""
    with pytest.raises(InvalidProgram) as caught:
        decode_program("executor", json.dumps(params).encode(), limits or ProgramLimits())
    return str(caught.value.details["reason"]), str(caught.value)


def compressed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def changed(params: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *above, last = (int(step) if step.isdigit() else step for step in path.split("."))
    place: Any = params
    for step in above:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return params


ITEM = "quantum_program.items.1"
ARGUMENTS = f"{ITEM}.circuit_arguments"
REFUSED: list[tuple[str, Any, str, str]] = [
    ("schema_version", "v3.0", "unknown_word", "schema_version: "),
    ("options.shots", 1, "unknown_option", "options.shots: "),
    ("options.rep_delay", -1, "out_of_range", "options.rep_delay: "),
    ("options.experimental", {"seed_simulator": -1}, "out_of_range", "options.experimental"),
    ("quantum_program.shots", 0, "out_of_range", "quantum_program.shots: "),
    ("quantum_program.shots", 10**9, "out_of_range", "quantum_program.shots: "),
    ("quantum_program.meas_level", "kerneled", "meas_level", "quantum_program.meas_level: "),
    ("quantum_program.extra", 1, "unknown_key", "quantum_program.extra: "),
    ("quantum_program.items", [], "no_items", "quantum_program.items: "),
    ("quantum_program.semantic_role", 7, "wrong_type", "quantum_program.semantic_role: "),
    ("quantum_program.passthrough_data", {"a": ["\ud800"]}, "encoding", "quantum_program."),
    (f"{ITEM}.item_type", "other", "unknown_word", "quantum_program.items[1].item_type: "),
    (f"{ITEM}.chunk_size", 0, "out_of_range", "quantum_program.items[1].chunk_size: "),
    (f"{ITEM}.shape", [5], "broadcast", "quantum_program.items[1]: "),
    (f"{ITEM}.shape", [0], "broadcast", "quantum_program.items[1]: "),
    (f"{ITEM}.shape", [5000, 2, 3], "too_many_parameter_sets", "quantum_program.items[1]: "),
    (f"{ITEM}.shape", [-1], "out_of_range", "quantum_program.items[1].shape[0]: "),
    (f"{ITEM}.shape", ..., "missing", "quantum_program.items[1]: "),
    (f"{ARGUMENTS}.dtype", "object", "unknown_word", "quantum_program.items[1].circuit_argu"),
    (f"{ARGUMENTS}.dtype", "f32", "tensor", "quantum_program.items[1].circuit_arguments: "),
    (f"{ARGUMENTS}.shape", [2**31, 2**31, 2**31], "tensor", "quantum_program.items[1].circ"),
    (f"{ARGUMENTS}.shape", [1] * 40, "too_many_elements", "quantum_program.items[1].circuit_"),
    (f"{ARGUMENTS}.data", "?", "blob", "quantum_program.items[1].circuit_arguments.data: "),
    (f"{ARGUMENTS}.data", compressed(b"x"), "tensor", "quantum_program.items[1].circuit_arg"),
    (
        f"{ARGUMENTS}.data",
        compressed(np.full(12, np.nan).tobytes()),
        "not_finite",
        "quantum_program.items[1].circuit_arguments: ",
    ),
    (
        f"{ARGUMENTS}.data",
        compressed(bytes(1 << 27)),
        "too_many_array_bytes",
        "quantum_program.items[1].circuit_arguments.data: ",
    ),
    (ARGUMENTS, encode_array(np.zeros((2, 3, 2))), "type_not_allowed", "quantum_program.items[1]"),
    ("quantum_program.circuits.num_programs", 3, "out_of_range", "quantum_program.circuits.num_"),
    ("quantum_program.circuits.qpy_version", 17, "qpy_version", "quantum_program.circuits.qpy_"),
    ("quantum_program.circuits", {"data": ["x"]}, "circuit", "quantum_program.circuits: "),
    ("quantum_program.circuits", {"data": ["x", "y"]}, "syntax", "quantum_program.circuits.data"),
    (
        "quantum_program.circuits.b64_data",
        compressed(b"QISKIT\x0c" + bytes(40)),
        "qpy_version",
        "quantum_program.circuits",
    ),
    (
        "quantum_program.circuits.b64_data",
        compressed(bytes(1 << 25)),
        "too_many_circuit_bytes",
        "quantum_program.circuits.b64_data: ",
    ),
]


@pytest.mark.parametrize(("path", "value", "reason", "place"), REFUSED)
def test_a_hostile_program_is_refused(path: str, value: Any, reason: str, place: str) -> None:
    params = changed(encoded(two_items()), path, value)

    found, message = refusal(params)

    assert found == reason, message
    assert message.startswith(place), message


def test_a_circuit_without_registers_is_refused() -> None:
    program = QuantumProgram(shots=10)
    program.append_circuit_item(QuantumCircuit(1))

    reason, message = refusal(encoded(program))

    assert reason == "no_classical_bits"
    assert message.startswith("quantum_program.items[0]: ")


def with_circuits(*circuits: QuantumCircuit, version: int) -> dict[str, Any]:
    params = encoded(two_items())
    params["quantum_program"]["circuits"] = {
        "b64_data": compressed(qpy_bytes(*circuits, version=version)),
        "qpy_version": version,
        "num_programs": 2,
    }
    return params


def test_the_circuit_that_is_too_large_is_named() -> None:
    params = with_circuits(measured_bell(), QuantumCircuit(300), version=18)
    reason, message = refusal(params)

    assert reason == "too_many_qubits"
    assert message.startswith("quantum_program.circuits[1]: 300 qubits"), message


def test_several_circuits_in_an_old_file_are_refused() -> None:
    params = with_circuits(measured_bell(), rotated(), version=15)

    reason, message = refusal(params)

    assert reason == "qpy_version"
    assert message.startswith("quantum_program.circuits[0]: several circuits"), message


def samplex_changed(change: Any) -> dict[str, Any]:
    params = one_samplex()
    samplex = params["quantum_program"]["items"][0]["samplex"]
    document = json.loads(samplex["samplex_json"])
    change(document)
    samplex["samplex_json"] = json.dumps(document)
    return params


def outputs_changed(**fields: Any) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        outputs = json.loads(document["attrs"]["output_specification"])
        output = json.loads(outputs["measurement_flips.c"]) | fields
        outputs["measurement_flips.c"] = json.dumps(output)
        document["attrs"]["output_specification"] = json.dumps(outputs)

    return samplex_changed(change)


def table_changed(content: bytes) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        table = json.loads(document["attrs"]["param_table"])
        table["circuit_base64"] = base64.b64encode(content).decode()
        document["attrs"]["param_table"] = json.dumps(table)

    return samplex_changed(change)


SAMPLEX = "quantum_program.items.0"
SAMPLEX_REFUSED = [
    (changed(one_samplex(), f"{SAMPLEX}.samplex.ssv", 5), "out_of_range"),
    (changed(one_samplex(), f"{SAMPLEX}.samplex.ssv", 3), "samplex_version"),
    (changed(one_samplex(), f"{SAMPLEX}.samplex.samplex_json", "{"), "json"),
    (changed(one_samplex(), f"{SAMPLEX}.samplex.samplex_json", "[" * 99), "too_deep"),
    (changed(one_samplex(), f"{SAMPLEX}.samplex.samplex_json", "{}"), "samplex"),
    (samplex_changed(lambda document: document.pop("links")), "samplex"),
    (samplex_changed(lambda document: document["nodes"][0].update(id=2**31)), "out_of_range"),
    (samplex_changed(lambda document: document["links"][0].update(target=999)), "out_of_range"),
    (samplex_changed(lambda document: document["nodes"][0]["data"].update(id="N99")), "samplex"),
    (samplex_changed(lambda document: document["nodes"][0]["data"].update(x=1)), "wrong_type"),
    (samplex_changed(lambda document: document["attrs"].update(param_table="{}")), "samplex"),
    (table_changed(b"QISKIT\x0a" + bytes(40)), "qpy_version"),
    (table_changed(b"QISKIT\x0f" + bytes(10) + b"\x01" + bytes(30) + b"__class__"), "samplex"),
    (table_changed(b"QISKIT\x0f" + bytes(10) + b"\x01" + bytes(30) + b"__init__"), "reserved_name"),
    (outputs_changed(dtype="object"), "samplex_output"),
    (outputs_changed(dtype="U9"), "samplex_output"),
    (outputs_changed(shape=[2, 3]), "samplex_output"),
    (outputs_changed(shape=["num_randomizations", "n", 3]), "samplex_output"),
    (outputs_changed(name="elsewhere"), "samplex_output"),
    (changed(one_samplex(), f"{SAMPLEX}.samplex_arguments.x", 1), "unknown_argument"),
    (changed(one_samplex(), f"{SAMPLEX}.samplex_arguments.parameter_values", ...), "missing"),
    (changed(one_samplex(), f"{SAMPLEX}.samplex_arguments.parameter_values", True), "argument"),
    (
        changed(
            one_samplex(),
            f"{SAMPLEX}.samplex_arguments.parameter_values",
            {"sparse_terms": [["XX", [0, 0], 1.0]], "num_qubits": 2},
        ),
        "noise_map",
    ),
    (changed(one_samplex(), f"{SAMPLEX}.shape", [3, 5]), "broadcast"),
    (changed(one_samplex(), f"{SAMPLEX}.shape", [0, 2]), "shape"),
]


@pytest.mark.parametrize(("params", "reason"), SAMPLEX_REFUSED)
def test_a_hostile_samplex_is_refused(params: dict[str, Any], reason: str) -> None:
    found, message = refusal(params)

    assert found == reason, message
    assert message.startswith("quantum_program.items[0]"), message


def test_a_samplex_that_names_what_is_not_there_cannot_be_sampled() -> None:
    def change(document: dict[str, Any]) -> None:
        for node in document["nodes"]:
            if "template_idxs" in node["data"]:
                places = json.loads(node["data"]["template_idxs"])
                size = len(base64.b64decode(places["data"]))
                places["data"] = base64.b64encode(b"\x7f\x7f" * (size // 2)).decode()
                node["data"]["template_idxs"] = json.dumps(places)

    with pytest.raises(ExecutionError, match=r"^items\[0\]: the samplex cannot be sampled: Inde"):
        ran(samplex_changed(change))


def test_a_samplex_for_another_circuit_is_refused() -> None:
    params = one_samplex()
    bell = QuantumProgram(shots=1)
    bell.append_circuit_item(measured_bell())
    params["quantum_program"]["circuits"] = encoded(bell)["quantum_program"]["circuits"]

    reason, message = refusal(params)

    assert reason == "samplex_output", message


def test_samplexes_together_are_limited() -> None:
    reason, message = refusal(one_samplex(), ProgramLimits(samplex_bytes=1000))

    assert reason == "too_long", message


def test_items_of_both_kinds_are_told_apart() -> None:
    circuit_item, samplex_item = (
        decoded(encoded(program)).items[0]
        for program in (two_items(), twirled_program(seed=1, sweep=(2,), draws=3, shots=7))
    )

    assert isinstance(circuit_item, CircuitItem)
    assert isinstance(samplex_item, SamplexItem)
    assert samplex_item.shape == (3, 2)
    assert twirled().num_parameters == 2
