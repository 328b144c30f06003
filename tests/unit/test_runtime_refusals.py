"""Params that are wrong on purpose, or want too much: refused quickly, with their place and why."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from time import process_time
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter

from app.config import MIB, ProgramLimits
from app.errors import InvalidProgram
from app.primitives.codec import decode_program
from tests.unit.runtime_params import (
    LIMITS,
    bell,
    blob,
    encoded,
    npy_bytes,
    npy_claiming,
    npy_value,
    qpy_bytes,
    qpy_value,
    sampler_document,
    typed,
)

BELL = qpy_value(bell())
UNMEASURED = qpy_value(bell(measured=False))
NOTHING = npy_value(np.zeros(0))
PICKLE = b"\x80\x04\x95" + b"cos\nsystem\n(S'true'\ntR."
HEADER = "{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}\n"


def refusal(document: Any, program_id: str = "sampler", limits: ProgramLimits = LIMITS) -> Any:
    """Why params are refused: reason, and message, which begins with the place."""
    params = document if isinstance(document, bytes) else encoded(document)
    with pytest.raises(InvalidProgram) as caught:
        decode_program(program_id, params, limits)
    message = str(caught.value)
    # The failure is stored as JSON, and shown on a terminal.
    assert json.dumps(message).isascii()
    assert message.isprintable()
    assert len(message) < 1000
    return caught.value.reason, message


def with_values(values: Any) -> dict[str, Any]:
    return sampler_document([BELL, values, 1])


def with_circuit(circuit: Any) -> dict[str, Any]:
    return sampler_document([circuit, NOTHING, 1])


def with_observables(observables: Any, precision: Any = 0.1, **options: Any) -> dict[str, Any]:
    return sampler_document([UNMEASURED, observables, NOTHING, precision], **options)


def instance(module: str, name: str, value: Any, kind: str = "_json") -> dict[str, Any]:
    return {**typed(kind, value), "__module__": module, "__class__": name}


def nested_lists(depth: int) -> bytes:
    return b'{"pubs": ' + b"[" * depth + b"]" * depth + b', "options": {}, "version": 2}'


@pytest.mark.parametrize(
    ("params", "reason", "message"),
    [
        (b"", "json", "params: not valid JSON: Expecting value at line 1, column 1"),
        (b"[", "json", "params: not valid JSON"),
        (b'{"a": 1} x', "json", "params: not valid JSON: Extra data"),
        (b"\xef\xbb\xbf{}", "json", "params: not valid JSON"),
        (b'{"a": "\xff"}', "encoding", "params: not valid UTF-8"),
        (b"1" * 5000, "json", "params: a number has too many digits"),
        (b"[]", "wrong_type", "params: must be an object, not a list"),
        (b"{}", "missing", "params: there is no 'options'"),
        (b"NaN", "wrong_type", "params: must be an object"),
        (b'{"pubs": 1, "pubs": 2}', "duplicate_key", "params: the key 'pubs' occurs twice"),
        (nested_lists(40), "too_deep", "params: lists and objects nest deeper than the 32 levels"),
        (nested_lists(10**6), "too_many_values", "params: more than the 1000000 values allowed"),
        (b"[" + b"0," * 10**6 + b"0]", "too_many_values", "params: more than the 1000000 values"),
        (b"{" * 10**5, "too_deep", "params: "),
        (b'"' + b"\\" * 10**6, "json", "params: "),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
def test_what_is_no_document_is_refused(params: bytes, reason: str, message: str) -> None:
    refused, text = refusal(params)

    assert refused == reason
    assert text.startswith(message)


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"version": 1}, "out_of_range", "version: 1 is not in the range 2 to 2"),
        ({"version": True}, "wrong_type", "version: must be an integer, not a boolean"),
        ({"support_qiskit": False}, "support_qiskit", "support_qiskit: results are given as"),
        ({"resilience_level": 1}, "unknown_key", "resilience_level: not known; "),
        ({"circuits": []}, "unknown_key", "circuits: not known; "),
        ({"\ud800\x1b": []}, "bad_key", "params: a key is too long, or not Unicode"),
        ({"a b\x1b": []}, "unknown_key", "['a b\\x1b']: not known; "),
        ({"pubs": []}, "no_pubs", "pubs: there is nothing to run"),
        ({"pubs": {}}, "wrong_type", "pubs: must be a list, not an object"),
        ({"pubs": [[]] * 1001}, "too_many_elements", "pubs: 1001 elements; at most 1000 are"),
        ({"pubs": [BELL]}, "wrong_type", "pubs[0]: must be a list, not an object"),
        ({"pubs": [[BELL, NOTHING]]}, "pub", "pubs[0]: a pub is a list of circuit, parameter"),
        ({"pubs": [[BELL, NOTHING, 1, 1]]}, "too_many_elements", "pubs[0]: 4 elements"),
        ({"options": []}, "wrong_type", "options: must be an object, not a list"),
    ],
)
def test_a_document_of_another_form_is_refused(
    change: dict[str, Any], reason: str, message: str
) -> None:
    refused, text = refusal({**sampler_document([BELL, NOTHING, 1]), **change})

    assert refused == reason
    assert text.startswith(message)


def test_the_path_leads_to_the_pub_that_is_wrong() -> None:
    good, bad = [BELL, NOTHING, 1], [BELL, npy_value(np.zeros((2, 3))), 1]

    reason, text = refusal(sampler_document(good, good, bad))

    assert reason == "parameter_values"
    assert text == (
        "pubs[2][1]: an array of shape (2, 3); the circuit has 0 parameters, so the last axis "
        "must have length 0 (parameter values)"
    )


@pytest.mark.parametrize(
    ("circuit", "reason", "message"),
    [
        (None, "wrong_type", "pubs[0][0]: must be an object, not null"),
        ("OPENQASM 3.0;", "wrong_type", "pubs[0][0]: must be an object, not a text"),
        ({}, "type_not_allowed", "pubs[0][0]: must be of type QuantumCircuit, not an object"),
        (NOTHING, "type_not_allowed", "pubs[0][0]: must be of type QuantumCircuit, not 'ndarray'"),
        ({**BELL, "x": 1}, "wrong_keys", "pubs[0][0]: a value of type QuantumCircuit has the keys"),
        ({"__type__": "QuantumCircuit"}, "wrong_keys", "pubs[0][0]: "),
        ({"__type__": ["QuantumCircuit"], "__value__": ""}, "type_not_allowed", "pubs[0][0]: "),
        (typed("QuantumCircuit", 5), "blob", "pubs[0][0].__value__: must be base64 text"),
        (typed("QuantumCircuit", "ä"), "blob", "pubs[0][0].__value__: not valid base64"),
        (typed("QuantumCircuit", "AA=A"), "blob", "pubs[0][0].__value__: not valid base64"),
        (typed("QuantumCircuit", "AAAA"), "blob", "pubs[0][0].__value__: not compressed"),
        (typed("QuantumCircuit", ""), "blob", "pubs[0][0].__value__: the compressed data ends"),
        (typed("QuantumCircuit", blob(PICKLE)), "circuit", "pubs[0][0]: not a circuit in QPY"),
        (typed("QuantumCircuit", blob(b"")), "circuit", "pubs[0][0]: not a circuit in QPY"),
        (typed("to_json", "{}"), "type_not_allowed", "pubs[0][0]: "),
        (
            instance("qiskit.quantum_info.operators", "QuantumCircuit", {}, kind="settings"),
            "type_not_allowed",
            "pubs[0][0]: must be of type QuantumCircuit, not 'settings'",
        ),
    ],
)
def test_what_is_no_circuit_is_refused(circuit: Any, reason: str, message: str) -> None:
    refused, text = refusal(with_circuit(circuit))

    assert refused == reason
    assert text.startswith(message)


def test_a_delay_that_lost_its_unit_is_refused_with_the_way_out() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.delay(Parameter("t"), 0, "us")
    written = typed("QuantumCircuit", blob(qpy_bytes(circuit)))

    refused, text = refusal(with_circuit(written))

    assert refused == "circuit"
    assert "assign the parameter before the circuit is submitted" in text


def test_a_compressed_circuit_must_end_where_it_ends() -> None:
    whole = zlib.compress(qpy_bytes(bell()))

    for content, message in ((whole[:-5], "ends too early"), (whole + b"x", "bytes follow")):
        value = typed("QuantumCircuit", base64.b64encode(content).decode())
        reason, text = refusal(with_circuit(value))

        assert reason == "blob"
        assert message in text


@pytest.mark.parametrize("name", ["QuantumCircuit", "ndarray"])
def test_a_bomb_is_not_unpacked(name: str) -> None:
    bomb = typed(name, blob(bytes(256 * MIB)))
    params = encoded(with_circuit(bomb) if name == "QuantumCircuit" else with_values(bomb))
    limits = ProgramLimits(circuit_bytes=MIB, array_bytes=MIB)
    tracemalloc.start()

    reason, text = refusal(params, limits=limits)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reason.startswith("too_many_")
    assert text.startswith("pubs[0][")
    assert peak_bytes < 8 * MIB


def test_many_small_bombs_count_together() -> None:
    limits = ProgramLimits(array_bytes=3000)
    pub = [BELL, npy_value(np.zeros((10, 0))), 1]
    size = len(npy_bytes(np.zeros((10, 0))))

    decode_program("sampler", encoded(sampler_document(*[pub] * (3000 // size))), limits)
    reason, text = refusal(sampler_document(*[pub] * (3000 // size + 1)), limits=limits)

    assert reason == "too_many_array_bytes"
    assert text.startswith(f"pubs[{3000 // size}][1].__value__: ")


@pytest.mark.parametrize(
    ("values", "reason", "message"),
    [
        (None, "wrong_type", "pubs[0][1]: must be a number, not null"),
        ("x", "wrong_type", "pubs[0][1]: must be a number, not a text"),
        (3, "parameter_values", "pubs[0][1]: an array of shape ()"),
        ([[1], 2], "wrong_type", "pubs[0][1][1]: must be a list, not the number 2"),
        ([[1], [2, 3]], "ragged", "pubs[0][1][1]: 2 elements where its neighbours have 1"),
        ([True], "wrong_type", "pubs[0][1][0]: must be a number, not a boolean"),
        (["1"], "wrong_type", "pubs[0][1][0]: must be a number, not a text"),
        ([float("nan")], "not_finite", "pubs[0][1][0]: must be a finite number"),
        ([float("inf")], "not_finite", "pubs[0][1][0]: must be a finite number"),
        ([10**400], "out_of_range", "pubs[0][1][0]: this is not in the range"),
        ([typed("complex", [1, 2])], "wrong_type", "pubs[0][1][0]: must be a number"),
        (typed("ndarray", [[{}]]), "wrong_type", "pubs[0][1].__value__[0][0]: must be a number"),
        (typed("spmatrix", ""), "type_not_allowed", "pubs[0][1]: must be of type ndarray"),
        (typed("ndarray", blob(PICKLE)), "array", "pubs[0][1].__value__: not an array in NumPy"),
        (typed("ndarray", blob(b"PK\x03\x04")), "array", "pubs[0][1].__value__: not an array"),
        (typed("ndarray", blob(b"\x93NUMPY\x01")), "array", "pubs[0][1].__value__: not an array"),
        (typed("ndarray", blob(b"\x93NUMPY\x09\x00\x00\x00")), "array", "pubs[0][1].__value__: "),
        (npy_value(np.zeros(3)[:0] + 1j), "array", "pubs[0][1].__value__: elements of type '<c16'"),
        (npy_value(np.array(["a"])), "array", "pubs[0][1].__value__: elements of type '<U1'"),
        (npy_value(np.zeros(2, dtype=">f8")), "array", "pubs[0][1].__value__: elements of type"),
        (npy_value(np.zeros(2, dtype="M8[s]")), "array", "pubs[0][1].__value__: the header"),
        (npy_value(np.array([np.nan])), "not_finite", "pubs[0][1]: not all elements are finite"),
        (npy_value(np.float64(1)), "parameter_values", "pubs[0][1]: an array of shape ()"),
        (npy_value(np.zeros((0, 0))), "parameter_values", "pubs[0][1]: shape (0, 0) has no"),
        (npy_value(np.zeros((10_001, 0))), "too_many_parameter_sets", "pubs[0][1]: with this, "),
        (npy_claiming(HEADER.format("|O", False, "(1,)"), PICKLE), "array", "pubs[0][1]."),
        (npy_claiming(HEADER.format("<f8", False, f"({2**40},)")), "array", "pubs[0][1]."),
        (npy_claiming(HEADER.format("<f8", False, f"({2**62}, 0)")), "array", "pubs[0][1]."),
        (npy_claiming(HEADER.format("<f8", False, f"({2**31}, 0)")), "array", "pubs[0][1]."),
        (npy_claiming(HEADER.format("<f8", False, "(2,)"), bytes(15)), "array", "pubs[0][1]."),
        (npy_claiming(HEADER.format("<f8", False, "(2,)"), bytes(17)), "array", "pubs[0][1]."),
        (npy_claiming(HEADER.format("<f8", False, "(-1,)")), "array", "pubs[0][1]."),
        (npy_claiming(HEADER.format("<f8", 1, "(0,)")), "array", "pubs[0][1]."),
        (npy_claiming(HEADER.format("<f8", False, "(" + "1," * 17 + ")"), bytes(8)), "array", "p"),
        (npy_claiming("(" * 1000), "array", "pubs[0][1].__value__: the header"),
        (npy_claiming(" " * 2000), "array", "pubs[0][1].__value__: the header is longer"),
        (npy_claiming("[9**9**9]"), "array", "pubs[0][1].__value__: the header"),
        (
            typed("ndarray", blob(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}")),
            "array",
            "pubs[0][1].__value__: the header",
        ),
    ],
)
def test_what_is_no_array_is_refused(values: Any, reason: str, message: str) -> None:
    refused, text = refusal(with_values(values))

    assert refused == reason
    assert text.startswith(message)


@pytest.mark.parametrize(
    ("shots", "reason", "message"),
    [
        (0, "out_of_range", "pubs[0][2]: 0 is not in the range 1 to 1000000"),
        (-1, "out_of_range", "pubs[0][2]: -1 is not in the range"),
        (10**6 + 1, "out_of_range", "pubs[0][2]: 1000001 is not in the range"),
        (10**30, "out_of_range", "pubs[0][2]: this is not in the range"),
        (1.0, "wrong_type", "pubs[0][2]: must be an integer, not the number 1.0"),
        (True, "wrong_type", "pubs[0][2]: must be an integer, not a boolean"),
        ("9", "wrong_type", "pubs[0][2]: must be an integer, not a text"),
    ],
)
def test_shots_beyond_their_range_are_refused(shots: Any, reason: str, message: str) -> None:
    refused, text = refusal(sampler_document([BELL, NOTHING, shots]))

    assert refused == reason
    assert text.startswith(message)


def test_shots_of_all_pubs_and_parameter_sets_count_together() -> None:
    pub = [BELL, npy_value(np.zeros((5, 0))), 1_000_000]

    reason, text = refusal(sampler_document(pub, pub, pub))

    assert reason == "too_many_total_shots"
    assert text == "pubs[2]: with this, the program has more than the 10000000 shots allowed"


@pytest.mark.parametrize(
    ("observables", "reason", "message"),
    [
        ([], "observable", "pubs[0][1]: there are no observables"),
        ([[], []], "observable", "pubs[0][1]: there are no observables"),
        ({}, "observable", "pubs[0][1]: an observable without terms"),
        ("ZZ", "wrong_type", "pubs[0][1]: must be an object, not a text"),
        ([{"ZZ": 1}, [{"ZZ": 1}]], "wrong_type", "pubs[0][1][0]: must be a list"),
        ([[{"ZZ": 1}], []], "ragged", "pubs[0][1][1]: 0 elements where its neighbours have 1"),
        ({"ZZZ": 1}, "observable", "pubs[0][1].ZZZ: 3 characters for the 2 qubits"),
        ({"zz": 1}, "observable", "pubs[0][1].zz: the characters of an observable are"),
        ({"ZZ": None}, "wrong_type", "pubs[0][1].ZZ: must be a number, not null"),
        ({"ZZ": float("nan")}, "not_finite", "pubs[0][1].ZZ: must be a finite number"),
        ({"ZZ": typed("complex", [0, 1])}, "wrong_type", "pubs[0][1].ZZ: must be a number"),
        (typed("ObservablesArray", []), "type_not_allowed", "pubs[0][1]: a value of type 'Obser"),
    ],
)
def test_what_is_no_observable_is_refused(observables: Any, reason: str, message: str) -> None:
    refused, text = refusal(with_observables(observables), "estimator")

    assert refused == reason
    assert text.startswith(message)


def test_a_term_that_stands_twice_is_refused() -> None:
    document = encoded(with_observables({"ZZ": 1})).replace(b'"ZZ": 1', b'"ZZ": 1, "ZZ": 2')

    reason, text = refusal(document, "estimator")

    assert (reason, text) == (
        "duplicate_key",
        "pubs[0][1]: the key 'ZZ' occurs twice (observables)",
    )


def test_observables_and_parameter_values_must_fit_together() -> None:
    pub = [UNMEASURED, [{"ZZ": 1}] * 2, npy_value(np.zeros((3, 0))), 0.1]

    reason, text = refusal(sampler_document(pub), "estimator")

    assert reason == "broadcast"
    assert text.startswith("pubs[0]: observables of shape (2,) and parameter values of shape (3,)")


@pytest.mark.parametrize(
    ("limit", "observables"),
    [("observables", [{"ZZ": 1}] * 4), ("terms", [{"ZZ": 1, "XX": 1}] * 2)],
)
def test_observables_are_counted(limit: str, observables: Any) -> None:
    limits = ProgramLimits.model_validate({limit: 3})

    reason, text = refusal(with_observables(observables), "estimator", limits)

    assert reason == f"too_many_{limit}"
    assert text.startswith("pubs[0][1]")


@pytest.mark.parametrize("precision", [0, -0.1, 1e-300, 0.0009, 1e300, float("nan"), "0.1", True])
def test_a_precision_out_of_range_is_refused(precision: Any) -> None:
    reason, text = refusal(with_observables({"ZZ": 1}, precision), "estimator")

    assert reason in ("out_of_range", "not_finite", "wrong_type")
    assert text.startswith("pubs[0][3]: ")


def test_shots_of_twirling_are_bounded_together() -> None:
    twirling = {"num_randomizations": 2000, "shots_per_randomization": 2000}

    reason, text = refusal(with_observables({"ZZ": 1}, None, twirling=twirling), "estimator")

    assert reason == "out_of_range"
    assert "2000 × 2000 shots" in text


def option(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("optimization_level", 1, "unknown_option"),
        ("execution.fast", True, "unknown_option"),
        ("resilience", {}, "unknown_option"),
        ("default_precision", 0.1, "unknown_option"),
        ("default_shots", 0, "out_of_range"),
        ("default_shots", 10**7, "out_of_range"),
        ("execution.init_qubits", 1, "wrong_type"),
        ("execution.rep_delay", -1, "out_of_range"),
        ("execution.meas_type", "kerneled", "meas_type"),
        ("execution.meas_type", "avg_kerneled", "meas_type"),
        ("execution.meas_type", "memory", "unknown_word"),
        ("dynamical_decoupling.sequence_type", "XYX", "unknown_word"),
        ("twirling.strategy", ["all"], "unknown_word"),
        ("twirling.num_randomizations", "many", "wrong_type"),
        ("twirling.num_randomizations", 0, "out_of_range"),
        ("simulator.seed_simulator", -1, "out_of_range"),
        ("simulator.seed_simulator", 2**63, "out_of_range"),
        ("simulator.coupling_map", [[0, 1, 2]], "too_many_elements"),
        ("simulator.coupling_map", [[0, 10**9]], "out_of_range"),
        ("simulator.coupling_map", [[0]], "too_few_elements"),
        ("simulator.basis_gates", ["x" * 200], "too_long"),
        ("simulator.noise_model", "model", "wrong_type"),
        ("simulator.noise_model", typed("NoiseModel", []), "wrong_type"),
        ("simulator.noise_model", typed("Result", {}), "type_not_allowed"),
        ("simulator.noise_model", {"errors": [typed("set", [])]}, "type_not_allowed"),
        ("simulator.noise_model", {"errors": [typed("complex", [1])]}, "wrong_type"),
        ("simulator.noise_model", {"errors": [typed("ndarray", "x")]}, "blob"),
        ("simulator.noise_model", {"errors": [BELL]}, "type_not_allowed"),
        ("experimental", [], "wrong_type"),
        ("experimental", {"a": [typed("ndarray", 1)]}, "type_not_allowed"),
        ("experimental", {"a": [float("inf")]}, "not_finite"),
        ("experimental", {"a": "\ud800"}, "encoding"),
        ("experimental", {"a": "x" * 5000}, "too_long"),
        ("experimental", {"a": 2**64}, "out_of_range"),
        ("experimental", typed("settings", {}), "type_not_allowed"),
    ],
)
def test_an_option_out_of_range_is_refused(path: str, value: Any, reason: str) -> None:
    refused, text = refusal(sampler_document([BELL, NOTHING, 1], **option(path, value)))

    assert refused == reason
    assert text.startswith(f"options.{path}")


LAYER = "qiskit_ibm_runtime.results.noise_learner"
PAULIS = "qiskit.quantum_info.operators.symplectic.pauli_list"


def layer(**changes: Any) -> dict[str, Any]:
    paulis = instance(PAULIS, "PauliList", {"data": ["XX", "ZZ"]}, kind="settings")
    error = {"generators": paulis, "rates": npy_value(np.array([0.1, 0.2]))}
    error |= {key: value for key, value in changes.items() if key in error}
    members = {
        "circuit": UNMEASURED,
        "qubits": [0, 1],
        "error": instance(LAYER, "PauliLindbladError", error),
    }
    members |= {key: value for key, value in changes.items() if key in members}
    return instance(LAYER, "LayerError", members)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("default_precision", 0, "out_of_range"),
        ("seed_estimator", 1.5, "wrong_type"),
        ("execution.meas_type", "classified", "unknown_option"),
        ("resilience", {"pec_mitigation": True, "zne_mitigation": True}, "exclusive_options"),
        ("resilience.zne.noise_factors", [0.5], "out_of_range"),
        ("resilience.zne.noise_factors", [], "too_few_elements"),
        ("resilience.zne.noise_factors", [1.0] * 2000, "too_many_elements"),
        ("resilience.zne.extrapolator", "cubic", "unknown_word"),
        ("resilience.zne.extrapolator", [], "too_few_elements"),
        ("resilience.pec.noise_gain", -1, "out_of_range"),
        ("resilience.layer_noise_learning.layer_pair_depths", [-1], "out_of_range"),
        ("resilience.layer_noise_model", "model", "wrong_type"),
        ("resilience.layer_noise_model", [{}], "type_not_allowed"),
        ("resilience.layer_noise_model", [typed("_json", {})], "wrong_keys"),
        ("resilience.layer_noise_model", [instance("os", "system", {})], "unknown_word"),
        ("resilience.layer_noise_model", [instance("os", "LayerError", {})], "unknown_word"),
        ("resilience.layer_noise_model", [instance(LAYER, "Any", {})], "unknown_word"),
        ("resilience.layer_noise_model", [instance(LAYER, "LayerError", {})], "wrong_keys"),
        ("resilience.layer_noise_model", [layer(qubits=[0])], "qubits"),
        ("resilience.layer_noise_model", [layer(circuit=NOTHING)], "type_not_allowed"),
        ("resilience.layer_noise_model", [layer(rates=npy_value(np.ones(3)))], "rates"),
        ("resilience.layer_noise_model", [layer(error=layer())], "unknown_word"),
        (
            "resilience.layer_noise_model",
            [layer(generators=instance(PAULIS, "PauliList", {"data": ["X"]}, kind="settings"))],
            "pauli",
        ),
        (
            "resilience.layer_noise_model",
            [layer(generators=instance("collections", "defaultdict", {}, kind="settings"))],
            "unknown_word",
        ),
        ("resilience.layer_noise_model", typed("NoiseLearnerResult", {"data": []}), "wrong_keys"),
    ],
)
def test_an_option_of_an_estimator_out_of_range_is_refused(
    path: str, value: Any, reason: str
) -> None:
    document = with_observables({"ZZ": 1}, None, **option(path, value))

    refused, text = refusal(document, "estimator")

    assert refused == reason
    # A precision of 0 is in the range of numbers, but not of what shots can reach.
    assert text.startswith((f"options.{path}", "pubs[0][3]: a precision of 0"))


@pytest.mark.parametrize("level", [-1, 3, "1", None, 1.0])
def test_a_resilience_level_out_of_range_is_refused(level: Any) -> None:
    document = {**with_observables({"ZZ": 1}), "resilience_level": level}

    reason, text = refusal(document, "estimator")

    assert reason in ("out_of_range", "wrong_type")
    assert text.startswith("resilience_level: ")


def test_there_are_no_other_programs() -> None:
    reason, _ = refusal(sampler_document(), program_id="circuit-runner")

    assert reason == "program_id"


def test_a_large_document_is_read_in_time() -> None:
    numbers = sampler_document([BELL, [[0.5] * 1000] * 900, 1])
    began = process_time()

    reason, _ = refusal(numbers)

    assert reason == "parameter_values"
    assert process_time() - began < 10
