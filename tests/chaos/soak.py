"""``make soak``: mixed load for a while; does a process grow, and is anything left afterwards?"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from app.lua.keys import SCHEMA
from tests.integration.fleet import BELL, ENDLESS, Fleet, fleet_in, runs_long, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

CAPTURES = Path(__file__).parents[1] / "corpora/captures"
SAMPLER, ESTIMATOR = "01_sampler_basic.json", "05_estimator_basic.json"
WRONG = 'OPENQASM 3.0; include "stdgates.inc"; qubit q; nonsense q;'
CLIENTS = 4
#: Between two requests of a client.
PAUSE_S = 0.01
SAMPLE_S = 2.0
#: What is made and kept at first is no leak.
WARM_UP = 0.25
#: Everything of a final job is gone after this time.
RETENTION_S = 15
MIB, HOUR_S = 1 << 20, 3600
#: What a fleet keeps that has no job: itself, its counters, and what it knows of owners.
KEPT = frozenset(
    (
        *("stats", "running", "sequence", "wakeup:sequence", "reaper:tick", "probe", "secret"),
        *("workers", "worker:{worker}", "clock:{executor}", "service:{executor}"),
        *("usage:{owner}:{instance}", "_kombu.binding.{exchange}", "handed_over"),
        "_kombu.binding_permanent.{exchange}",
        # Messages that name no job.
        "{executor}",
    )
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A straight line through what was measured."""

    #: units per second.
    slope: float
    #: its standard error, as if what is left over were independent.
    error: float


def line_of(times: list[float], values: list[float]) -> Line:
    """The line of least squares."""
    found = statistics.linear_regression(times, values)
    left = [v - found.slope * t - found.intercept for t, v in zip(times, values, strict=True)]
    middle = statistics.fmean(times)
    spread = sum((t - middle) ** 2 for t in times)
    error = (sum(r * r for r in left) / (len(times) - 2) / spread) ** 0.5
    return Line(slope=found.slope, error=error)


@dataclass(kw_only=True)
class Samples:
    """What was measured of one thing, and when."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, time_s: float, value: float) -> None:
        self.times.append(time_s)
        self.values.append(value)

    def after(self, time_s: float) -> Samples:
        kept = [pair for pair in zip(self.times, self.values, strict=True) if pair[0] >= time_s]
        return Samples(times=[t for t, _ in kept], values=[v for _, v in kept])


class Load:
    """Clients that do a bit of everything."""

    def __init__(self, fleet: Fleet) -> None:
        self.done: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self._fleet = fleet
        self._stop = threading.Event()
        self._bodies = {
            name: json.loads((CAPTURES / name).read_text())["calls"][0]["request_json"]
            for name in (SAMPLER, ESTIMATOR)
        }
        self._numbers = iter(range(10**9))
        self._kinds: dict[str, tuple[float, Callable[[], None]]] = {
            "task": (60, lambda: self._task(BELL, "completed")),
            "long task": (1, lambda: self._task(runs_long(), "completed", shots=2)),
            "wrong task": (8, lambda: self._task(WRONG, "failed")),
            "repeated task": (5, self._repeat),
            "cancelled task": (5, self._cancel),
            "list": (5, lambda: self._get("/tasks?limit=20")),
            "deleted job": (4, self._delete),
            "sampler": (8, lambda: self._primitive(SAMPLER)),
            "estimator": (3, lambda: self._primitive(ESTIMATOR)),
            "session": (1, self._session),
            "health": (1, self._look),
        }
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, client: int) -> None:
        chance = random.Random(client)
        names = list(self._kinds)
        weights = [self._kinds[name][0] for name in names]
        while not self._stop.wait(PAUSE_S):
            (name,) = chance.choices(names, weights)
            try:
                self._kinds[name][1]()
            except (AssertionError, OSError, KeyError, ValueError) as exc:
                self.faults.append(f"{name}: {exc!r}")
            else:
                self.done[name] += 1

    def _ask(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        status, answer = self._fleet.request(method, path, body, **headers)
        assert status in (200, 201, 204), f"{method} {path}: {status} {answer}"
        return answer

    def _get(self, path: str) -> Any:
        return self._ask("GET", path)

    def _task(self, source: str, expected: str, **fields: object) -> None:
        task = self._fleet.submit(source, **fields)
        answer = self._fleet.wait(task)
        assert answer["status"] == expected, answer

    def _repeat(self) -> None:
        key = f"key-{next(self._numbers)}"
        made = {
            self._ask("POST", "/tasks", {"circuit": BELL}, Idempotency_Key=key)["task_id"]
            for _ in range(2)
        }
        assert len(made) == 1

    def _cancel(self) -> None:
        task = self._fleet.submit(ENDLESS)
        self._ask("DELETE", f"/tasks/{task}")
        assert self._fleet.wait(task)["status"] == "cancelled"

    def _delete(self) -> None:
        task = self._fleet.submit()
        self._fleet.wait(task)
        self._ask("DELETE", f"/api/v1/jobs/{task}")
        assert self._fleet.request("GET", f"/tasks/{task}")[0] == 404

    def _primitive(self, name: str, **fields: object) -> None:
        job = self._ask("POST", "/api/v1/jobs", self._bodies[name] | fields)["id"]
        while self._get(f"/api/v1/jobs/{job}?exclude_params=true")["status"] in (
            "Queued",
            "Running",
        ):
            pass
        assert self._get(f"/api/v1/jobs/{job}/results")

    def _session(self) -> None:
        wanted = {"mode": "dedicated", "backend": self._bodies[SAMPLER]["backend"]}
        session = self._ask("POST", "/api/v1/sessions", wanted)["id"]
        try:
            for _ in range(3):
                self._primitive(SAMPLER, session_id=session)
        finally:
            # One that is left open is kept for as long as it may last.
            self._ask("DELETE", f"/api/v1/sessions/{session}/close")

    def _look(self) -> None:
        self._get("/health")
        self._get("/health/celery")


def memory(fleet: Fleet) -> dict[str, float]:
    """Resident memory by part, MiB; all sandboxes of a worker together."""
    valkey = fleet.valkey.process
    assert valkey is not None
    found = {"Valkey": rss(psutil.Process(valkey.pid))}
    for i, gateway in enumerate(fleet.gateways.values()):
        found[f"gateway {i + 1}"] = rss(psutil.Process(gateway.pid))
    for i, worker in enumerate(fleet.workers):
        process = psutil.Process(worker.pid)
        found[f"worker {i + 1}"] = rss(process)
        found[f"zygote {i + 1}"] = sum(map(rss, process.children()))
        found[f"sandboxes {i + 1}"] = sum(map(rss, fleet.sandbox_children(worker)))
    return found


def rss(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(process.memory_info().rss) / MIB
    return 0.0


def kinds_of_keys(fleet: Fleet) -> collections.Counter[str]:
    """Pattern of the schema → how many keys there are of it."""
    patterns = {
        key.pattern: re.compile(re.sub(r"\\\{[a-z_]+\\\}", "[^:]+", re.escape(key.pattern)) + r"\Z")
        for key in SCHEMA
    }
    # The most specific first: `{executor}` is every word.
    ordered = sorted(patterns, key=lambda pattern: (pattern.count("{"), pattern == "{executor}"))
    found: collections.Counter[str] = collections.Counter()
    with fleet.redis() as client:
        for key in client.scan_iter(count=1000):
            found[next((p for p in ordered if patterns[p].match(key)), key)] += 1
    return found


def run(fleet: Fleet, minutes: float) -> int:
    """Load the fleet, measure, come to rest; gives the exit status."""
    fleet.start_gateway()
    fleet.start_worker()
    samples: dict[str, Samples] = collections.defaultdict(Samples)
    load, began = Load(fleet), time.monotonic()
    pause = threading.Event()
    try:
        while (now := time.monotonic() - began) < 60 * minutes:
            for name, value in memory(fleet).items():
                samples[name].add(now, value)
            with fleet.redis() as client:
                samples["keys"].add(now, client.dbsize())
            pause.wait(SAMPLE_S)
    finally:
        load.end()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not leftovers(fleet), 4 * RETENTION_S + 30, "everything has expired")
    left = leftovers(fleet)
    report(samples, load, minutes, left, kinds_of_keys(fleet))
    return 1 if left or load.faults else 0


def leftovers(fleet: Fleet) -> dict[str, int]:
    return {kind: n for kind, n in kinds_of_keys(fleet).items() if kind not in KEPT}


def report(
    samples: dict[str, Samples],
    load: Load,
    minutes: float,
    left: dict[str, int],
    kept: collections.Counter[str],
) -> None:
    say = sys.stdout.write
    total = sum(load.done.values())
    say(f"{minutes:g} minutes, {total} operations ({total / minutes / 60:.0f}/s), ")
    say(f"{len(load.faults)} faults {load.faults[:5]}\n{dict(load.done)}\n\n")
    say(f"slopes are of the last {100 * (1 - WARM_UP):.0f} %; RSS in MiB\n")
    say(f"{'':12} {'first':>8} {'last':>8} {'most':>8}  {'slope per hour':>20}\n")
    for name, series in samples.items():
        late = series.after(WARM_UP * 60 * minutes)
        line = line_of(late.times, late.values)
        slope = f"{HOUR_S * line.slope:+.1f} ± {HOUR_S * line.error:.1f}"
        first, last, most = late.values[0], late.values[-1], max(late.values)
        say(f"{name:12} {first:8.1f} {last:8.1f} {most:8.1f}  {slope:>20}\n")
    say(f"\nkeys left of jobs and sessions: {left or 'none'}\n")
    say(f"keys that stay: {dict(sorted(kept.items()))}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qfleet-soak-") as name:
        settings = {
            "QFLEET_RETENTION_S": str(RETENTION_S),
            "QFLEET_IDEMPOTENCY_S": str(RETENTION_S),
            "QFLEET_EXECUTORS": "aer,noisy,auto",
            "QFLEET_LEASE_S": "15",
            "QFLEET_BEAT_S": "1",
        }
        with fleet_in(Path(name), **settings) as fleet:
            return run(fleet, asked.minutes)


if __name__ == "__main__":
    sys.exit(main())
