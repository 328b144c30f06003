"""Programs become circuits for a device and counts results: in the sandbox, here in this process."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from qiskit import QuantumCircuit, qasm3
from qiskit.circuit import Parameter
from qiskit.primitives.containers.estimator_pub import EstimatorPub as QiskitPub
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit_ibm_runtime import RuntimeDecoder, RuntimeEncoder

from app.config import ProgramLimits
from app.drivers.translation import perform
from app.drivers.words import READ, WRITE
from app.executors import Resources
from app.primitives.programs import ESTIMATOR, QASM3, SAMPLER
from app.sandbox.protocol import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.sandbox.protocol import Reply

SHOTS = 4000
PRECISION = 1 / math.sqrt(SHOTS)


def encoded(pubs: list[Any], **options: Any) -> bytes:
    document = {"pubs": pubs, "options": options, "version": 2}
    return json.dumps(document, cls=RuntimeEncoder).encode()


def request(
    program_id: str, params: bytes, *, gates: str = "id rz sx x cx", max_result_bytes: int = 1 << 22
) -> Request:
    return Request(
        job_id="j",
        program_id=program_id,
        target=gates,
        executor="lab",
        params=params,
        limits=ProgramLimits(),
        resources=Resources(threads=1, memory_bytes=1 << 30, max_result_bytes=max_result_bytes),
    )


def read(program_id: str, params: bytes, **changes: Any) -> dict[str, Any]:
    reply = perform(request(READ + program_id, params, **changes))
    assert reply.failure is None, reply.failure
    return orjson.loads(reply.result or b"")  # type: ignore[no-any-return]


def refused(program_id: str, params: bytes, **changes: Any) -> tuple[str, str]:
    failure = perform(request(READ + program_id, params, **changes)).failure
    assert failure is not None
    return failure.code, failure.message


def write(program_id: str, document: dict[str, Any], counts: list[dict[str, int]]) -> Any:
    params = orjson.dumps(
        {
            "pubs": document["pubs"],
            "counts": counts,
            "seed": 1,
            "metadata": {},
            "started": 0.0,
            "finished": 1.0,
        }
    )
    reply: Reply = perform(request(WRITE + program_id, params))
    assert reply.failure is None, reply.failure
    return orjson.loads(reply.result or b"")


def ideal(seed: int) -> Callable[[dict[str, Any]], dict[str, int]]:
    """A device: it gives the bits of all clbits, sampled from the state before measurement."""
    rng = np.random.default_rng(seed)

    def run(told: dict[str, Any]) -> dict[str, int]:
        circuit = qasm3.loads(told["qasm3"])
        assert len(circuit.clbits) == told["num_clbits"]
        where = {}
        gates = QuantumCircuit(circuit.num_qubits)
        for instruction in circuit.data:
            qubits = [circuit.find_bit(qubit).index for qubit in instruction.qubits]
            if instruction.operation.name == "measure":
                where[circuit.find_bit(instruction.clbits[0]).index] = qubits[0]
            else:
                gates.append(instruction.operation, qubits)
        probabilities = Statevector(gates).probabilities()
        drawn = rng.multinomial(told["shots"], probabilities / probabilities.sum())
        counts: dict[str, int] = {}
        for outcome in np.flatnonzero(drawn):
            bits = "".join(
                str(int(outcome) >> where[clbit] & 1) if clbit in where else "0"
                for clbit in reversed(range(told["num_clbits"]))
            )
            counts[bits] = counts.get(bits, 0) + int(drawn[outcome])
        return counts

    return run


def values(result: Any) -> list[tuple[Any, Any]]:
    decoded = json.loads(orjson.dumps(result), cls=RuntimeDecoder)
    return [(pub.data.evs, pub.data.stds) for pub in decoded]


def pub_of(*pub: Any) -> tuple[Any, Any, Any, float]:
    coerced = QiskitPub.coerce(pub, precision=PRECISION)
    return (
        coerced.circuit,
        coerced.observables.tolist(),
        coerced.parameter_values.as_array(coerced.circuit.parameters),
        PRECISION,
    )


def test_an_estimate_agrees_with_the_state() -> None:
    theta = Parameter("theta")
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.ry(theta, 2)
    circuit.cz(1, 2)
    circuit.sx(1)
    angles = np.array([0.3, 1.1, 2.5])
    words = [
        SparsePauliOp(["XYZ", "ZZI", "IIX"], [0.5, -1.25, 2]),
        SparsePauliOp(["YIY", "III"], [1, 0.75]),
    ]
    observables = [[word] for word in words]

    document = read(ESTIMATOR, encoded([pub_of(circuit, observables, angles)]))
    result = write(ESTIMATOR, document, list(map(ideal(5), document["circuits"])))

    ((evs, stds),) = values(result)
    assert evs.shape == stds.shape == (2, 3)
    for row, word in enumerate(words):
        for column, angle in enumerate(angles):
            state = Statevector(circuit.assign_parameters([angle]))
            exact = state.expectation_value(word).real
            # 5 sigma.
            assert abs(evs[row, column] - exact) < 5 * stds[row, column] + 1e-12
            assert 0 < stds[row, column] < 3 * PRECISION


@pytest.mark.parametrize("word", ["X", "Y", "Z", "+", "-", "r", "l", "0", "1"])
def test_every_character_is_measured_in_its_basis(word: str) -> None:
    """On its own eigenstate, of which the outcome is certain."""
    prepare: dict[str, tuple[tuple[str, ...], float]] = {
        "X": (("h",), 1),
        "Y": (("h", "s"), 1),
        "Z": (("x",), -1),
        "+": (("x", "h"), 0),
        "-": (("x", "h"), 1),
        "r": (("h", "s"), 1),
        "l": (("h", "s"), 0),
        "0": ((), 1),
        "1": ((), 0),
    }
    gates, exact = prepare[word]
    circuit = QuantumCircuit(2)
    for gate in gates:
        getattr(circuit, gate)(1)

    pub = (circuit, [{word + "I": 1.0}], np.empty((1, 0)), PRECISION)
    document = read(ESTIMATOR, encoded([pub]))
    result = write(ESTIMATOR, document, list(map(ideal(1), document["circuits"])))

    ((evs, stds),) = values(result)
    assert evs.tolist() == pytest.approx([exact])
    assert stds.tolist() == pytest.approx([0], abs=1e-12)


@pytest.mark.parametrize(
    "gates", ["id rz sx x cx", "u3 cx", "rz ry cz", "h sdg cx", "p sx cz", "r cz"]
)
def test_bases_are_measured_in_the_gates_of_the_device(gates: str) -> None:
    circuit = QuantumCircuit(2)
    pub = (circuit, [{"XY": 1.0}], np.empty((1, 0)), PRECISION)

    document = read(ESTIMATOR, encoded([pub]), gates=gates)

    (told,) = document["circuits"]
    used = {each.operation.name for each in qasm3.loads(told["qasm3"]).data}
    assert used - {"measure", "u", "U"} <= set(gates.split())


def test_a_device_that_cannot_turn_a_basis_says_so() -> None:
    circuit = QuantumCircuit(1)
    turned = encoded([(circuit, [{"X": 1.0}], np.empty((1, 0)), PRECISION)])
    plain = encoded([(circuit, [{"Z": 1.0}], np.empty((1, 0)), PRECISION)])

    code, message = refused(ESTIMATOR, turned, gates="x cx")

    assert code == "invalid_program"
    assert "cannot measure in X: its gates x, cx make no h" in message
    assert len(read(ESTIMATOR, plain, gates="x cx")["circuits"]) == 1


def test_what_is_read_twice_in_one_basis_is_measured_once() -> None:
    circuit = QuantumCircuit(2)
    observables = [{"ZZ": 1.0}, {"IZ": 2.0, "ZI": 1.0}, {"XX": 1.0}, {"II": 3.0}]

    document = read(ESTIMATOR, encoded([(circuit, observables, np.empty((1, 0)), PRECISION)]))
    result = write(ESTIMATOR, document, list(map(ideal(1), document["circuits"])))

    assert len(document["circuits"]) == 2
    assert values(result)[0][0][[0, 1, 3]].tolist() == [1, 3, 3]


def test_the_errors_of_independent_groups_add_up() -> None:
    circuit = QuantumCircuit(1)
    circuit.sx(0)
    # On an eigenstate of Y, X and Z are fair coins; they are measured in two circuits.
    pub = (circuit, [{"X": 1.0}, {"X": 3.0, "Z": 4.0}], np.empty((1, 0)), PRECISION)

    document = read(ESTIMATOR, encoded([pub]))
    result = write(ESTIMATOR, document, list(map(ideal(1), document["circuits"])))

    ((_, stds),) = values(result)
    assert stds.tolist() == pytest.approx([PRECISION, 5 * PRECISION], rel=0.01)


def test_an_observable_without_qubits_needs_no_device() -> None:
    pub = (QuantumCircuit(1), [{"I": 2.5}], np.empty((1, 0)), PRECISION)

    document = read(ESTIMATOR, encoded([pub]))

    assert document["circuits"] == []
    ((evs, stds),) = values(write(ESTIMATOR, document, []))
    assert (evs.tolist(), stds.tolist()) == ([2.5], [0.0])


def test_bits_of_the_circuit_itself_are_not_taken_for_observables() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.measure(0, 1)
    pub = (circuit, [{"IZ": 1.0}, {"ZI": 1.0}], np.empty((1, 0)), PRECISION)

    document = read(ESTIMATOR, encoded([pub]))
    result = write(ESTIMATOR, document, list(map(ideal(1), document["circuits"])))

    assert values(result)[0][0].tolist() == [-1, 1]


def test_options_that_a_device_does_not_have_are_told() -> None:
    pub = (QuantumCircuit(1), [{"Z": 1.0}], np.empty((1, 0)), PRECISION)
    params = encoded(
        [pub],
        resilience={"zne_mitigation": True, "measure_mitigation": False},
        dynamical_decoupling={"enable": True},
        seed_estimator=4,
        default_precision=0.1,
    )

    document = read(ESTIMATOR, params)

    assert set(document["without_effect"]) == {
        "resilience.zne_mitigation",
        "dynamical_decoupling.enable",
        # Of the caller, who did not say otherwise.
        "resilience_level",
    }
    assert document["seed"] == 4


# --- what is too large ------------------------------------------------------------------------


def sampler_of(circuit: QuantumCircuit, sets: int, shots: int) -> bytes:
    return encoded([(circuit, np.full((sets, circuit.num_parameters), 0.5), shots)])


def test_a_job_has_so_many_circuits() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.rx(Parameter("a"), 0)
    circuit.measure(0, 0)

    assert len(read(SAMPLER, sampler_of(circuit, 1000, 1))["circuits"]) == 1000
    assert refused(SAMPLER, sampler_of(circuit, 1001, 1))[0] == "invalid_program"


def test_what_would_not_fit_is_refused_and_not_crashed_on() -> None:
    wide = QuantumCircuit(30, 30)
    wide.h(range(30))
    wide.measure(range(30), range(30))
    task = orjson.dumps({"source": qasm3.dumps(wide), "shots": 100_000, "seed": None})
    long = QuantumCircuit(1, 1)
    for _ in range(900):
        long.rx(Parameter(f"a{_}"), 0)
    long.measure(0, 0)

    samples = refused(SAMPLER, sampler_of(wide, 1, 100_000), max_result_bytes=1 << 18)
    counts = refused(QASM3, task, max_result_bytes=1 << 20)
    circuits = refused(SAMPLER, sampler_of(long, 100, 1), max_result_bytes=1 << 20)

    assert samples[0] == counts[0] == circuits[0] == "program_too_large"
    assert "all circuits of the job together" in circuits[1]
