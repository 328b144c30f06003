"""What callers see: the service of the contract, over gRPC, as a job of the store."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from concurrent.futures import CancelledError
from io import BytesIO
from typing import TYPE_CHECKING, Any

import grpc
import orjson
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from qiskit import QuantumCircuit, qpy

from app.drivers.proto import driver_manager_pb2 as pb

from .manager import BELL, PLUGIN, Manager, circuit_for, refused, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.local.valkey import EmbeddedValkey

ENDLESS = (
    'OPENQASM 3.0; include "stdgates.inc"; qubit q; bit c;'
    " c = measure q; while (c == 0) { reset q; c = measure q; }"
)


def state_of(database: EmbeddedValkey, job_id: str) -> str:
    with database.client() as client:
        return (client.hget(f"job:{job_id}", "status") or b"").decode()


def jobs_in(database: EmbeddedValkey) -> int:
    with database.client() as client:
        return len(list(client.scan_iter("job:*", count=1000)))


def test_devices_of_drivers_and_executors_are_listed(manager: Manager, aer_worker: int) -> None:
    wait_until(
        lambda: any(
            device.device_id == "simulator@aer" and device.status == pb.ONLINE
            for device in manager.stub.ListDevices(pb.ListDevicesRequest(), timeout=10).devices
        ),
        "the simulator is online",
    )

    devices = {
        device.device_id: device
        for device in manager.stub.ListDevices(pb.ListDevicesRequest(), timeout=10).devices
    }

    assert {"lab_a", "lab_b", "spare_a", "simulator@aer", "fake_manila@aer"} <= set(devices)
    assert devices["lab_a"].backend_type == "qpu"
    assert devices["lab_a"].status == pb.ONLINE
    assert devices["lab_a"].capabilities["backend"] == "lab_a@lab"
    assert not any(name.endswith("@lab") and "fake" in name for name in devices)


def test_the_status_of_a_device(manager: Manager) -> None:
    status = manager.stub.GetDeviceStatus(pb.GetDeviceStatusRequest(device_id="lab_a"), timeout=10)

    assert (status.device_id, status.status, status.queue_depth) == ("lab_a", pb.ONLINE, 0)
    assert status.metadata["driver"] == "lab"


def test_nobody_has_such_a_device(manager: Manager, database: EmbeddedValkey) -> None:
    before = jobs_in(database)

    status = refused(
        lambda: manager.stub.GetDeviceStatus(
            pb.GetDeviceStatusRequest(device_id="nobody"), timeout=10
        )
    )
    execution = refused(lambda: manager.execute("nobody"))

    assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND")
    assert execution.code is grpc.StatusCode.NOT_FOUND
    assert jobs_in(database) == before


def test_a_bell_pair_on_a_drivers_device(manager: Manager) -> None:
    answer = manager.execute("lab_a", shots=2000, options={"seed": "7"})

    assert sum(answer.counts.values()) == 2000
    assert set(answer.counts) == {"00", "11"}
    # 5 sigma of a fair coin, 2000 times.
    assert abs(answer.counts["00"] - 1000) < 112
    assert answer.execution_time_sec > 0
    assert answer.metadata["device"] == "lab_a"
    assert answer.metadata["seed"] == "7"


def test_a_bell_pair_on_a_simulator_of_ours(manager: Manager, aer_worker: int) -> None:
    answer = manager.execute("simulator@aer", shots=500, options={"seed": "7"})

    assert set(answer.counts) == {"00", "11"}
    assert answer.metadata["executor"] == "aer"


def test_bits_and_registers_are_where_qiskit_has_them(manager: Manager) -> None:
    source = (
        'OPENQASM 3.0; include "stdgates.inc"; qubit[3] q; bit[2] a; bit b; x q[0];'
        " a[0] = measure q[0]; a[1] = measure q[1]; b = measure q[2];"
    )

    answer = manager.execute("lab_a", source, shots=10)

    assert dict(answer.counts) == {"0 01": 10}


def test_qpy_is_the_native_format(manager: Manager) -> None:
    circuit = QuantumCircuit(3, 3)
    circuit.x(2)
    circuit.measure(range(3), range(3))
    file = BytesIO()
    qpy.dump(circuit, file)

    answer = manager.stub.ExecuteCircuit(
        pb.ExecuteCircuitRequest(
            device_id="lab_a",
            payload=pb.CircuitPayload(format=pb.BACKEND_NATIVE, data=file.getvalue()),
            shots=20,
        ),
        timeout=30,
    )

    assert dict(answer.counts) == {"100": 20}


def test_aqo_json_with_symbolic_angles(manager: Manager) -> None:
    document = {
        "version": "1.0",
        "qubits": 2,
        "clbits": 2,
        "parameters": {"theta": 3.141592653589793},
        "operations": [
            {"gate": "RX", "qubits": [0], "angle": "theta"},
            {"gate": "RY", "qubits": [1], "angle": "2*theta - pi"},
            {"gate": "RZ", "qubits": [1], "angle": 0.25},
            {"gate": "CX", "qubits": [0, 1]},
            {"gate": "MEASURE", "qubits": [0], "clbits": [0]},
            {"gate": "MEASURE", "qubits": [1], "clbits": [1]},
        ],
    }

    answer = manager.stub.ExecuteCircuit(
        pb.ExecuteCircuitRequest(
            device_id="lab_a",
            payload=pb.CircuitPayload(format=pb.AQO_JSON, data=orjson.dumps(document)),
            shots=10,
        ),
        timeout=30,
    )

    assert dict(answer.counts) == {"01": 10}


@pytest.mark.parametrize("number", [pb.AQO_PROTO, 17])
def test_other_formats_are_unimplemented(
    manager: Manager, database: EmbeddedValkey, number: int
) -> None:
    before = jobs_in(database)
    request = pb.ExecuteCircuitRequest(
        device_id="lab_a", payload=pb.CircuitPayload(format=number, data=b"x"), shots=1
    )

    refusal = refused(lambda: manager.stub.ExecuteCircuit(request, timeout=10))

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    assert refusal.reason == "FORMAT_NOT_SUPPORTED"
    assert jobs_in(database) == before


def test_hostile_source_meets_the_same_front_end(manager: Manager) -> None:
    refusal = refused(lambda: manager.execute("lab_a", "OPENQASM 3.0; qubit q; hh q;"))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "INVALID_PROGRAM"
    assert refusal.fields == ["payload.data"]
    assert refusal.details["ResourceInfo"]["resourceType"] == "job"
    info = refusal.details["ErrorInfo"]["metadata"]
    assert info["retryable"] == "false"
    assert info["job_id"] == refusal.details["ResourceInfo"]["resourceName"]
    assert "RetryInfo" not in refusal.details


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"shots": -1}, "shots"),
        ({"shots": 2_000_000}, "shots"),
        ({"options": {"speed": "1"}}, "options.speed"),
        ({"options": {"seed": "-1"}}, "options.seed"),
        ({"options": {"parameters": "[1]"}}, "options.parameters"),
        ({"job_id": "a b"}, "job_id"),
        ({"source": " "}, "payload.data"),
        ({"device": ""}, "device_id"),
    ],
)
def test_a_refusal_names_the_field_and_stores_nothing(
    manager: Manager, database: EmbeddedValkey, changes: dict[str, object], field: str
) -> None:
    before = jobs_in(database)
    values = {"device": "lab_a"} | changes

    refusal = refused(lambda: manager.execute(**values))  # type: ignore[arg-type]

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == [field]
    assert jobs_in(database) == before


def test_the_correlation_id_comes_back(manager: Manager) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        manager.stub.ExecuteCircuit(
            circuit_for("nobody"), timeout=10, metadata=[("x-correlation-id", "abc-1")]
        )
    answer = manager.stub.ExecuteCircuit(
        circuit_for("lab_a"), timeout=30, metadata=[("x-correlation-id", "abc-2")]
    )

    refusal = refused(lambda: (_ for _ in ()).throw(caught.value))
    assert refusal.details["ErrorInfo"]["metadata"]["correlation_id"] == "abc-1"
    assert answer.metadata["correlation_id"] == "abc-2"


def test_the_same_job_id_is_the_same_job(manager: Manager, database: EmbeddedValkey) -> None:
    first = manager.execute("lab_a", job_id="kernel-1")
    before = jobs_in(database)
    second = manager.execute("lab_a", job_id="kernel-1")
    other = refused(lambda: manager.execute("lab_a", job_id="kernel-1", shots=7))

    assert first.metadata["job_id"] == second.metadata["job_id"]
    assert jobs_in(database) == before
    assert other.code is grpc.StatusCode.FAILED_PRECONDITION
    assert other.reason == "IDEMPOTENCY_CONFLICT"


def test_a_stream_tells_every_state_and_can_be_resumed(manager: Manager) -> None:
    request = pb.StreamExecutionRequest(execute=circuit_for("lab_a", job_id="streamed"))

    events = list(manager.stub.StreamExecution(request, timeout=30))
    numbers = [event.sequence for event in events]
    again = pb.StreamExecutionRequest(job_id="streamed", after_sequence=numbers[-2])
    rest = list(manager.stub.StreamExecution(again, timeout=10))

    assert events[0].state in ("Queued", "Running")
    assert events[-1].state == "Completed"
    assert sum(events[-1].result.counts.values()) == 100
    assert numbers == sorted(set(numbers))
    assert [event.sequence for event in rest] == numbers[-1:]


def test_a_stream_of_a_failed_job_ends_with_its_status(manager: Manager) -> None:
    request = pb.StreamExecutionRequest(execute=circuit_for("lab_a", "OPENQASM 3.0; what"))

    refusal = refused(lambda: list(manager.stub.StreamExecution(request, timeout=30)))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


def test_the_last_event_of_a_stream_is_told_before_its_status(manager: Manager) -> None:
    sent = circuit_for("lab_a", "OPENQASM 3.0; what", job_id="ends-badly")
    refused(lambda: manager.stub.ExecuteCircuit(sent, timeout=30))
    request = pb.StreamExecutionRequest(job_id="ends-badly")
    told: list[str] = []

    def follow() -> None:
        told.extend(event.state for event in manager.stub.StreamExecution(request, timeout=10))

    codes = {refused(follow).code for _ in range(20)}

    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    assert told == ["Failed"] * 20


def test_a_stream_that_is_left_ends_and_its_job_goes_on(
    manager: Manager, database: EmbeddedValkey
) -> None:
    left = 'eigen_driver_requests_total{driver="",operation="StreamExecution",status="cancelled"}'
    before = manager.metric(left)
    manager.fault("execute lab_a hang")
    sent = pb.StreamExecutionRequest(execute=circuit_for("lab_a", job_id="goes-on"))
    stream = manager.stub.StreamExecution(sent, timeout=30)
    event = next(stream)
    while event.state != "Running":
        event = next(stream)

    stream.cancel()

    wait_until(lambda: manager.metric(left) == before + 1, "the manager has seen it", 5)
    assert state_of(database, event.job_id) == "Running"
    manager.stub.CancelExecution(pb.CancelExecutionRequest(job_id="goes-on"), timeout=10)
    wait_until(lambda: manager.loaded("lab").pool.active == 0, "the driver is free again")


def test_a_stream_whose_caller_goes_as_it_writes_is_no_failure(manager: Manager) -> None:
    left = 'eigen_driver_requests_total{driver="",operation="StreamExecution",status="cancelled"}'
    before, aborted = manager.metric(left), []
    manager.execute("lab_a", job_id="told-to-nobody")

    class Gone:
        """A call whose caller has gone, which it does not know yet."""

        def invocation_metadata(self) -> tuple[()]:
            return ()

        async def write(self, _event: object) -> None:
            raise grpc.aio.InternalError("the batch failed")

        async def abort(self, *status: object) -> None:
            aborted.append(status)

    request = pb.StreamExecutionRequest(job_id="told-to-nobody")
    assert manager._loop is not None
    stream = asyncio.run_coroutine_threadsafe(
        manager.manager._service.StreamExecution(request, Gone()),  # type: ignore[arg-type]
        manager._loop,
    )

    with pytest.raises(CancelledError):
        stream.result(10)
    assert aborted == []
    assert manager.metric(left) == before + 1


def test_cancel_is_idempotent_and_stops_what_runs(
    manager: Manager, database: EmbeddedValkey
) -> None:
    manager.fault("execute lab_a hang")
    stream = manager.stub.StreamExecution(
        pb.StreamExecutionRequest(execute=circuit_for("lab_a", job_id="to-cancel")), timeout=30
    )
    event = next(stream)
    while event.state != "Running":
        event = next(stream)

    answers = [
        manager.stub.CancelExecution(pb.CancelExecutionRequest(job_id="to-cancel"), timeout=10)
        for _ in range(2)
    ]

    assert [answer.state for answer in answers] == ["Cancelled", "Cancelled"]
    assert refused(lambda: list(stream)).code is grpc.StatusCode.CANCELLED
    wait_until(lambda: manager.loaded("lab").pool.active == 0, "the driver is free again")
    manager.fault()
    assert manager.execute("lab_a").counts
    assert manager.info("lab").breaker == "closed"


def test_cancel_too_late(manager: Manager) -> None:
    job_id = manager.execute("lab_a").metadata["job_id"]

    late = refused(
        lambda: manager.stub.CancelExecution(pb.CancelExecutionRequest(job_id=job_id), timeout=10)
    )
    unknown = refused(
        lambda: manager.stub.CancelExecution(pb.CancelExecutionRequest(job_id="none"), timeout=10)
    )

    assert (late.code, late.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_IS_FINAL")
    assert unknown.code is grpc.StatusCode.NOT_FOUND


def test_a_cancelled_call_cancels_its_job(manager: Manager, database: EmbeddedValkey) -> None:
    manager.fault("execute lab_a hang")
    call = manager.stub.ExecuteCircuit.future(circuit_for("lab_a", job_id="left"), timeout=30)

    job_id = manager.wait_running("left")
    call.cancel()

    wait_until(lambda: state_of(database, job_id) == "Cancelled", "it is cancelled")
    with database.client() as client:
        assert not client.hget(f"job:{job_id}", "reason_code"), "not because its time was over"
    wait_until(lambda: manager.loaded("lab").pool.active == 0, "the driver is free again")


def test_the_deadline_is_the_jobs_limit(manager: Manager, database: EmbeddedValkey) -> None:
    manager.fault("execute lab_a hang")

    refusal = refused(lambda: manager.execute("lab_a", job_id="late", timeout=1.5))

    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    with database.client() as client:
        (job,) = [
            record
            for key in client.scan_iter("job:*", count=1000)
            for record in [client.hgetall(key)]
            if b"grpc:late" in record.get(b"tags", b"")
        ]
    # gRPC rounds a deadline up on the wire.
    assert 1 < float(job[b"time_limit_s"]) <= 1.6
    wait_until(lambda: manager.loaded("lab").pool.active == 0, "the driver was killed")


def test_a_call_that_is_cancelled_at_any_moment_leaves_no_job(
    manager: Manager, database: EmbeddedValkey
) -> None:
    manager.fault("execute lab_a hang")

    for number in range(20):
        call = manager.stub.ExecuteCircuit.future(
            circuit_for("lab_a", job_id=f"left-at-{number}"), timeout=30
        )
        # From before the manager has read it to after the job runs.
        threading.Event().wait(0.0005 * number)
        call.cancel()

    def left() -> list[bytes]:
        with database.client() as client:
            jobs = [client.hgetall(key) for key in client.scan_iter("job:*", count=1000)]
        ours = [job for job in jobs if b"left-at-" in job.get(b"tags", b"")]
        return [job[b"status"] for job in ours if job[b"status"] != b"Cancelled"]

    wait_until(lambda: not left(), "every job that was made is cancelled")
    wait_until(lambda: manager.loaded("lab").pool.active == 0, "the driver is free again")
    assert not left()


def test_calibrations_that_take_long_keep_nobody_waiting(manager: Manager) -> None:
    """There are more of them than the event loop has threads."""
    names = [f"many_{number}" for number in range(40)]
    path = manager.drivers / "many.py"
    path.write_text(
        PLUGIN.read_text()
        .replace('["lab_a", "lab_b"]', repr(names))
        .replace("self._calibrations += 1", "time.sleep(60)")
    )
    manager.wait_ready("many")
    calls = [
        manager.stub.CalibrateDevice.future(pb.CalibrateDeviceRequest(device_id=name), timeout=30)
        for name in names
    ]
    wait_until(
        lambda: all(manager.loaded("many").status(name) == "calibrating" for name in names),
        "all are calibrated",
    )
    began = time.monotonic()

    for _ in range(5):
        manager.stub.GetDeviceStatus(pb.GetDeviceStatusRequest(device_id="lab_a"), timeout=5)
        manager.stub.ListDevices(pb.ListDevicesRequest(), timeout=5)
    assert manager.execute("lab_a").counts

    assert time.monotonic() - began < 3
    for call in calls:
        call.cancel()
    path.unlink()
    wait_until(lambda: manager.info("many") is None, "it is gone")


@pytest.mark.parametrize("timeout", [0, -1, 1e-9, 1e9])
def test_any_deadline_is_met_or_told(manager: Manager, timeout: float) -> None:
    request = pb.CalibrateDeviceRequest(device_id="lab_a")
    # A local call may be quicker than a deadline that is over.
    over = {grpc.StatusCode.DEADLINE_EXCEEDED} if timeout < 1 else set()

    def is_told() -> bool:
        code = manager.stub.CalibrateDevice.future(request, timeout=timeout).code()
        # One that nobody waits for any more may still calibrate the device.
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION, *over}
        return code is not grpc.StatusCode.FAILED_PRECONDITION

    wait_until(is_told, "the device is free for this call")
    # The device is free again when the driver has ended what nobody waits for.
    wait_until(lambda: manager.loaded("lab").pool.active == 0, "it is over")
    assert manager.info("lab").state == "ready"


def test_a_refusal_fits_into_what_a_client_takes(manager: Manager) -> None:
    document = {"version": "1.0", "qubits": 1, "operations": []}
    document |= {f"k{number}" * 3000: 1 for number in range(20)}
    payload = pb.CircuitPayload(format=pb.AQO_JSON, data=orjson.dumps(document))
    request = pb.ExecuteCircuitRequest(device_id="lab_a", payload=payload)

    refusal = refused(lambda: manager.stub.ExecuteCircuit(request, timeout=10))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert 0 < len(refusal.fields) <= 6
    assert all(len(field) <= 128 for field in refusal.fields)


def test_a_device_is_calibrated(manager: Manager) -> None:
    answer = manager.stub.CalibrateDevice(pb.CalibrateDeviceRequest(device_id="lab_a"), timeout=10)
    simulated = refused(
        lambda: manager.stub.CalibrateDevice(
            pb.CalibrateDeviceRequest(device_id="simulator@aer"), timeout=10
        )
    )

    assert answer.calibration_ref.startswith("lab_a-")
    assert simulated.code is grpc.StatusCode.FAILED_PRECONDITION


def test_health_and_reflection(manager: Manager) -> None:
    name = "eigen.internal.v1.DriverManagerService"
    stub = health_pb2_grpc.HealthStub(manager.channel)

    answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
    known = ProtoReflectionDescriptorDatabase(manager.channel).get_services()

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert name in known


def test_a_client_that_has_no_proto_file_runs_a_circuit(manager: Manager) -> None:
    """All it knows, it has from reflection: as grpcurl does."""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(manager.channel))
    service = pool.FindServiceByName("eigen.internal.v1.DriverManagerService")
    method = service.methods_by_name["ExecuteCircuit"]
    request_type = message_factory.GetMessageClass(method.input_type)
    answer_type = message_factory.GetMessageClass(method.output_type)
    call = manager.channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=answer_type.FromString,
    )

    request = request_type(device_id="lab_a", shots=50)
    request.payload.format = 3
    request.payload.data = BELL.encode()
    answer = call(request, timeout=30)

    assert sum(answer.counts.values()) == 50


def test_many_callers_at_once(manager: Manager) -> None:
    totals: list[int] = []
    callers = [
        threading.Thread(
            target=lambda: totals.append(sum(manager.execute("lab_a", shots=10).counts.values()))
        )
        for _ in range(12)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(40)

    assert totals == [10] * 12


# --- the end of a manager ---------------------------------------------------------------------


@pytest.fixture
def ending(database: EmbeddedValkey, tmp_path: Path) -> Iterator[tuple[Manager, str, Any]]:
    """A manager without drivers; a job that nobody takes, and the call that waits for it."""
    manager = Manager(tmp_path, database.url, driver_config=None)
    sent = circuit_for("fake_manila@noisy", job_id=f"waits-{uuid.uuid4()}")
    call = manager.stub.ExecuteCircuit.future(sent, timeout=60)
    stream = manager.stub.StreamExecution(pb.StreamExecutionRequest(execute=sent), timeout=60)
    job_id = next(stream).job_id
    stream.cancel()
    yield manager, job_id, call
    with database.client() as client:
        client.delete(f"job:{job_id}")


def test_who_waits_when_the_manager_stops_is_told_that_the_job_goes_on(
    ending: tuple[Manager, str, Any], database: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, job_id, call = ending
    monkeypatch.setattr("app.drivers.server.GRACE_S", 4.0)

    manager.end()
    refusal = refused(call.result)
    manager.close()

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert "the job goes on" in refusal.message
    assert refusal.details["ResourceInfo"]["resourceName"] == job_id
    assert state_of(database, job_id) == "Queued"


def test_who_leaves_as_the_manager_stops_leaves_no_job(
    ending: tuple[Manager, str, Any], database: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, job_id, call = ending
    dispatcher = manager.manager._service._dispatcher
    cancel, asked = dispatcher.cancel, threading.Event()

    async def slow_cancel(principal: Any, job_id: str) -> Any:
        asked.set()
        await asyncio.sleep(1)
        return await cancel(principal, job_id)

    monkeypatch.setattr(dispatcher, "cancel", slow_cancel)

    call.cancel()
    assert asked.wait(5)
    manager.close()

    assert state_of(database, job_id) == "Cancelled"
