"""Hostile input through the front door: refused or failed with a code, and nobody else notices."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.hostile import HEAD, HOSTILE

from .fleet import ENDLESS, Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
#: Within this much time each hostile case must have ended, and the gateway may grow so much.
ENDED_S = 15
GROWTH_BYTES = 100 * MIB

RUNTIME = [
    # Want more than a sandbox has, or never end: they get as far as the run.
    HEAD
    + "qubit[40] q; bit[40] c; rx(0.1) q; "
    + "".join(f"cx q[{i}], q[{j}]; rx(0.3) q[{j}];" for i in range(40) for j in range(40) if i != j)
    + " c = measure q;",
    HEAD + "qubit[256] q; bit[4096] c; h q; c[0:255] = measure q;",
    ENDLESS,
    HEAD + "qubit q; h q;",
]

BODIES: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[" * 100_000,
    b'{"circuit": ' + b"[" * 100_000,
    b'{"circuit": "x", "shots": ' + b"9" * 10_000 + b"}",
    b'{"circuit": "x", "shots": 1e999}',
    b'{"circuit": "x", "shots": NaN}',
    b'{"circuit": "x", "circuit": "y"}',
    b'{"circuit": "\xff\xfe"}',
    b'{"circuit": "\\ud800"}',
    b'{"circuit": "x", "shots": -1}',
    b'{"circuit": "x", "shots": 1000000000}',
    b'{"circuit": "x", "seed": 1e30}',
    b'{"circuit": "x", "backend": "../../etc@aer"}',
    b'{"circuit": "x", "backend": "simulator@leases"}',
    b'{"circuit": "x", "unknown": 1}',
    b'{"circuit": "' + b"a" * (2 * MIB) + b'"}',
    b'{"circuit": "' + b"a" * (20 * MIB) + b'"}',
]


@pytest.fixture
def busy_fleet(fleet: Fleet) -> Iterator[Fleet]:
    fleet.start_worker(
        QFLEET_SANDBOX__TIME_LIMIT_S="5", QFLEET_SANDBOX__MEMORY_BYTES=str(1024 * MIB)
    )
    yield fleet
    assert fleet.workers[0].poll() is None, "the worker has ended"


def gateway(fleet: Fleet) -> psutil.Process:
    assert fleet.gateway is not None
    return psutil.Process(fleet.gateway.pid)


def ends_well(fleet: Fleet, source: str) -> tuple[str, dict[str, Any]]:
    began = time.monotonic()
    status, answer = fleet.request("POST", "/tasks", {"circuit": source, "shots": 1000})
    if status == 200:
        answer = fleet.wait(answer["task_id"], ENDED_S)
    assert time.monotonic() - began < ENDED_S
    return str(status if status != 200 else answer["status"]), answer


@pytest.mark.timeout(180)
def test_hostile_programs_fail_alone(busy_fleet: Fleet) -> None:
    process = gateway(busy_fleet)
    before = process.memory_info().rss
    sources = [source.encode("utf-8", "replace").decode() for source in HOSTILE] + RUNTIME
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda source: ends_well(busy_fleet, source), sources))

    for source, (outcome, answer) in zip(sources, outcomes, strict=True):
        if outcome == "completed":
            # Some are only wide, and a wide circuit without entanglement is a small one.
            assert source in RUNTIME, source[:80]
        else:
            assert outcome in ("failed", "cancelled", "413", "422", "400"), (source[:80], answer)
            assert answer["code"], source[:80]
    assert busy_fleet.wait(busy_fleet.submit())["status"] == "completed"
    assert process.is_running()
    assert process.memory_info().rss - before < GROWTH_BYTES


def test_hostile_bodies_are_refused(busy_fleet: Fleet) -> None:
    process = gateway(busy_fleet)
    for body in BODIES:
        connection = http.client.HTTPConnection("127.0.0.1", busy_fleet.port, timeout=30)
        connection.request("POST", "/tasks", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        problem = json.loads(answer.read())
        connection.close()
        assert 400 <= answer.status < 500, (body[:60], answer.status)
        assert problem["code"], body[:60]
        assert problem["detail"], body[:60]

    with busy_fleet.redis() as client:
        assert client.exists("sequence") == 0, "nothing was stored"
    assert busy_fleet.wait(busy_fleet.submit())["status"] == "completed"
    assert process.pid == gateway(busy_fleet).pid
    assert process.is_running()


def test_a_file_that_is_included_shows_nowhere(busy_fleet: Fleet) -> None:
    canary = busy_fleet.folder / "canary"
    canary.write_text("the-secret-of-the-canary")
    _, answer = ends_well(busy_fleet, f'include "{canary}"; qubit q;')

    logs = b"".join(log.read_bytes() for log in busy_fleet.folder.glob("*.log"))
    assert "the-secret" not in json.dumps(answer)
    assert b"the-secret" not in logs
