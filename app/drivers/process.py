"""How is one instance of a driver used? A process, one call at a time, with a clock."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import orjson
import structlog

from app.drivers.child import CALLS_FD
from app.sandbox.protocol import LENGTHS, MalformedFrame, decode_lengths, encode_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger()

ROOT = Path(__file__).parents[2]
#: A reply is a header only.
REPLY_BYTES = 0
#: Longest call: more is not told from for ever, and overflows clocks.
MOST_CALL_S = 86_400.0
#: Longest line of a driver's stderr, and lines a second, that reach the log.
LINE_BYTES = 2048
LINES_PER_S = 50
#: What a process of a driver sees of the environment, besides what its configuration names.
ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
#: Processor time beyond the clock's, before the kernel ends a process that was forgotten.
CPU_SLACK_S = 5.0
CLOSE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a driver is made of, and what each process of it may use."""

    name: str
    #: a file that ends in ``.py``, or ``module:attribute``.
    source: str
    #: what stood in the file when the driver was loaded: every process of it runs the same.
    code: bytes = b""
    config: Mapping[str, Any] = field(default_factory=dict)
    #: names of further variables of the environment that it sees.
    environment: tuple[str, ...] = ()
    #: address space of a process.
    memory_bytes: int = 2 << 30
    #: threads of numerical libraries, and processor seconds per second of the clock.
    threads: int = 1
    #: how long a process may take to be ready.
    start_timeout_s: float = 30.0
    #: how long a call that has no limit of its own may take.
    call_timeout_s: float = 10.0
    #: ``builtin``, ``file`` or ``entry point``.
    kind: str = "file"


class Fault(Exception):
    """A call did not give a result. ``kind`` says why, in one word."""

    kind = "failed"
    #: whether the same call may succeed a moment later.
    retryable = False
    #: whether the process is of no more use.
    fatal = False

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        """Make the fault."""
        super().__init__(message)
        self.message = message
        self.kind = kind or type(self).kind


class Hung(Fault):
    """The driver did not answer in time; its process was killed."""

    kind, fatal = "hung", True


class Overdue(Fault):
    """The caller's time was over before a patient caller would call it hanging."""

    kind, fatal = "overdue", True


class Died(Fault):
    """The driver's process ended during a call."""

    kind, retryable, fatal = "died", True, True


class Killed(Fault):
    """The call was stopped by ``kill``."""

    kind, fatal = "killed", True


class DeviceDown(Fault):
    """The driver says that the device does not answer."""

    kind, retryable = "unavailable", True


class OutOfMemory(Fault):
    """The driver needed more memory than it may have."""

    kind, fatal = "memory", True


class Refused(Fault):
    """The device cannot run this circuit: nothing is broken."""

    kind = "invalid_circuit"


class NotADriver(Fault):
    """The plugin is no driver."""

    kind = "invalid_driver"


#: What a process may answer, and what it means.
_FAULTS: dict[str, type[Fault]] = {
    "failed": Fault,
    "raised": Fault,
    "unavailable": DeviceDown,
    "invalid_circuit": Refused,
    "invalid_driver": NotADriver,
    "memory": OutOfMemory,
}


class DriverProcess:
    """One instance. ``call`` from one thread at a time; ``kill`` from any."""

    def __init__(self, source: Source) -> None:
        """Prepare; ``start`` starts it."""
        self._source = source
        self._killed = threading.Event()
        #: set before it dies of it: a process that was told to end is of no more use.
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self.version = ""

    @classmethod
    def started(cls, source: Source) -> Self:
        """A process whose driver is initialised.

        Raises:
            Fault: it is no driver, or it did not become ready.
        """
        process = cls(source)
        try:
            process._start()
            hello = process.call(
                "initialize",
                source.code,
                timeout_s=source.start_timeout_s,
                source=source.source,
                config=dict(source.config),
                memory_bytes=source.memory_bytes,
            )
        except BaseException:
            process.kill()
            process.reap()
            raise
        process.version = hello["version"]
        return process

    @property
    def pid(self) -> int:
        """The process."""
        return 0 if self._process is None else self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process can be used."""
        if self._process is None or self._ended.is_set():
            return False
        # It stays a zombie until ``reap``: until then its id is nobody else's.
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, how) is None

    def call(self, operation: str, body: bytes = b"", *, timeout_s: float, **header: Any) -> Any:
        """Let the driver do something.

        Args:
            operation: which.
            body: raw bytes that go with it.
            timeout_s: how long it may take; then the process is killed.
            header: what goes with it.

        Raises:
            Fault: it gave no result.
        """
        timeout_s = min(timeout_s, MOST_CALL_S)
        end = time.monotonic() + timeout_s
        cpu_s = timeout_s * self._source.threads + CPU_SLACK_S
        frame = encode_frame({"operation": operation, "cpu_s": cpu_s, **header}, body)
        try:
            self._send(frame, end)
            header_bytes, _ = decode_lengths(
                self._receive(LENGTHS.size, end), most_body=REPLY_BYTES
            )
            reply = orjson.loads(self._receive(header_bytes, end))
        except TimeoutError as exc:
            self._stop()
            message = f"{operation} took longer than {timeout_s:.3g} s; the driver was killed"
            raise Hung(message) from exc
        except (OSError, MalformedFrame, orjson.JSONDecodeError) as exc:
            self._stop()
            if self._killed.is_set():
                raise Killed("the call was stopped") from exc
            raise Died(f"the driver's process ended during {operation}") from exc
        match reply:
            case {"ok": answer}:
                return answer
            case {"error": str(kind), "message": str(message)} if kind in _FAULTS:
                fault = _FAULTS[kind](message, kind=kind)
                if fault.fatal:
                    self._stop()
                raise fault
        self._stop()
        raise Died(f"the driver's process answered {operation} with something else")

    def kill(self) -> None:
        """End the process; a call that waits for it raises ``Killed``."""
        self._killed.set()
        self._stop()

    def close(self) -> None:
        """Let the driver say goodbye, and end the process."""
        with suppress(Fault):
            self.call("close", timeout_s=CLOSE_S)
        self.kill()
        self.reap()

    def reap(self) -> None:
        """Forget the process; only after ``kill``, and once."""
        if self._process is not None:
            self._process.wait()
        if self._socket is not None:
            self._socket.close()

    def _start(self) -> None:
        ours, its = socket.socketpair()
        fd = its.fileno()
        program = (
            f"import os; os.dup2({fd}, {CALLS_FD});"
            f" os.close({fd}) if {fd} != {CALLS_FD} else None;"
            " from app.drivers.child import main; main()"
        )
        names = (*ENVIRONMENT, *self._source.environment)
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment["PYTHONPATH"] = str(ROOT)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = str(self._source.threads)
        self._socket = ours
        ours.setblocking(False)  # noqa: FBT003 - the library's signature
        with its:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    env=environment,
                    pass_fds=[fd],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd=ROOT,
                    start_new_session=True,
                )
            except OSError as exc:
                raise Died(f"no process could be made: {exc.strerror}") from exc
        self._process = process
        threading.Thread(
            target=_relay,
            args=(process.stderr, self._source.name, process.pid),
            name=f"{self._source.name}-output",
            daemon=True,
        ).start()

    def _stop(self) -> None:
        self._ended.set()
        if self._process is not None and self._process.returncode is None:
            # Its group: what the driver has started ends with it, even if it is dead already.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _send(self, frame: bytes, end: float) -> None:
        if self._socket is None:
            raise OSError("not started")
        view = memoryview(frame)
        while view:
            self._wait(select.POLLOUT, end)
            view = view[self._socket.send(view) :]

    def _receive(self, count: int, end: float) -> bytes:
        if self._socket is None:
            raise OSError("not started")
        parts = bytearray()
        while len(parts) < count:
            self._wait(select.POLLIN, end)
            part = self._socket.recv(min(count - len(parts), 1 << 20))
            if not part:
                raise ConnectionResetError("hung up")
            parts += part
        return bytes(parts)

    def _wait(self, event: int, end: float) -> None:
        if self._socket is None:
            raise OSError("not started")
        poll = select.poll()
        poll.register(self._socket, event)
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError


def _relay(output: IO[bytes], driver: str, process: int) -> None:
    """Log what a driver writes to stderr, a line at a time; what is too much is not."""
    second, lines = 0, 0
    with output:
        while line := output.readline(LINE_BYTES):
            now = int(time.monotonic())
            second, lines = now, (lines + 1 if now == second else 1)
            if lines <= LINES_PER_S:
                text = line.decode(errors="replace").rstrip()
                log.info("driver_wrote", driver_name=driver, process=process, line=text)
