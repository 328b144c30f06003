"""What the clock makes a worker do, on a real store."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from app.jobs.claims import REAP_MOST, Busy, ClaimStore
from app.jobs.connection import connect_worker
from app.jobs.job import WorkerReport
from app.sweeper import Sweeper
from tests.chaos.proxy import Proxy
from tests.integration.fleet import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from app.local.valkey import EmbeddedValkey

REPORT = WorkerReport(
    id="w", host="h", pid=1, executors=("aer",), slots=2, busy=0, versions={"qiskit": "2"}
)


class RecordingRunner:
    """Says what is busy; notes what is killed."""

    def __init__(self, *busy: Busy) -> None:
        self._busy = busy
        self.killed: list[tuple[str, str, int | None]] = []
        self.heard = threading.Event()

    def busy(self) -> tuple[Busy, ...]:
        return self._busy

    def learn(self, live: dict[str, int], worth_from: dict[str, int]) -> None:
        self.live, self.worth_from = live, worth_from

    def kill(self, slot_name: str, job_id: str, attempt: int | None = None) -> bool:
        self.killed.append((slot_name, job_id, attempt))
        self.heard.set()
        return True


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect_worker(redis_url) as client:
        yield client


def sweeper(
    client: redis.Redis,
    runner: RecordingRunner,
    heartbeat: Path | None = None,
    beat_s: float = 0.01,
) -> Sweeper:
    claims = ClaimStore(
        client=client,
        worker="w",
        lease_s=15,
        wakeup_cap=4,
        max_attempts=5,
        max_crashes=3,
        retention_s=1000,
    )
    return Sweeper(
        claims=claims,
        client=client,
        runner=runner,  # type: ignore[arg-type]
        report=REPORT,
        wakeups={"aer": "{}"},
        beat_s=beat_s,
        heartbeat_file=heartbeat,
    )


def test_a_tick_reports_the_worker_and_how_busy_it_is(client: redis.Redis) -> None:
    sweeper(client, RecordingRunner(Busy(slot="0", job_id="none", attempt=1))).tick()
    assert b'"busy": 1' in client.get("worker:w")


def test_a_tick_deletes_all_that_has_expired(client: redis.Redis) -> None:
    """More than one reap takes: else a busy fleet keeps what it has promised to delete."""
    client.zadd("expiry", {f"job-{i}": 1 for i in range(2 * REAP_MOST + 1)})
    client.zadd("expiry", {"later": 1e15})

    sweeper(client, RecordingRunner(), beat_s=20).tick()

    assert client.zrange("expiry", 0, -1) == [b"later"]


def test_a_tick_tells_the_runner_who_lives(client: redis.Redis) -> None:
    runner = RecordingRunner()
    sweeper(client, runner).tick()
    assert runner.live == {"aer": 0}
    assert runner.worth_from == {}


def test_a_tick_kills_what_is_no_longer_ours(client: redis.Redis) -> None:
    runner = RecordingRunner(Busy(slot="0", job_id="gone", attempt=1))
    sweeper(client, runner).tick()
    assert runner.killed == [("0", "gone", 1)]


def test_the_heartbeat_file_is_touched_even_while_redis_is_away(tmp_path: Path) -> None:
    heartbeat, stop = tmp_path / "heartbeat", threading.Event()
    away = connect_worker("redis://127.0.0.1:1/0")
    stop.set()

    sweeper(away, RecordingRunner(), heartbeat).keep(stop)

    assert heartbeat.exists()
    away.close()


def test_a_heartbeat_file_that_cannot_be_written_stops_no_heartbeat(
    client: redis.Redis, tmp_path: Path
) -> None:
    stop, beats = threading.Event(), sweeper(client, RecordingRunner(), tmp_path / "none" / "file")
    keeping = threading.Thread(target=beats.keep, args=(stop,))
    keeping.start()
    for _ in range(3):
        while client.delete("worker:w") == 0:
            assert keeping.is_alive()
            stop.wait(0.01)

    stop.set()
    keeping.join(10)
    assert not keeping.is_alive()


def test_a_cancellation_reaches_the_slot_it_names(client: redis.Redis) -> None:
    runner, stop = RecordingRunner(), threading.Event()
    listening = threading.Thread(target=sweeper(client, runner).listen, args=(stop,))
    listening.start()
    while client.publish("cancel", "other:0 foreign") == 0:
        stop.wait(0.01)

    client.publish("cancel", "w:1 job")

    assert runner.heard.wait(10)
    stop.set()
    listening.join(10)
    assert runner.killed == [("1", "job", None)]


def test_a_subscription_that_hears_nothing_is_made_again(
    valkey_server: EmbeddedValkey, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.sweeper.LISTEN_S", 0.05)
    monkeypatch.setattr("app.sweeper.SILENCE_S", 0.5)
    proxy, stop, runner = Proxy(valkey_server.port), threading.Event(), RecordingRunner()
    far = connect_worker(redis_url.replace(f":{valkey_server.port}/", f":{proxy.port}/"))
    listening = threading.Thread(target=sweeper(far, runner).listen, args=(stop,))
    with connect_worker(redis_url) as near:
        listening.start()
        wait_until(lambda: near.publish("cancel", "other:0 foreign") == 1, 10, "it listens")
        before = proxy.connections

        proxy.deafen()

        wait_until(lambda: proxy.connections > before, 10, "it does not trust the silence")
        proxy.heal()
        # The server may count the line that has gone for a moment.
        wait_until(
            lambda: near.publish("cancel", "w:1 job") > 0 and runner.heard.wait(0.2),
            10,
            "it listens again",
        )
    stop.set()
    listening.join(20)
    far.close()
    proxy.close()


def test_a_broken_subscription_is_made_again(client: redis.Redis) -> None:
    runner, stop = RecordingRunner(), threading.Event()
    listening = threading.Thread(target=sweeper(client, runner).listen, args=(stop,))
    listening.start()
    while client.publish("cancel", "other:0 foreign") == 0:
        stop.wait(0.01)

    client.client_kill_filter(_type="pubsub")
    while client.publish("cancel", "w:1 job") == 0:
        stop.wait(0.01)

    assert runner.heard.wait(10)
    stop.set()
    listening.join(10)
