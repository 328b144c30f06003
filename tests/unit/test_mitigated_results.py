"""Are results with mitigation what the client and IBM's schemas take? Captures on a noisy device.

Where the client's own pipeline can do the same, its values are compared with ours: it prepares a
quantum program, ours runs it, and it makes expectation values of the samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ibm_quantum_schemas.estimator import version_0_1 as estimator_schemas
from ibm_quantum_schemas.sampler import version_0_1 as sampler_schemas
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives.containers.estimator_pub import EstimatorPub as ClientPub
from qiskit_ibm_runtime import RuntimeDecoder
from qiskit_ibm_runtime.decoders.executor_estimator.post_processor_v0_1 import (
    estimator_v2_post_processor_v0_1,
)
from qiskit_ibm_runtime.execution_span import TwirledSliceSpanV2
from qiskit_ibm_runtime.executor_estimator.prepare import prepare
from qiskit_ibm_runtime.options_models import EstimatorOptions
from qiskit_ibm_runtime.results import QuantumProgramItemResult, QuantumProgramResult

from app.executors import registry
from app.primitives.codec import decode_program, encode_result
from app.primitives.programs import (
    EstimatorProgram,
    PrimitiveResult,
    QuantumProgram,
    QuantumResult,
    SamplexItem,
)

from .primitive_programs import RESOURCES, estimator_pub, values
from .runtime_params import LIMITS
from .test_noisy_executor import target

CAPTURES = Path(__file__).parent.parent / "corpora/captures"
NOISY = registry.load("noisy", RESOURCES)
MANILA = target("fake_manila")


def submitted(name: str) -> PrimitiveResult:
    """What the executor makes of a recorded submission."""
    capture = json.loads((CAPTURES / f"{name}.json").read_text())
    request = capture["calls"][0]["request_json"]
    params = json.dumps(request["params"]).encode()
    result = NOISY.run(decode_program(request["program_id"], params, LIMITS), MANILA)
    assert isinstance(result, PrimitiveResult)
    return result


def decoded(result: PrimitiveResult) -> Any:
    return json.loads(encode_result(result), cls=RuntimeDecoder)


def test_a_twirled_sampler_is_decoded_by_the_client() -> None:
    result = submitted("02_sampler_params_all_options")

    document = json.loads(encode_result(result))
    sampler_schemas.PrimitiveResultWrapperModel.model_validate(document)
    pub = decoded(result)[0]
    assert pub.metadata["num_randomizations"] == 4
    assert pub.join_data().num_shots == 123
    (span,) = decoded(result).metadata["execution"]["execution_spans"]
    assert isinstance(span, TwirledSliceSpanV2)
    assert span.mask(0).shape == (*pub.data.shape, 123)
    assert span.mask(0).all()
    named = result.metadata["options_without_effect"]
    assert isinstance(named, dict)
    assert {path.partition(".")[0] for path in named} == {
        "dynamical_decoupling",
        "execution",
        "experimental",
    }


@pytest.mark.parametrize(
    "name", ["06_estimator_broadcast_zne_options", "07_estimator_pec_layer_noise_model"]
)
def test_a_mitigated_estimator_is_decoded_by_the_client(name: str) -> None:
    result = submitted(name)

    document = json.loads(encode_result(result))
    estimator_schemas.PrimitiveResultWrapperModel.model_validate(document)
    pubs = decoded(result)
    for pub, ours in zip(pubs, result.pub_results, strict=True):
        assert pub.data.evs == pytest.approx(ours.values["evs"])  # type: ignore[union-attr]
        assert (pub.data.stds > 0).all()
    if name.startswith("06"):
        assert pubs[0].data.evs_noise_factors.shape == (2, 3, 3)
        assert pubs[0].data.stds_extrapolated.shape == (2, 3, 2, 3)
        assert pubs.metadata["resilience"]["zne"]["amplifier"] == "gate_folding_front"
    else:
        assert pubs[0].metadata["resilience"]["pec"]["noise_gain"] == 0.5
        assert pubs[0].metadata["resilience"]["layer_noise"]["total_mitigated_layers"] == 1


def clients_values(circuit: QuantumCircuit, observables: Any, sets: Any, options: Any) -> Any:
    """Let the client prepare a program and look at its samples, and our executor run it."""
    pub = ClientPub.coerce((circuit, observables, sets))
    program, _ = prepare([pub], options)
    ours = QuantumProgram(
        schema_version="v2.0",
        shots=program.shots,
        items=tuple(
            SamplexItem(
                circuit=item.circuit,
                samplex=item.samplex,
                arguments=item.samplex_arguments,
                shape=tuple(item.shape),
            )
            for item in program.items
        ),
        seed=3,
    )
    result = NOISY.run(ours, MANILA)
    assert isinstance(result, QuantumResult)
    samples = QuantumProgramResult(
        [QuantumProgramItemResult(item.arrays) for item in result.items],
        passthrough_data=program.passthrough_data,
    )
    return estimator_v2_post_processor_v0_1(samples)[0].data


@pytest.mark.parametrize("level", [0, 1, 2])
def test_values_are_those_of_the_clients_own_mitigation(level: int) -> None:
    circuit = QuantumCircuit(5)
    circuit.sx(1)
    circuit.rz(Parameter("a"), 1)
    circuit.cx(1, 2)
    circuit.sx(2)
    observables = [[{"IIZZI": 1.0}], [{"IIXYI": 0.5, "IIIZI": -1.0}]]
    sets = [[0.3], [0.9]]
    options = EstimatorOptions(resilience_level=level, default_shots=20_000)
    options.resilience.zne.extrapolator = "linear"
    resilience = {"zne": {"extrapolator": "linear"}}

    theirs = clients_values(circuit, observables, sets, options)
    program = EstimatorProgram(
        pubs=(estimator_pub(circuit, observables, sets, shots=20_000),),
        options={"resilience": resilience},
        resilience_level=level,
        seed=4,
    )
    ours = NOISY.run(program, MANILA)

    assert isinstance(ours, PrimitiveResult)
    # 5 sigma of the difference; both have the errors that we give.
    difference = abs(values(ours) - theirs.evs)
    assert (difference < 5 * np.sqrt(2) * values(ours, "stds")).all()
