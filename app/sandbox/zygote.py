"""What are children forked from? A warm process that has imported everything and run nothing.

It is started with an empty environment, has one thread, and only ever does three things: fork a
child, say how a child ended, and end itself when its parent is gone.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from app.sandbox import child, files
from app.sandbox.confinement import FIRST_UID, Confinement, become, confine, leave_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.sandbox.protocol import Reply, Request

#: Where the zygote finds its parent.
CONTROL_FD = 3
PACKET_BYTES = 4096
#: How often a child tries something when others kill it.
TRIES = 3


@dataclass(frozen=True, kw_only=True)
class _Brood:
    """What all children have in common."""

    perform: Callable[[Request], Reply]
    memory_bytes: int
    open_files: int
    own_user: bool
    readable: tuple[Path, ...]
    devices: tuple[Path, ...]
    #: the GPU of every slot, as the CUDA driver names it; empty: children have none.
    gpus: tuple[str, ...]


def main(arguments: list[str]) -> None:
    """Warm up, say hello, serve.

    Args:
        arguments: ``module:function`` that performs a request, and the child's limits as JSON. The
            module may have a function ``prepare`` that warms it up.
    """
    # Ctrl-C and a service manager's SIGTERM to everybody are the worker's affair: it drains, and
    # the zygote ends when it hangs up.
    for number in child.WORKERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    module_name, _, function = arguments[0].partition(":")
    limits = orjson.loads(arguments[1])
    gpus = tuple(limits.pop("gpus"))
    module = importlib.import_module(module_name)
    getattr(module, "prepare", lambda: None)()
    own_user = _can_have_own_user()
    own_network = leave_network()
    brood = _Brood(
        perform=getattr(module, function),
        own_user=own_user,
        readable=files.readable_paths(),
        devices=files.devices(gpu=bool(gpus)),
        gpus=gpus,
        **limits,
    )
    files_restricted, calls_filtered = _rehearse(brood)
    confinement = Confinement(
        own_user=own_user,
        own_network=own_network,
        files=files_restricted,
        system_calls=calls_filtered,
    )
    # A collection in a child would touch, and so copy, every page of the zygote's heap.
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=CONTROL_FD)
    hello = {"ready": os.getpid(), "threads": _threads(), "confinement": asdict(confinement)}
    _send(control, hello)
    # A worker that was killed may have left an answer unread.
    with suppress(ConnectionError):
        while packet := _receive(control):
            request, descriptors = packet
            if "fork" in request:
                answer = _fork(request["fork"], descriptors, brood)
            else:
                answer = _wait(request["wait"])
            _send(control, answer)


def _fork(slot: int, descriptors: list[int], brood: _Brood) -> dict[str, Any]:
    zygote = os.getpid()
    try:
        pid = os.fork()
    except OSError as exc:
        answer: dict[str, Any] = {"error": f"fork: {exc.strerror}"}
    else:
        if pid == 0:
            _live(zygote, slot, descriptors, brood)
        answer = {"pid": pid}
    for descriptor in descriptors:
        os.close(descriptor)
    return answer


def _live(zygote: int, slot: int, descriptors: list[int], brood: _Brood) -> NoReturn:
    """The whole life of a child."""
    try:
        child.take_over(*descriptors)
        if brood.gpus:
            # Read by the driver when this child first uses it; nobody has before.
            os.environ["CUDA_VISIBLE_DEVICES"] = brood.gpus[slot]
        _confine(zygote, slot, brood)
        child.serve(brood.perform)
    except BaseException as exc:  # noqa: BLE001 - nothing may climb into the zygote's loop
        os.write(2, f"sandbox: {type(exc).__name__}: {exc}\n".encode())
        os._exit(70)
    os._exit(0)


def _confine(zygote: int, slot: int, brood: _Brood) -> tuple[bool, bool]:
    return confine(
        parent=zygote,
        slot=slot,
        own_user=brood.own_user,
        memory_bytes=brood.memory_bytes,
        open_files=brood.open_files,
        readable=brood.readable,
        devices=brood.devices,
        gpu=bool(brood.gpus),
    )


def _rehearse(brood: _Brood) -> tuple[bool, bool]:
    """What the kernel enforces, found out by a child that ends at once."""
    zygote = os.getpid()

    def rehearse() -> NoReturn:
        code = 128
        with suppress(OSError):
            files_restricted, calls_filtered = _confine(zygote, 0, brood)
            code = files_restricted * 1 + calls_filtered * 2
        os._exit(code)

    code = _tried(rehearse)
    if code not in range(4):
        raise RuntimeError(f"a sandbox child could not be confined: it ended with {code}")
    return bool(code & 1), bool(code & 2)


def _can_have_own_user() -> bool:
    """Whether a child can be nobody: read the interpreter and the packages, and be killed by us.

    They may lie in a folder that only root may enter, or root may lack the right to signal others;
    then children stay with root's user id.
    """
    if os.getuid() != 0:
        return False

    def become_nobody() -> NoReturn:
        with suppress(OSError):
            become(FIRST_UID)
            paths = (os.__file__, orjson.__file__, __file__)
            if all(os.access(path, os.R_OK) for path in paths):
                os._exit(0)
        os._exit(1)

    return _tried(become_nobody) == 0 and _can_kill_nobody()


def _can_kill_nobody() -> bool:
    ours, its = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        with suppress(OSError):
            become(FIRST_UID)
            its.send(b"!")
            its.recv(1)
        os._exit(1)
    its.close()
    ours.recv(1)
    possible = False
    with suppress(PermissionError):
        os.kill(pid, signal.SIGKILL)
        possible = True
    ours.close()
    os.waitpid(pid, 0)
    return possible


def _tried(what: Callable[[], NoReturn]) -> int:
    """How a child ends that does ``what``; one that was killed says nothing and is tried again."""
    code = -signal.SIGKILL
    for _ in range(TRIES):
        pid = os.fork()
        if pid == 0:
            what()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != -signal.SIGKILL:
            break
    return code


def _wait(pid: int) -> dict[str, Any]:
    try:
        _, status, usage = os.wait4(pid, 0)
    except ChildProcessError:
        return {"error": "no such child"}
    return {"status": status, "rss_bytes": usage.ru_maxrss * 1024}


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir())) if sys.platform == "linux" else 1


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(orjson.dumps(message))


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    packet, descriptors, _, _ = socket.recv_fds(control, PACKET_BYTES, 2)
    if not packet:
        return None
    return orjson.loads(packet), descriptors


if __name__ == "__main__":
    main(sys.argv[1:])
