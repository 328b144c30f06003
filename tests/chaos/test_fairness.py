"""Nobody waits for another's backlog; priorities and dedicated sessions are what they say."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import pytest

from app.auth.principal import Principal
from app.backends.catalog import Catalog
from app.bootstrap import build_dispatcher
from app.config import Settings
from app.jobs.connection import connect_gateway
from app.jobs.events import JobEvents
from app.jobs.job import Submission
from app.jobs.session import SessionMode, SessionRequest
from app.primitives.params import QasmParams, encode_qasm_params
from tests.integration.fleet import Fleet, runs_long, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.dispatcher import Dispatcher
    from app.jobs.job import Job

Answer = TypeVar("Answer")

BACKLOG, SLOTS = 30_000, 2
#: At the same time under way to Redis.
AT_ONCE = 200
#: Each of these jobs takes some tenths of a second on one core.
SHOTS = 2
ALICE, BOB, CAROL = (Principal(owner=owner) for owner in ("alice", "bob", "carol"))
BACKEND = "simulator@aer"


class Queue:
    """What the gateway does with submissions, for several owners at once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._settings = Settings(redis_url=fleet.valkey.url, executors=("aer",))
        self._catalog = Catalog.load(aliases={}, max_qubits=30)
        self._submission = Submission(
            program_id="qasm3",
            params=encode_qasm_params(QasmParams(source=runs_long(), shots=SHOTS, seed=1)),
            backend=BACKEND,
        )

    def add(self, who: Principal, number: int = 1, **changes: object) -> list[str]:
        """Add so many jobs; gives their ids."""
        submission = replace(self._submission, **changes)  # type: ignore[arg-type]

        async def add_all(dispatcher: Dispatcher) -> list[str]:
            gate = asyncio.Semaphore(AT_ONCE)

            async def add_one() -> Job:
                async with gate:
                    return await dispatcher.submit(who, submission)

            return [job.id for job in await asyncio.gather(*(add_one() for _ in range(number)))]

        return self._dispatch(add_all)

    def open_session(self, who: Principal, mode: SessionMode) -> str:
        request = SessionRequest(backend=BACKEND, mode=mode, max_ttl_s=600, interactive_ttl_s=60)

        async def open_one(dispatcher: Dispatcher) -> str:
            return (await dispatcher.open_session(who, request)).id

        return self._dispatch(open_one)

    def _dispatch(self, work: Callable[[Dispatcher], Awaitable[Answer]]) -> Answer:
        async def run() -> Answer:
            client = connect_gateway(self._fleet.valkey.url)
            try:
                return await work(
                    build_dispatcher(
                        self._settings,
                        client=client,
                        events=JobEvents(client=client),
                        catalog=self._catalog,
                    )
                )
            finally:
                await client.aclose()

        return asyncio.run(run())

    def waited_s(self, job_id: str) -> float:
        """From its creation to its start; waits for that."""
        wait_until(lambda: "started" in self._fleet.job(job_id), 60, "it starts")
        record = self._fleet.job(job_id)
        return (int(record["started"]) - int(record["created"])) / 1000


def ended(fleet: Fleet, jobs: list[str]) -> list[str]:
    """When all have ended: in the order in which they started."""
    wait_until(lambda: all("finished" in fleet.job(job) for job in jobs), 60, "all end")
    records = {job: fleet.job(job) for job in jobs}
    assert {record["status"] for record in records.values()} == {"Completed"}
    return sorted(jobs, key=lambda job: int(records[job]["started"]))


@pytest.mark.timeout(120)
def test_thirty_thousand_jobs_of_one_owner_do_not_delay_anothers_first(fleet: Fleet) -> None:
    queue = Queue(fleet)
    began = time.monotonic()
    queue.add(ALICE, BACKLOG)
    took_s = time.monotonic() - began
    fleet.start_worker(QFLEET_SLOTS=str(SLOTS))
    # As long as a job may keep a slot that bob could have had.
    longest_s = longest_run_s(fleet)

    (first,) = queue.add(BOB)
    waited_s = queue.waited_s(first)

    with fleet.redis() as client:
        left = client.zcard("ready:aer:alice")
    assert left > BACKLOG * 0.99
    # One job of each slot, one tick of the machine.
    assert waited_s < 2 * longest_s + 0.1
    sys.stderr.write(
        f"\n{BACKLOG} jobs of one owner queued ({BACKLOG / took_s:.0f}/s), {left} left; another owner's"
        f" first job started after {1000 * waited_s:.0f} ms, a job takes up to"
        f" {1000 * longest_s:.0f} ms\n"
    )

    # From here on, both share: whoever has consumed less is next.
    several = ended(fleet, queue.add(BOB, 4))
    with fleet.redis() as client:
        served = left - client.zcard("ready:aer:alice")
    assert served <= 3 * len(several), f"bob had 4 turns, alice {served}"

    # Among her own, the one with the higher priority is next, of thirty thousand.
    low, high = queue.add(ALICE, priority=-5)[0], queue.add(ALICE, priority=5)[0]
    assert queue.waited_s(high) < 4 * longest_s + 0.1
    assert fleet.job(low)["status"] == "Queued"

    # A dedicated session, once it is active, goes before everybody.
    session = queue.open_session(CAROL, SessionMode.DEDICATED)
    activating = queue.add(CAROL, session_id=session)
    assert queue.waited_s(activating[0]) < 4 * longest_s + 0.1
    with fleet.redis() as client:
        before = client.zcard("ready:aer:alice")
    ended(fleet, queue.add(CAROL, 6, session_id=session))
    with fleet.redis() as client:
        meanwhile = before - client.zcard("ready:aer:alice")
    # What had its slot already, and who came in while carol's next was not there yet.
    assert meanwhile <= 2 * SLOTS, f"{meanwhile} others were served before a dedicated session"

    # A batch waits like everybody: its owner has consumed more than the others.
    batch = queue.open_session(CAROL, SessionMode.BATCH)
    ended(fleet, queue.add(CAROL, 2, session_id=batch))
    with fleet.redis() as client:
        assert client.zcard("ready:aer:alice") < before - meanwhile


def longest_run_s(fleet: Fleet) -> float:
    """Of the jobs that have ended."""
    wait_until(lambda: len(runs_s(fleet)) >= 2 * SLOTS, 30, "some jobs have ended")
    return max(runs_s(fleet))


def runs_s(fleet: Fleet) -> list[float]:
    with fleet.redis() as client:
        jobs = client.zrange("expiry", 0, -1)
        records = [client.hmget(f"job:{job}", "started", "finished") for job in jobs]
    return [(int(finished) - int(started)) / 1000 for started, finished in records]
