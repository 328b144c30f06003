"""What are children forked from? A warm process that has imported everything and run nothing.

It is started with an empty environment, has one thread, and only ever does three things: fork a child,
say how a child ended, and end itself when its parent is gone.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from app.sandbox import child
from app.sandbox.confinement import FIRST_UID, confine

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.sandbox.protocol import Reply, Request

#: Where the zygote finds its parent.
CONTROL_FD = 3
PACKET_BYTES = 4096


def main(arguments: list[str]) -> None:
    """Warm up, say hello, serve.

    Args:
        arguments: ``module:function`` that performs a request, and the child's limits as JSON. The
            module may have a function ``prepare`` that warms it up.
    """
    # Ctrl-C in the terminal is the stack's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    module_name, _, function = arguments[0].partition(":")
    limits = orjson.loads(arguments[1])
    module = importlib.import_module(module_name)
    getattr(module, "prepare", lambda: None)()
    own_user = _can_have_own_user()
    control = socket.socket(fileno=CONTROL_FD)
    _send(control, {"ready": os.getpid(), "threads": _threads(), "own_user": own_user})
    while packet := _receive(control):
        request, descriptors = packet
        if "fork" in request:
            answer = _fork(
                request["fork"],
                descriptors,
                getattr(module, function),
                limits,
                own_user=own_user,
            )
        else:
            answer = _wait(request["wait"])
        _send(control, answer)


def _fork(
    slot: int,
    descriptors: list[int],
    perform: Callable[[Request], Reply],
    limits: dict[str, int],
    *,
    own_user: bool,
) -> dict[str, Any]:
    zygote = os.getpid()
    try:
        pid = os.fork()
    except OSError as exc:
        answer: dict[str, Any] = {"error": f"fork: {exc.strerror}"}
    else:
        if pid == 0:
            _live(zygote, slot, descriptors, perform, limits, own_user=own_user)
        answer = {"pid": pid}
    for descriptor in descriptors:
        os.close(descriptor)
    return answer


def _live(
    zygote: int,
    slot: int,
    descriptors: list[int],
    perform: Callable[[Request], Reply],
    limits: dict[str, int],
    *,
    own_user: bool,
) -> NoReturn:
    """The whole life of a child."""
    try:
        child.take_over(*descriptors)
        confine(parent=zygote, slot=slot, own_user=own_user, **limits)
        child.serve(perform)
    except BaseException as exc:  # noqa: BLE001 - nothing may climb into the zygote's loop
        os.write(2, f"sandbox: {type(exc).__name__}: {exc}\n".encode())
        os._exit(70)
    os._exit(0)


def _can_have_own_user() -> bool:
    """Whether a child that is nobody can still read the interpreter and the packages.

    They may lie in a folder that only root may enter; then children stay with root's user id.
    """
    if os.getuid() != 0:
        return False
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(FIRST_UID, FIRST_UID, FIRST_UID)
        os.setresuid(FIRST_UID, FIRST_UID, FIRST_UID)
        files = (os.__file__, orjson.__file__, __file__)
        os._exit(0 if all(os.access(file, os.R_OK) for file in files) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


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
