"""Jobs that misbehave on purpose: what sandbox children run in the tests of the sandbox."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from app.errors import MemoryLimitReached
from app.jobs.job import Failure
from app.sandbox.protocol import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.sandbox.protocol import Request

STATE = {"poison": ""}


def perform(request: Request) -> Reply:
    """Do what the request's program id says; the answer is JSON."""
    answer = JOBS[request.program_id](request.params.decode())
    if isinstance(answer, Reply):
        return answer
    return Reply(result=orjson.dumps(answer), failure=None, metadata={"ran": request.program_id})


def echo(text: str) -> str:
    return text


def length(text: str) -> int:
    return len(text)


def pid(_: str) -> int:
    return os.getpid()


def poison(text: str) -> str:
    before, STATE["poison"] = STATE["poison"], text
    return before


def endless(_: str) -> None:
    while True:
        time.sleep(0.01)


def compute(_: str) -> None:
    """As a simulation does: hold the interpreter, hear no signal handler."""
    ctypes.PyDLL(None).sleep(600)


def overspends(_: str) -> None:
    """Reaches a limit of processor time; it lowers its own, so that this takes a second."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1, -1))
    while True:
        pass


def segfault(_: str) -> None:
    ctypes.string_at(0)


def abort(_: str) -> None:
    os.abort()


def killed_from_outside(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exits(code: str) -> None:
    os._exit(int(code))


def hoard(_: str) -> int:
    return len(bytearray(8 << 30))


def bad_alloc(_: str) -> None:
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def starved(_: str) -> Reply:
    return Reply(result=None, failure=Failure(code=MemoryLimitReached.code, message="too much"))


def grow(_: str) -> int:
    STATE["heap"] = "x" * (64 << 20)
    return os.getpid()


def nonsense(_: str) -> None:
    os.write(3, b"\x00\x00\x00\x05\x00\x00\x00\x00hello")
    time.sleep(60)


def two_replies(_: str) -> None:
    header = orjson.dumps({"failure": None, "metadata": {}, "rss_bytes": 1})
    frame = len(header).to_bytes(4, "big") + (0).to_bytes(4, "big") + header
    os.write(3, frame + frame)
    time.sleep(60)


def huge(_: str) -> None:
    os.write(3, b"\x00\x00\x00\x02\xff\xff\xff\xff{}")
    time.sleep(60)


def large(count: str) -> Reply:
    return Reply(result=b"r" * int(count), failure=None)


def flood(_: str) -> None:
    """Several threads never stop writing."""

    def write() -> None:
        while True:
            os.write(1, b"x" * 65536)

    for _ in range(2):
        threading.Thread(target=write, daemon=True).start()
    write()


def unasked(_: str) -> str:
    """Answer, and then once more, unasked."""
    header = orjson.dumps({"failure": None, "metadata": {}, "rss_bytes": 1})
    frame = len(header).to_bytes(4, "big") + (6).to_bytes(4, "big") + header + b'"lies"'
    threading.Timer(0.05, lambda: os.write(3, frame)).start()
    return "truth"


def die_soon(_: str) -> int:
    threading.Timer(0.05, lambda: os._exit(9)).start()
    return os.getpid()


def chatter(count: str) -> str:
    sys.stdout.write("\x1b[31mred\x1b[0m" + "o" * int(count))
    sys.stdout.flush()
    os.write(2, b"error")
    return "said"


def logs(_: str) -> None:
    """Write a record of every level."""
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("job"), level)("said at %s", level)


def environment(_: str) -> dict[str, str]:
    return dict(os.environ)


def descriptors(_: str) -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except OSError:
            continue
    return found


def limits(_: str) -> dict[str, int]:
    names = ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_CPU")
    return {name: resource.getrlimit(getattr(resource, name))[0] for name in names}


def status(_: str) -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    fields["oom_score_adj"] = Path("/proc/self/oom_score_adj").read_text().strip()
    fields["session"] = str(os.getsid(0))
    return fields


def system_call(name: str, *arguments: int) -> None:
    numbers = {"x86_64": {"tgkill": 234}, "aarch64": {"tgkill": 131}}
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(numbers[platform.machine()][name], *arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def refusals(text: str) -> dict[str, str]:
    """What happens when it tries what it may not; ``text`` is a file and the worker's process."""
    path, worker = text.split("|")

    def attempt(action: Callable[[], object]) -> str:
        try:
            action()
        except OSError as exc:
            return errno.errorcode.get(exc.errno or 0, "?")
        return "allowed"

    return {
        "socket": attempt(socket.socket),
        "socketpair": attempt(socket.socketpair),
        "exec": attempt(lambda: os.execv("/bin/true", ["true"])),  # noqa: S606
        "spawn": attempt(lambda: subprocess.run(["/bin/true"], check=False)),
        "fork": attempt(os.fork),
        "kill": attempt(lambda: os.kill(os.getppid(), 0)),
        "kill a thread": attempt(lambda: system_call("tgkill", os.getppid(), os.getppid(), 0)),
        "change limits": attempt(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE)),
        "write": attempt(lambda: Path(path).write_text("x")),
        "remove": attempt(lambda: Path(path).unlink()),
        "read": attempt(lambda: Path(path).read_text()),
        "change rights": attempt(lambda: Path(path).chmod(0o777)),
        "look into the worker": attempt(lambda: Path(f"/proc/{worker}/environ").read_bytes()),
    }


def threads(count: str) -> int:
    gate = threading.Barrier(int(count) + 1)
    started = [threading.Thread(target=gate.wait) for _ in range(int(count))]
    for thread in started:
        thread.start()
    gate.wait()
    return len(started)


JOBS: dict[str, Callable[[str], object]] = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__module__", "") == __name__ and name != "perform"
}
