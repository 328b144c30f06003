"""Results of primitives are what the client's decoder and IBM's schemas say they are."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ibm_quantum_schemas.estimator import version_0_1 as estimator_schemas
from ibm_quantum_schemas.sampler import version_0_1 as sampler_schemas
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit_ibm_runtime import RuntimeDecoder
from qiskit_ibm_runtime.execution_span import TwirledSliceSpanV2

from app.primitives.codec import decode_program, encode_result
from app.primitives.programs import (
    EstimatorPubResult,
    ExecutionSpan,
    PrimitiveResult,
    RegisterSamples,
    SamplerPubResult,
)
from tests.unit.primitive_programs import AER, TARGET
from tests.unit.runtime_params import CORPUS, LIMITS, encoded, estimator, sampler

STARTED = datetime(2026, 3, 4, 5, 6, 7, 891_000, tzinfo=UTC)
FINISHED = datetime(2026, 3, 4, 5, 6, 8, tzinfo=UTC)
#: A set, as the client encodes it in the metadata of a circuit.
SET = {"__type__": "set", "__value__": [1]}


def decoded(result: PrimitiveResult) -> Any:
    """What the client makes of a result."""
    return json.loads(encode_result(result), cls=RuntimeDecoder)


def sampled(**registers: RegisterSamples) -> SamplerPubResult:
    shape = next(iter(registers.values())).array.shape[:-2]
    span = ExecutionSpan(started=STARTED, finished=FINISHED)
    metadata: dict[str, object] = {"circuit_metadata": {"user": SET}}
    return SamplerPubResult(shape=shape, registers=registers, span=span, metadata=metadata)


def register(num_bits: int, *shape: int) -> RegisterSamples:
    """Random samples of a register."""
    rng = np.random.default_rng(5)
    ones = rng.integers(0, 2, size=(*shape, num_bits), dtype=np.uint8)
    padded = np.pad(ones, [(0, 0)] * len(shape) + [(-num_bits % 8, 0)])
    return RegisterSamples(array=np.packbits(padded, axis=-1), num_bits=num_bits)


def test_samples_arrive_bit_by_bit() -> None:
    low, high = register(3, 2, 4, 50), register(17, 2, 4, 50)
    result = PrimitiveResult(pub_results=(sampled(low=low, high=high),))

    (pub,) = decoded(result)

    assert pub.data.shape == (2, 4)
    assert list(pub.data) == ["low", "high"]
    assert pub.data.high.num_bits == 17
    np.testing.assert_array_equal(pub.data.low.array, low.array)
    np.testing.assert_array_equal(pub.data.high.array, high.array)


def test_the_result_says_when_each_pub_ran() -> None:
    pubs = (sampled(c=register(1, 10)), sampled(c=register(2, 3, 20)))

    metadata = decoded(PrimitiveResult(pub_results=pubs, result_metadata={"version": 2})).metadata

    first, second = metadata["execution"]["execution_spans"]
    assert (first.start, first.stop) == (STARTED, FINISHED)
    assert first.mask(0).all()
    assert second.mask(1).shape == (3, 20)
    assert second.mask(1).all()
    assert (first.size, second.size) == (10, 60)
    assert metadata["version"] == 2


def test_the_span_of_a_twirled_pub_says_how_its_shots_are_split() -> None:
    span = ExecutionSpan(started=STARTED, finished=FINISHED, twirls=(4, 6))
    pub = replace(sampled(c=register(2, 3, 20)), span=span)

    metadata = decoded(PrimitiveResult(pub_results=(pub,))).metadata

    (span,) = metadata["execution"]["execution_spans"]
    assert isinstance(span, TwirledSliceSpanV2)
    # Four randomizations of six shots are four more than the pub has.
    assert span.mask(0).shape == (3, 20)
    assert span.mask(0).all()


def test_the_result_says_what_ran() -> None:
    provenance: dict[str, object] = {"executor": "aer", "seed": 7, "qubits": np.int64(3)}
    pubs = (sampled(c=register(1, 10)),)

    metadata = decoded(PrimitiveResult(pub_results=pubs, metadata=provenance)).metadata

    assert metadata["provenance"] == {"executor": "aer", "seed": 7, "qubits": 3}


def test_metadata_of_a_circuit_goes_back_as_it_came() -> None:
    result = PrimitiveResult(pub_results=(sampled(c=register(1, 10)),))

    document = json.loads(encode_result(result))

    (pub,) = document["__value__"]["pub_results"]
    assert pub["__value__"]["metadata"] == {"circuit_metadata": {"user": SET}}


@given(
    arrays.arrays(
        dtype=np.float64,
        shape=arrays.array_shapes(min_dims=0, max_dims=3, max_side=4),
        elements=st.floats(allow_nan=True, allow_infinity=True),
    )
)
def test_expectation_values_arrive_as_they_are(values: Any) -> None:
    pub = EstimatorPubResult(shape=values.shape, values={"evs": values, "stds": values.T.copy().T})

    (arrived,) = decoded(PrimitiveResult(pub_results=(pub,)))

    assert arrived.data.shape == values.shape
    assert arrived.data.evs.dtype == np.float64
    np.testing.assert_array_equal(arrived.data.evs, values)
    np.testing.assert_array_equal(arrived.data.stds, values)


def test_a_sampler_gives_what_the_client_and_the_schema_expect() -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.rx(Parameter("a"), 0)
    circuit.measure(0, 1)
    circuit.metadata = {"n": 1}
    program = sampler([circuit, [[0.0], [np.pi]], 20])

    result = AER.run(program, TARGET)

    assert isinstance(result, PrimitiveResult)
    (pub,) = decoded(result)
    assert pub.data.c.get_counts(0) == {"00": 20}
    assert pub.data.c.get_counts(1) == {"10": 20}
    assert pub.metadata["circuit_metadata"] == {"n": 1}


def test_a_document_of_samples_is_as_ibm_describes_it() -> None:
    pubs = (sampled(meas=register(5, 2, 10)), sampled(a=register(1, 7), b=register(9, 7)))
    result = PrimitiveResult(pub_results=pubs, result_metadata={"version": 2})

    document = json.loads(encode_result(result))

    model = sampler_schemas.PrimitiveResultWrapperModel.model_validate(document)
    assert len(model.value_.pub_results) == 2


def test_an_estimator_gives_what_the_client_and_the_schema_expect() -> None:
    circuit = QuantumCircuit(2)
    circuit.rx(Parameter("a"), 0)
    observables = [[{"IZ": 1.0}], [{"ZZ": 2.0}]]
    program = estimator([circuit, observables, [[0.0], [np.pi], [0.0]], 0.1])

    result = AER.run(program, TARGET)

    assert isinstance(result, PrimitiveResult)
    (pub,) = decoded(result)
    np.testing.assert_allclose(pub.data.evs, [[1, -1, 1], [2, -2, 2]])
    assert pub.metadata["shots"] == 100
    document = json.loads(encode_result(result))
    estimator_schemas.PrimitiveResultWrapperModel.model_validate(document)


@pytest.mark.parametrize(
    "name",
    ["sampler_multi_pub", "sampler_dynamic_circuit", "estimator_broadcast_zne_options"],
)
def test_submissions_of_the_client_come_back_as_results(name: str) -> None:
    submission = json.loads((CORPUS / f"{name}.json").read_text())
    program = decode_program(submission["program_id"], encoded(submission["params"]), LIMITS)

    result = AER.run(program, TARGET)

    assert isinstance(result, PrimitiveResult)
    assert len(decoded(result)) == len(submission["params"]["pubs"])
