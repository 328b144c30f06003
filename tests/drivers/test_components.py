"""Pool, breakers, retries, caches, processes and configuration, each for itself."""

from __future__ import annotations

import os
import threading
import tomllib
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

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
from app.drivers.driver import BaseDriver
from app.drivers.metrics import DriverMetrics
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
    Refused,
    Source,
)
from app.drivers.registry import GROUP, DriverRegistry
from app.drivers.resilience import Breaker, BreakerOpen, ResilienceManager
from app.drivers.waits import Waits
from app.errors import ConfigurationInvalid, DriverBusy
from app.jobs.connection import connect_worker
from app.jobs.job import WorkerReport
from app.jobs.snapshot import Histogram, RedisFigures, Snapshot

from .manager import PLUGIN, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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


def test_a_drained_pool_gives_nothing_out() -> None:
    bench = Bench()
    with bench.pool.connection():
        assert not bench.pool.drain(0.01)

    assert bench.pool.drain(0.01)
    with pytest.raises(DriverBusy), bench.pool.connection():
        pass


# --- breakers and retries ---------------------------------------------------------------------

CONFIG = ResilienceConfig(
    retry=RetryConfig(attempts=3, first_wait_s=0.001, max_wait_s=0.002),
    breaker=BreakerConfig(fail_max=2, reset_timeout_s=0.1),
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
    told: list[tuple[str, str]] = []
    manager = ResilienceManager(CONFIG, on_retry=lambda *what: told.append(what))
    calls = Calls(DeviceDown("no"))

    assert call(manager, calls) == "answer"
    assert calls.made == 2
    assert told == [("lab", "unavailable")]


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
    manager = ResilienceManager(CONFIG)

    for _ in range(3):
        with pytest.raises(Fault):
            call(manager, Calls(*[DeviceDown("no")] * 3))

    assert manager.breaker("lab", "d").state == "open"
    assert manager.breaker("lab").state == "closed"
    assert call(manager, Calls(), device="other") == "answer"


def test_a_driver_that_dies_is_blamed_itself() -> None:
    manager = ResilienceManager(CONFIG)

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
        breaker.admit()
        breaker.record(DeviceDown("no"))
    with pytest.raises(BreakerOpen):
        breaker.admit()

    wait_until(lambda: _admits(breaker), "the time is over")
    assert breaker.state == "half-open"
    with pytest.raises(BreakerOpen):
        breaker.admit()

    breaker.record(DeviceDown("still"))
    assert breaker.state == "open"
    wait_until(lambda: _admits(breaker), "the time is over again")
    breaker.record(None)
    assert breaker.state == "closed"


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


# --- caches -----------------------------------------------------------------------------------


def test_metadata_is_asked_for_once() -> None:
    asked: list[int] = []
    cache = MetadataCache(MemoryStore(maxsize=4, ttl_s=60))

    def ask() -> str:
        asked.append(1)
        return "online"

    assert [cache.status("d", ask) for _ in range(3)] == ["online"] * 3
    assert (len(asked), cache.hits, cache.misses, cache.entries) == (1, 2, 1, 1)


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
        name="lab", source=str(PLUGIN), config={"faults": str(faults)}, memory_bytes=1 << 30
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


def test_a_driver_does_not_see_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFLEET_REDIS_URL", "redis://secret")
    monkeypatch.setenv("LAB_TOKEN", "for the driver")
    file = tmp_path / "spy.py"
    file.write_text(
        PLUGIN.read_text().replace(
            'return f"{device_id}-{os.getpid()}-{self._calibrations}"',
            'return ",".join(sorted(os.environ))',
        )
    )
    source = Source(name="spy", source=str(file), environment=("LAB_TOKEN",))

    spy = DriverProcess.started(source)
    seen = set(calibrate(spy).split(","))
    spy.close()

    assert "LAB_TOKEN" in seen
    assert not {name for name in seen if name.startswith(("QFLEET_", "REDIS_"))}


def test_a_change_within_a_second_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "quick.py"
    versions = []
    for version in ("1.0", "2.0", "3.0"):
        file.write_text(PLUGIN.read_text().replace('version = "1.0"', f'version = "{version}"'))
        os.utime(file, (1_000_000_000, 1_000_000_000))
        process = DriverProcess.started(Source(name="quick", source=str(file)))
        versions.append(process.version)
        process.close()

    assert versions == ["1.0", "2.0", "3.0"]


def test_what_is_no_driver_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "none.py"
    file.write_text("DRIVER = object\n")

    with pytest.raises(NotADriver, match="it has no initialize, get_devices"):
        DriverProcess.started(Source(name="none", source=str(file)))


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


def test_a_driver_of_a_package_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN.parent))

    assert isinstance(load("qfleet_lab:LabDriver"), BaseDriver)
