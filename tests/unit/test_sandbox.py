"""A job can hurt only itself: every misbehaviour ends in its error, and the next job runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import psutil
import pytest

from app.config import ProgramLimits, SandboxLimits
from app.errors import MemoryLimitReached, SandboxCrashed, SandboxUnavailable, TimeLimitReached
from app.executors import Resources
from app.sandbox.confinement import FIRST_UID
from app.sandbox.pool import SandboxPool, SandboxSlot
from app.sandbox.protocol import Request, SandboxKilled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PERFORM = "tests.unit.sandbox_jobs:perform"
MIB = 1 << 20
RESOURCES = Resources(threads=1, memory_bytes=512 * MIB, max_result_bytes=MIB)
LINUX = sys.platform == "linux"
#: Where a clock that is stopped would let a job run for half a minute.
ENDED_S = 10


def make_pool(slots: int = 1, **limits: Any) -> SandboxPool:
    values = {"memory_bytes": 512 * MIB, "output_bytes": 1000} | limits
    return SandboxPool(
        limits=SandboxLimits(**values), resources=RESOURCES, slots=slots, perform=PERFORM
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = make_pool(slots=2)
    yield pool
    pool.close()


@pytest.fixture
def slot(pool: SandboxPool) -> SandboxSlot:
    return pool.slots[0]


@pytest.fixture
def own_pool() -> Iterator[Callable[..., SandboxPool]]:
    """A pool with other limits, or one to be broken."""
    made = []

    def make(**limits: Any) -> SandboxPool:
        made.append(make_pool(**limits))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def asked(job: str, text: str = "", *, log_level: str = "WARNING") -> Request:
    return Request(
        job_id="id",
        program_id=job,
        target="simulator",
        executor="aer",
        params=text.encode(),
        limits=ProgramLimits(),
        resources=RESOURCES,
        log_level=log_level,
    )


def ask(
    slot: SandboxSlot, job: str, text: str = "", *, owner: str = "alice", time_limit_s: float = 30
) -> Any:
    reply = slot.run(owner=owner, request=asked(job, text), time_limit_s=time_limit_s)
    assert reply.result is not None
    return orjson.loads(reply.result)


def wait_until(condition: Callable[[], bool], passing: type[Exception] = OSError) -> None:
    """Wait for it, 10 s at most; what it raises meanwhile passes."""
    end = time.monotonic() + 10
    while True:
        with contextlib.suppress(passing):
            if condition():
                return
        assert time.monotonic() < end
        select.select([], [], [], 0.01)


def when_endless(slot: SandboxSlot, do: Callable[[], object]) -> None:
    """Do it when the child that is there, and idle, runs the job ``endless``."""
    child = psutil.Process(slot.pid)
    idle = child.num_ctx_switches().voluntary

    def watch() -> None:
        # It sleeps again and again.
        wait_until(lambda: child.num_ctx_switches().voluntary > idle + 20)
        do()

    threading.Thread(target=watch).start()


def adopt(*, orphans: bool) -> None:
    """Whether children of our children that have ended become ours."""
    set_child_subreaper = 36
    assert ctypes.CDLL(None).prctl(set_child_subreaper, int(orphans), 0, 0, 0) == 0


def works(slot: SandboxSlot) -> bool:
    return bool(ask(slot, "echo", "fine") == "fine")


# --- children and owners ------------------------------------------------------------------------


def test_an_owners_jobs_share_a_child(slot: SandboxSlot) -> None:
    assert ask(slot, "pid") == ask(slot, "pid") == slot.pid


def test_another_owner_gets_another_child(slot: SandboxSlot) -> None:
    first = ask(slot, "pid", owner="alice")
    second = ask(slot, "pid", owner="bob")
    assert first != second
    assert not psutil.pid_exists(first)


def test_what_one_owner_poisons_another_never_sees(slot: SandboxSlot) -> None:
    ask(slot, "poison", "poisoned", owner="alice")
    assert ask(slot, "poison", "mine", owner="bob") == ""
    assert ask(slot, "poison", "", owner="alice") == ""


def test_a_child_is_replaced_after_so_many_jobs(own_pool: Callable[..., SandboxPool]) -> None:
    slot = own_pool(jobs_per_child=2).slots[0]
    pids = [ask(slot, "pid") for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_child_that_grows_is_replaced(own_pool: Callable[..., SandboxPool]) -> None:
    slot = own_pool(growth_bytes=16 * MIB).slots[0]
    works(slot)
    grown = ask(slot, "grow")
    assert ask(slot, "pid") != grown


def test_a_child_that_was_out_of_memory_is_replaced(slot: SandboxSlot) -> None:
    before = ask(slot, "pid")
    request = Request(
        job_id="id",
        program_id="starved",
        target="simulator",
        executor="aer",
        params=b"",
        limits=ProgramLimits(),
        resources=RESOURCES,
    )
    reply = slot.run(owner="alice", request=request, time_limit_s=30)
    assert reply.failure is not None
    assert ask(slot, "pid") != before


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "text", "told"),
    [
        ("segfault", "", "SIGSEGV"),
        ("abort", "", "SIGABRT"),
        ("exits", "3", "exit code 3"),
        ("exits", "0", "exit code 0"),
        ("nonsense", "", "malformed"),
        ("two_replies", "", "malformed"),
        ("huge", "", "malformed"),
    ],
)
def test_a_crash_is_named_and_the_next_job_runs(
    slot: SandboxSlot, job: str, text: str, told: str
) -> None:
    with pytest.raises(SandboxCrashed, match=told):
        ask(slot, job, text)
    assert works(slot)


def test_processor_time_is_limited_too(slot: SandboxSlot) -> None:
    with pytest.raises(TimeLimitReached, match=r"processor time than its limit of 60 s") as caught:
        ask(slot, "overspends")
    assert caught.value.details["limit_s"] == 60
    assert works(slot)


def test_a_child_killed_from_outside_counts_as_a_crash(slot: SandboxSlot) -> None:
    works(slot)
    when_endless(slot, lambda: os.kill(slot.pid or 0, signal.SIGKILL))
    with pytest.raises(SandboxCrashed, match="SIGKILL"):
        ask(slot, "endless")
    assert works(slot)


@pytest.mark.parametrize("job", ["endless", "compute"])
def test_the_time_limit_ends_whatever_runs(slot: SandboxSlot, job: str) -> None:
    began = time.monotonic()
    with pytest.raises(TimeLimitReached, match=r"limit of 0\.3 s"):
        ask(slot, job, time_limit_s=0.3)
    assert time.monotonic() - began < ENDED_S
    assert works(slot)


def test_a_kill_from_another_thread_ends_the_job(slot: SandboxSlot) -> None:
    works(slot)
    child = psutil.Process(slot.pid)
    over = threading.Event()

    def kill() -> None:
        # Nobody sees from outside when it begins, and a kill before that is none.
        while not over.wait(0.1):
            slot.kill()

    threading.Thread(target=kill).start()
    try:
        with pytest.raises(SandboxKilled):
            ask(slot, "compute")
    finally:
        over.set()
    assert not child.is_running()
    assert works(slot)


def test_closing_ends_a_running_job_and_lets_none_begin(
    own_pool: Callable[..., SandboxPool],
) -> None:
    pool = own_pool()
    slot = pool.slots[0]
    works(slot)
    child = psutil.Process(slot.pid)
    begun = threading.Event()
    when_endless(slot, begun.set)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            ask(slot, "endless")
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            ended.append(exc)

    running = threading.Thread(target=run)
    running.start()
    assert begun.wait(20)

    pool.close()
    running.join(20)

    assert [type(exc) for exc in ended] == [SandboxKilled]
    assert not child.is_running()
    with pytest.raises(SandboxUnavailable, match="closed"):
        works(slot)
    assert pool.zygote_pid is None


@pytest.mark.skipif(not LINUX, reason="who else takes the number of a process that is gone")
def test_a_child_that_went_with_its_zygote_is_not_signalled_by_its_number(
    own_pool: Callable[..., SandboxPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = own_pool()
    slot = pool.slots[0]
    works(slot)
    pid = slot.pid
    assert pid is not None
    adopt(orphans=True)
    try:
        os.kill(pool.zygote_pid or 0, signal.SIGKILL)
        # From here on the number is free.
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, ChildProcessError)
    finally:
        adopt(orphans=False)
    signalled: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _number: signalled.append(pid))
    monkeypatch.setattr(os, "killpg", lambda group, _number: signalled.append(group))

    slot.kill()

    assert works(slot)
    assert pid not in signalled


def test_a_worker_may_have_many_files_open(own_pool: Callable[..., SandboxPool]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"at most {hard} files may be open here")
    slot = own_pool().slots[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        first = ask(slot, "pid", owner="alice")
        assert ask(slot, "pid", owner="bob") != first
        slot.close()
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_worker_without_descriptors_has_no_sandbox_for_a_while(
    own_pool: Callable[..., SandboxPool],
) -> None:
    slot = own_pool().slots[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        with pytest.raises(SandboxUnavailable, match="Too many open files"):
            works(slot)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert works(slot)


def test_a_kill_waits_for_no_fork(
    own_pool: Callable[..., SandboxPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = own_pool()
    slot = pool.slots[0]
    fork, forking, may_fork = pool._zygote.fork, threading.Event(), threading.Event()

    def fork_late(*arguments: Any) -> int:
        forking.set()
        assert may_fork.wait(20)
        return fork(*arguments)

    monkeypatch.setattr(pool._zygote, "fork", fork_late)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            ask(slot, "endless")
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            ended.append(exc)

    running = threading.Thread(target=run)
    running.start()
    assert forking.wait(20)
    killing = threading.Thread(target=slot.kill)
    killing.start()

    killing.join(5)
    waits = killing.is_alive()
    may_fork.set()
    running.join(20)

    assert not waits
    assert [type(exc) for exc in ended] == [SandboxKilled]
    assert works(slot)


def test_a_kill_that_comes_too_late_hurts_no_other_job(slot: SandboxSlot) -> None:
    works(slot)
    slot.kill()
    assert works(slot)


def test_memory_beyond_the_limit_is_refused_to_the_job_alone(slot: SandboxSlot) -> None:
    with pytest.raises((MemoryLimitReached, SandboxCrashed)):
        ask(slot, "hoard")
    assert works(slot)


def test_a_failed_allocation_in_native_code_is_told_as_such(slot: SandboxSlot) -> None:
    with pytest.raises(MemoryLimitReached, match="512 MiB"):
        ask(slot, "bad_alloc")
    assert works(slot)


def test_a_lost_zygote_is_replaced(own_pool: Callable[..., SandboxPool]) -> None:
    pool = own_pool()
    slot = pool.slots[0]
    works(slot)
    before = pool.zygote_pid
    assert before is not None
    child = psutil.Process(slot.pid)
    os.kill(before, signal.SIGKILL)
    psutil.wait_procs([child], timeout=5)

    assert works(slot)
    assert pool.zygote_pid != before


def test_a_job_whose_zygote_is_lost_crashes(own_pool: Callable[..., SandboxPool]) -> None:
    pool = own_pool()
    slot = pool.slots[0]
    works(slot)
    when_endless(slot, lambda: os.kill(pool.zygote_pid or 0, signal.SIGKILL))
    with pytest.raises(SandboxCrashed, match="lost"):
        ask(slot, "endless")
    assert works(slot)


def test_a_child_that_died_between_two_jobs_is_no_fault_of_the_next(slot: SandboxSlot) -> None:
    process = psutil.Process(ask(slot, "die_soon"))
    deadline = time.monotonic() + 5
    while process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)
    assert works(slot)


def test_an_answer_that_nobody_asked_for_is_no_answer(slot: SandboxSlot) -> None:
    assert ask(slot, "unasked") == "truth"
    child = slot._child
    assert child is not None
    deadline = time.monotonic() + 5
    while child.waits:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)
    assert works(slot)


# --- what goes in and out -------------------------------------------------------------------------


def test_a_large_result_comes_back_whole(slot: SandboxSlot) -> None:
    request = Request(
        job_id="id",
        program_id="large",
        target="simulator",
        executor="aer",
        params=str(MIB).encode(),
        limits=ProgramLimits(),
        resources=RESOURCES,
    )
    reply = slot.run(owner="alice", request=request, time_limit_s=30)
    assert reply.result == b"r" * MIB


def test_large_params_reach_the_child(slot: SandboxSlot) -> None:
    assert ask(slot, "length", "p" * (4 * MIB)) == 4 * MIB


def test_a_result_beyond_the_limit_is_refused(slot: SandboxSlot) -> None:
    with pytest.raises(SandboxCrashed, match="malformed"):
        ask(slot, "large", str(4 * MIB))
    assert works(slot)


def test_output_is_kept_readable_and_cut(slot: SandboxSlot) -> None:
    reply = slot.run(owner="alice", request=asked("chatter", "500000"), time_limit_s=30)
    assert reply.output.startswith("[31mred[0mooo")
    assert len(reply.output) <= 1000


@pytest.mark.parametrize(
    ("log_level", "kept"), [("WARNING", ["WARNING", "ERROR"]), ("ERROR", ["ERROR"])]
)
def test_what_a_job_logs_is_kept_from_its_level_on(
    slot: SandboxSlot, log_level: str, kept: list[str]
) -> None:
    reply = slot.run(owner="alice", request=asked("logs", log_level=log_level), time_limit_s=30)

    records = [line.split(" ", 2) for line in reply.output.splitlines()]
    assert [level for _, level, _ in records] == kept
    assert all(text == f"job: said at {level.lower()}" for _, level, text in records)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", time) for time, _, _ in records)


# --- confinement ----------------------------------------------------------------------------------


def test_a_child_has_none_of_the_workers_environment(
    own_pool: Callable[..., SandboxPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "secret")
    slot = own_pool().slots[0]
    found = ask(slot, "environment")
    assert "CANARY" not in found
    assert not any("REDIS" in name for name in found)


def test_a_child_has_its_job_socket_and_its_output_and_nothing_else(slot: SandboxSlot) -> None:
    with socket.socket() as canary:
        canary.bind(("127.0.0.1", 0))
        found = [name for name in ask(slot, "descriptors") if "/proc" not in name]
    kinds = sorted(name.split(":")[0] for name in found)
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"]


def test_limits_of_the_kernel_are_in_force(slot: SandboxSlot) -> None:
    found = ask(slot, "limits")
    assert (found["RLIMIT_CORE"], found["RLIMIT_FSIZE"], found["RLIMIT_NOFILE"]) == (0, 0, 64)
    assert 0 < found["RLIMIT_AS"] < 1 << 40
    assert 0 < found["RLIMIT_CPU"] < 1000


@pytest.mark.skipif(not LINUX, reason="Linux has these fields")
def test_a_child_is_confined(slot: SandboxSlot) -> None:
    found = ask(slot, "status")
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == "2"
    assert found["oom_score_adj"] == "1000"
    assert found["session"] == found["Pid"]
    assert found["Threads"] == "1"


@pytest.mark.skipif(not LINUX, reason="the filter is Linux's")
def test_what_a_circuit_never_needs_is_refused(slot: SandboxSlot, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    rights = file.stat().st_mode

    found = ask(slot, "refusals", f"{file}|{os.getpid()}")

    assert "allowed" not in found.values(), found
    assert file.read_text() == "kept"
    assert file.stat().st_mode == rights


@pytest.mark.skipif(not LINUX, reason="Linux has these fields")
def test_a_child_has_no_capabilities(slot: SandboxSlot) -> None:
    found = ask(slot, "status")
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0


def test_the_pool_says_what_is_in_force(pool: SandboxPool, slot: SandboxSlot) -> None:
    found = ask(slot, "status")
    assert pool.confinement is not None
    assert pool.confinement.system_calls == (found["Seccomp"] == "2")
    assert pool.confinement.own_user == (found["Uid"].split()[0] == str(FIRST_UID))


def test_a_service_managers_signal_to_everybody_ends_no_job(
    pool: SandboxPool, slot: SandboxSlot
) -> None:
    before = ask(slot, "pid")
    assert pool.zygote_pid is not None
    for process in (before, pool.zygote_pid):
        os.kill(process, signal.SIGTERM)
    assert ask(slot, "pid") == before


def test_a_flood_of_output_does_not_stop_the_clock(slot: SandboxSlot) -> None:
    began = time.monotonic()
    with pytest.raises(TimeLimitReached):
        ask(slot, "flood", time_limit_s=0.3)
    assert time.monotonic() - began < ENDED_S
    assert works(slot)


def test_a_simulation_may_have_threads(slot: SandboxSlot) -> None:
    assert ask(slot, "threads", "8") == 8


def test_what_a_killed_child_would_have_tried_is_tried_again(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    program = """if True:
        import os, signal, sys
        from pathlib import Path
        from app.sandbox.zygote import _tried

        tries = Path(sys.argv[1])

        def killed_at_first():
            number = len(tries.read_text())
            tries.write_text("x" * (number + 1))
            if number < int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(2)

        tries.write_text("")
        print(_tried(killed_at_first), len(tries.read_text()))
        """

    answers = [
        subprocess.run(
            [sys.executable, "-c", program, str(tries), kills],
            capture_output=True, text=True, check=True, timeout=30,
        ).stdout.split()
        for kills in ("0", "2", "9")
    ]  # fmt: skip

    assert answers == [["2", "1"], ["2", "3"], ["-9", "3"]]


def test_the_zygote_has_one_thread(pool: SandboxPool) -> None:
    assert psutil.Process(pool.zygote_pid).num_threads() == 1


PARENT = """
import sys, time
sys.path.insert(0, {root!r})
from tests.unit.test_sandbox import make_pool, works
pool = make_pool()
works(pool.slots[0])
print("family", pool.zygote_pid, pool.slots[0].pid, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_killed_worker() -> None:
    program = PARENT.format(root=str(Path(__file__).parent.parent.parent))
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    line = next(line for line in parent.stdout if line.startswith(b"family"))
    family = [psutil.Process(int(pid)) for pid in line.split()[1:]]

    parent.kill()
    parent.wait()
    parent.stdout.close()

    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
