"""What clients have sent, sent again: it runs, and the client and IBM's schemas read the results."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ibm_quantum_schemas.calibrator.version_0_1 import CalibratorResultModel
from ibm_quantum_schemas.estimator.version_0_1.primitive_result import (
    PrimitiveResultWrapperModel as EstimatorResult,
)
from ibm_quantum_schemas.executor.version_2_0 import QuantumProgramResultModel
from ibm_quantum_schemas.noise_learner_v2.version_0_1 import ResultsModel as LayersResult
from ibm_quantum_schemas.noise_learner_v3.version_0_3 import NoiseLearnerV3ResultsModel
from ibm_quantum_schemas.sampler.version_0_1.primitive_result import (
    PrimitiveResultWrapperModel as SamplerResult,
)
from qiskit_ibm_runtime.decoders.defaults import DEFAULT_DECODERS

if TYPE_CHECKING:
    from .service import Service

CAPTURES = sorted((Path(__file__).parent.parent / "corpora/captures").glob("*.json"))
SCHEMAS = {
    "sampler": SamplerResult,
    "estimator": EstimatorResult,
    "executor": QuantumProgramResultModel,
    "noise-learner": LayersResult,
    "calibrate": CalibratorResultModel,
}
#: Its decoder needs a package that the client does not bring along.
NOT_DECODED = frozenset(("noise_learner_v3",))


def post(service: Service, path: str, body: object) -> Any:
    status, answer = service.request("POST", f"/api/v1{path}", body)
    assert status == 200, answer
    return answer


def wait_for_end(service: Service, job_id: str) -> dict[str, Any]:
    """The job once it is final: a read is held while it is not, so this asks rarely."""
    while True:
        status, job = service.request("GET", f"/api/v1/jobs/{job_id}?exclude_params=true")
        assert status == 200, job
        if job["status"] not in {"Queued", "Running"}:
            return dict(job)


def validate(body: dict[str, Any], result: dict[str, Any]) -> None:
    """IBM's schema of the program's results holds."""
    is_v3 = body["program_id"] == "noise-learner" and "schema_version" in result
    schema = NoiseLearnerV3ResultsModel if is_v3 else SCHEMAS[body["program_id"]]
    schema.model_validate(result)


def decode(program_id: str, result: dict[str, Any]) -> Any:
    """What the client's ``job.result()`` gives."""
    decoded: Any = json.dumps(result)
    for decoder in DEFAULT_DECODERS[program_id]:
        if result.get("semantic_role") in NOT_DECODED and not isinstance(decoded, str):
            break
        if decoder.is_applicable(decoded):
            with warnings.catch_warnings():
                # It extrapolates from few samples, or from values without an error, and says so.
                warnings.simplefilter("ignore", UserWarning)
                warnings.simplefilter("ignore", RuntimeWarning)
                decoded = decoder.decode(decoded)
    assert not isinstance(decoded, str)
    return decoded


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_what_a_client_sent_runs_and_its_result_can_be_read(
    service: Service, capture: Path
) -> None:
    session: dict[str, str] = {}
    for request in json.loads(capture.read_text())["calls"]:
        body = request["request_json"] | session
        made = post(service, request["path"], body)
        if request["path"] == "/sessions":
            session = {"session_id": made["id"]}
            continue

        job = wait_for_end(service, made["id"])

        assert job["status"] == "Completed", job["state"]
        status, result = service.request("GET", f"/api/v1/jobs/{job['id']}/results")
        assert status == 200
        validate(body, result)
        decode(body["program_id"], result)
