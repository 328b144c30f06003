"""What children with a GPU run in the tests of the sandbox. The libraries are the emulated ones."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import socket
from typing import TYPE_CHECKING

import numpy as np
import orjson

from app.errors import ExecutionError
from app.executors.engines import bindings
from app.executors.engines.custatevec import CustatevecEngine
from app.jobs.job import Failure
from app.sandbox import perform as jobs
from app.sandbox.protocol import Reply

if TYPE_CHECKING:
    from app.sandbox.protocol import Request

_LIBRARIES = ("libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13", "libcustatevec.so.1")
_RESERVED_BYTES = 64 << 30


def prepare() -> None:
    """Warm up as every zygote does.

    And load the libraries, where ``LD_LIBRARY_PATH`` finds them: a child could not read that folder.
    """
    jobs.prepare()
    for library in _LIBRARIES:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


def perform(request: Request) -> Reply:
    """Do what the request's program id says, or run it as every child does."""
    if request.program_id == "fail":
        failure = Failure(code=ExecutionError.code, message="the GPU failed", details={})
        return Reply(result=None, failure=failure)
    if request.program_id not in JOBS:
        return jobs.perform(request)
    answer = JOBS[request.program_id]()
    return Reply(result=orjson.dumps(answer), failure=None)


def gpu() -> dict[str, object]:
    """What the child sees, and who was first to use the driver."""
    CustatevecEngine()
    return {
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "order": os.environ.get("CUDA_DEVICE_ORDER"),
        "own": ctypes.CDLL("libcuda.so.1").emulated_starter() == os.getpid(),
        "pid": os.getpid(),
    }


def abort() -> None:
    """What happens without a driver to who does not ask first: the library ends the process."""
    ctypes.CDLL("libcuda.so.1").emulated_machine(0, ctypes.c_size_t(0))
    ex = bindings.load().ex
    updater = ex.sv_updater_create(ex.configure_sv_updater(5, []), 0)
    matrix = np.eye(2, dtype=np.complex128)
    ex.sv_updater_enqueue_matrix(updater, matrix.ctypes.data, 5, 1, 1, 0, [0], 1, [], 0, 0)


def compute() -> None:
    """Be busy in native code, with a state on the GPU."""
    CustatevecEngine().start(10)
    ctypes.PyDLL(None).sleep(600)


def reserve() -> list[bool]:
    """Take addresses without memory, as CUDA does; size a file in memory; then take memory."""
    possible = []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    taken = libc.mmap(None, ctypes.c_size_t(_RESERVED_BYTES), 0, 0x22, -1, ctypes.c_size_t(0))
    possible.append(taken != ctypes.c_void_p(-1).value)
    descriptor = os.memfd_create("sized")
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        possible.append(True)
    except OSError:
        possible.append(False)
    try:
        bytearray(resource.getrlimit(resource.RLIMIT_DATA)[0] if possible[0] else 8 << 30)
        possible.append(True)
    except MemoryError:
        possible.append(False)
    return possible


def sockets() -> dict[str, str]:
    """Look for the multi-process service as CUDA does, and for other things."""
    answers = {}
    for domain, kind in (
        (socket.AF_UNIX, socket.SOCK_SEQPACKET),
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_INET, socket.SOCK_SEQPACKET),
        (socket.AF_INET, socket.SOCK_STREAM),
    ):
        try:
            with socket.socket(domain, kind | socket.SOCK_CLOEXEC) as made:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                made.connect("/")
            answers[f"{domain.name} {kind.name}"] = "connected"
        except OSError as exc:
            answers[f"{domain.name} {kind.name}"] = type(exc).__name__
    answers["files"] = str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return answers


JOBS = {"sockets": sockets, "gpu": gpu, "abort": abort, "compute": compute, "reserve": reserve}
