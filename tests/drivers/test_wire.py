"""What is on the wire: field numbers, generated code, formats, statuses."""

from __future__ import annotations

import math
import re
from pathlib import Path

import grpc
import orjson
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from app import errors
from app.drivers.formats import angle_of, qasm3_of
from app.drivers.metrics import DriverMetrics
from app.drivers.proto import driver_manager_pb2 as pb
from app.drivers.proto.__main__ import ROOT, generate
from app.drivers.statuses import CODES, RETRY_S, TAXONOMY, code_of, status_of_error
from app.errors import InvalidRequest, VersionMismatch
from tests.test_architecture import failures

#: As the contract has them.
NUMBERS = {
    "DeviceInfo": {
        "device_id": 1,
        "name": 2,
        "backend_type": 3,
        "status": 4,
        "queue_depth": 5,
        "estimated_wait_sec": 6,
        "capabilities": 7,
    },
    "ListDevicesResponse": {"devices": 1},
    "GetDeviceStatusRequest": {"device_id": 1},
    "GetDeviceStatusResponse": {
        "device_id": 1,
        "status": 2,
        "queue_depth": 3,
        "estimated_wait_sec": 4,
        "metadata": 5,
    },
    "ExecuteCircuitRequest": {
        "job_id": 1,
        "device_id": 2,
        "payload": 3,
        "shots": 4,
        "options": 5,
    },
    "ExecuteCircuitResponse": {"counts": 1, "execution_time_sec": 2, "metadata": 3},
    "CalibrateDeviceRequest": {"device_id": 1, "options": 2},
    "CalibrateDeviceResponse": {"calibration_ref": 1},
    "CircuitPayload": {"format": 1, "data": 2},
}


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    assert generate(tmp_path) == 0

    folder = Path("app/drivers/proto")
    made = sorted((tmp_path / folder).glob("*_pb2*"))
    assert len(made) == 3
    for path in made:
        assert path.read_text() == (ROOT / folder / path.name).read_text(), path.name


@pytest.mark.parametrize("message", NUMBERS)
def test_field_numbers_are_those_of_the_contract(message: str) -> None:
    descriptor = pb.DESCRIPTOR.message_types_by_name[message]

    assert {field.name: field.number for field in descriptor.fields} == NUMBERS[message]


def test_enumerations_are_those_of_the_contract() -> None:
    assert [value.number for value in pb.DESCRIPTOR.enum_types_by_name["CircuitFormat"].values] == [
        *range(5)
    ]
    assert dict(pb.DeviceStatus.items()) == {
        "DEVICE_STATUS_UNSPECIFIED": 0,
        "ONLINE": 1,
        "OFFLINE": 2,
        "CALIBRATING": 3,
        "MAINTENANCE": 4,
        "ERROR_STATUS": 5,
    }
    assert pb.DESCRIPTOR.package == "eigen.internal.v1"


# --- statuses ---------------------------------------------------------------------------------


def test_every_error_has_a_code_and_every_code_a_kind() -> None:
    codes = {error: code_of(error) for error in failures(errors.ServiceError)}

    assert set(codes.values()) <= set(TAXONOMY)
    # What has no row of its own must not end as INTERNAL by mistake.
    internal = {error.__name__ for error, code in codes.items() if code is grpc.StatusCode.INTERNAL}
    assert internal == {"ServiceError", "JobFailure", "ExecutionError", "SandboxCrashed"}


def test_every_row_is_of_an_error() -> None:
    assert set(CODES) <= failures(errors.ServiceError)


@pytest.mark.parametrize("error", sorted(failures(errors.ServiceError), key=lambda e: e.__name__))
def test_details_are_those_of_the_contract(error: type[errors.ServiceError]) -> None:
    failure = error("reason", "message") if error is errors.InvalidProgram else error("message")

    sent = status_of_error(failure, correlation_id="c", job_id="j")
    status = rpc_status_of(sent)
    code = code_of(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()

    assert sent.code is code
    assert status.details[0].Unpack(info)
    assert info.reason == error.code.upper()
    assert info.domain == "drivers.qfleet"
    assert set(info.metadata) == {
        "taxonomy",
        "remediation",
        "correlation_id",
        "job_id",
        "retryable",
    }
    retries = [detail for detail in status.details if detail.Unpack(retry)]
    assert bool(retries) == (code in RETRY_S)
    if retries:
        assert retry.retry_delay.seconds == RETRY_S[code]
    kinds = {detail.type_url.rpartition(".")[2] for detail in status.details}
    assert "ResourceInfo" in kinds
    assert ("BadRequest" in kinds) == (code is grpc.StatusCode.INVALID_ARGUMENT)


def rpc_status_of(sent: grpc.Status) -> rpc_status.status_pb2.Status:
    ((key, value),) = sent.trailing_metadata
    assert key == "grpc-status-details-bin"
    return rpc_status.status_pb2.Status.FromString(value)


# --- AQO JSON ---------------------------------------------------------------------------------


def document(**changes: object) -> bytes:
    values: dict[str, object] = {
        "version": "1.0",
        "qubits": 2,
        "clbits": 1,
        "operations": [{"gate": "RX", "qubits": [0], "angle": "a/2"}],
    }
    return orjson.dumps(values | changes)


def test_aqo_becomes_openqasm() -> None:
    source = qasm3_of(
        document(
            operations=[
                {"gate": "rx", "qubits": [1], "angle": "-(a + pi)/2"},
                {"gate": "CX", "qubits": [0, 1]},
                {"gate": "MEASURE", "qubits": [1], "clbits": [0]},
            ]
        ),
        {"a": math.pi},
    )

    assert source.splitlines()[2:] == [
        "qubit[2] q;",
        "bit[1] c;",
        f"rx({-math.pi!r}) q[1];",
        "cx q[0], q[1];",
        "c[0] = measure q[1];",
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"version": None}, "payload.data.version"),
        ({"qubits": 0}, "payload.data.qubits"),
        ({"more": 1}, "payload.data.more"),
        ({"operations": [{"gate": "H", "qubits": [0]}]}, "payload.data.operations[0].gate"),
        ({"operations": [{"gate": "CX", "qubits": [0, 0]}]}, "payload.data.operations[0].qubits"),
        (
            {"operations": [{"gate": "RX", "qubits": [2], "angle": 1}]},
            "payload.data.operations[0].qubits",
        ),
        ({"operations": [{"gate": "RX", "qubits": [0]}]}, "payload.data.operations[0].angle"),
        (
            {"operations": [{"gate": "CX", "qubits": [0, 1], "angle": 1}]},
            "payload.data.operations[0].angle",
        ),
        ({"operations": [{"gate": "MEASURE", "qubits": [0]}]}, "payload.data.operations[0].clbits"),
        (
            {"operations": [{"gate": "MEASURE", "qubits": [0], "clbits": [1]}]},
            "payload.data.operations[0].clbits",
        ),
        (
            {"operations": [{"gate": "RX", "qubits": [0], "angle": "b"}]},
            "payload.data.operations[0].angle",
        ),
        ({}, "payload.data.operations[0].angle"),
    ],
)
def test_a_fault_in_aqo_names_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        qasm3_of(document(**changes), {})

    assert [fault["field"] for fault in caught.value.details["faults"]] == [field]  # type: ignore[attr-defined,union-attr]


def test_another_version_of_aqo_is_not_guessed() -> None:
    with pytest.raises(VersionMismatch, match=r"'2\.0' is not read; send '1\.0'"):
        qasm3_of(document(version="2.0"), {})


@pytest.mark.parametrize(
    "angle",
    [
        "__import__('os')",
        "a.b",
        "2**9",
        "a if a else 1",
        "f(1)",
        "1/0",
        "1e400",
        "((((",
        "'x'",
        "True",
        "9" * 300,
    ],
)
def test_an_angle_is_no_program(angle: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        angle_of(angle, {"a": 1.0}, "here")

    assert caught.value.message.startswith("here: ")


@given(st.text(max_size=40))
def test_any_text_is_an_angle_or_refused(text: str) -> None:
    try:
        assert math.isfinite(angle_of(text, {"a": 1.0, "pi": math.pi}, "here"))
    except InvalidRequest:
        return


# --- the reference ----------------------------------------------------------------------------


def test_every_promise_has_a_test_that_exists() -> None:
    page = (ROOT / "docs/reference/driver-manager.md").read_text()
    promises = page.partition("| promise | test |")[2].partition("\n\n")[0]
    told = set(re.findall(r"\b(test_\w+)", promises))
    there = {
        name
        for path in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }

    assert len(told) > 30
    assert told <= there


def test_every_metric_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/driver-manager.md").read_text()
    told = dict(re.findall(r"^\| (eigen_\w+) \| ([a-z_, ]+) \|", page, re.MULTILINE))
    metrics = {
        collector._name + ("_total" if collector._type == "counter" else ""): ", ".join(
            collector._labelnames
        )
        for collector in DriverMetrics().registry._collector_to_names
    }

    assert told == metrics
