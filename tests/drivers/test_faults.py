"""Drivers that raise, hang, die, leak and lie; devices that flap; what is done about it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import nullcontext
from io import BytesIO
from typing import TYPE_CHECKING

import grpc
import pytest
from qiskit import QuantumCircuit, qpy

from app.drivers.process import Overdue
from app.drivers.proto import driver_manager_pb2 as pb

from .manager import BELL, PLUGIN, Manager, Refusal, circuit_for, refused, wait_until

if TYPE_CHECKING:
    from app.local.valkey import EmbeddedValkey


def load(manager: Manager, name: str) -> object:
    return manager.stub.LoadDriver(pb.LoadDriverRequest(name=name), timeout=40)


def test_a_driver_that_raises(manager: Manager) -> None:
    manager.fault("execute lab_a raise")
    failures = 'eigen_driver_requests_total{driver="lab",operation="execute",status="raised"}'
    before = manager.metric(failures)

    refusal = refused(lambda: manager.execute("lab_a"))

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "DRIVER_UNAVAILABLE"
    assert "the control software has a bug" in refusal.message
    assert refusal.details["RetryInfo"]["retryDelay"] == "1s"
    assert manager.metric(failures) == before + 1
    assert manager.info("lab").state == "ready"


def test_what_may_pass_is_tried_again(manager: Manager) -> None:
    manager.fault("execute lab_a unavailable")
    failures = 'eigen_driver_requests_total{driver="lab",operation="execute",status="unavailable"}'
    before = manager.metric(failures)

    refusal = refused(lambda: manager.execute("lab_a"))

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    # Three attempts, as configured.
    assert manager.metric(failures) == before + 3


def test_a_device_that_refuses_a_circuit_is_not_to_blame(manager: Manager) -> None:
    source = "OPENQASM 3.0; qubit[6] q; bit c; c = measure q[5];"

    for _ in range(6):
        refusal = refused(lambda: manager.execute("lab_a", source))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "6 qubits, but there are 5" in refusal.message

    assert manager.info("lab").device_breakers["lab_a"] == "closed"


def test_a_driver_that_hangs_is_killed_at_the_deadline_and_comes_back(manager: Manager) -> None:
    manager.fault("execute lab_a hang")
    restarts = manager.info("lab").restarts

    # The service's own limit of a job, 10 s in this manager.
    refusal = refused(lambda: manager.execute("lab_a", timeout=30))
    manager.fault()

    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert refusal.reason == "TIME_LIMIT_REACHED"
    assert refusal.details["RetryInfo"]["retryDelay"] == "2s"
    wait_until(lambda: manager.info("lab").restarts > restarts, "it was started again")
    wait_until(lambda: _succeeds(manager), "it runs circuits")


def test_impatient_callers_open_no_breaker(manager: Manager) -> None:
    manager.fault("execute lab_a hang")
    driver = manager.loaded("lab")
    circuit = {"qasm3": BELL, "num_qubits": 2, "num_clbits": 2, "shots": 1}

    for _ in range(6):
        with pytest.raises(Overdue):
            driver.execute(
                "lab_a",
                circuit,
                {},
                timeout_s=0.2,
                stoppable=lambda _stop: nullcontext(),
                stop=threading.Event(),
                job_id="",
            )

    assert driver.is_ready
    assert manager.info("lab").breaker == "closed"
    assert manager.info("lab").device_breakers["lab_a"] == "closed"


def test_a_driver_that_dies_is_started_again_and_its_devices_come_back(manager: Manager) -> None:
    lost = 'eigen_driver_connection_errors_total{driver="lab",error_type="died"}'
    before, restarts = manager.metric(lost), manager.info("lab").restarts
    manager.fault("execute lab_a die")

    refusal = refused(lambda: manager.execute("lab_a"))
    manager.fault()

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert manager.metric(lost) > before
    wait_until(lambda: manager.info("lab").restarts > restarts, "it was started again")
    manager.wait_ready("lab")
    manager.stub.ResetBreaker(pb.ResetBreakerRequest(driver="lab"), timeout=10)
    assert manager.execute("lab_a").counts


def test_while_a_driver_cannot_start_its_devices_are_offline(manager: Manager) -> None:
    manager.fault("execute lab_a die", "initialize raise")

    refused(lambda: manager.execute("lab_a"))

    def status() -> int:
        request = pb.GetDeviceStatusRequest(device_id="lab_a")
        return int(manager.stub.GetDeviceStatus(request, timeout=10).status)

    wait_until(lambda: status() == pb.OFFLINE, "it is offline")
    http_status, document = manager.health()
    assert (http_status, document["ready"], document["drivers"]["lab"]) == (503, False, "failed")
    manager.fault()
    wait_until(lambda: status() == pb.ONLINE, "it is back")
    wait_until(lambda: manager.health()[0] == 200, "health says so")


def test_a_process_that_is_killed_between_two_calls_costs_nobody_anything(
    manager: Manager,
) -> None:
    manager.execute("lab_a")
    pool = manager.loaded("lab").pool
    for idle in list(pool._idle):
        os.kill(idle.connection.pid, signal.SIGKILL)

    assert manager.execute("lab_a").counts


def test_a_driver_that_leaks_is_stopped_at_its_limit(manager: Manager) -> None:
    manager.fault("execute lab_a leak")

    refusal = refused(lambda: manager.execute("lab_a"))
    manager.fault()

    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "MEMORY_LIMIT_REACHED"
    assert refusal.details["RetryInfo"]["retryDelay"] == "5s"
    manager.heal()
    assert manager.execute("lab_a").counts


@pytest.mark.parametrize("fault", ["lie", "forget"])
def test_counts_that_are_none_are_never_a_result(manager: Manager, fault: str) -> None:
    manager.fault(f"execute lab_a {fault}")

    refusal = refused(lambda: manager.execute("lab_a"))

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert "gave counts that are not 100 bitstrings of 2 bits" in refusal.message


def test_a_device_that_flaps(manager: Manager) -> None:
    manager.fault("status lab_a offline")

    def code() -> object:
        return refused(lambda: manager.execute("lab_a")).code

    wait_until(
        lambda: (
            manager.stub.GetDeviceStatus(
                pb.GetDeviceStatusRequest(device_id="lab_a"), timeout=5
            ).status
            == pb.OFFLINE
        ),
        "it is offline",
    )
    offline = code()
    other = manager.execute("lab_b")
    manager.fault()
    wait_until(lambda: manager.loaded("lab").status("lab_a") == "online", "it is online")

    assert offline is grpc.StatusCode.FAILED_PRECONDITION
    assert other.metadata["device"] == "lab_b"
    assert manager.execute("lab_a").counts


def test_a_breaker_opens_half_opens_and_closes(manager: Manager) -> None:
    manager.fault("execute lab_a unavailable")

    refused(lambda: manager.execute("lab_a"))
    refusal = refused(lambda: manager.execute("lab_a"))
    opened = manager.info("lab").device_breakers["lab_a"]
    status = manager.stub.GetDeviceStatus(pb.GetDeviceStatusRequest(device_id="lab_a"), timeout=5)
    other = manager.execute("lab_b")

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert opened == "open"
    assert status.status == pb.ERROR_STATUS
    assert other.metadata["device"] == "lab_b", "the breaker is the device's own"

    manager.fault()
    wait_until(lambda: _succeeds(manager), "a trial is let through")
    assert manager.info("lab").device_breakers["lab_a"] == "closed"


def _succeeds(manager: Manager) -> bool:
    try:
        return bool(manager.execute("lab_a").counts)
    except grpc.RpcError:
        return False


def test_an_operator_closes_a_breaker(manager: Manager) -> None:
    manager.fault("execute lab_a unavailable")
    for _ in range(2):
        refused(lambda: manager.execute("lab_a"))
    manager.fault()

    manager.stub.ResetBreaker(pb.ResetBreakerRequest(driver="lab", device_id="lab_a"), timeout=10)

    assert manager.info("lab").device_breakers["lab_a"] == "closed"
    assert manager.execute("lab_a").counts


def test_a_fallback_takes_the_job_and_the_result_says_so(manager: Manager) -> None:
    manager.fault("execute lab_b unavailable")

    answer = manager.execute("lab_b")

    assert sum(answer.counts.values()) == 100
    assert answer.metadata["device"] == "spare_a"
    assert answer.metadata["failover_from"] == "lab_b"
    assert answer.metadata["failover_to"] == "spare_a"
    assert "does not answer" in answer.metadata["failover_because"]


def test_the_last_fallback_is_a_simulator(manager: Manager) -> None:
    manager.fault("execute lab_b raise", "execute spare_a raise")

    answer = manager.execute("lab_b", options={"seed": "3"})

    assert set(answer.counts) <= {"00", "11"}
    assert answer.metadata["executor"] == "aer"
    assert answer.metadata["failover_to"] == "simulator@aer"
    assert answer.metadata["failover_tried"] == '["lab_b","spare_a"]'


def test_a_fallback_takes_a_sampler_too(manager: Manager) -> None:
    manager.fault("execute lab_b raise", "execute spare_a raise")
    circuit = QuantumCircuit(2, 2)
    circuit.x(1)
    circuit.measure([0, 1], [0, 1])
    file = BytesIO()
    qpy.dump(circuit, file)
    payload = pb.CircuitPayload(format=pb.BACKEND_NATIVE, data=file.getvalue())

    answer = manager.stub.ExecuteCircuit(
        pb.ExecuteCircuitRequest(device_id="lab_b", payload=payload, shots=20), timeout=30
    )

    assert dict(answer.counts) == {"10": 20}
    assert answer.metadata["failover_to"] == "simulator@aer"


def test_a_fallback_that_nobody_has_is_passed_over(manager: Manager) -> None:
    before = manager.config.read_text()
    manager.config.write_text(before.replace("[spare_a,", "[nobody, nothing@aer, spare_a,"))
    wait_until(lambda: "nobody" in manager.registry.fallbacks("lab_b"), "it is read")
    manager.fault("execute lab_b raise")

    answer = manager.execute("lab_b")
    manager.config.write_text(before)
    wait_until(lambda: "nobody" not in manager.registry.fallbacks("lab_b"), "it is read again")

    assert answer.metadata["device"] == "spare_a"
    assert answer.metadata["failover_tried"] == '["lab_b","nobody","nothing@aer"]'


def test_a_seeded_result_is_remembered_another_one_never(manager: Manager) -> None:
    seeded = [manager.execute("lab_a", options={"seed": "41"}) for _ in range(2)]
    unseeded = [manager.execute("lab_a") for _ in range(2)]

    assert dict(seeded[0].counts) == dict(seeded[1].counts)
    assert "cache" not in seeded[0].metadata
    assert seeded[1].metadata["cache"] == "hit"
    assert seeded[0].metadata["job_id"] != seeded[1].metadata["job_id"]
    assert all("cache" not in answer.metadata for answer in unseeded)


def test_an_exhausted_pool_is_told(manager: Manager) -> None:
    """The spare has one connection: while it runs, its calibration waits, in vain."""
    manager.fault("execute spare_a hang")
    call = manager.stub.ExecuteCircuit.future(circuit_for("spare_a", job_id="holds"), timeout=20)
    manager.wait_running("holds")

    refusals: list[Refusal] = []

    def exhausted() -> bool:
        request = pb.CalibrateDeviceRequest(device_id="spare_a")
        try:
            manager.stub.CalibrateDevice(request, timeout=10)
        except grpc.RpcError as exc:
            refusals.append(Refusal(exc))
        return bool(refusals)

    wait_until(exhausted, "the one connection is in use")
    (refusal,) = refusals
    call.cancel()

    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "DRIVER_BUSY"
    wait_until(lambda: manager.loaded("spare").pool.active == 0, "it is free again")


def test_unloading_drains_then_removes_the_devices(manager: Manager) -> None:
    (manager.drivers / "slow.py").write_text(
        PLUGIN.read_text()
        .replace('.get("latency_s", 0.0)', '.get("latency_s", 1.5)')
        .replace('["lab_a", "lab_b"]', '["slow_a"]')
    )
    manager.wait_ready("slow")
    answers: list[object] = []
    caller = threading.Thread(
        target=lambda: answers.append(manager.execute("slow_a", job_id="slow"))
    )
    caller.start()
    manager.wait_running("slow")

    manager.stub.UnloadDriver(pb.UnloadDriverRequest(name="slow"), timeout=30)
    caller.join(20)

    (answer,) = answers
    assert sum(answer.counts.values()) == 100  # type: ignore[attr-defined]
    gone = refused(lambda: manager.execute("slow_a"))
    assert gone.code is grpc.StatusCode.NOT_FOUND
    (manager.drivers / "slow.py").unlink()


def test_a_changed_file_is_loaded_again_and_what_runs_ends(manager: Manager) -> None:
    path = manager.drivers / "hot.py"
    source = PLUGIN.read_text().replace('["lab_a", "lab_b"]', '["hot_a"]')
    path.write_text(source.replace('.get("latency_s", 0.0)', '.get("latency_s", 1.5)'))
    manager.wait_ready("hot")
    answers: list[object] = []
    caller = threading.Thread(
        target=lambda: answers.append(manager.execute("hot_a", shots=11, job_id="hot"))
    )
    caller.start()
    manager.wait_running("hot")

    path.write_text(source.replace('version = "1.0"', 'version = "2.0"'))

    wait_until(lambda: manager.info("hot").version == "2.0", "the new one is there")
    caller.join(20)
    (old,) = answers
    assert sum(old.counts.values()) == 11  # type: ignore[attr-defined]
    assert old.metadata["driver_version"] == "1.0"  # type: ignore[attr-defined]
    assert manager.execute("hot_a").metadata["driver_version"] == "2.0"
    path.unlink()
    wait_until(lambda: manager.info("hot") is None, "a file that is gone is unloaded")


def test_a_file_that_breaks_leaves_the_driver_that_runs(manager: Manager) -> None:
    path = manager.drivers / "frail.py"
    source = PLUGIN.read_text().replace('["lab_a", "lab_b"]', '["frail_a"]')
    path.write_text(source)
    manager.wait_ready("frail")

    path.write_text("this is no Python\n")

    wait_until(lambda: "frail" in manager.registry.failures, "the failure is noted")
    assert manager.execute("frail_a").counts
    path.unlink()
    wait_until(lambda: manager.info("frail") is None, "it is gone")


def test_a_new_version_that_cannot_start_at_first_is_tried_again(manager: Manager) -> None:
    path, source = manager.drivers / "spare.py", PLUGIN.read_text()
    manager.fault("initialize unavailable")

    path.write_text(source.replace('version = "1.0"', 'version = "2.0"'))
    wait_until(lambda: "spare" in manager.registry.failures, "the failure is noted")
    old = manager.info("spare").version
    manager.fault()

    wait_until(lambda: manager.info("spare").version == "2.0", "the new one is there")
    path.write_text(source)
    wait_until(lambda: manager.info("spare").version == "1.0", "the old one is there again")
    assert old == "1.0"
    assert "spare" not in manager.registry.failures


def test_a_file_that_breaks_breaks_no_new_connection(manager: Manager) -> None:
    """The driver that stays in place has one connection; the second one is made of the same."""
    path = manager.drivers / "steady.py"
    source = PLUGIN.read_text().replace('["lab_a", "lab_b"]', '["steady_a"]')
    path.write_text(source.replace('.get("latency_s", 0.0)', '.get("latency_s", 1.0)'))
    manager.wait_ready("steady")
    path.write_text("this is no Python\n")
    wait_until(lambda: "steady" in manager.registry.failures, "the failure is noted")
    pool = manager.loaded("steady").pool
    # The probe borrows one now and then.
    wait_until(lambda: pool.idle == 1, "one connection")

    calls = [
        manager.stub.ExecuteCircuit.future(circuit_for("steady_a"), timeout=30) for _ in range(2)
    ]

    assert [call.result().metadata["driver_version"] for call in calls] == ["1.0", "1.0"]
    wait_until(lambda: pool.idle == 2, "two connections")
    path.unlink()
    wait_until(lambda: manager.info("steady") is None, "it is gone")


def test_what_was_not_there_at_first_is_tried_again(manager: Manager) -> None:
    """A provider that is down when the manager starts is no provider that is down for ever."""
    manager.fault("initialize unavailable")
    path = manager.drivers / "late.py"
    path.write_text(PLUGIN.read_text().replace('["lab_a", "lab_b"]', '["late_a"]'))
    before = manager.config.read_text()
    late = f"drivers:\n  late: {{config: {{faults: {manager.faults}}}}}\n  lab:"
    manager.config.write_text(before.replace("drivers:\n  lab:", late))
    wait_until(lambda: "does not answer" in manager.registry.failures.get("late", ""), "it failed")
    info = manager.info("late")
    http_status, _ = manager.health()

    manager.fault()

    manager.wait_ready("late")
    assert (info.state, http_status) == ("failed", 503)
    path.unlink()
    manager.config.write_text(before)
    wait_until(lambda: manager.info("late") is None, "it is gone")


def test_a_folder_that_is_new_in_the_configuration_is_followed(manager: Manager) -> None:
    before, folder = manager.config.read_text(), manager.folder / "more"
    manager.config.write_text(
        before.replace("driver_paths: [drivers]", "driver_paths: [drivers, more]")
    )
    wait_until(lambda: len(manager.registry.config.driver_paths) == 2, "it is read")

    def driver(name: str) -> None:
        text = PLUGIN.read_text().replace('["lab_a", "lab_b"]', f'["{name}_a"]')
        (folder / f"{name}.py").write_text(text)

    folder.mkdir()
    driver("first")
    manager.wait_ready("first")
    driver("second")
    manager.wait_ready("second")
    (folder / "first.py").unlink()
    wait_until(lambda: manager.info("first") is None, "a file that is gone is unloaded")
    shutil.rmtree(folder)
    wait_until(lambda: manager.info("second") is None, "a folder that is gone is unloaded")

    manager.config.write_text(before)
    wait_until(lambda: len(manager.registry.config.driver_paths) == 1, "it is read again")
    assert manager.execute("lab_a").counts


def test_a_pool_that_is_new_in_the_configuration_is_used(manager: Manager) -> None:
    before = manager.config.read_text()

    manager.config.write_text(before.replace("{max_size: 1, wait_s: 1.0}", "{max_size: 3}"))
    wait_until(lambda: manager.info("spare").connections_max == 3, "it has the new pool")
    manager.config.write_text(before)

    wait_until(lambda: manager.info("spare").connections_max == 1, "it has the old pool again")


@pytest.mark.parametrize("written", ["driver_paths: [drivers]\npool: [\n", ""])
def test_a_configuration_that_breaks_changes_nothing(manager: Manager, written: str) -> None:
    """Nor does one that is being written."""
    before, lab = manager.config.read_text(), manager.loaded("lab")
    manager.config.write_text(written)
    path = manager.drivers / "other.py"
    path.write_text(PLUGIN.read_text().replace('["lab_a", "lab_b"]', '["other_a"]'))

    manager.wait_ready("other")

    assert manager.loaded("lab") is lab
    assert manager.execute("lab_a").counts
    path.unlink()
    manager.config.write_text(before)
    wait_until(lambda: manager.info("other") is None, "it is gone")


def test_a_driver_that_takes_long_to_start_keeps_nobody_waiting(manager: Manager) -> None:
    path = manager.drivers / "long.py"
    path.write_text("import time\ntime.sleep(4)\n" + PLUGIN.read_text())
    wait_until(lambda: manager.info("long") is not None, "it is being loaded")
    began = time.monotonic()

    state, health = manager.info("long").state, manager.health()
    load(manager, "spare")
    counts = manager.execute("lab_a").counts

    assert time.monotonic() - began < 3.5
    assert (state, health[0], health[1]["drivers"]["long"]) == ("loading", 503, "loading")
    assert counts
    wait_until(
        lambda: "lab_a" in manager.registry.failures.get("long", ""), "its devices are taken"
    )
    path.unlink()
    wait_until(lambda: manager.info("long") is None, "it is forgotten")


def test_a_device_that_may_still_come_is_worth_another_try(
    manager: Manager, database: EmbeddedValkey
) -> None:
    path = manager.drivers / "tardy.py"
    source = PLUGIN.read_text().replace('["lab_a", "lab_b"]', '["tardy_a"]')
    path.write_text("import time\ntime.sleep(3)\n" + source)
    wait_until(lambda: manager.info("tardy") is not None, "it is being loaded")
    with database.client() as client:
        before = len(list(client.scan_iter("job:*", count=1000)))

        refusal = refused(lambda: manager.execute("tardy_a"))

        kept = len(list(client.scan_iter("job:*", count=1000)))
    manager.wait_ready("tardy")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRIVER_UNAVAILABLE")
    assert "still being loaded" in refusal.message
    assert kept == before
    assert manager.execute("tardy_a").counts
    path.unlink()
    wait_until(lambda: manager.info("tardy") is None, "it is gone")
    gone = refused(lambda: manager.execute("tardy_a"))
    assert gone.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class D: pass\nDRIVER = D\n", "it has no initialize"),
        ("x = 1\n", "has no DRIVER"),
        ("import nothing_at_all\n", "No module named"),
        (
            PLUGIN.read_text().replace('["lab_a", "lab_b"]', '["Not An Id"]'),
            "is no id",
        ),
        (PLUGIN.read_text(), "which driver 'lab' owns"),
    ],
    ids=["no methods", "no driver", "no import", "no id", "a device that is taken"],
)
def test_what_is_no_driver_is_not_loaded(manager: Manager, source: str, message: str) -> None:
    path = manager.drivers / "bad.py"
    path.write_text(source)

    refusal = refused(lambda: load(manager, "bad"))
    path.unlink()

    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.reason == "DRIVER_INVALID"
    assert message in refusal.message
    noted = manager.info("bad")  # once: the watcher forgets it in its own time
    assert noted is None or noted.state == "failed"
    assert manager.execute("lab_a").counts
    wait_until(lambda: manager.info("bad") is None, "it is forgotten")


def test_a_driver_that_nobody_has(manager: Manager) -> None:
    loading = refused(lambda: load(manager, "nobody"))
    unloading = refused(
        lambda: manager.stub.UnloadDriver(pb.UnloadDriverRequest(name="nobody"), timeout=10)
    )

    assert (loading.code, loading.reason) == (grpc.StatusCode.NOT_FOUND, "DRIVER_NOT_FOUND")
    assert unloading.code is grpc.StatusCode.NOT_FOUND
