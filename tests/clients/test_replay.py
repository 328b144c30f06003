"""What clients have sent, sent again: it runs, and the client and IBM's schemas read the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ibm_quantum_schemas.estimator.version_0_1.primitive_result import (
    PrimitiveResultWrapperModel as EstimatorResult,
)
from ibm_quantum_schemas.sampler.version_0_1.primitive_result import (
    PrimitiveResultWrapperModel as SamplerResult,
)
from qiskit.primitives import PrimitiveResult
from qiskit_ibm_runtime.decoders.result_decoder import ResultDecoder

if TYPE_CHECKING:
    from .service import Service

CAPTURES = sorted((Path(__file__).parent.parent / "corpora/captures").glob("*.json"))
SCHEMAS = {"sampler": SamplerResult, "estimator": EstimatorResult}


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
        SCHEMAS[body["program_id"]].model_validate(result)
        decoded = ResultDecoder.decode(json.dumps(result))
        assert isinstance(decoded, PrimitiveResult)
        assert len(decoded) == len(body["params"]["pubs"])
