"""What is a sandbox child forbidden? Everything it does not need, before it sees its first job."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from app.sandbox import files
from app.sandbox.system_calls import filter_system_calls

_LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNET, _CLONE_NEWIPC, _CLONE_NEWUSER = 0x40000000, 0x08000000, 0x10000000
_CAPABILITY_VERSION_3 = 0x20080522
#: fields of ``/proc/self/statm``: the whole address space; data and stack.
_ALL_PAGES, _DATA_PAGES = 0, 5

#: Children of a root worker run as this user plus their slot's number: nobody's account.
FIRST_UID = 64000
#: Files that a child with a GPU may have open: the driver opens its devices dozens of times.
_GPU_OPEN_FILES = 1024
#: Threads that a child of its own user may have: libgomp's, BLAS's, and some to spare.
_MOST_THREADS = 256


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What is in force in the children of one zygote, beside the limits; for operators."""

    #: children have a user id of their own.
    own_user: bool
    #: children have a network namespace with nothing in it.
    own_network: bool
    #: Landlock holds: no file is written, few are read.
    files: bool
    #: the filter of system calls holds: no sockets, no processes, no signals to others.
    system_calls: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """What this machine does not give."""
        return tuple(name for name, in_force in asdict(self).items() if not in_force)


def leave_network() -> bool:
    """Give this process, and its children to come, a network with nothing in it.

    Once in the zygote: it takes 5 ms, twice as long as a fork.
    """
    isolated = _CLONE_NEWNET | _CLONE_NEWIPC
    return any(_LIBC.unshare(flags) == 0 for flags in (isolated, isolated | _CLONE_NEWUSER))


def confine(
    *,
    parent: int,
    slot: int,
    own_user: bool,
    memory_bytes: int,
    open_files: int,
    readable: tuple[Path, ...],
    devices: tuple[Path, ...],
    gpu: bool,
) -> tuple[bool, bool]:
    """Give up, for good, everything that running a circuit does not need.

    Args:
        parent: process id of the zygote: the child dies with it.
        slot: number of the slot.
        own_user: whether the child takes a user id of its own; only root can give one.
        memory_bytes: how much the child may grow beyond what it was forked with.
        open_files: how many files it may have open.
        readable: files and folders it may read.
        devices: what it may read and write.
        gpu: whether CUDA must work in it.

    Returns:
        Whether access to files is restricted, and whether system calls are filtered.
    """
    # A victim for the kernel, should memory run out: this process before any other.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    _limit(memory_bytes=memory_bytes, open_files=open_files, gpu=gpu)
    if own_user:
        resource.setrlimit(resource.RLIMIT_NPROC, (_MOST_THREADS, _MOST_THREADS))
        become(FIRST_UID + slot)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # After the change of user: that clears it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _prctl(_PR_SET_DUMPABLE, 0)
    files_restricted = files.restrict(readable, devices)
    _drop_capabilities()
    return files_restricted, filter_system_calls(gpu=gpu)


def become(uid: int) -> None:
    """Change to this user and group for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _limit(*, memory_bytes: int, open_files: int, gpu: bool) -> None:
    if gpu:
        # CUDA reserves more addresses than the machine has memory, and sizes files that lie in
        # memory only; Landlock keeps it from all others. What it fills counts as data.
        memory = [(resource.RLIMIT_DATA, _pages(_DATA_PAGES) + memory_bytes)]
        open_files = max(open_files, _GPU_OPEN_FILES)
    else:
        memory = [
            (resource.RLIMIT_AS, _pages(_ALL_PAGES) + memory_bytes),
            (resource.RLIMIT_FSIZE, 0),
        ]
    for kind, most in (
        *memory,
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _pages(field: int) -> int:
    """Bytes of this process, by a field of ``/proc/self/statm``."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


def limit_cpu(seconds: float) -> None:
    """Let this process use so much more processor time: a net below the worker's own clock."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _drop_capabilities() -> None:
    """Without them, root is a user like any other."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if _LIBC.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
