"""How does a worker use its sandboxes? One zygote, one child per slot, one owner per child."""

from __future__ import annotations

import os
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
import structlog

from app.errors import (
    ExecutionError,
    MemoryLimitReached,
    SandboxCrashed,
    SandboxUnavailable,
    TimeLimitReached,
)
from app.sandbox.confinement import Confinement
from app.sandbox.protocol import (
    LENGTHS,
    MalformedFrame,
    SandboxKilled,
    decode_lengths,
    decode_reply,
    encode_request,
    readable,
)

if TYPE_CHECKING:
    from app.config import SandboxLimits
    from app.executors import Resources
    from app.sandbox.protocol import Condition, Reply, Request

log = structlog.get_logger()

PERFORM = "app.sandbox.perform:perform"
ROOT = Path(__file__).parent.parent.parent

START_TIMEOUT_S = 120.0
#: Forking takes milliseconds; a zygote that needs longer is replaced.
ANSWER_TIMEOUT_S = 10.0
#: A reply is a result and a little more.
REPLY_SLACK_BYTES = 1 << 20
READ_BYTES = 1 << 18
#: Processor time beyond what the clock allows, before the kernel ends a child that was forgotten.
CPU_SLACK_S = 30.0
#: Holds the oldest QPY version that Qiskit may read: older ones are read by code that evaluates
#: expressions. A file of the package, so that no worker's death leaves one behind.
QISKIT_SETTINGS = Path(__file__).parent / "qiskit.conf"
#: What native code says before it aborts: C++, the C library, Rust, Python.
OUT_OF_MEMORY = ("bad_alloc", "Cannot allocate memory", "memory allocation of", "MemoryError")
#: Most output taken at a time: a job that never stops writing must not stop the worker's clock.
DRAIN_BYTES = 1 << 20


class Zygote:
    """The worker's side of the process that forks children. May be used from any thread."""

    def __init__(
        self,
        *,
        perform: str,
        memory_bytes: int,
        open_files: int,
        threads: int,
        gpus: tuple[str, ...] = (),
    ) -> None:
        """Prepare; the first fork starts it.

        Args:
            perform: ``module:function`` that a child performs requests with.
            memory_bytes: how much a child may grow.
            open_files: how many files it may open.
            threads: threads of a simulation.
            gpus: the GPU of every slot, as the CUDA driver names it; none: no child has one.
        """
        self._perform = perform
        self._gpus = gpus
        self._limits = {"memory_bytes": memory_bytes, "open_files": open_files, "gpus": gpus}
        self._threads = threads
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.confinement: Confinement | None = None

    @property
    def has_gpus(self) -> bool:
        """Whether its children have GPUs."""
        return bool(self._gpus)

    @property
    def pid(self) -> int | None:
        """The running zygote."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it is warm.

        Raises:
            SandboxUnavailable: it did not come up.
        """
        with self._lock:
            self._require()

    def fork(self, slot: int, jobs: socket.socket, output: int) -> int:
        """Fork a child that takes its jobs from this socket; gives its process id.

        Raises:
            SandboxUnavailable: there is no zygote, or it cannot fork.
        """
        with self._lock:
            self._require()
            answer = self._ask({"fork": slot}, [jobs.fileno(), output])
        if "pid" not in answer:
            raise SandboxUnavailable(f"no sandbox could be forked: {answer['error']}")
        return int(answer["pid"])

    def wait(self, pid: int) -> int | None:
        """Wait status of a child that has ended or was killed; None if nobody knows."""
        with self._lock:
            if self._control is None:
                return None
            try:
                status = self._ask({"wait": pid}, []).get("status")
            except SandboxUnavailable:
                return None
        return None if status is None else int(status)

    def stop(self) -> None:
        """End the zygote; its children end with it."""
        with self._lock:
            self._discard()

    def _require(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._discard()
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            # Only descriptor 3 is handed on: the wrapper moves it there.
            self._process = subprocess.Popen(
                self._command(its.fileno()),
                env=self._environment(),
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        self._control = ours
        ours.settimeout(START_TIMEOUT_S)
        hello = self._hear()
        ours.settimeout(ANSWER_TIMEOUT_S)
        self.confinement = Confinement(**hello["confinement"])
        missing = self.confinement.missing
        log.info("zygote_started", pid=hello["ready"], not_in_force=missing)
        if hello["threads"] != 1:
            log.warning("zygote_has_threads", threads=hello["threads"])

    def _command(self, control: int) -> list[str]:
        limits = orjson.dumps(self._limits).decode()
        start = (
            f"import os, runpy; os.dup2({control}, 3); os.set_inheritable(3, False);"
            f" {control} == 3 or os.close({control}); from app.sandbox.zygote import main;"
            f" main([{self._perform!r}, {limits!r}])"
        )
        return [sys.executable, "-P", "-c", start]

    def _environment(self) -> dict[str, str]:
        """Nothing of the worker's: it holds secrets, and a child could read it."""
        return {
            "HOME": "/",
            "LANG": "C.UTF-8",
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "QISKIT_IN_PARALLEL": "TRUE",
            "QISKIT_SETTINGS": str(QISKIT_SETTINGS),
            "OMP_NUM_THREADS": str(self._threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
            **(self._cuda_environment() if self._gpus else {}),
        }

    def _cuda_environment(self) -> dict[str, str]:
        """Where the driver's libraries are, how GPUs are numbered, and no files of its own."""
        own = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_CACHE_DISABLE": "1"}
        where = os.environ.get("LD_LIBRARY_PATH")
        return own if where is None else own | {"LD_LIBRARY_PATH": where}

    def _ask(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        if self._control is None:
            raise SandboxUnavailable("the sandbox's zygote is not running")
        try:
            socket.send_fds(self._control, [orjson.dumps(message)], descriptors)
        except OSError as exc:
            self._discard()
            raise SandboxUnavailable(f"the sandbox's zygote does not listen: {exc}") from exc
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        if self._control is None:
            raise SandboxUnavailable("the sandbox's zygote is not running")
        try:
            packet = self._control.recv(4096)
        except OSError as exc:
            self._discard()
            raise SandboxUnavailable(f"the sandbox's zygote does not answer: {exc}") from exc
        if not packet:
            self._discard()
            raise SandboxUnavailable("the sandbox's zygote has ended; see the worker's log")
        message: dict[str, Any] = orjson.loads(packet)
        return message

    def _discard(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Child:
    """One forked child and the pipes to it."""

    def __init__(self, *, zygote: Zygote, slot: int, owner: str, most_result_bytes: int) -> None:
        """Fork it.

        Raises:
            SandboxUnavailable: it could not be forked.
        """
        self.owner = owner
        self.jobs_done = 0
        self.first_rss_bytes: int | None = None
        self._zygote = zygote
        self._most_body = most_result_bytes + REPLY_SLACK_BYTES
        self._jobs, its_jobs = socket.socketpair()
        self._output, its_output = os.pipe()
        try:
            with its_jobs:
                self.pid = zygote.fork(slot, its_jobs, its_output)
        except SandboxUnavailable:
            self._close()
            raise
        finally:
            os.close(its_output)
        self._jobs.setblocking(False)  # noqa: FBT003 - the library's signature
        os.set_blocking(self._output, False)
        self._handle = _process_handle(self.pid)

    @property
    def waits(self) -> bool:
        """Whether it waits for a job: it has not died meanwhile, and has sent nothing unasked."""
        poll = select.poll()
        poll.register(self._jobs, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, frame: bytes, *, until: float, output_bytes: int) -> tuple[Reply, Condition]:
        """Send a request and wait for the reply.

        Raises:
            TimeoutError: the time is over.
            EOFError: the child is gone; what it wrote to its output is the argument.
            MalformedFrame: what came is no reply.
        """
        outgoing, incoming = memoryview(frame), bytearray()
        lengths: tuple[int, int] | None = None
        output = _Capped(output_bytes)
        poll = select.poll()
        poll.register(self._jobs, select.POLLIN | select.POLLOUT)
        poll.register(self._output, select.POLLIN)
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for descriptor, event in poll.poll(left * 1000):
                if descriptor == self._output:
                    if not self._drain(output):
                        poll.unregister(self._output)
                    continue
                if event & select.POLLOUT and outgoing:
                    outgoing = self._send(outgoing, output)
                    if not outgoing:
                        poll.modify(self._jobs, select.POLLIN)
                if event & (select.POLLIN | select.POLLHUP):
                    self._receive(incoming, output)
            if lengths is None and len(incoming) >= LENGTHS.size:
                prefix = bytes(incoming[: LENGTHS.size])
                lengths = decode_lengths(prefix, most_body=self._most_body)
            if lengths is not None and len(incoming) >= LENGTHS.size + sum(lengths):
                break
        self._drain(output)
        header_end = LENGTHS.size + lengths[0]
        header, body = bytes(incoming[LENGTHS.size : header_end]), bytes(incoming[header_end:])
        if len(body) != lengths[1]:
            raise MalformedFrame("more than one reply")
        return decode_reply(header, body, output=output.text())

    def _send(self, outgoing: memoryview, output: _Capped) -> memoryview:
        try:
            return outgoing[self._jobs.send(outgoing) :]
        except BlockingIOError:
            return outgoing
        except OSError as exc:
            self._drain(output)
            raise EOFError(output.text()) from exc

    def _receive(self, incoming: bytearray, output: _Capped) -> None:
        try:
            part = self._jobs.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._drain(output)
            raise EOFError(output.text())
        incoming += part

    def _drain(self, output: _Capped) -> bool:
        """Take what lies in the output pipe; False at its end."""
        for _ in range(DRAIN_BYTES // READ_BYTES):
            try:
                part = os.read(self._output, READ_BYTES)
            except BlockingIOError:
                return True
            if not part:
                return False
            output.add(part)
        return True

    def kill(self) -> None:
        """SIGKILL, to the whole group; the process is a zombie until ``bury``."""
        if self._handle is not None:
            try:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            except ProcessLookupError:
                # It went with its zygote; its number may be another process's by now.
                return
        for send in (os.killpg, os.kill):
            try:
                send(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue

    def bury(self) -> int | None:
        """Make sure it is dead; gives its wait status."""
        self.kill()
        # The kernel frees about 10 GB in a second; meanwhile the zygote shall fork for other slots.
        if self._handle is not None:
            # Not ``select``: that takes no descriptor above 1023.
            end = select.poll()
            end.register(self._handle, select.POLLIN)
            end.poll()
            os.close(self._handle)
        status = self._zygote.wait(self.pid)
        self._close()
        return status

    def _close(self) -> None:
        self._jobs.close()
        os.close(self._output)


def _process_handle(pid: int) -> int | None:
    """A descriptor that is readable when the process has ended; None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


class _Capped:
    """The first bytes of an output; the rest is thrown away."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        if self._left:
            self._parts.append(part[: self._left])
            self._left -= len(self._parts[-1])

    def text(self) -> str:
        return readable(self._parts)


class SandboxSlot:
    """Where one slot's jobs run. ``run`` from one thread at a time, ``kill`` from any."""

    def __init__(
        self, *, zygote: Zygote, number: int, limits: SandboxLimits, max_result_bytes: int
    ) -> None:
        """Make an empty slot; the first job forks a child."""
        self._zygote = zygote
        self._number = number
        self._limits = limits
        self._max_result_bytes = max_result_bytes
        #: held for moments only: who kills a job must not wait for a fork or a funeral, since the
        #: heartbeat of all jobs waits for that.
        self._lock = threading.Lock()
        #: held while a job runs: whoever runs it buries its child, and nobody else.
        self._running = threading.Lock()
        self._child: Child | None = None
        self._killed = False
        self._closed = False
        self._kernel_kills = _kernel_oom_kills()

    def run(self, *, owner: str, request: Request, time_limit_s: float) -> Reply:
        """Run one job to its end.

        Args:
            owner: whose job it is; a child serves one owner only.
            request: the job.
            time_limit_s: after so many seconds it is killed.

        Raises:
            TimeLimitReached: it ran too long.
            MemoryLimitReached: the child ran out of memory and died of it.
            SandboxCrashed: the child died otherwise, or answered nonsense.
            SandboxKilled: ``kill`` was called meanwhile.
            SandboxUnavailable: no child could be forked, or the slot is closed.
        """
        with self._running:
            return self._run(owner, request, time_limit_s)

    def _run(self, owner: str, request: Request, time_limit_s: float) -> Reply:
        child = self._child_for(owner)
        cpu_limit_s = time_limit_s * request.resources.threads + CPU_SLACK_S
        frame = encode_request(request, cpu_limit_s=cpu_limit_s)
        try:
            reply, condition = child.exchange(
                frame,
                until=time.monotonic() + time_limit_s,
                output_bytes=self._limits.output_bytes,
            )
        except TimeoutError as exc:
            self._drop(child)
            self._raise_if_killed()
            message = (
                f"the job ran longer than its limit of {time_limit_s:g} s and was stopped;"
                " use fewer qubits, operations or shots"
            )
            raise TimeLimitReached(message, limit_s=time_limit_s) from exc
        except EOFError as exc:
            status = self._drop(child)
            self._raise_if_killed()
            raise self._cause_of_death(status, str(exc), cpu_limit_s) from exc
        except MalformedFrame as exc:
            self._drop(child)
            self._raise_if_killed()
            raise SandboxCrashed(f"the sandbox gave a malformed reply: {exc}") from exc
        self._age(child, condition, reply)
        return reply

    def kill(self) -> None:
        """Stop the job that runs, if any."""
        with self._lock:
            self._killed = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """End the child and the job that runs in it; no other runs here."""
        self._closed = True
        self.kill()
        with self._running:
            if self._child is not None:
                self._drop(self._child)

    @property
    def pid(self) -> int | None:
        """The child that is there now."""
        child = self._child
        return None if child is None else child.pid

    def _child_for(self, owner: str) -> Child:
        with self._lock:
            if self._closed:
                raise SandboxUnavailable("the worker stops; its sandboxes are closed")
            child, self._child = self._child, None
            killed, self._killed = self._killed, False
        # A kill may come when the job it is meant for has just ended: that child is dead.
        if child is not None and (killed or child.owner != owner or not child.waits):
            child.bury()
            child = None
        if child is None:
            child = self._fork(owner)
        with self._lock:
            self._child = child
            if self._killed:
                child.kill()
        return child

    def _fork(self, owner: str) -> Child:
        try:
            return Child(
                zygote=self._zygote,
                slot=self._number,
                owner=owner,
                most_result_bytes=self._max_result_bytes,
            )
        except OSError as exc:
            # No descriptor, no process is left: no fault of the job.
            raise SandboxUnavailable(f"no sandbox can be started: {exc.strerror}") from exc

    def _age(self, child: Child, condition: Condition, reply: Reply) -> None:
        """Replace a child that has served long, has grown, or was out of memory.

        And one whose GPU may have failed: what is wrong with CUDA in a process stays wrong.
        """
        child.jobs_done += 1
        if child.first_rss_bytes is None:
            child.first_rss_bytes = condition.rss_bytes
        grown = condition.rss_bytes - child.first_rss_bytes > self._limits.growth_bytes
        failed = None if reply.failure is None else reply.failure.code
        starved = failed == MemoryLimitReached.code
        broken = self._zygote.has_gpus and failed == ExecutionError.code
        if grown or starved or broken or child.jobs_done >= self._limits.jobs_per_child:
            self._drop(child)

    def _drop(self, child: Child) -> int | None:
        with self._lock:
            self._child = None
        return child.bury()

    def _raise_if_killed(self) -> None:
        if self._killed:
            raise SandboxKilled

    def _cause_of_death(
        self, status: int | None, output: str, cpu_limit_s: float
    ) -> MemoryLimitReached | TimeLimitReached | SandboxCrashed:
        limit = self._limits.memory_bytes
        if any(phrase in output for phrase in OUT_OF_MEMORY):
            message = (
                f"the job needed more than the {limit / 2**20:.0f} MiB of memory a sandbox has;"
                " use fewer qubits or shots"
            )
            return MemoryLimitReached(message, allowed_bytes=limit)
        if status is None:
            return SandboxCrashed("the sandbox was lost with its zygote while it ran the job")
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return SandboxCrashed(f"the sandbox ended with exit code {code} while it ran the job")
        name = signal.Signals(-code).name
        if code == -signal.SIGXCPU:
            message = (
                f"the job used more processor time than its limit of {cpu_limit_s:g} s and was"
                " stopped; use fewer qubits, operations or shots"
            )
            return TimeLimitReached(message, limit_s=cpu_limit_s)
        if code == -signal.SIGKILL:
            kills, self._kernel_kills = self._kernel_kills, _kernel_oom_kills()
            if self._kernel_kills > kills:
                message = (
                    "the machine ran out of memory and ended the job;"
                    " use fewer qubits or shots, or give the worker more memory"
                )
                return MemoryLimitReached(message, allowed_bytes=limit)
        return SandboxCrashed(f"the sandbox was ended by {name} while it ran the job", signal=name)


class SandboxPool:
    """The sandboxes of one worker."""

    def __init__(
        self,
        *,
        limits: SandboxLimits,
        resources: Resources,
        slots: int,
        perform: str = PERFORM,
        gpus: tuple[str, ...] = (),
    ) -> None:
        """Start the zygote and make the slots.

        Args:
            limits: of one child.
            resources: what one run may use.
            slots: jobs at once.
            perform: ``module:function`` that a child performs requests with.
            gpus: the GPU of every slot, as the CUDA driver names it; none: no child has one.

        Raises:
            SandboxUnavailable: the zygote did not start.
        """
        self._zygote = Zygote(
            perform=perform,
            memory_bytes=limits.memory_bytes,
            open_files=limits.open_files,
            threads=resources.threads,
            gpus=gpus,
        )
        self._zygote.start()
        self.slots = tuple(
            SandboxSlot(
                zygote=self._zygote,
                number=number,
                limits=limits,
                max_result_bytes=resources.max_result_bytes,
            )
            for number in range(slots)
        )

    @property
    def confinement(self) -> Confinement | None:
        """What is in force in the children."""
        return self._zygote.confinement

    @property
    def zygote_pid(self) -> int | None:
        """The process the children are forked from."""
        return self._zygote.pid

    def close(self) -> None:
        """End everything."""
        for slot in self.slots:
            slot.close()
        self._zygote.stop()


def _kernel_oom_kills() -> int:
    """How many processes the kernel has ended for want of memory, on this machine."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
