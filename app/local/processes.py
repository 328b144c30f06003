"""How does a part of the local stack start, end, and start again, and never outlive us?"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from app.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

#: A part that dies is started again after this, doubled each time up to the most.
BACKOFF_S = 0.5
MOST_BACKOFF_S = 30.0
#: A part that has run this long is healthy again: its next pause is the first one.
HEALTHY_S = 60.0
#: A log larger than this becomes ``.1``: when its part starts, and while it runs.
LOG_BYTES = 64 * 2**20
#: Time between two looks at the size of a log.
LOG_LOOK_S = 60.0

_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Whether we shall stop; a signal handler may ask for it at any moment.

    Not ``threading.Event``: what the handler interrupts may hold its lock, and then both wait for
    ever. ``SimpleQueue.put`` may interrupt everything.
    """

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.is_set = False
        self._news: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Ask."""
        self.is_set = True
        self._news.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is asked for or the time is over; gives whether it is."""
        if not self.is_set:
            with contextlib.suppress(Empty):
                self._news.get(timeout=timeout_s)
        return self.is_set


class Part:
    """A process of the stack that is started again when it dies."""

    def __init__(
        self, *, name: str, start: Callable[[], subprocess.Popen[bytes]], log: Path, grace_s: float
    ) -> None:
        """Describe the part; ``start`` starts it.

        Args:
            name: what people call it.
            start: starts the process.
            log: where its output goes; named when it dies.
            grace_s: how long it may take to end after SIGTERM.
        """
        self.name = name
        self.grace_s = grace_s
        self.process: subprocess.Popen[bytes] | None = None
        self._start = start
        self.log = log
        self._pause_s = BACKOFF_S
        self._started = 0.0
        self._log_looked = 0.0
        #: when it is started again; None: it runs.
        self._due: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it."""
        self.process = self._start()
        self._started = time.monotonic()
        self._due = None

    def watch(self) -> str | None:
        """Start it again if it is dead and its pause is over; gives what happened, if anything."""
        now = time.monotonic()
        if now - self._log_looked > LOG_LOOK_S:
            self._log_looked = now
            _copy_aside(self.log)
        if self._due is not None:
            if now < self._due:
                return None
            try:
                self.start()
            except (OSError, ServiceError) as exc:
                return f"cannot be started: {exc}; again in {self._pause():g} s"
            return "started again"
        if self.process is None or self.is_running:
            return None
        if now - self._started > HEALTHY_S:
            self._pause_s = BACKOFF_S
        code = self.process.returncode
        return f"ended with {code} (why: {self.log}); again in {self._pause():g} s"

    def _pause(self) -> float:
        """Put the next start off; gives for how long."""
        pause_s = self._pause_s
        self._due = time.monotonic() + pause_s
        self._pause_s = min(pause_s * 2, MOST_BACKOFF_S)
        return pause_s

    def stop(self) -> None:
        """End it: politely, then not."""
        if self.process is not None:
            end(self.process, self.grace_s)

    def kill(self) -> None:
        """End it now."""
        if self.process is not None and self.is_running:
            self.process.kill()


def spawn(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that ends when we end, however that happens.

    Call it from a thread that lives as long as the process: Linux kills the child when the thread
    that started it ends.

    Args:
        command: the program and its arguments.
        log: where its output is appended.
        environment: its environment; None: ours.
    """
    if _is_large(log):
        log.replace(_aside(log))
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal is for us alone: we end the parts, in order.
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, no lock is taken
        )


def _is_large(log: Path) -> bool:
    return log.exists() and log.stat().st_size > LOG_BYTES


def _aside(log: Path) -> Path:
    """Where a large log goes."""
    return log.with_name(f"{log.name}.1")


def _copy_aside(log: Path) -> None:
    """Empty a large log while its part writes to it; a line written meanwhile may be lost.

    The part appends, so it goes on at the beginning. A copy that fails, as on a full disk, changes
    nothing.
    """
    # The next look tries again.
    with contextlib.suppress(OSError):
        if not _is_large(log):
            return
        fresh = log.with_name(f"{log.name}.new")
        try:
            shutil.copyfile(log, fresh)
            fresh.replace(_aside(log))
            os.truncate(log, 0)
        finally:
            fresh.unlink(missing_ok=True)


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM, and SIGKILL when the process has not ended after ``grace_s`` seconds."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_line(log: Path) -> str:
    """The last words of a program that ended, cut to a readable length."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "it said nothing"


def _die_with_parent() -> Callable[[], None]:
    """What a child calls before it runs its program, so that it is killed when we end."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # We may have ended before the call.
        if os.getppid() != parent:
            os._exit(1)

    return in_child
