"""What operators see: metrics, health, logs, traces, keys, TLS, commands, backends for clients."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import os
import subprocess
import sys
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.auth.keys import new_key
from app.drivers.proto import driver_manager_pb2 as pb
from app.drivers.proto import driver_manager_pb2_grpc as pb_grpc
from app.drivers.server import LOG_FIELDS, shape_log
from app.local.addresses import free_port
from app.telemetry.logs import configure_logging
from tests.integration.test_redis_users import Server as RedisUsers
from tests.local_stack import Stack

from .manager import BELL, ROOT, Manager, circuit_for, refused, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.local.valkey import EmbeddedValkey

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_metrics_count_what_happens(manager: Manager) -> None:
    ok = 'eigen_driver_requests_total{driver="lab",operation="execute",status="ok"}'
    calls = 'eigen_driver_requests_total{driver="lab",operation="ExecuteCircuit",status="ok"}'
    before = manager.metric(ok), manager.metric(calls)

    manager.execute("lab_a")

    assert (manager.metric(ok), manager.metric(calls)) == (before[0] + 1, before[1] + 1)
    _, text = manager.http("/metrics")
    for name in (
        "eigen_driver_request_duration_seconds_bucket",
        'eigen_driver_connections{driver="lab",state="idle"}',
        'eigen_available_devices{driver="lab",provider="lab"} 2.0',
        "eigen_driver_connection_errors_total",
    ):
        assert name in text, name


def test_the_metric_of_queues_needs_nobody_who_asks(manager: Manager) -> None:
    depth = 'eigen_device_queue_depth{device_id="lab_a",driver="lab"}'
    wait_until(lambda: f"{depth} 0.0" in manager.http("/metrics")[1], "nobody waits")
    manager.fault("execute lab_a hang")

    # Two run, as many as there are connections.
    calls = [manager.stub.ExecuteCircuit.future(circuit_for("lab_a"), timeout=40) for _ in range(5)]

    wait_until(lambda: manager.metric(depth) == 3, "three wait")
    for call in calls:
        call.cancel()
    wait_until(lambda: manager.metric(depth) == 0, "nobody waits any more")


def test_a_stranger_cannot_make_metrics_grow(manager: Manager) -> None:
    for number in range(3):
        refused(lambda number=number: manager.execute(f"nobody_{number}@nowhere_{number}"))

    assert "nowhere" not in manager.http("/metrics")[1]


def test_health_names_every_driver(manager: Manager) -> None:
    wait_until(lambda: manager.health()[0] == 200, "it is healthy")

    assert manager.health()[1] == {"ready": True, "drivers": {"lab": "ready", "spare": "ready"}}
    assert manager.http("/nothing")[0] == 404


def test_logs_have_the_fields_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", output)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = structlog.get_config()
    try:
        configure_logging(
            level="INFO", environment="test", service="driver-manager", shape=shape_log
        )
        structlog.get_logger("app").info("driver_loaded", driver_name="lab")
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.configure(**before)

    line = json.loads(output.getvalue())
    assert line["message"] == "driver_loaded"
    assert (line["service"], line["level"], line["driver_name"]) == (
        "driver-manager",
        "info",
        "lab",
    )
    assert {*LOG_FIELDS, "timestamp"} <= line.keys()


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Everything that this process traces. A provider can be set once for all."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_one_trace_from_the_caller_to_the_sandbox(
    manager: Manager, exporter: InMemorySpanExporter
) -> None:
    exporter.clear()

    answer = manager.stub.ExecuteCircuit(
        circuit_for("lab_a"), timeout=30, metadata=[("traceparent", TRACEPARENT)]
    )

    def spans() -> dict[str, Any]:
        return {
            span.name: span
            for span in exporter.get_finished_spans()
            if format(span.context.trace_id, "032x") == TRACE
        }

    names = {"drivers/ExecuteCircuit", "job/run", "sandbox/run"}
    wait_until(lambda: names <= spans().keys(), "all spans are there")
    found = spans()
    front, job, sandbox = (
        found[name] for name in ("drivers/ExecuteCircuit", "job/run", "sandbox/run")
    )
    assert format(front.parent.span_id, "016x") == "b7ad6b7169203331"
    assert job.parent.span_id == front.context.span_id
    assert sandbox.parent.span_id == job.context.span_id
    assert job.attributes["job_id"] == answer.metadata["job_id"]
    # It has been in the sandbox: the result says so.
    assert answer.metadata["trace_id"] == TRACE


def test_a_trace_reaches_a_worker_of_ours(manager: Manager, aer_worker: int) -> None:
    answer = manager.stub.ExecuteCircuit(
        circuit_for("simulator@aer"), timeout=30, metadata=[("traceparent", TRACEPARENT)]
    )

    assert answer.metadata["trace_id"] == TRACE


# --- keys and TLS -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def guarded(
    database: EmbeddedValkey,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: tuple[Path, Path],
) -> Iterator[tuple[Any, str, bytes]]:
    """A manager that asks for keys over TLS; gives its stub, a key of admin, and its certificate."""
    key, (cert, private) = new_key(), certificate
    manager = Manager(
        tmp_path_factory.mktemp("guarded"),
        database.url,
        auth="on",
        bootstrap_key=key,
        driver_config=None,
        grpc_tls_certificate=cert,
        grpc_tls_key=private,
    )
    root = cert.read_bytes()
    channel = grpc.secure_channel(
        f"localhost:{manager.manager.port}", grpc.ssl_channel_credentials(root)
    )
    yield pb_grpc.DriverManagerServiceStub(channel), key, root
    channel.close()
    manager.close()


def test_without_a_key_nothing_is_told(guarded: tuple[Any, str, bytes]) -> None:
    stub, key, _ = guarded

    without = refused(lambda: stub.ListDevices(pb.ListDevicesRequest(), timeout=5))
    wrong = refused(
        lambda: stub.ListDevices(
            pb.ListDevicesRequest(), timeout=5, metadata=[("authorization", f"apikey {new_key()}")]
        )
    )
    known = stub.ListDevices(
        pb.ListDevicesRequest(), timeout=5, metadata=[("authorization", f"apikey {key}")]
    )

    assert without.code is wrong.code is grpc.StatusCode.UNAUTHENTICATED
    assert wrong.reason == "INVALID_KEY"
    assert known.devices


def test_only_admin_loads_and_unloads(
    guarded: tuple[Any, str, bytes], database: EmbeddedValkey
) -> None:
    stub, key, _ = guarded
    environment = os.environ | {"QFLEET_REDIS_URL": database.url}
    made = subprocess.run(
        [sys.executable, "-m", "app", "keys", "create", "--owner", "alice"],
        env=environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    alice = [("authorization", f"apikey {made.stdout.strip()}")]

    refusal = refused(
        lambda: stub.LoadDriver(pb.LoadDriverRequest(name="lab"), timeout=5, metadata=alice)
    )
    admin = refused(
        lambda: stub.LoadDriver(
            pb.LoadDriverRequest(name="lab"),
            timeout=5,
            metadata=[("authorization", f"apikey {key}")],
        )
    )

    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
    # Admin gets as far as the name, which this manager does not know.
    assert admin.code is grpc.StatusCode.NOT_FOUND


def test_without_tls_there_is_no_conversation(guarded: tuple[Any, str, bytes]) -> None:
    stub, _, root = guarded
    assert b"BEGIN CERTIFICATE" in root
    with grpc.insecure_channel(stub_address(stub)) as channel:
        plain = pb_grpc.DriverManagerServiceStub(channel)
        refusal = refused(lambda: plain.ListDevices(pb.ListDevicesRequest(), timeout=3))

    assert refusal.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def stub_address(stub: Any) -> str:
    return str(stub.ListDevices._channel.target().decode())


# --- commands ---------------------------------------------------------------------------------


def drivers(
    manager: Manager, *arguments: str, port: int | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "QFLEET_GRPC_PORT": str(port or manager.manager.port),
        "QFLEET_REDIS_URL": manager.settings.redis_url or "",
    }
    return subprocess.run(
        [sys.executable, "-m", "app", "drivers", *arguments],
        env=environment,
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_command_line_shows_and_changes(manager: Manager) -> None:
    shown = {
        what: drivers(manager, "list", what).stdout
        for what in ("drivers", "devices", "breakers", "pool", "caches")
    }
    reset = drivers(manager, "reset-breaker", "lab", "lab_a")
    nobody = drivers(manager, "unload", "nobody")

    assert "lab_a, lab_b" in shown["drivers"]
    assert "lab_a " in shown["devices"]
    assert "lab_a@lab" in shown["breakers"]
    assert "at most 2" in shown["pool"]
    assert "results_hits" in shown["caches"]
    assert reset.stdout == "closed: the breaker of lab_a\n"
    assert nobody.returncode == 1
    assert nobody.stderr.startswith("qfleet: the driver manager refused: NOT_FOUND: ")


def test_the_command_line_says_where_it_has_found_nobody(manager: Manager) -> None:
    nobody = drivers(manager, "list", port=1)

    assert nobody.returncode == 1
    assert nobody.stderr.startswith("qfleet: no driver manager answers at 127.0.0.1:1 ")
    assert "`python -m app up` starts one" in nobody.stderr


def test_the_command_line_shows_a_certificate_where_one_is_asked_for(
    database: EmbeddedValkey, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, private = certificate
    manager = Manager(
        tmp_path,
        database.url,
        driver_config=None,
        grpc_tls_certificate=cert,
        grpc_tls_key=private,
        grpc_tls_clients=cert,
    )
    at = ("--at", f"localhost:{manager.manager.port}", "--authority", str(cert))
    try:
        known = drivers(manager, "list", "devices", *at, "--identity", str(cert), str(private))
        nobody = drivers(manager, "list", "devices", *at)
        elsewhere = drivers(manager, "list", "devices", *at[2:])
    finally:
        manager.close()

    assert known.returncode == 0, known.stderr
    assert "simulator@aer" in known.stdout
    assert (nobody.returncode, nobody.stdout) == (1, "")
    # The certificate is one of localhost.
    assert (elsewhere.returncode, elsewhere.stdout) == (1, "")
    assert "127.0.0.1" in elsewhere.stderr


def test_the_command_line_unloads_and_loads(manager: Manager) -> None:
    unloaded = drivers(manager, "unload", "spare")
    gone, metrics = manager.info("spare"), manager.http("/metrics")[1]
    loaded = drivers(manager, "load", "spare")

    assert unloaded.returncode == 0, unloaded.stderr
    assert gone is None
    assert 'driver="spare",provider' not in metrics
    assert "spare_a" in loaded.stdout
    assert manager.is_ready("spare")


# --- backends for everybody -------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(database: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A gateway on the same database; gives its port."""
    port = free_port()
    with (tmp_path_factory.mktemp("gateway") / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"],
            env=os.environ | {"QFLEET_REDIS_URL": database.url, "QFLEET_PORT": str(port)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    wait_until(lambda: _answers(port), "the gateway answers", 40)
    yield port
    process.terminate()
    process.wait(20)


def _answers(port: int) -> bool:
    try:
        return ask(port, "GET", "/health/live")[0] == 200
    except OSError:
        return False


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def test_a_task_over_http_runs_on_a_drivers_device(manager: Manager, gateway: int) -> None:
    status, task = ask(
        gateway, "POST", "/tasks", {"circuit": BELL, "backend": "lab_a@lab", "shots": 50}
    )
    assert status == 200, task
    _, done = ask(gateway, "GET", f"/tasks/{task['task_id']}?wait=30")

    assert done["status"] == "completed", done
    assert sum(done["result"].values()) == 50
    assert ask(gateway, "POST", "/tasks", {"circuit": BELL, "backend": "fake_manila@lab"})[0] == 404


def test_a_device_that_is_offline_is_a_backend_that_is_paused(
    manager: Manager, gateway: int
) -> None:
    def status() -> str:
        return str(ask(gateway, "GET", "/v1/backends/lab_a@lab/status")[1]["status"])

    wait_until(lambda: status() == "active", "it is active")
    manager.fault("status lab_a offline")

    wait_until(lambda: status() == "paused", "it is paused")


CLIENT = """
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import EstimatorV2, QiskitRuntimeService, SamplerV2

service = QiskitRuntimeService()
backend = service.backend("lab_a@lab")
assert backend.num_qubits == 5, backend.num_qubits
assert (0, 1) in backend.coupling_map and (0, 4) not in backend.coupling_map
circuit = QuantumCircuit(5, 2)
circuit.x(4)
circuit.cx(4, 0)
circuit.measure([0, 1], [0, 1])
isa = generate_preset_pass_manager(optimization_level=1, backend=backend).run(circuit)
job = SamplerV2(mode=backend).run([isa], shots=40)
result = job.result()
assert result[0].data.c.get_counts() == {"01": 40}, result[0].data.c.get_counts()

bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
isa = generate_preset_pass_manager(
    optimization_level=1, backend=backend, initial_layout=[2, 3]
).run(bell)
values = [SparsePauliOp(word).apply_layout(isa.layout) for word in ("XX", "YY", "ZZ", "XI", "II")]
estimator = EstimatorV2(mode=backend, options={"default_precision": 0.02, "seed_estimator": 3})
pub = estimator.run([(isa, values)]).result()[0]
# Of a Bell pair without noise: these correlations are certain; one qubit's X is a fair coin.
assert pub.data.evs[[0, 1, 2, 4]].tolist() == [1, -1, 1, 1], pub.data.evs
assert pub.data.stds[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0], pub.data.stds
assert abs(pub.data.evs[3]) < 5 * 0.02 and abs(pub.data.stds[3] - 0.02) < 0.001, pub.data
print("done", "lab_a@lab" in [each.name for each in service.backends()])
"""


def test_the_qiskit_client_uses_a_drivers_device(
    manager: Manager, gateway: int, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{gateway}"
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        env={
            "HOME": str(tmp_path),
            "PATH": os.environ["PATH"],
            "IAM_URL": url,
            "GLOBAL_SEARCH_URL": url,
            "GLOBAL_CATALOG_URL": f"{url}/catalog",
            "QISKIT_IBM_URL": f"{url}/experimental/api/v1",
            "QISKIT_IBM_TOKEN": "any",
        },
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=55,
    )

    assert done.stdout == "done True\n", done.stderr[-3000:]


# --- the local stack --------------------------------------------------------------------------


def test_the_local_stack_brings_a_driver_manager(tmp_path: Path) -> None:
    port, metrics = free_port(), free_port()
    stack = Stack(
        tmp_path / "data",
        QFLEET_DRIVERS="on",
        QFLEET_GRPC_PORT=str(port),
        QFLEET_DRIVER_METRICS_PORT=str(metrics),
    )
    try:
        stack.wait_for("drivers: gRPC on")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = pb_grpc.DriverManagerServiceStub(channel)
            answer = stub.ExecuteCircuit(
                circuit_for("simulator@aer"), timeout=40, wait_for_ready=True
            )
        assert sum(answer.counts.values()) == 100
        assert stack.interrupt() == 0
    finally:
        stack.close()

    order = [line.partition(":")[0] for line in stack.said if ": stopping" in line]
    assert order == ["drivers", "gateway", "worker", "valkey"]


def test_a_taken_port_costs_the_local_stack_its_driver_manager_only(
    tmp_path: Path, manager: Manager
) -> None:
    stack = Stack(
        tmp_path / "data",
        QFLEET_DRIVERS="auto",
        QFLEET_GRPC_PORT=str(manager.manager.port),
        QFLEET_DRIVER_METRICS_PORT=str(free_port()),
    )
    try:
        stack.wait_for(f"drivers: not started: port {manager.manager.port} is taken")
        assert stack.request("GET", "/health")[0] == 200
    finally:
        stack.close()


@pytest.fixture
def redis_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisUsers]:
    server = RedisUsers(tmp_path_factory.mktemp("redis-users"))
    server.start()
    yield server
    server.stop()


def test_a_manager_runs_jobs_as_the_redis_user_that_compose_gives_it(
    redis_users: RedisUsers, tmp_path: Path
) -> None:
    manager = Manager(tmp_path, redis_users.url_of("drivers"))
    try:
        manager.wait_ready("lab", "spare")
        assert sum(manager.execute("lab_a").counts.values()) == 100
    finally:
        manager.close()
