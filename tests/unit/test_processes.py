"""A part of the stack starts again when it dies, with growing pauses, and ends when it is told to."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from app.local import processes
from app.local.processes import Part, StopRequest, end, last_line, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType
    from typing import Any

#: Says that it is ready, then lives until it is killed.
STUBBORN = (
    "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"
)
POLITE = "import signal; print('up', flush=True); signal.pause()"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(processes, "time", clock)
    return clock


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "part.log"


@pytest.fixture
def part(log: Path) -> Iterator[Part]:
    """A part that runs until it is killed."""
    command = [sys.executable, "-c", POLITE]
    part = Part(name="part", start=lambda: spawn(command, log=log), log=log, grace_s=5)
    part.start()
    yield part
    killed(part)


def killed(part: Part) -> None:
    assert part.process is not None
    part.process.kill()
    part.process.wait()


def wait_for(log: Path, text: str) -> None:
    end = time.perf_counter() + 10
    while text not in log.read_text():
        assert time.perf_counter() < end


def test_a_part_that_runs_is_left_alone(part: Part) -> None:
    process = part.process

    assert part.watch() is None
    assert part.process is process


def test_a_part_that_dies_starts_again_after_a_pause(part: Part, clock: Clock) -> None:
    killed(part)

    assert "ended with -9" in str(part.watch())
    assert part.watch() is None
    assert not part.is_running
    clock.now += 0.5
    assert part.watch() == "started again"
    assert part.is_running


def test_pauses_double_up_to_the_most(part: Part, clock: Clock) -> None:
    pauses = []
    for _ in range(9):
        killed(part)
        pauses.append(str(part.watch()).rpartition("again in ")[2])
        clock.now += 30
        part.watch()

    assert pauses == ["0.5 s", "1 s", "2 s", "4 s", "8 s", "16 s", "30 s", "30 s", "30 s"]


def test_a_part_that_ran_for_long_starts_with_the_first_pause(part: Part, clock: Clock) -> None:
    for _ in range(3):
        killed(part)
        part.watch()
        clock.now += 30
        part.watch()
    clock.now += 61
    killed(part)

    assert "again in 0.5 s" in str(part.watch())


def test_a_start_that_fails_is_tried_again(part: Part, clock: Clock, log: Path) -> None:
    killed(part)
    part.watch()
    log.unlink()
    log.mkdir()
    clock.now += 0.5

    assert "cannot be started: " in str(part.watch())
    log.rmdir()
    clock.now += 1
    assert part.watch() == "started again"


def test_a_process_that_will_not_end_is_killed(log: Path) -> None:
    process = spawn([sys.executable, "-c", STUBBORN], log=log)
    wait_for(log, "up")

    end(process, grace_s=0.1)

    assert process.returncode == -9


def test_a_process_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.local.processes import spawn\n"
        f"child = spawn([sys.executable, '-c', {POLITE!r}], log=Path(sys.argv[1]))\n"
        "print(child.pid, flush=True); child.wait()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "child.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_for(tmp_path / "child.log", "up")

        parent.kill()

    end = time.perf_counter() + 5
    while is_alive(pid):
        assert time.perf_counter() < end, "the child is still there"


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has collected yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_large_log_is_put_aside(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 3)
    log.write_text("old words")

    spawn([sys.executable, "-c", "print('new')"], log=log).wait()

    assert log.read_text() == "new\n"
    assert log.with_name("part.log.1").read_text() == "old words"


def test_a_log_that_grows_large_is_put_aside_while_its_part_writes(
    part: Part, clock: Clock, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 100)
    wait_for(log, "up")
    assert part.watch() is None
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 30)
        clock.now += 1
        assert part.watch() is None
        assert log.stat().st_size > 100
        clock.now += 61

        assert part.watch() is None

        writer.write(b"new\n")
    assert log.read_text() == "new\n"
    assert log.with_name("part.log.1").read_text().count("old") == 30
    assert part.is_running
    assert sorted(path.name for path in log.parent.iterdir()) == ["part.log", "part.log.1"]


def test_a_log_that_cannot_be_put_aside_stays(
    part: Part, clock: Clock, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processes, "LOG_BYTES", 1)
    monkeypatch.setattr("shutil.copyfile", full)
    wait_for(log, "up")
    clock.now += 61

    assert part.watch() is None

    assert "up" in log.read_text()
    assert [path.name for path in log.parent.iterdir()] == ["part.log"]


def test_a_small_log_is_continued(log: Path) -> None:
    log.write_text("old\n")

    spawn([sys.executable, "-c", "print('new')"], log=log).wait()

    assert log.read_text() == "old\nnew\n"
    assert last_line(log) == "new"


def test_ctrl_c_does_not_reach_a_part(part: Part) -> None:
    assert part.process is not None

    assert os.getpgid(part.process.pid) != os.getpgid(0)


def interrupted(what: Callable[[], object], step: int) -> bool:
    """Do it, with a SIGINT before that line of Python of it; whether it has so many lines."""
    lines = 0

    def look(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        if lines == step and event == "line":
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        what()
    finally:
        sys.settrace(before)
    return lines >= step


def test_a_signal_may_ask_to_stop_at_any_moment() -> None:
    def overdue(*_: object) -> None:
        raise TimeoutError("the handler waits for what it has interrupted")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, overdue)
    try:
        for step in itertools.count(1):
            stop = StopRequest()
            signal.signal(signal.SIGINT, lambda *_, stop=stop: stop.set())
            signal.setitimer(signal.ITIMER_REAL, 10)
            if not interrupted(lambda stop=stop: stop.wait(0.01), step):
                break
            assert stop.wait(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

    assert step > 3
    assert not stop.is_set
