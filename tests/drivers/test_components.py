"""Pool, breakers, retries, caches, processes and configuration, each for itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import contextmanager, nullcontext
from http.client import HTTPConnection
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from structlog.testing import capture_logs

from app.config import ProgramLimits
from app.drivers.caches import Cache, MemoryStore, MetadataCache, RedisStore, ResultsCache
from app.drivers.child import load
from app.drivers.configuration import (
    BreakerConfig,
    PoolConfig,
    ResilienceConfig,
    RetryConfig,
    parse_configuration,
    read_configuration,
)
from app.drivers.driver import BaseDriver, Device, DeviceState
from app.drivers.execution import DriverSandbox, Translators
from app.drivers.loaded import LoadedDriver
from app.drivers.metrics import DriverMetrics, MetricsServer
from app.drivers.pool import ConnectionPool
from app.drivers.process import (
    DeviceDown,
    Died,
    DriverProcess,
    Fault,
    Hung,
    Killed,
    NotADriver,
    OutOfMemory,
    Overdue,
    Refused,
    Source,
)
from app.drivers.registry import GROUP, DriverRegistry
from app.drivers.resilience import Breaker, BreakerOpen, ResilienceManager
from app.drivers.waits import Waits
from app.drivers.worker import DriverWorker
from app.errors import (
    ConfigurationInvalid,
    DriverBusy,
    DriverUnavailable,
    SandboxUnavailable,
    Unavailable,
)
from app.executors import Resources
from app.jobs.connection import connect_worker
from app.jobs.job import WorkerReport
from app.jobs.snapshot import Histogram, RedisFigures, Snapshot
from app.primitives.programs import QASM3
from app.sandbox.protocol import Reply, Request, encode_frame

from .manager import PLUGIN, ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# --- the pool ---------------------------------------------------------------------------------


class FakeConnection:
    """A connection that does what the test says."""

    def __init__(self) -> None:
        self.pid = 0
        self.is_alive = True
        self.is_well = True
        self.closed = False

    def call(
        self, operation: str, body: bytes = b"", *, timeout_s: float, **header: object
    ) -> bool:
        assert operation == "health"
        return self.is_well

    def kill(self) -> None:
        self.is_alive = False

    def close(self) -> None:
        self.closed = True


class Bench:
    """A pool, its connections, and a clock."""

    def __init__(self, **config: Any) -> None:
        self.now = 0.0
        self.made: list[FakeConnection] = []
        values = {"max_size": 2, "wait_s": 0.05, "idle_timeout_s": 10, "health_check_after_s": 1}
        self.pool = ConnectionPool(
            driver="lab",
            config=PoolConfig(**(values | config)),
            connect=self._connect,
            clock=lambda: self.now,
        )

    def _connect(self) -> FakeConnection:
        self.made.append(FakeConnection())
        return self.made[-1]


def test_a_connection_is_used_again() -> None:
    bench = Bench()

    with bench.pool.connection() as first:
        assert (bench.pool.active, bench.pool.idle) == (1, 0)
    with bench.pool.connection() as second:
        assert second is first

    assert (bench.pool.active, bench.pool.idle) == (0, 1)


def test_an_exhausted_pool_waits_a_bounded_time() -> None:
    bench = Bench(max_size=1)

    with bench.pool.connection(), pytest.raises(DriverBusy) as caught, bench.pool.connection():
        pass

    assert caught.value.details["reason"] == "pool_exhausted"
    assert len(bench.made) == 1
    assert (bench.pool.active, bench.pool.idle) == (0, 1)


def test_who_waits_gets_what_comes_back() -> None:
    bench = Bench(max_size=1, wait_s=10)
    got = threading.Event()

    def wait() -> None:
        with bench.pool.connection():
            got.set()

    waiter = threading.Thread(target=wait)
    with bench.pool.connection():
        waiter.start()
        assert not got.is_set()
    waiter.join(5)

    assert got.is_set()
    assert len(bench.made) == 1


def test_an_unhealthy_connection_is_not_used_again() -> None:
    bench = Bench()
    with bench.pool.connection():
        pass
    bench.made[0].is_well = False

    with bench.pool.connection() as used:
        assert used is bench.made[0], "it was used a moment ago: it is not asked"
    bench.now = 2.0
    with bench.pool.connection() as used:
        assert used is bench.made[1]

    assert bench.made[0].closed


def test_a_dead_connection_is_not_kept() -> None:
    bench = Bench()

    with bench.pool.connection() as connection:
        connection.is_alive = False

    assert bench.made[0].closed
    assert bench.pool.idle == 0


def test_what_is_idle_for_long_is_closed_but_for_one() -> None:
    bench = Bench()
    with bench.pool.connection(), bench.pool.connection():
        pass

    bench.now = 11.0
    bench.pool.sweep()

    assert bench.pool.idle == 1
    assert sum(connection.closed for connection in bench.made) == 1


def test_a_connection_that_cannot_be_made_leaves_its_place() -> None:
    def fail() -> FakeConnection:
        raise Died("no")

    pool = ConnectionPool(driver="lab", config=PoolConfig(max_size=1, wait_s=0.05), connect=fail)

    for _ in range(3):
        with pytest.raises(Died), pool.connection():
            pass
    assert pool.active == 0


def test_a_connection_in_use_is_closed_by_its_user_only() -> None:
    """Two threads that speak through one connection hear each other's answers."""
    bench = Bench()

    with bench.pool.connection() as connection:
        bench.pool.close()
        assert not connection.is_alive
        assert not bench.made[0].closed

    assert bench.made[0].closed
    assert (bench.pool.active, bench.pool.idle) == (0, 0)


def test_a_drained_pool_gives_nothing_out() -> None:
    bench = Bench()
    with bench.pool.connection():
        assert not bench.pool.drain(0.01)

    assert bench.pool.drain(0.01)
    with pytest.raises(DriverBusy), bench.pool.connection():
        pass


def test_a_connection_that_is_made_when_the_pool_is_closed_is_closed() -> None:
    making, go_on = threading.Event(), threading.Event()
    made = FakeConnection()
    refused: list[str] = []

    def connect() -> FakeConnection:
        making.set()
        assert go_on.wait(5)
        return made

    pool = ConnectionPool(driver="lab", config=PoolConfig(max_size=1), connect=connect)

    def use() -> None:
        try:
            with pool.connection():
                pass
        except DriverBusy as exc:
            refused.append(str(exc.details["reason"]))

    user = threading.Thread(target=use)
    user.start()
    assert making.wait(5)
    pool.close()
    go_on.set()
    user.join(5)

    assert refused == ["draining"]
    assert made.closed
    assert (pool.active, pool.idle) == (0, 0)


# --- breakers and retries ---------------------------------------------------------------------

CONFIG = ResilienceConfig(
    retry=RetryConfig(attempts=3, first_wait_s=0.001, max_wait_s=0.002),
    breaker=BreakerConfig(fail_max=2, reset_timeout_s=0.5),
)
#: What is open stays open for longer than a test.
STAYS_OPEN = CONFIG.model_copy(
    update={"breaker": BreakerConfig(fail_max=2, reset_first_s=300, reset_timeout_s=300)}
)


class Calls:
    """A call that fails as often as the test says."""

    def __init__(self, *faults: Fault | None) -> None:
        self.faults = list(faults)
        self.made = 0

    def __call__(self) -> str:
        self.made += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        return "answer"


def call(
    manager: ResilienceManager, calls: Calls, *, device: str = "d", idempotent: bool = True
) -> str:
    return manager.call(calls, driver="lab", device=device, idempotent=idempotent, timeout_s=5)


def test_a_retry_helps_when_the_fault_passes() -> None:
    calls = Calls(DeviceDown("no"))

    with capture_logs() as logged:
        assert call(ResilienceManager(CONFIG), calls) == "answer"

    assert calls.made == 2
    (line,) = logged
    assert line["event"] == "driver_call_retried"
    assert (line["driver_name"], line["device_id"], line["reason"]) == ("lab", "d", "unavailable")


@pytest.mark.parametrize("fault", [Refused("no"), Fault("no", kind="raised"), Hung("no")])
def test_what_would_fail_again_is_not_tried_again(fault: Fault) -> None:
    calls = Calls(fault, None)

    with pytest.raises(type(fault)):
        call(ResilienceManager(CONFIG), calls)
    assert calls.made == 1


def test_what_must_not_happen_twice_is_not_tried_again() -> None:
    calls = Calls(DeviceDown("no"), None)

    with pytest.raises(DeviceDown):
        call(ResilienceManager(CONFIG), calls, idempotent=False)
    assert calls.made == 1


def test_the_device_is_blamed_for_its_own_faults_only() -> None:
    manager = ResilienceManager(STAYS_OPEN)

    for _ in range(3):
        with pytest.raises(Fault):
            call(manager, Calls(*[DeviceDown("no")] * 3))

    assert manager.breaker("lab", "d").state == "open"
    assert manager.breaker("lab").state == "closed"
    assert call(manager, Calls(), device="other") == "answer"


def test_a_driver_that_dies_is_blamed_itself() -> None:
    manager = ResilienceManager(STAYS_OPEN)

    for device in ("a", "b"):
        with pytest.raises(Fault):
            call(manager, Calls(Hung("no")), device=device)
    calls = Calls()

    with pytest.raises(BreakerOpen):
        call(manager, calls, device="c")
    assert calls.made == 0
    assert manager.breaker("lab").state == "open"


def test_a_refused_circuit_neither_opens_nor_closes() -> None:
    manager = ResilienceManager(CONFIG)

    for _ in range(5):
        with pytest.raises(Refused):
            call(manager, Calls(Refused("no")))

    assert manager.breaker("lab", "d").state == "closed"


def test_one_trial_at_a_time_decides() -> None:
    breaker = Breaker("d", CONFIG.breaker)
    for _ in range(2):
        breaker.record(DeviceDown("no"), is_trial=breaker.admit())
    with pytest.raises(BreakerOpen):
        breaker.admit()

    wait_until(lambda: _admits(breaker), "the time is over")
    assert breaker.state == "half-open"
    with pytest.raises(BreakerOpen):
        breaker.admit()

    breaker.record(DeviceDown("still"), is_trial=True)
    assert breaker.state == "open"
    wait_until(lambda: _admits(breaker), "the time is over again")
    breaker.record(None, is_trial=True)
    assert breaker.state == "closed"


def test_a_breaker_waits_longer_for_what_goes_on_failing() -> None:
    config = BreakerConfig(fail_max=1, reset_first_s=0.1, reset_timeout_s=0.3)
    breaker = Breaker("d", config)

    def closed_for() -> float:
        """The time until the breaker, which has just opened, lets a call through."""
        with pytest.raises(BreakerOpen) as caught:
            breaker.admit()
        return caught.value.again_s

    breaker.record(DeviceDown("no"), is_trial=breaker.admit())
    waits = [closed_for()]
    for _ in range(2):
        wait_until(lambda: _admits(breaker), "the time is over")
        breaker.record(DeviceDown("still"), is_trial=True)
        waits.append(closed_for())
    wait_until(lambda: _admits(breaker), "the time is over again")
    breaker.record(None, is_trial=True)
    breaker.record(DeviceDown("anew"), is_trial=breaker.admit())
    waits.append(closed_for())

    # Each was looked at a moment after the breaker had opened.
    assert waits[0] <= 0.1 < waits[1] <= 0.2 < waits[2] <= 0.3
    assert waits[3] <= 0.1


def test_only_the_trial_decides_not_what_began_before_it() -> None:
    breaker = Breaker("d", CONFIG.breaker)
    slow = [breaker.admit() for _ in range(3)]
    for _ in range(2):
        breaker.record(DeviceDown("no"), is_trial=breaker.admit())
    wait_until(lambda: _admits(breaker), "the time is over")

    breaker.record(None, is_trial=slow[0])
    breaker.record(DeviceDown("late"), is_trial=slow[1])
    breaker.withdraw(is_trial=slow[2])

    assert slow == [False] * 3
    assert breaker.state == "half-open"
    with pytest.raises(BreakerOpen):
        breaker.admit()
    breaker.record(None, is_trial=True)
    assert breaker.state == "closed"


def test_who_gives_up_does_not_wait_for_the_next_try() -> None:
    slowly = CONFIG.model_copy(
        update={"retry": RetryConfig(attempts=3, first_wait_s=50, max_wait_s=50)}
    )
    calls, stop = Calls(*[DeviceDown("no")] * 3), threading.Event()

    def ask() -> str:
        timer = threading.Timer(0.05, stop.set)
        timer.start()
        return calls()

    began = time.monotonic()
    with pytest.raises(DeviceDown):
        ResilienceManager(slowly).call(
            ask, driver="lab", device="d", idempotent=True, timeout_s=100, stop=stop
        )

    assert time.monotonic() - began < 20


def _admits(breaker: Breaker) -> bool:
    try:
        breaker.admit()
    except BreakerOpen:
        return False
    return True


def test_calls_through_one_breaker_do_not_wait_for_each_other() -> None:
    manager = ResilienceManager(CONFIG)
    both = threading.Barrier(2, timeout=5)

    def meet() -> str:
        both.wait()
        return "met"

    answers: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                manager.call(meet, driver="lab", device="d", idempotent=True, timeout_s=5)
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert answers == ["met", "met"]


# --- drivers ----------------------------------------------------------------------------------


def driver_of(source: Source, cache: MetadataCache, metrics: DriverMetrics) -> LoadedDriver:
    return LoadedDriver(
        source,
        pool=PoolConfig(max_size=1),
        config=CONFIG,
        resilience=ResilienceManager(CONFIG),
        cache=cache,
        metrics=metrics,
    )


@contextmanager
def loaded(
    faults: Path, cache: MetadataCache
) -> Iterator[tuple[LoadedDriver, Callable[[], float]]]:
    """The example, with one connection; and how often it was asked for a status."""
    metrics = DriverMetrics()
    source = Source(
        name="lab", source=str(PLUGIN), code=PLUGIN.read_bytes(), config={"faults": str(faults)}
    )
    driver = driver_of(source, cache, metrics)
    driver.start()

    def asked() -> float:
        labels = {"driver": "lab", "operation": "status", "status": "ok"}
        return metrics.registry.get_sample_value("eigen_driver_requests_total", labels) or 0

    try:
        yield driver, asked
    finally:
        driver.close()


# --- their jobs -------------------------------------------------------------------------------


class FakeDriver:
    """A driver with one device, of which the test says what becomes of a circuit."""

    version = revision = "1"
    name = "lab"
    is_ready = True

    def __init__(self, execute: Callable[[], dict[str, int]]) -> None:
        self.devices = {"lab_a": Device(id="lab_a", num_qubits=2)}
        self._execute = execute

    def status(self, _device_id: str) -> DeviceState:
        return DeviceState.ONLINE

    def execute(self, *_: object, **__: object) -> dict[str, int]:
        return self._execute()


class FakeTranslators:
    """A sandbox that has read a circuit of one bit."""

    @contextmanager
    def slot(self, _timeout_s: float) -> Iterator[FakeTranslators]:
        yield self

    def kill(self) -> None:
        raise AssertionError("nobody wants that")

    def run(self, **_: object) -> Reply:
        circuit = {"qasm3": "", "num_qubits": 1, "num_clbits": 1, "shots": 5}
        document = {"circuits": [circuit], "seed": None, "widths": [1]}
        return Reply(result=orjson.dumps(document), failure=None)


def request_for(device: str) -> Request:
    return Request(
        job_id="j",
        program_id=QASM3,
        target=device,
        executor="lab",
        params=b"",
        limits=ProgramLimits(),
        resources=Resources(threads=1, memory_bytes=1 << 30, max_result_bytes=1 << 20),
        attempt=1,
    )


def test_a_job_whose_driver_is_loaded_again_runs_on_the_new_one() -> None:
    now: list[FakeDriver] = []

    def leave() -> dict[str, int]:
        now[0] = FakeDriver(lambda: {"0": 5})
        raise DriverUnavailable("driver 'lab' is draining")

    now.append(FakeDriver(leave))
    sandbox = DriverSandbox(
        driver="lab",
        translators=FakeTranslators(),  # type: ignore[arg-type]
        find=lambda device: (now[0], device),  # type: ignore[return-value, arg-type]
        fallbacks=lambda _: (),
        results=ResultsCache(None),
        resolve=lambda _: None,
    )

    reply = sandbox.run(owner="o", request=request_for("lab_a"), time_limit_s=5)

    assert reply.result is not None
    assert orjson.loads(reply.result)["counts"] == {"0": 5}


def test_translators_that_were_ended_do_not_start_again() -> None:
    translators = Translators(lambda: pytest.fail("they were ended"))
    translators.close()

    with pytest.raises(SandboxUnavailable), translators.slot(1):
        pass


def test_a_wake_up_that_comes_with_the_end_of_a_driver_is_passed_on() -> None:
    served: list[bool] = []
    stop: list[Callable[[float], None]] = []

    class Claims:
        def await_wakeup(self, *, executors: tuple[str, ...], timeout_s: float) -> str:
            ending = threading.Thread(target=stop[0], args=(1.0,))
            ending.start()
            assert worker._stop.wait(5)
            return executors[0]

        def leave(self) -> None:
            """Nobody hears it."""

    class TheRunner:
        def serve(self, _executor: str) -> None:
            served.append(worker._stop.is_set())

        def drain(self, _timeout_s: float) -> None:
            """Nothing runs."""

    class TheSweeper:
        def tick(self) -> None:
            """Nobody hears it."""

        def keep(self, stop: threading.Event) -> None:
            stop.wait(5)

        listen = keep

    worker = DriverWorker(
        driver="lab",
        slots=1,
        claims=Claims(),  # type: ignore[arg-type]
        runner=TheRunner(),  # type: ignore[arg-type]
        sweeper=TheSweeper(),  # type: ignore[arg-type]
    )
    stop.append(worker.stop)

    worker.start()
    for thread in worker._slots:
        thread.join(5)

    assert served == [False, True]


# --- caches -----------------------------------------------------------------------------------


def test_metadata_is_asked_for_once(tmp_path: Path) -> None:
    cache = MetadataCache(MemoryStore(maxsize=4, ttl_s=60))
    with loaded(tmp_path / "faults", cache) as (driver, asked):
        assert [driver.status("lab_a") for _ in range(3)] == [DeviceState.ONLINE] * 3

    assert asked() == 1
    assert (cache.hits, cache.misses, cache.entries) == (2, 1, 1)


def test_who_cannot_ask_at_once_is_told_what_was_true_last(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    faults.write_text("status lab_a offline")
    with loaded(faults, MetadataCache(None)) as (driver, asked):
        assert driver.status("lab_a") is DeviceState.OFFLINE
        faults.write_text("")

        with driver.pool.connection():
            began = time.monotonic()
            assert driver.status("lab_a") is DeviceState.OFFLINE
            assert driver.status("lab_b") is DeviceState.ONLINE
            assert time.monotonic() - began < 1, "it does not wait for a connection"

        assert driver.status("lab_a") is DeviceState.ONLINE
        assert asked() == 2


def test_impatience_with_a_calibration_is_no_fault(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    faults.write_text("calibrate hang")
    with loaded(faults, MetadataCache(None)) as (driver, _):
        for _ in range(6):
            with pytest.raises(DriverUnavailable) as caught:
                driver.calibrate("lab_a", 0.05)
            assert caught.value.details["reason"] == "overdue"

        assert driver.is_ready
        assert driver.status("lab_a") is DeviceState.ONLINE


def test_a_process_that_dies_costs_no_other_call(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    with loaded(faults, MetadataCache(None)) as (driver, _):
        faults.write_text("calibrate die")
        with pytest.raises(DriverUnavailable):
            driver.calibrate("lab_a", 10)
        left = driver.pool.idle
        faults.unlink()

        reference = driver.calibrate("lab_b", 10)
        driver.probe()

    assert left == 0
    assert reference.startswith("lab_b-")
    assert driver.restarts == 1


def test_a_device_that_is_missing_after_a_restart_can_come_back(tmp_path: Path) -> None:
    fewer, faults = tmp_path / "fewer", tmp_path / "faults"
    faults.write_text("calibrate die")
    code = PLUGIN.read_text().replace(
        "for name in self._names",
        f"for name in (self._names[:1] if Path({str(fewer)!r}).exists() else self._names)",
    )
    config = {"faults": str(faults)}
    source = Source(name="lab", source="lab.py", code=code.encode(), config=config)
    driver = driver_of(source, MetadataCache(None), DriverMetrics())
    driver.start()

    def devices_after_a_death() -> set[str]:
        with pytest.raises(DriverUnavailable):
            driver.calibrate("lab_a", 10)
        driver.probe()
        return set(driver.devices)

    fewer.touch()
    missing = devices_after_a_death()
    fewer.unlink()
    back = devices_after_a_death()
    driver.close()

    assert missing == {"lab_a"}
    assert back == {"lab_a", "lab_b"}
    assert driver.owned == back, "nobody else may have it meanwhile"


def test_a_status_that_kills_is_not_followed_by_others(tmp_path: Path) -> None:
    """A driver may have 256 devices: every probe would cost as many processes."""
    healthy, fault = 'offline = self._fault("status", device_id)', "os._exit(3)"
    code = PLUGIN.read_text().replace(
        healthy, f'device_id == "lab_a" and {fault}\n        {healthy}'
    )
    source = Source(name="lab", source="lab.py", code=code.encode())
    driver = driver_of(source, MetadataCache(None), DriverMetrics())
    driver.start()

    first, other, left = driver.status("lab_a"), driver.status("lab_b"), driver.pool.idle
    driver.probe()
    driver.close()

    assert (first, other) == (DeviceState.ERROR, DeviceState.ONLINE)
    assert left == 0, "nobody else was asked"
    assert driver.restarts == 1


def test_who_has_no_time_left_costs_no_process(tmp_path: Path) -> None:
    with loaded(tmp_path / "faults", MetadataCache(None)) as (driver, _):
        with pytest.raises(Overdue):
            driver.execute(
                "lab_a",
                {"qasm3": "", "num_qubits": 1, "num_clbits": 1, "shots": 1},
                {},
                timeout_s=0.0,
                stoppable=lambda _stop: nullcontext(),
                stop=threading.Event(),
                job_id="",
            )

        assert driver.pool.idle == 1


def test_a_driver_of_which_no_process_starts_has_failed(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    with loaded(faults, MetadataCache(None)) as (driver, _):
        faults.write_text("calibrate die\ninitialize raise")
        with pytest.raises(DriverUnavailable):
            driver.calibrate("lab_a", 10)

        driver.probe()
        failed, why = driver.state, driver.error
        driver.probe()  # too early
        restarts = driver.restarts
        faults.unlink()
        wait_until(lambda: driver.probe() or driver.is_ready, "it is started again")

    assert failed == "failed"
    assert "the control software has a bug" in why
    assert (restarts, driver.restarts) == (0, 1)


def test_a_file_that_changes_changes_no_driver_that_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "lab.py"
    file.write_bytes(PLUGIN.read_bytes())
    source = Source(name="lab", source=str(file), code=file.read_bytes())
    one = DriverProcess.started(source)
    file.write_text("this is no Python\n")

    other = DriverProcess.started(source)

    assert other.version == one.version == "1.0"
    for process in (one, other):
        process.close()


def test_results_of_another_file_are_other_results(tmp_path: Path) -> None:
    def revision(code: bytes, **config: object) -> str:
        source = Source(name="lab", source="lab.py", code=code, config=config)
        return driver_of(source, MetadataCache(None), DriverMetrics()).revision

    assert revision(b"a") == revision(b"a")
    assert len({revision(b"a"), revision(b"b"), revision(b"a", qubits=3)}) == 3
    # Nobody knows what changes in a package.
    assert revision(b"") != revision(b"")


def test_entries_end_after_their_time() -> None:
    cache = Cache(MemoryStore(maxsize=4, ttl_s=0.05))
    cache.put("k", b"v")

    assert cache.get("k") == b"v"
    wait_until(lambda: cache.get("k") is None, "it is gone")


def test_a_cache_of_size_two_holds_two() -> None:
    store = MemoryStore(maxsize=2, ttl_s=60)
    for key in "abc":
        store.put(key, b"v")

    assert len(store) == 2


def test_results_are_told_apart() -> None:
    one = ResultsCache.key(owner="a", device="d", circuits=["c"], seed=1)

    assert one == ResultsCache.key(device="d", owner="a", circuits=["c"], seed=1)
    assert one != ResultsCache.key(owner="b", device="d", circuits=["c"], seed=1)
    assert one != ResultsCache.key(owner="a", device="d", circuits=["c"], seed=2)


def test_results_in_redis_are_shared_and_expire(redis_url: str) -> None:
    client = connect_worker(redis_url)
    ours, theirs = (ResultsCache(RedisStore(client=client, ttl_s=30)) for _ in range(2))

    ours.remember("k", [{"00": 1}])

    assert theirs.counts("k") == [{"00": 1}]
    assert 0 < client.pttl("driver-cache:k") <= 30_000
    client.close()


def test_a_cache_that_does_not_answer_is_empty() -> None:
    client = connect_worker("redis://127.0.0.1:1/0")
    cache = ResultsCache(RedisStore(client=client, ttl_s=30))

    cache.remember("k", [{"0": 1}])

    assert cache.counts("k") is None
    client.close()


# --- processes --------------------------------------------------------------------------------


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    return tmp_path / "faults"


@pytest.fixture
def process(faults: Path) -> Iterator[DriverProcess]:
    source = Source(
        name="lab",
        source=str(PLUGIN),
        code=PLUGIN.read_bytes(),
        config={"faults": str(faults)},
        memory_bytes=1 << 30,
    )
    started = DriverProcess.started(source)
    yield started
    started.kill()
    started.reap()


def calibrate(process: DriverProcess, timeout_s: float = 10) -> Any:
    return process.call("calibrate", timeout_s=timeout_s, device_id="lab_a")


def test_a_process_answers(process: DriverProcess) -> None:
    devices = process.call("devices", timeout_s=5)

    assert [device["id"] for device in devices] == ["lab_a", "lab_b"]
    assert process.version == "1.0"
    assert calibrate(process) == f"lab_a-{process.pid}-1"


@pytest.mark.parametrize(
    ("fault", "error"),
    [("raise", Fault), ("unavailable", DeviceDown), ("die", Died), ("leak", OutOfMemory)],
)
def test_every_fault_has_a_name(
    process: DriverProcess, faults: Path, fault: str, error: type[Fault]
) -> None:
    faults.write_text(f"calibrate {fault}")

    with pytest.raises(Fault) as caught:
        calibrate(process, 30)

    assert type(caught.value) is error
    # What it has leaked goes with it.
    assert process.is_alive is (not error.fatal)


def test_a_hanging_process_is_killed(process: DriverProcess, faults: Path) -> None:
    faults.write_text("calibrate hang")

    with pytest.raises(Hung):
        calibrate(process, 0.2)

    wait_until(lambda: not process.is_alive, "it is dead")


def test_a_call_can_be_stopped_from_another_thread(process: DriverProcess, faults: Path) -> None:
    faults.write_text("calibrate hang")
    threading.Timer(0.2, process.kill).start()

    with pytest.raises(Killed):
        calibrate(process, 30)


def test_a_driver_does_not_see_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_REDIS_URL", "redis://secret")
    monkeypatch.setenv("LAB_TOKEN", "for the driver")
    code = PLUGIN.read_text().replace(
        'return f"{device_id}-{os.getpid()}-{self._calibrations}"',
        'return ",".join(sorted(os.environ))',
    )
    source = Source(name="spy", source="spy.py", code=code.encode(), environment=("LAB_TOKEN",))

    spy = DriverProcess.started(source)
    seen = set(calibrate(spy).split(","))
    spy.close()

    assert "LAB_TOKEN" in seen
    assert not {name for name in seen if name.startswith(("QFLEET_", "REDIS_"))}


def test_what_a_driver_writes_is_logged_line_by_line(tmp_path: Path) -> None:
    code = PLUGIN.read_bytes().replace(
        b"self._calibrations += 1", b"self._calibrations += 1; print('one\\ntwo')"
    )
    with capture_logs() as logged:
        process = DriverProcess.started(Source(name="loud", source="loud.py", code=code))
        calibrate(process)
        process.close()
        wait_until(lambda: any(line.get("line") == "two" for line in logged), "it is logged")

    lines = [line for line in logged if line["event"] == "driver_wrote"]
    assert [line["line"] for line in lines] == ["one", "two"]
    assert lines[0]["driver_name"] == "loud"


def test_too_large_an_answer_is_refused_and_costs_no_process() -> None:
    code = PLUGIN.read_bytes().replace(b'return f"{device_id}-', b'return "x" * 20_000_000 + f"')
    process = DriverProcess.started(Source(name="wide", source="wide.py", code=code))

    with pytest.raises(Fault, match="at most 16777216 are allowed"):
        calibrate(process)

    assert process.is_alive
    process.close()


def test_a_message_that_is_no_unicode_is_told_all_the_same() -> None:
    code = PLUGIN.read_bytes().replace(b'"the control software has a bug"', b'"\\udcff is no text"')
    code = code.replace(b"match self._fault(operation, device_id):", b'match "raise":', 1)
    code = code.replace(b'self._misbehave("initialize")', b"pass")
    process = DriverProcess.started(Source(name="odd", source="odd.py", code=code))

    with pytest.raises(Fault, match=r"RuntimeError: \? is no text"):
        calibrate(process)

    process.close()


def test_a_plugin_cannot_answer_for_the_process() -> None:
    """It shares the socket with us: what it writes there is no answer of ours."""
    frame = encode_frame({"error": "made up", "message": ["no text"]}, b"")
    code = PLUGIN.read_bytes().replace(b"self._calibrations += 1", b"os.write(3, %r)" % frame)
    process = DriverProcess.started(Source(name="sly", source="sly.py", code=code))

    with pytest.raises(Died, match="answered calibrate with something else"):
        calibrate(process)

    assert not process.is_alive
    process.close()


def test_what_a_driver_has_started_ends_with_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = PLUGIN.read_bytes().replace(
        b"self._calibrations += 1",
        b"import subprocess; child = subprocess.Popen(['sleep', '1000']);"
        b" Path(%r).write_text(str(child.pid)); os._exit(3)" % str(told),
    )
    process = DriverProcess.started(Source(name="parent", source="parent.py", code=code))

    with pytest.raises(Died):
        calibrate(process)
    process.close()

    wait_until(lambda: not _runs(int(told.read_text())), "the child is gone")


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


HOLDS = """
import sys
from app.drivers.process import DriverProcess, Source
code = sys.stdin.buffer.read()
process = DriverProcess.started(Source(name="lab", source="lab.py", code=code))
print(process.pid, flush=True)
process.call("calibrate", timeout_s=1000, device_id="lab_a")
"""


def test_a_driver_that_hangs_does_not_outlive_a_manager_that_is_killed(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    code = PLUGIN.read_bytes().replace(
        b"self._calibrations += 1", b"Path(%r).touch(); time.sleep(1000)" % str(hangs)
    )
    manager = subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert manager.stdin is not None
    assert manager.stdout is not None
    with manager.stdin, manager.stdout:
        manager.stdin.write(code)
        manager.stdin.close()
        pid = int(manager.stdout.readline())
    wait_until(hangs.exists, "it hangs")
    assert _runs(pid)

    manager.kill()
    manager.wait()

    wait_until(lambda: not _runs(pid), "the driver is gone", 10)


def test_no_time_is_too_long_for_a_call(process: DriverProcess) -> None:
    assert calibrate(process, 1e15)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"DRIVER = object\n", "it has no initialize, get_devices"),
        (b"raise SystemExit\n", "it cannot be made: SystemExit"),
        (b"\xff", "it cannot be made: SyntaxError"),
        (b"", "has no DRIVER"),
    ],
)
def test_what_is_no_driver_does_not_start(code: bytes, message: str) -> None:
    with pytest.raises(NotADriver, match=message):
        DriverProcess.started(Source(name="none", source="none.py", code=code))


# --- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("pool:\n  max_size: 0\n", 2, "pool.max_size"),
        ("pool: {}\nresilience:\n  retry:\n    attempts: many\n", 4, "resilience.retry.attempts"),
        ("caches:\n  backend: disk\n", 2, "caches.backend"),
        ("# nothing\n\nspeed: 1\n", 3, "speed"),
        ("drivers:\n  lab:\n    colour: red\n", 3, "drivers.lab.colour"),
        ("drivers:\n  Lab: {}\n", 1, "drivers"),
        ("pool: {}\npool: {}\n", 2, "pool"),
        ("fallback_devices:\n  a: [a]\n", 1, "fallback_devices"),
        ("pool: [\n", 2, ""),
        ("- 1\n", 1, "the file"),
        ("pool:\n  ? [a]\n  : 1\n", 2, "a key must be a word"),
        ("drivers: &a\n  lab: {config: *a}\n", 2, "*a: aliases are not read"),
        ("drivers:\n  lab: {config: {1: 2}}\n", 2, "drivers.lab.config"),
        ("monitoring: {probe_s: .inf}\n", 1, "monitoring.probe_s"),
        ("resilience:\n  drain_s: 1e300\n", 2, "resilience.drain_s"),
        ("pool: {max_size: .nan}\n", 1, "pool.max_size"),
    ],
)
def test_a_fault_of_the_configuration_names_line_and_key(
    tmp_path: Path, text: str, line: int, key: str
) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        parse_configuration(text, "driver_manager.yaml", folder=tmp_path)

    assert caught.value.message.startswith(f"driver_manager.yaml: line {line}: ")
    assert key in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="cannot be read"):
        read_configuration(tmp_path / "none.yaml")


def test_without_a_file_there_are_no_drivers() -> None:
    assert read_configuration(None).driver_paths == ()


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "dm.yaml").write_text("driver_paths: [plugins]\n")

    assert read_configuration(tmp_path / "dm.yaml").driver_paths == (tmp_path / "plugins",)


# --- waits ------------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_wait_is_measured() -> None:
    now, jobs, seconds = 0.0, 10, 100.0

    async def snapshot() -> Snapshot:
        histogram = Histogram(buckets=(jobs,), sum_s=seconds)
        figures = RedisFigures(
            connected_clients=0,
            used_memory_bytes=0,
            used_memory_human="",
            max_memory_bytes=0,
            total_commands_processed=0,
        )
        return Snapshot(
            counters={},
            histograms={("job_run_seconds", ("lab",)): histogram},
            queues={},
            redis=figures,
        )

    async def workers() -> tuple[WorkerReport, ...]:
        return (
            WorkerReport(id="w", host="", pid=1, executors=("lab",), slots=2, busy=0, versions={}),
        )

    waits = Waits(snapshot=snapshot, workers=workers, clock=lambda: now)

    assert await waits.of("lab", 0) == 0
    assert await waits.of("lab", 4) == 20, "4 jobs of 10 s in 2 slots"
    assert await waits.of("other", 4) == 0, "nobody knows"
    now, jobs, seconds = 10.0, 20, 120.0
    assert await waits.of("lab", 4) == 4, "the last ten took 2 s each"


@pytest.mark.anyio
async def test_who_comes_during_the_first_measurement_waits_for_it() -> None:
    answers, measurements = asyncio.Event(), 0

    async def snapshot() -> Snapshot:
        nonlocal measurements
        measurements += 1
        await answers.wait()
        raise Unavailable("Redis does not answer")

    waits = Waits(snapshot=snapshot, workers=lambda: pytest.fail("there was no answer"))
    asked = [asyncio.create_task(waits.of("lab", 1)) for _ in range(3)]
    await asyncio.sleep(0)
    at_once = measurements
    answers.set()

    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, Unavailable)
    assert at_once == 1


# --- metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_health_is_told_on_any_address(host: str) -> None:
    server = MetricsServer(
        host=host, port=0, metrics=DriverMetrics(), health=lambda: {"ready": False}
    )
    server.start()
    connection = HTTPConnection(host, server.port, timeout=5)

    connection.request("GET", "/healthz")
    answer = connection.getresponse()

    assert (answer.status, answer.read()) == (503, b'{"ready":false}')
    connection.close()
    server.stop()


# --- finding drivers --------------------------------------------------------------------------


def test_drivers_are_found_in_folders_packages_and_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tomllib.loads((PLUGIN.parent / "pyproject.toml").read_text())
    group = package["project"]["entry-points"][GROUP]
    entries = [EntryPoint(name, value, GROUP) for name, value in group.items()]
    monkeypatch.setattr(
        "app.drivers.registry.entry_points", lambda group: entries if group == GROUP else []
    )
    (tmp_path / "plugins").mkdir()
    for name in ("one.py", "two.py", "_no_driver.py"):
        (tmp_path / "plugins" / name).write_text("")
    config = parse_configuration(
        "driver_paths: [plugins]\n"
        "drivers:\n  two: {enabled: false}\n  three: {source: 'package:Three', config: {a: 1}}\n",
        "driver_manager.yaml",
        folder=tmp_path,
    )
    registry = DriverRegistry(
        path=None,
        config=config,
        resilience=ResilienceManager(CONFIG),
        cache=MetadataCache(None),
        metrics=DriverMetrics(),
        employ=lambda *_: pytest.fail("nothing is loaded"),
        taken=(),
    )

    sources = registry.sources()

    assert {name: source.source for name, source in sources.items()} == {
        "lab": "qfleet_lab:LabDriver",
        "one": str(tmp_path / "plugins" / "one.py"),
        "three": "package:Three",
    }
    assert sources["three"].config == {"a": 1}


class FakeWorker:
    """Who takes a driver's jobs: there is one that lasts until somebody has no more patience."""

    def __init__(self, started: Callable[[], object]) -> None:
        self._started = started
        self.announced_before: object = "never"
        self.found: object = None
        self.drains: list[float] = []
        self._over = threading.Event()

    def announce(self) -> None:
        self.announced_before = self._started()

    def start(self) -> None:
        self.found = self._started()

    def report(self, report: WorkerReport) -> None:
        """Nobody reads it."""

    def stop(self, drain_s: float) -> None:
        self.drains.append(drain_s)
        self._over.wait(drain_s)
        self._over.set()


@pytest.fixture
def registry_of_lab(tmp_path: Path) -> Iterator[tuple[DriverRegistry, list[FakeWorker]]]:
    """A registry that has loaded the example, and the workers of what it has loaded."""
    workers: list[FakeWorker] = []

    def employ(*_: object) -> FakeWorker:
        workers.append(FakeWorker(lambda: registry.find("lab_a")))
        return workers[-1]

    config = parse_configuration(
        f"drivers: {{lab: {{source: '{PLUGIN}'}},"
        f" spare: {{source: '{PLUGIN}', config: {{devices: [spare_a]}}}}}}\n"
        "entry_points: false\nresilience: {drain_s: 0.1}\n",
        "driver_manager.yaml",
        folder=tmp_path,
    )
    registry = DriverRegistry(
        path=None,
        config=config,
        resilience=ResilienceManager(CONFIG),
        cache=MetadataCache(None),
        metrics=DriverMetrics(),
        employ=employ,
        taken=(),
    )
    registry.load("lab")
    yield registry, workers
    registry.stop()


def test_the_first_job_of_a_new_driver_runs_on_it(
    registry_of_lab: tuple[DriverRegistry, list[FakeWorker]],
) -> None:
    registry, workers = registry_of_lab
    old = registry.driver("lab")

    new = registry.load("lab")

    assert [worker.found for worker in workers] == [(old, "lab_a"), (new, "lab_a")]
    assert workers[0].drains == [0.1]


def test_a_driver_is_shown_when_the_fleet_knows_it(
    registry_of_lab: tuple[DriverRegistry, list[FakeWorker]],
) -> None:
    registry, workers = registry_of_lab
    old = registry.driver("lab")

    registry.load("lab")

    assert [worker.announced_before for worker in workers] == [None, (old, "lab_a")]


def test_a_driver_whose_worker_does_not_start_replaces_no_other(
    registry_of_lab: tuple[DriverRegistry, list[FakeWorker]], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, workers = registry_of_lab
    old = registry.driver("lab")

    def fail(_: FakeWorker) -> None:
        raise RuntimeError("there can be no more threads")

    monkeypatch.setattr(FakeWorker, "start", fail)

    with pytest.raises(RuntimeError):
        registry.load("lab")

    assert registry.driver("lab") is old
    assert old.is_ready
    assert workers[0].drains == []


def test_the_end_does_not_wait_for_who_unloads_patiently(
    registry_of_lab: tuple[DriverRegistry, list[FakeWorker]],
) -> None:
    registry, workers = registry_of_lab
    patient = threading.Thread(target=registry.unload, args=("lab", 3600))
    patient.start()
    wait_until(lambda: workers[0].drains, "it drains")
    end = threading.Thread(target=registry.stop, daemon=True)

    end.start()
    end.join(10)
    is_over = not end.is_alive()
    workers[0]._over.set()
    patient.join(10)

    assert is_over
    assert workers[0].drains[:2] == [3600, 0.1]
    assert not patient.is_alive()
    assert registry.states == {}


def test_at_the_end_a_driver_stays_while_jobs_of_others_run(
    registry_of_lab: tuple[DriverRegistry, list[FakeWorker]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be their fallback."""
    registry, workers = registry_of_lab
    spare = registry.load("spare")
    go_on, monitor = threading.Event(), threading.Event()
    patient, stop = workers[0], FakeWorker.stop

    def slowly(worker: FakeWorker, drain_s: float) -> None:
        if worker is patient:
            assert go_on.wait(20)
        stop(worker, drain_s)

    monkeypatch.setattr(FakeWorker, "stop", slowly)
    end = threading.Thread(target=registry.stop)

    end.start()
    wait_until(workers[1]._over.is_set, "no job of the spare runs")
    # Long enough for it to go, if it went.
    monitor.wait(0.5)
    stayed = spare.is_ready
    go_on.set()
    end.join(10)

    assert stayed
    assert spare.state == "unloaded"
    assert registry.states == {}


def test_a_driver_of_a_package_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN.parent))

    assert isinstance(load("qfleet_lab:LabDriver"), BaseDriver)
