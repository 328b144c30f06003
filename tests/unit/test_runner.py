"""How the runner brings claimed jobs to an end, on a real store and a scripted sandbox."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis

from app.config import ProgramLimits
from app.errors import MemoryLimitReached, SandboxCrashed, SandboxUnavailable, TimeLimitReached
from app.executors import Resources
from app.jobs.claims import ClaimStore
from app.jobs.connection import connect_gateway, connect_worker
from app.jobs.job import Failure, Job, JobStatus, Submission
from app.jobs.store import JobStore
from app.primitives.programs import Choice
from app.runner import Runner
from app.sandbox.protocol import Reply, Request, SandboxKilled
from tests.integration.fleet import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAKEUP = '{"id": "@UNIQUE@"}'


class ScriptedSandbox:
    """Does what the test says instead of running anything."""

    def __init__(self, script: Callable[[Request, float], Reply]) -> None:
        self.script = script
        self.killed = threading.Event()

    def run(self, *, owner: str, request: Request, time_limit_s: float) -> Reply:
        self.killed.clear()
        return self.script(request, time_limit_s)

    def kill(self) -> None:
        self.killed.set()


def succeed(_request: Request, _time_limit_s: float) -> Reply:
    return Reply(result=b"{}", failure=None, metadata={}, output="")


class Bench:
    """A runner, its store, and the gateway's side of it."""

    def __init__(
        self,
        redis_url: str,
        script: Callable[[Request, float], Reply],
        slots: int,
        slice_s: float,
    ) -> None:
        self.url = redis_url
        self.raw = redis.Redis.from_url(redis_url, decode_responses=True)
        self.client = connect_worker(redis_url)
        self.sandboxes = {str(i): ScriptedSandbox(script) for i in range(slots)}
        self.claims = ClaimStore(
            client=self.client,
            worker="w",
            lease_s=15,
            wakeup_cap=4,
            max_attempts=5,
            max_crashes=3,
            retention_s=1000,
        )
        self.runner = Runner(
            claims=self.claims,
            sandboxes=self.sandboxes,
            executors=("aer", "auto"),
            wakeup=lambda _: WAKEUP,
            limits=ProgramLimits(),
            resources=Resources(threads=1, memory_bytes=1 << 30, max_result_bytes=1 << 20),
            time_limit_s=60,
            slice_s=slice_s,
        )

    def ask(self, question: Callable[[JobStore], Any]) -> Any:
        async def ask() -> Any:
            client = connect_gateway(self.url)
            store = JobStore(
                client=client,
                wakeup_cap=4,
                max_queued=1000,
                max_queued_per_owner=1000,
                max_queued_bytes=64 * 1024 * 1024,
                max_queued_bytes_per_owner=32 * 1024 * 1024,
                idempotency_s=60,
                retention_s=1000,
            )
            try:
                return await question(store)
            finally:
                await client.aclose()

        return asyncio.run(ask())

    def add(self, executor: str = "aer", **changes: Any) -> Job:
        backend = f"simulator@{executor}"
        submission = Submission(program_id="qasm3", params=b"p", backend=backend, **changes)
        job: Job = self.ask(
            lambda store: store.add(
                scope="alice:default", executor=executor, submission=submission, wakeup=WAKEUP
            )
        )
        return job

    def report(self, worker: str, *executors: str) -> None:
        """Let a worker of these executors live."""
        document = json.dumps({"executors": executors, "qubits": 33})
        self.raw.set(f"worker:{worker}", document)
        self.raw.zadd("workers", {worker: 1})
        self.runner.learn(self.claims.live(), self.claims.worth_from())

    def read(self, job: Job) -> Job:
        found: Job = self.ask(lambda store: store.read(scope="alice:default", job_id=job.id))
        return found


@pytest.fixture
def make_bench(redis_url: str) -> Iterator[Callable[..., Bench]]:
    made = []

    def make(
        script: Callable[[Request, float], Reply] = succeed,
        slots: int = 1,
        slice_s: float = 30,
        *,
        waits: bool = False,
    ) -> Bench:
        made.append(Bench(redis_url, script, slots, slice_s))
        if not waits:
            # A slice is over as soon as nothing is ready, not after a time that a test must guess.
            made[-1].claims.await_wakeup = lambda **_: None
        return made[-1]

    yield make
    for bench in made:
        bench.raw.close()
        bench.client.close()


def test_one_wakeup_serves_every_ready_job(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    jobs = [bench.add() for _ in range(3)]

    bench.runner.serve("aer")

    assert {bench.read(job).status for job in jobs} == {JobStatus.COMPLETED}


def test_a_failure_of_the_program_fails_the_job(make_bench: Callable[..., Bench]) -> None:
    failure = Failure(code="invalid_program", message="no", details={"line": 1})
    bench = make_bench(lambda *_: Reply(result=None, failure=failure, metadata={}, output=""))
    job = bench.add()

    bench.runner.serve("aer")

    assert (bench.read(job).status, bench.read(job).failure) == (JobStatus.FAILED, failure)


def test_the_time_limit_cancels_with_reason_1305(make_bench: Callable[..., Bench]) -> None:
    def script(_request: Request, time_limit_s: float) -> Reply:
        raise TimeLimitReached(f"ran {time_limit_s:g} s")

    bench = make_bench(script)
    job = bench.add(time_limit_s=2.0)

    bench.runner.serve("aer")

    final = bench.read(job)
    assert (final.status, final.reason_code) == (JobStatus.CANCELLED, 1305)
    assert final.failure == Failure(code="time_limit_reached", message="ran 2 s")


def test_a_job_cannot_ask_for_more_time_than_the_worker_allows(
    make_bench: Callable[..., Bench],
) -> None:
    limits: list[float] = []

    def script(request: Request, time_limit_s: float) -> Reply:
        limits.append(time_limit_s)
        return succeed(request, time_limit_s)

    bench = make_bench(script)
    bench.add(time_limit_s=1e9)
    bench.add()

    bench.runner.serve("aer")

    assert limits == [60, 60]


def test_running_out_of_memory_fails_at_once(make_bench: Callable[..., Bench]) -> None:
    def script(*_: object) -> Reply:
        raise MemoryLimitReached("too much")

    bench = make_bench(script)
    job = bench.add()

    bench.runner.serve("aer")

    final = bench.read(job)
    assert (final.status, final.attempt) == (JobStatus.FAILED, 1)
    assert final.failure == Failure(code="memory_limit_reached", message="too much")


def test_a_poison_job_fails_after_three_crashes_and_its_neighbours_run(
    make_bench: Callable[..., Bench],
) -> None:
    def script(request: Request, time_limit_s: float) -> Reply:
        if request.job_id == poison.id:
            raise SandboxCrashed("SIGSEGV")
        return succeed(request, time_limit_s)

    bench = make_bench(script)
    poison, innocent = bench.add(), bench.add()

    bench.runner.serve("aer")

    final = bench.read(poison)
    assert (final.status, final.crashes) == (JobStatus.FAILED, 3)
    assert final.failure == Failure(code="sandbox_crashed", message="SIGSEGV")
    assert (bench.read(innocent).status, bench.read(innocent).attempt) == (JobStatus.COMPLETED, 1)


def test_a_cancelled_job_is_killed_and_the_slot_goes_on(make_bench: Callable[..., Bench]) -> None:
    started = threading.Event()

    def script(request: Request, time_limit_s: float) -> Reply:
        if request.job_id != long.id:
            return succeed(request, time_limit_s)
        started.set()
        assert bench.sandboxes["0"].killed.wait(10)
        raise SandboxKilled

    bench = make_bench(script)
    long, following = bench.add(), bench.add()
    serving = threading.Thread(target=bench.runner.serve, args=("aer",))
    serving.start()
    assert started.wait(10)

    bench.ask(lambda store: store.cancel(scope="alice:default", job_id=long.id))
    assert bench.runner.kill("0", following.id) is False
    assert bench.runner.kill("0", long.id) is True
    serving.join(10)

    assert bench.read(long).status is JobStatus.CANCELLED
    assert bench.read(following).status is JobStatus.COMPLETED
    assert bench.raw.hget(f"job:{long.id}", "crashes") == "0"


def test_without_a_sandbox_jobs_go_back_untouched(make_bench: Callable[..., Bench]) -> None:
    def script(*_: object) -> Reply:
        bench.runner._draining.set()
        raise SandboxUnavailable("cannot fork")

    bench = make_bench(script)
    job = bench.add()

    bench.runner.serve("aer")

    back = bench.read(job)
    assert (back.status, back.crashes) == (JobStatus.QUEUED, 0)


def test_a_bug_in_the_runner_is_recorded_and_raised(make_bench: Callable[..., Bench]) -> None:
    def script(*_: object) -> Reply:
        raise ZeroDivisionError

    bench = make_bench(script)
    job = bench.add()

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            bench.runner.serve("aer")

    final = bench.read(job)
    assert final.status is JobStatus.FAILED
    assert final.failure is not None
    assert final.failure.code == "internal_error"


def test_a_draining_runner_claims_nothing_and_leaves_a_wakeup(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    job = bench.add()
    bench.raw.delete("aer")

    bench.runner.drain(1)
    bench.runner.serve("aer")

    assert bench.read(job).status is JobStatus.QUEUED
    assert bench.raw.llen("aer") == 1


def test_a_kill_meant_for_an_older_attempt_hurts_no_newer_one(
    make_bench: Callable[..., Bench],
) -> None:
    answers: list[bool] = []

    def script(request: Request, time_limit_s: float) -> Reply:
        if request.attempt == 1:
            raise SandboxCrashed("once")
        answers.append(bench.runner.kill("0", request.job_id, 1))
        answers.append(bench.sandboxes["0"].killed.is_set())
        return succeed(request, time_limit_s)

    bench = make_bench(script)
    job = bench.add()

    bench.runner.serve("aer")

    assert answers == [False, False]
    assert (bench.read(job).status, bench.read(job).attempt) == (JobStatus.COMPLETED, 2)


def test_drain_lets_a_running_job_end(make_bench: Callable[..., Bench]) -> None:
    started, may_end = threading.Event(), threading.Event()

    def script(request: Request, time_limit_s: float) -> Reply:
        started.set()
        assert may_end.wait(10)
        return succeed(request, time_limit_s)

    bench = make_bench(script)
    job = bench.add()
    serving = threading.Thread(target=bench.runner.serve, args=("aer",))
    serving.start()
    assert started.wait(10)
    draining = threading.Thread(target=bench.runner.drain, args=(10,))
    draining.start()

    may_end.set()
    draining.join(10)
    serving.join(10)

    assert bench.read(job).status is JobStatus.COMPLETED


def test_drain_returns_a_job_that_does_not_end_in_time(make_bench: Callable[..., Bench]) -> None:
    started = threading.Event()

    def script(*_: object) -> Reply:
        started.set()
        assert bench.sandboxes["0"].killed.wait(10)
        raise SandboxKilled

    bench = make_bench(script)
    job = bench.add()
    serving = threading.Thread(target=bench.runner.serve, args=("aer",))
    serving.start()
    assert started.wait(10)

    bench.runner.drain(0.01)
    serving.join(10)

    back = bench.read(job)
    assert (back.status, back.crashes) == (JobStatus.QUEUED, 0)


def test_drain_returns_a_job_that_was_on_its_way_into_its_sandbox(
    make_bench: Callable[..., Bench],
) -> None:
    started = threading.Event()

    def script(*_: object) -> Reply:
        started.set()
        killed = bench.sandboxes["0"].killed
        assert killed.wait(10)
        # As a sandbox that forgets kills from before its job.
        killed.clear()
        assert killed.wait(10)
        raise SandboxKilled

    bench = make_bench(script)
    job = bench.add()
    serving = threading.Thread(target=bench.runner.serve, args=("aer",))
    serving.start()
    assert started.wait(10)

    bench.runner.drain(0.01)

    assert bench.read(job).status is JobStatus.QUEUED
    serving.join(10)


def test_slots_run_side_by_side(make_bench: Callable[..., Bench]) -> None:
    both = threading.Barrier(2)

    def script(request: Request, time_limit_s: float) -> Reply:
        both.wait(10)
        return succeed(request, time_limit_s)

    bench = make_bench(script, slots=2)
    jobs = [bench.add(), bench.add()]
    threads = [threading.Thread(target=bench.runner.serve, args=("aer",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert {bench.read(job).status for job in jobs} == {JobStatus.COMPLETED}


def test_what_was_run_while_redis_was_away_is_recorded(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.errors import Unavailable

    bench = make_bench()
    job = bench.add()
    real, faults = bench.claims.next, iter([None, Unavailable("away"), Unavailable("away")])

    def faulty(**arguments: Any) -> Any:
        if fault := next(faults, None):
            raise fault
        return real(**arguments)

    monkeypatch.setattr(bench.claims, "next", faulty)
    bench.runner.serve("aer")

    assert bench.read(job).status is JobStatus.COMPLETED


def test_a_job_that_comes_within_the_slice_needs_no_celery(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(slice_s=3, waits=True)
    serving = threading.Thread(target=bench.runner.serve, args=("aer",))
    serving.start()
    job = bench.add()

    wait_until(lambda: bench.read(job).status is JobStatus.COMPLETED, 5, "the job has run")

    serving.join(10)
    assert bench.raw.llen("aer") == 0


def test_a_slice_that_is_over_leaves_the_rest_to_a_successor(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(slice_s=0)
    job = bench.add()
    bench.raw.delete("aer")

    bench.runner.serve("aer")

    assert bench.read(job).status is JobStatus.QUEUED
    assert bench.raw.llen("aer") == 1


# --- auto ---------------------------------------------------------------------------------------

GPU = Choice(executor="gpu", because="24 qubits")


def give_away(request: Request, _time_limit_s: float) -> Reply:
    """Hand everything over that may be."""
    if request.executor == "auto" and "gpu" in request.live:
        return Reply(result=None, failure=None, hand_over=GPU)
    return Reply(result=b"{}", failure=None)


def test_a_job_is_handed_over_to_the_executor_that_was_chosen(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(give_away)
    bench.report("other", "gpu")
    job, neighbour = bench.add("auto"), bench.add("auto")

    bench.runner.serve("auto")

    for found in (bench.read(job), bench.read(neighbour)):
        assert (found.status, found.executor, found.choice) == (JobStatus.QUEUED, "gpu", GPU)
    assert bench.raw.llen("gpu") == 2
    assert bench.runner.busy() == ()


def test_the_sandbox_learns_why_a_job_came_to_its_executor(
    make_bench: Callable[..., Bench],
) -> None:
    seen: list[Request] = []

    def script(request: Request, time_limit_s: float) -> Reply:
        seen.append(request)
        return give_away(request, time_limit_s)

    bench = make_bench(script)
    bench.report("other", "gpu")
    job = bench.add("auto")

    bench.runner.serve("auto")
    bench.runner._executors = ("gpu",)
    bench.runner.serve("gpu")

    assert bench.read(job).status is JobStatus.COMPLETED
    assert [request.choice for request in seen] == [None, GPU]
    assert [dict(request.live) for request in seen] == [{"gpu": 33}, {}]


def test_a_job_stays_when_the_last_worker_of_the_other_executor_has_just_gone(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(give_away)
    bench.report("other", "gpu")
    bench.raw.delete("worker:other")
    job = bench.add("auto")

    bench.runner.serve("auto")

    found = bench.read(job)
    assert (found.status, found.executor, found.attempt) == (JobStatus.COMPLETED, "auto", 1)


@pytest.mark.parametrize("executor", ["auto", "unheard_of"])
def test_a_sandbox_cannot_send_a_job_where_it_likes(
    make_bench: Callable[..., Bench], executor: str
) -> None:
    choice = Choice(executor=executor, because="I want to")
    bench = make_bench(lambda *_: Reply(result=None, failure=None, hand_over=choice))
    bench.report("other", "gpu", "auto")
    job = bench.add("auto")

    bench.runner.serve("auto")

    found = bench.read(job)
    assert (found.status, found.executor, found.crashes) == (JobStatus.FAILED, "auto", 3)


def test_only_jobs_of_auto_are_handed_over(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(lambda *_: Reply(result=None, failure=None, hand_over=GPU))
    bench.report("other", "gpu")
    job = bench.add()

    bench.runner.serve("aer")

    found = bench.read(job)
    assert (found.status, found.executor) == (JobStatus.FAILED, "aer")
    assert bench.raw.llen("gpu") == 0
