"""A thousand jobs while workers, sandbox children and Valkey are killed: none lost, none doubled.

Invariants, after everything has come to rest:

- I1 every accepted job is final, I2 it was committed exactly once
- I3 a final state that somebody saw never changed
- I4 attempts only grow, and an untouched job needs one
- I5 a completed job's counts are those of its seed
- I6 bad source fails with its code, wherever it ran
- I7 nothing is left over: no lease, no claim, no queued job
- I8 one Idempotency-Key made one job
"""

from __future__ import annotations

import collections
import itertools
import json
import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import celery
import psutil
import pytest
import redis

from .fleet import BELL, Fleet, runs_long, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

JOBS = 1000
SEED = 20261121
SEEDS = 8
#: At least so many of each.
FAULTS = {"worker": 6, "child": 9, "redis": 4, "freeze": 3}
FINAL = {"Completed", "Failed", "Cancelled"}
SHOTS = 20
WRONG = 'OPENQASM 3.0; include "stdgates.inc"; qubit q; nonsense q;'
SOURCES = {"bell": BELL, "long": runs_long(), "wrong": WRONG}
#: Of forty jobs, these are not Bell circuits.
KINDS = {7: "wrong", 17: "long", 27: "long"}


class History:
    """What clients saw."""

    def __init__(self) -> None:
        self.accepted: dict[str, tuple[str, int]] = {}
        self.seen: dict[str, str] = {}
        self.changed: list[tuple[str, str, str]] = []
        self.cancelled: set[str] = set()
        self.faults: collections.Counter[str] = collections.Counter()

    def see(self, task_id: str, status: str | None) -> None:
        if status in FINAL:
            first = self.seen.setdefault(task_id, status)
            if first != status:
                self.changed.append((task_id, first, status))


def submit_all(fleet: Fleet, history: History) -> None:
    pause = threading.Event()
    for number in range(JOBS):
        kind = KINDS.get(number % 40, "bell")
        seed = number % SEEDS
        task = fleet.submit_stubbornly(f"key-{number}", SOURCES[kind], seed=seed, shots=SHOTS)
        history.accepted[task] = (kind, seed)
        # Slowly enough that there is always somebody to kill.
        pause.wait(0.015)


def watch(fleet: Fleet, history: History, stop: threading.Event, chance: random.Random) -> None:
    """Look at some jobs again and again, and cancel one now and then."""
    while not stop.wait(0.02):
        tasks = list(history.accepted)
        for task in chance.sample(tasks, min(20, len(tasks))):
            try:
                with fleet.redis() as client:
                    history.see(task, client.hget(f"job:{task}", "status"))
                if chance.random() < 0.002 and fleet.request("DELETE", f"/tasks/{task}")[0] == 204:
                    history.cancelled.add(task)
            except (redis.RedisError, OSError):
                break


def break_things(
    fleet: Fleet, history: History, enough: Callable[[], bool], chance: random.Random
) -> None:
    """One fault after another, each kind in turn, until there were enough.

    Runs in the main thread: Valkey dies with the thread that started it.
    """
    kinds = itertools.cycle(["child", "worker", "redis", "child", "freeze", "child", "worker"])
    pause = threading.Event()
    while not enough():
        kind = next(kinds)
        pause.wait(chance.uniform(0.1, 0.7))
        worker = chance.choice(fleet.workers)
        if kind == "worker":
            fleet.kill(worker)
            fleet.start_worker(wait=False)
        elif kind == "redis":
            fleet.kill_valkey()
            pause.wait(chance.uniform(0.05, 0.8))
            fleet.start_valkey()
        elif kind == "freeze":
            fleet.freeze(worker)
            pause.wait(chance.uniform(0.5, 4))
            fleet.thaw(worker)
        else:
            children = [c for each in fleet.workers for c in fleet.sandbox_children(each)]
            if not children:
                continue
            try:
                chance.choice(children).kill()
            except psutil.NoSuchProcess:
                continue
        history.faults[kind] += 1
        for each in list(fleet.workers):
            if each.poll() is not None:
                history.faults["worker ended by itself"] += 1
                fleet.workers.remove(each)
                fleet.start_worker(wait=False)


def statuses(fleet: Fleet, history: History) -> collections.Counter[str]:
    with fleet.redis() as client:
        pipe = client.pipeline()
        for task in history.accepted:
            pipe.hget(f"job:{task}", "status")
        found = pipe.execute()
    for task, status in zip(history.accepted, found, strict=True):
        history.see(task, status)
    return collections.Counter(found)


@pytest.mark.timeout(240)
def test_a_thousand_jobs_survive_kills_of_everything(fleet: Fleet) -> None:
    history, chance = History(), random.Random(SEED)
    for _ in range(2):
        fleet.start_worker()
    reference = {
        (kind, seed): fleet.wait(fleet.submit(SOURCES[kind], seed=seed, shots=SHOTS))["result"]
        for kind in ("bell", "long")
        for seed in range(SEEDS)
    }
    stop = threading.Event()
    submitting = threading.Thread(target=submit_all, args=(fleet, history))
    watching = threading.Thread(target=watch, args=(fleet, history, stop, random.Random(SEED)))
    submitting.start()
    watching.start()
    give_up = time.monotonic() + 120

    def enough() -> bool:
        assert time.monotonic() < give_up, f"submitted {len(history.accepted)}, {history.faults}"
        done = not submitting.is_alive()
        return done and all(history.faults[kind] >= most for kind, most in FAULTS.items())

    try:
        break_things(fleet, history, enough, chance)
    finally:
        stop.set()
        submitting.join()
        watching.join()
    fleet.start_worker()
    wait_until(lambda: set(statuses(fleet, history)) <= FINAL, 60, "every accepted job is final")

    assert len(history.accepted) == JOBS, "I8"
    assert history.changed == [], "I3"
    with fleet.redis() as client:
        for task, (kind, seed) in history.accepted.items():
            record: dict[str, Any] = client.hgetall(f"job:{task}")
            assert record["commits"] == "1", f"I2 {task}"
            assert int(record["attempt"]) <= 5, f"I4 {task}"
            if record["status"] == "Completed":
                key = f"result:{task}:{record['attempt']}:0"
                assert kind != "wrong", f"I6 {task}"
                counts = json.loads(client.get(key))["counts"]
                assert counts == reference[kind, seed], f"I5 {task}"
            elif record["status"] == "Cancelled":
                assert task in history.cancelled, f"I3 {task}"
            else:
                code = json.loads(record["failure"])["code"]
                expected = {"invalid_program"} if kind == "wrong" else {"sandbox_crashed"}
                assert code in expected, f"I6 {task}: {code}"
        leftovers = [
            key
            for pattern in ("ready:*", "arrivals:*", "held:*", "leases")
            for key in client.scan_iter(pattern)
        ]
        assert leftovers == [], "I7"
        assert client.hget("running", "aer") == "0", "I7"
    failed = [t for t in history.accepted if history.seen[t] == "Failed"]
    crashed = len(failed) - sum(kind == "wrong" for kind, _ in history.accepted.values())
    assert crashed <= 2, "kills by chance must not fail innocent jobs"
    sys.stderr.write(f"chaos: {dict(history.faults)}, {len(history.cancelled)} cancelled\n")


# --- the negative control ---------------------------------------------------------------------------

PLAIN = """
import celery, redis
app = celery.Celery("plain", broker={url!r})
app.conf.worker_prefetch_multiplier = 1
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
@app.task(name="work")
def work(number):
    redis.Redis.from_url({url!r}).sadd("plain:done", number)
"""


def start_plain_worker(fleet: Fleet, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "plain", "worker", "-P", "solo", "-l", "INFO"]
    worker = fleet._start("plain", command, PYTHONPATH=str(folder))
    fleet.workers.append(worker)
    return worker


def test_the_same_fault_on_plain_celery_loses_a_task(fleet: Fleet, tmp_path: Path) -> None:
    """The negative control: the checker can see a loss, and stock Celery has it."""
    (tmp_path / "plain.py").write_text(PLAIN.format(url=fleet.valkey.url))
    doomed = start_plain_worker(fleet, tmp_path)
    app = celery.Celery("plain", broker=fleet.valkey.url, set_as_current=False)
    numbers = itertools.count()

    def publish() -> int:
        number = next(numbers)
        app.send_task("work", (number,))
        return number

    lost = fleet.freeze_with_a_message(doomed, "celery", publish)
    fleet.kill(doomed)
    start_plain_worker(fleet, tmp_path)
    following = publish()

    with fleet.redis() as client:
        wait_until(lambda: client.sismember("plain:done", following), 20, "the next task runs")
        done, queued = client.smembers("plain:done"), client.llen("celery")
    app.close()

    assert str(lost) not in done
    assert queued == 0, "it is in no queue either"
